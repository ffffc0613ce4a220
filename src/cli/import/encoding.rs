//! Files must be UTF-8, with or without a byte order mark. Others are refused with the encoding and the remedy.

/// What to do about text of one byte for each character.
const REMEDY: &str = "convert the file, for example with `iconv -f WINDOWS-1252 -t UTF-8`";

/// The byte order mark of UTF-8, which some programs write.
pub(super) const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The first byte of a text that is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUtf8 {
    /// The number of lines before it in the text.
    pub(super) lines: u64,
    /// The column in its line, in characters from 1.
    column: usize,
}

impl NotUtf8 {
    /// Returns a predicate whose subject is the line with the byte.
    pub(super) fn reason(self) -> String {
        format!("is not UTF-8 in column {}: {REMEDY}", self.column)
    }
}

/// Checks that a record is UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, NotUtf8> {
    str::from_utf8(bytes).map_err(|error| {
        let valid = str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let line = valid.rsplit('\n').next().unwrap_or_default();
        NotUtf8 { lines: valid.matches('\n').count() as u64, column: line.chars().count() + 1 }
    })
}

/// Returns the encoding of a file that is not UTF-8 by its first bytes, under the name that iconv uses.
///
/// The first character of every format is ASCII, so that zeros tell the encoding where there is no byte order mark.
pub(super) fn foreign(beginning: &[u8]) -> Option<&'static str> {
    match *beginning {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [0, 0, 0, _, ..] => Some("UTF-32BE"),
        [0, _, ..] => Some("UTF-16BE"),
        [_, 0, 0, 0, ..] => Some("UTF-32LE"),
        [_, 0, ..] => Some("UTF-16LE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_found_with_and_without_a_mark() {
        let utf16 = |mark: &str, text: &str, bytes: fn(u16) -> [u8; 2]| {
            format!("{mark}{text}").encode_utf16().flat_map(bytes).collect::<Vec<_>>()
        };
        for text in ["{\"username\": \"ü\"}", "username,password_hash\n", "u"] {
            assert_eq!(foreign(&utf16("\u{feff}", text, u16::to_le_bytes)), Some("UTF-16"), "{text}");
            assert_eq!(foreign(&utf16("\u{feff}", text, u16::to_be_bytes)), Some("UTF-16"), "{text}");
            assert_eq!(foreign(&utf16("", text, u16::to_le_bytes)), Some("UTF-16LE"), "{text}");
            assert_eq!(foreign(&utf16("", text, u16::to_be_bytes)), Some("UTF-16BE"), "{text}");
            let utf32 = |bytes: fn(u32) -> [u8; 4]| {
                text.chars().flat_map(|c| bytes(u32::from(c))).collect::<Vec<_>>()
            };
            assert_eq!(foreign(&utf32(u32::to_le_bytes)), Some("UTF-32LE"), "{text}");
            assert_eq!(foreign(&utf32(u32::to_be_bytes)), Some("UTF-32BE"), "{text}");
            assert_eq!(foreign(text.as_bytes()), None, "{text}");
        }
        for utf8 in [&b""[..], UTF8_MARK, b"\xef\xbb\xbf{", b"\xfc", b"{"] {
            assert_eq!(foreign(utf8), None, "{utf8:?}");
        }
    }

    #[test]
    fn the_place_is_in_characters() {
        assert_eq!(text("ü\n".as_bytes()), Ok("ü\n"));
        for (bytes, lines, column) in
            [(&b"J\xfcrgen"[..], 0, 2), (b"a\nb\n\xc3\xbc\xfc", 2, 2), (b"\xff", 0, 1), (b"a\xc3", 0, 2)]
        {
            assert_eq!(text(bytes), Err(NotUtf8 { lines, column }), "{bytes:?}");
        }
    }
}
