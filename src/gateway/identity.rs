//! The identity headers, in which a gateway tells a service who is calling.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::domain::{types::Role, validate::LiveSession};

/// The ASCII characters of a username that are percent-encoded: those with a meaning in lists, quotes and forms.
const ENCODED_IN_USERNAMES: &AsciiSet =
    &CONTROLS.add(b' ').add(b'%').add(b'"').add(b',').add(b';').add(b'\\').add(b'+');

/// The names of the identity headers in lower case. A header with an empty name is not sent.
#[derive(Debug, Clone, Default)]
pub struct HeaderNames {
    /// The user id.
    pub user_id: String,
    /// The username.
    pub username: String,
    /// The session id.
    pub session_id: String,
    /// The slot of the session.
    pub slot: String,
    /// The roles of the user.
    pub roles: String,
}

impl HeaderNames {
    /// Returns the names of the headers that are sent.
    pub fn used(&self) -> impl Iterator<Item = &str> {
        let all = [&self.user_id, &self.username, &self.session_id, &self.slot, &self.roles];
        all.into_iter().map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Whether a service could mistake a header for an identity header: many do not distinguish `-` from `_`.
    pub fn contain_similar(&self, header: &str) -> bool {
        let normalize = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        self.used().any(|name| name.bytes().map(normalize).eq(header.bytes().map(normalize)))
    }
}

/// The user and the session of an allowed request.
#[derive(Debug)]
pub struct Identity {
    /// The live session.
    pub session: LiveSession,
}

impl Identity {
    /// Returns the names and values of the identity headers in visible ASCII. The username is percent-encoded; roles
    /// are separated by commas.
    pub fn headers<'a>(&self, names: &'a HeaderNames) -> Vec<(&'a str, String)> {
        let session = self.session.session();
        let roles: Vec<_> = self.session.roles().iter().map(Role::as_str).collect();
        let all = [
            (&names.user_id, self.session.user_id().to_string()),
            (&names.username, encoded(self.session.username())),
            (&names.session_id, session.id.to_string()),
            (&names.slot, session.slot.as_str().to_owned()),
            (&names.roles, roles.join(",")),
        ];
        // Gateways treat empty headers differently.
        let set = all.into_iter().filter(|(name, value)| !name.is_empty() && !value.is_empty());
        set.map(|(name, value)| (name.as_str(), value)).collect()
    }
}

fn encoded(username: &str) -> String {
    utf8_percent_encode(username, ENCODED_IN_USERNAMES).to_string()
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;

    use super::*;

    #[test]
    fn every_username_is_encoded_in_visible_ascii_and_decodes_to_itself() {
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
    fn similar_headers_are_found_regardless_of_case_and_separators() {
        let names = HeaderNames { user_id: "x-latchkey-user-id".into(), ..Default::default() };
        for header in ["x-latchkey-user-id", "X-Latchkey-User-Id", "x_latchkey_user_id", "x-latchkey_USER-id"]
        {
            assert!(names.contain_similar(header), "{header}");
        }
        for header in ["x-latchkey-user", "xlatchkey-user-id", "x-latchkey-user-ids", ""] {
            assert!(!names.contain_similar(header), "{header}");
        }
    }
}
