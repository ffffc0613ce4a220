//! Usernames and their comparison.
//!
//! Usernames are compared by Unicode canonical caseless matching (The Unicode Standard, definition D145): two names are
//! the same if they are equal after NFD, full case folding and NFC. So `Jürgen`, `JÜRGEN` and a `jürgen` whose `ü` is
//! two code points are one user. Width and compatibility variants are not folded.

use aws_lc_rs::digest;
use caseless::Caseless as _;
use data_encoding::BASE32_NOPAD;
use unicode_normalization::UnicodeNormalization as _;

use crate::domain::Violation;

/// A username, with its written form and its comparison key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Username {
    display: String,
    key: String,
}

impl Username {
    /// The longest username, in code points: that of an e-mail address (RFC 5321, section 4.5.3.1.3), and more than
    /// the 150 of Django.
    pub const MAX_LEN: usize = 254;

    /// Accepts 1 to 254 code points without control characters and without white space at either end.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        if text.is_empty() {
            return Err(Violation::new("username", "is missing"));
        }
        let too_long = Violation::new("username", "must be at most 254 code points");
        // Checked before any work that grows with the text.
        if text.chars().nth(Self::MAX_LEN).is_some() {
            return Err(too_long);
        }
        if text.chars().any(char::is_control) || text.trim() != text {
            return Err(Violation::new(
                "username",
                "must not contain control characters or begin or end with white space",
            ));
        }
        let display: String = text.nfc().collect();
        // NFC makes a few texts longer.
        if display.chars().nth(Self::MAX_LEN).is_some() {
            return Err(too_long);
        }
        Ok(Self { key: display.nfd().default_case_fold().nfc().collect(), display })
    }

    /// Fits a name from a foreign table to our rules: what they do not allow is left out. Returns `None` if nothing is
    /// left.
    pub fn foreign(text: &str) -> Option<Self> {
        let plain: String = text.chars().filter(|character| !character.is_control()).collect();
        let display: String = plain.trim().nfc().take(Self::MAX_LEN).collect();
        Self::parse(display.trim_end()).ok()
    }

    /// The name with compatibility variants replaced (NFKC), if that is a different name.
    pub fn compatible(&self) -> Option<Self> {
        let text: String = self.display.nfkc().collect();
        Self::parse(&text).ok().filter(|name| name.display != self.display)
    }

    /// The written form, in NFC.
    pub fn as_str(&self) -> &str {
        &self.display
    }

    /// A hash of the comparison key, for places that must not reveal the name: the first 128 bits of its SHA-256, in
    /// base32.
    pub fn hash(&self) -> String {
        let hash = digest::digest(&digest::SHA256, self.key.as_bytes());
        BASE32_NOPAD.encode(hash.as_ref().get(..16).unwrap_or_default())
    }

    /// The key by which names are compared and sorted.
    pub fn key(&self) -> &str {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::Username;

    fn key(text: &str) -> String {
        Username::parse(text).unwrap().key().to_owned()
    }

    #[test]
    fn names_that_differ_in_case_or_composition_are_one() {
        assert_eq!(key("Jürgen"), key("JU\u{308}RGEN"));
        assert_eq!(key("STRASSE"), key("straße"));
        assert_eq!(key("ΣΊΣΥΦΟΣ"), key("σίσυφος"));
        assert_ne!(key("anna"), key("änna"));
        assert_ne!(key("a1"), key("a１"), "compatibility variants stay different");
    }

    #[test]
    fn the_written_form_keeps_its_case_in_nfc() {
        assert_eq!(Username::parse("JU\u{308}rgen").unwrap().as_str(), "JÜrgen");
    }

    #[test]
    fn control_characters_outer_white_space_and_long_names_are_violations() {
        for text in ["", " anna", "anna ", "an\u{0}na", "an\nna", &"x".repeat(255)] {
            assert_eq!(Username::parse(text).unwrap_err().field, "username", "{text:?}");
        }
        assert!(Username::parse(&"ü".repeat(254)).is_ok());
    }

    #[test]
    fn compatible_replaces_compatibility_variants() {
        let compatible = |text: &str| Username::parse(text).unwrap().compatible();
        assert_eq!(compatible("ａｎｎａ").unwrap().as_str(), "anna");
        assert_eq!(compatible("oﬃce").unwrap().as_str(), "office");
        for same in ["anna", "Jürgen", "日本語", "\u{a8}"] {
            assert_eq!(compatible(same), None, "{same}");
        }
    }

    #[test]
    fn a_foreign_name_is_fitted_to_our_rules() {
        for (text, expected) in [
            ("Jürgen", Some("Jürgen".to_owned())),
            (" a\u{0}nna \n", Some("anna".to_owned())),
            (&"x".repeat(300), Some("x".repeat(254))),
            (&format!("{} y", "x".repeat(253)), Some("x".repeat(253))),
            (" \n", None),
            ("", None),
        ] {
            assert_eq!(Username::foreign(text).map(|name| name.as_str().to_owned()), expected, "{text:?}");
        }
    }
}
