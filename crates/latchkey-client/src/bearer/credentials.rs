//! The search for the token of a request.

/// The maximum number of cookies of the same name that are considered. A browser has one for each scope in which it was
/// set: the host, and each domain above it.
const MAX_COOKIES: usize = 4;

/// The credentials of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// The request has no token, or an empty one.
    None,
    /// The request has exactly one token, which is not validated yet.
    Token(&'a str),
    /// The request has several cookies of the configured name, with different values. Validate them in order and take
    /// the first one whose session is live: browsers send one cookie for each scope (RFC 6265 section 5.4), and a stale
    /// cookie of another scope must not lock its user out.
    Cookies(Candidates<'a>),
    /// The request has something that is not exactly one token. The text says what is wrong with it. Proxies and
    /// services disagree about which of two tokens counts, so neither is used.
    Malformed(&'static str),
}

impl<'a> Credentials<'a> {
    /// Finds the credentials in the values of the header `authorization`.
    ///
    /// If that header is missing or empty, and `cookies` is set, they are taken from the cookie of this name in the
    /// values of the header `cookie`.
    pub fn find(
        authorization: impl IntoIterator<Item = &'a [u8]>,
        cookies: Option<(&str, impl IntoIterator<Item = &'a [u8]>)>,
    ) -> Self {
        let mut values = authorization.into_iter();
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Self::Malformed("There is more than one `authorization`."),
            (Some(value), None) if !is_empty(value) => Self::from_authorization(value),
            (Some(_), None) | (None, _) => {
                cookies.map_or(Self::None, |(name, values)| Self::from_cookies(name, values))
            }
        }
    }

    fn from_authorization(value: &'a [u8]) -> Self {
        match std::str::from_utf8(value).ok().and_then(bearer) {
            // Envoy joins the values of a header with commas. No token contains one.
            Some(token) if token.contains(',') => Self::Malformed("There is more than one `authorization`."),
            Some(token) => Self::Token(token),
            None => Self::Malformed("The header `authorization` is not of the form `Bearer <token>`."),
        }
    }

    fn from_cookies(name: &str, values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let pairs = values.into_iter().flat_map(|value| value.split(|byte| *byte == b';'));
        let values = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            // An empty value is what remains of a cookie that was cleared.
            let value = unquoted(&pair[equals + 1..]);
            (&pair[..equals] == name.as_bytes() && !value.is_empty()).then_some(value)
        });
        let mut candidates = Candidates::default();
        let mut is_text = true;
        for value in values {
            match std::str::from_utf8(value) {
                Ok(value) => candidates.add(value),
                Err(_) => is_text = false,
            }
        }
        match candidates.as_slice() {
            [] if is_text => Self::None,
            [] => Self::Malformed("The cookie with the token is not text."),
            [token] => Self::Token(token),
            _ => Self::Cookies(candidates),
        }
    }
}

/// The distinct values of cookies of the same name, in the order in which they were sent. There are at most four.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Candidates<'a> {
    values: [&'a str; MAX_COOKIES],
    count: usize,
}

impl<'a> Candidates<'a> {
    fn add(&mut self, value: &'a str) {
        if self.count < MAX_COOKIES && !self.as_slice().contains(&value) {
            self.values[self.count] = value;
            self.count += 1;
        }
    }

    /// Returns the values.
    pub fn as_slice(&self) -> &[&'a str] {
        &self.values[..self.count]
    }
}

/// Returns the token in a value of the header `authorization` (RFC 6750 section 2.1).
///
/// The scheme is compared without regard to case (RFC 9110 section 11.1). Returns `None` for other schemes and for an
/// empty token.
///
/// ```
/// use latchkey_client::bearer::bearer;
///
/// assert_eq!(bearer("bearer eyJ0eXAi"), Some("eyJ0eXAi"));
/// assert_eq!(bearer("Basic YW5uYTo="), None);
/// ```
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Returns whether a value of `authorization` has no credentials. Some clients send such a value when they have no
/// token.
fn is_empty(authorization: &[u8]) -> bool {
    let value = authorization.trim_ascii();
    value.is_empty() || value.eq_ignore_ascii_case(b"bearer")
}

/// Removes the quotes around the value of a cookie (RFC 6265 section 4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(authorization: &[&'a [u8]], cookies: &[&'a [u8]]) -> Credentials<'a> {
        Credentials::find(authorization.iter().copied(), Some(("t", cookies.iter().copied())))
    }

    fn is_malformed(credentials: &Credentials<'_>) -> bool {
        matches!(credentials, Credentials::Malformed(_))
    }

    #[test]
    fn the_scheme_is_case_insensitive() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("BEARER  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("abc", None),
        ] {
            assert_eq!(bearer(value), token, "{value:?}");
        }
    }

    #[test]
    fn the_header_takes_precedence_over_the_cookie_even_if_it_is_malformed() {
        assert_eq!(find(&[b"Bearer a"], &[b"t=b"]), Credentials::Token("a"));
        assert_eq!(find(&[], &[b"t=b"]), Credentials::Token("b"));
        assert!(is_malformed(&find(&[b"Basic YTpi"], &[b"t=b"])));
    }

    #[test]
    fn an_empty_header_counts_as_missing() {
        for value in ["", " ", "Bearer", "bearer  ", "BEARER\t"] {
            assert_eq!(find(&[value.as_bytes()], &[]), Credentials::None, "{value:?}");
            assert_eq!(find(&[value.as_bytes()], &[b"t=b"]), Credentials::Token("b"), "{value:?}");
        }
        for values in
            [&[b"".as_slice(), b""][..], &[b"", b"Bearer a"], &[b"Basic"], &[b"Bearer,"], &[b"Bearers"]]
        {
            assert!(is_malformed(&find(values, &[b"t=b"])), "{values:?}");
        }
    }

    #[test]
    fn several_authorization_values_are_malformed() {
        for values in [
            &[b"Bearer a".as_slice(), b"Bearer a"][..],
            &[b"Bearer a,Bearer b"],
            &[b"Bearer a, Bearer a"],
            &[b",Bearer a"],
        ] {
            assert!(is_malformed(&find(values, &[])), "{values:?}");
        }
    }

    #[test]
    fn cookies_of_the_same_name_are_at_most_four_candidates() {
        let candidates = |cookies: &[&'static [u8]]| match find(&[], cookies) {
            Credentials::Cookies(candidates) => candidates.as_slice().to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(candidates(&[b"t=a; t=b"]), ["a", "b"]);
        assert_eq!(candidates(&[b"x=1; t=b", b"t=a; t=b"]), ["b", "a"]);
        assert_eq!(
            candidates(&[b"t=a; t=; t=\xff; t=b"]),
            ["a", "b"],
            "a value that is not UTF-8 is skipped"
        );
        assert_eq!(candidates(&[b"t=a; t=b; t=c; t=d; t=e"]), ["a", "b", "c", "d"]);
        assert_eq!(
            find(&[], &[b"t=a", b"t=a; t=\"a\""]),
            Credentials::Token("a"),
            "equal values are one token"
        );
        assert_eq!(find(&[], &[b"t=\xff; t=a"]), Credentials::Token("a"));
        assert_eq!(
            find(&[b"Bearer x"], &[b"t=a; t=b"]),
            Credentials::Token("x"),
            "the header takes precedence"
        );
    }

    #[test]
    fn values_that_are_not_utf_8_are_malformed() {
        assert!(is_malformed(&find(&[b"Bearer \xff\xfe"], &[])));
        assert!(is_malformed(&find(&[], &[b"t=\xff"])));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        for (cookies, token) in [
            ("t=a", Some("a")),
            ("x=1; t=a; y=2", Some("a")),
            ("x=1;t=\"a\"", Some("a")),
            ("t=a=b", Some("a=b")),
            ("xt=a; tt=b; T=c; t", None),
            ("t=", None),
            ("t=\"\"; t=a", Some("a")),
            ("", None),
        ] {
            let expected = token.map_or(Credentials::None, Credentials::Token);
            assert_eq!(find(&[], &[cookies.as_bytes()]), expected, "{cookies:?}");
        }
        let without_name = Credentials::find([], None::<(&str, [&[u8]; 0])>);
        assert_eq!(without_name, Credentials::None, "cookies are ignored without a name");
    }
}
