//! Who a request comes from, as the headers that a gateway hands on to the service behind it.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::domain::{types::Role, validate::LiveSession};

/// What a username is written with: visible ASCII but `%`, which encodes the rest, and what lists, quotes, or
/// decoders of forms give a meaning of their own.
const IN_USERNAMES: &AsciiSet =
    &CONTROLS.add(b' ').add(b'%').add(b'"').add(b',').add(b';').add(b'\\').add(b'+');

/// The names of the identity headers, in lower case; one that is empty is not sent.
#[derive(Debug, Clone, Default)]
pub struct HeaderNames {
    /// The user's id.
    pub user_id: String,
    /// Their name.
    pub username: String,
    /// The session's id.
    pub session_id: String,
    /// Its slot.
    pub slot: String,
    /// The user's roles.
    pub roles: String,
}

impl HeaderNames {
    /// Those that are sent.
    pub fn used(&self) -> impl Iterator<Item = &str> {
        let all = [&self.user_id, &self.username, &self.session_id, &self.slot, &self.roles];
        all.into_iter().map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Whether a service could take this header for one of them: many make no difference between `-` and `_`.
    pub fn are_like(&self, header: &str) -> bool {
        let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        self.used().any(|name| name.bytes().map(plain).eq(header.bytes().map(plain)))
    }
}

/// The user and the session of a request that may pass.
#[derive(Debug)]
pub struct Identity {
    /// The live session, and whose it is.
    pub verified: LiveSession,
}

impl Identity {
    pub(super) fn of(verified: LiveSession) -> Self {
        Self { verified }
    }

    /// The headers and their values, all of them visible ASCII. A username is percent-encoded; roles are separated by
    /// commas.
    pub fn headers<'a>(&self, names: &'a HeaderNames) -> Vec<(&'a str, String)> {
        let session = self.verified.session();
        let roles: Vec<_> = self.verified.roles().iter().map(Role::as_str).collect();
        let all = [
            (&names.user_id, self.verified.user_id().to_string()),
            (&names.username, encoded(self.verified.username())),
            (&names.session_id, session.id.to_string()),
            (&names.slot, session.slot.as_str().to_owned()),
            (&names.roles, roles.join(",")),
        ];
        // What has no value is not set: gateways differ in what they make of an empty one.
        let set = all.into_iter().filter(|(name, value)| !name.is_empty() && !value.is_empty());
        set.map(|(name, value)| (name.as_str(), value)).collect()
    }
}

fn encoded(username: &str) -> String {
    utf8_percent_encode(username, IN_USERNAMES).to_string()
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;

    use super::*;

    #[test]
    fn every_username_travels_in_visible_ascii_and_comes_back() {
        for (username, header) in [
            ("alice", "alice"),
            ("alice@example.com", "alice@example.com"),
            ("Jürgen", "J%C3%BCrgen"),
            ("佐藤 太郎", "%E4%BD%90%E8%97%A4%20%E5%A4%AA%E9%83%8E"),
            ("100%", "100%25"),
            ("a,b;c\"d\\e+f", "a%2Cb%3Bc%22d%5Ce%2Bf"),
            ("a\r\nx-latchkey-roles: admin", "a%0D%0Ax-latchkey-roles:%20admin"),
        ] {
            assert_eq!(encoded(username), header);
            assert!(header.bytes().all(|byte| byte.is_ascii_graphic()));
            assert_eq!(percent_decode_str(header).decode_utf8().unwrap(), username);
        }
    }

    #[test]
    fn a_header_is_like_ours_whatever_its_case_and_separators() {
        let names = HeaderNames { user_id: "x-latchkey-user-id".into(), ..Default::default() };
        for header in ["x-latchkey-user-id", "X-Latchkey-User-Id", "x_latchkey_user_id", "x-latchkey_USER-id"]
        {
            assert!(names.are_like(header), "{header}");
        }
        for header in ["x-latchkey-user", "xlatchkey-user-id", "x-latchkey-user-ids", ""] {
            assert!(!names.are_like(header), "{header}");
        }
    }
}
