//! The token of a request.

/// How many cookies of one name are looked at. A browser has one for each scope in which it was set: for the host
/// alone, and for each domain above it.
const MAX_COOKIES: usize = 4;

/// What a request brought that may be a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// Nothing, or nothing but an empty value.
    None,
    /// One token, good or bad.
    Token(&'a str),
    /// Several cookies of the name, with different values. Whichever is the token of a live session counts: browsers
    /// send one for each scope (RFC 6265 section 5.4), and a stale one of another scope must not shut its user out.
    Cookies(Candidates<'a>),
    /// Something that is not exactly one token, and what is wrong with it. Proxies and services disagree about
    /// which of two they take, so that we do not guess.
    Unclear(&'static str),
}

impl<'a> Credentials<'a> {
    /// From the values of `authorization`; and where there is none, or an empty one, from the cookie of this name among the values of
    /// `cookie`.
    pub fn find(
        authorization: impl IntoIterator<Item = &'a [u8]>,
        cookies: Option<(&str, impl IntoIterator<Item = &'a [u8]>)>,
    ) -> Self {
        let mut values = authorization.into_iter();
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Self::Unclear("There is more than one `authorization`."),
            (Some(value), None) if !is_empty(value) => Self::of_authorization(value),
            (Some(_), None) | (None, _) => {
                cookies.map_or(Self::None, |(name, values)| Self::of_cookies(name, values))
            }
        }
    }

    fn of_authorization(value: &'a [u8]) -> Self {
        match std::str::from_utf8(value).ok().and_then(bearer) {
            // Envoy joins values with commas, and no token has one.
            Some(token) if token.contains(',') => Self::Unclear("There is more than one `authorization`."),
            Some(token) => Self::Token(token),
            None => Self::Unclear("The header `authorization` is not of the form `Bearer <token>`."),
        }
    }

    fn of_cookies(name: &str, values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let pairs = values.into_iter().flat_map(|value| value.split(|byte| *byte == b';'));
        let values = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            // What a cookie was cleared with is no token.
            let value = unquoted(&pair[at + 1..]);
            (&pair[..at] == name.as_bytes() && !value.is_empty()).then_some(value)
        });
        let mut found = Candidates::default();
        let mut is_text = true;
        for value in values {
            match std::str::from_utf8(value) {
                Ok(value) => found.add(value),
                Err(_) => is_text = false,
            }
        }
        match found.as_slice() {
            [] if is_text => Self::None,
            [] => Self::Unclear("The cookie with the token is not text."),
            [token] => Self::Token(token),
            _ => Self::Cookies(found),
        }
    }
}

/// Different values of cookies of one name, in the order in which they were sent: never more than four.
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

    /// The values.
    pub fn as_slice(&self) -> &[&'a str] {
        &self.values[..self.count]
    }
}

/// The token of an `authorization`. RFC 6750 section 2.1; the scheme is compared without regard to case (RFC 9110
/// section 11.1).
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whether an `authorization` holds nothing: a client sends it that has no token.
fn is_empty(authorization: &[u8]) -> bool {
    let value = authorization.trim_ascii();
    value.is_empty() || value.eq_ignore_ascii_case(b"bearer")
}

/// A cookie's value without the quotes around it (RFC 6265 section 4.1.1).
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

    fn is_unclear(credentials: &Credentials<'_>) -> bool {
        matches!(credentials, Credentials::Unclear(_))
    }

    #[test]
    fn a_bearer_token_is_found_in_every_spelling_of_the_scheme() {
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
    fn the_header_comes_before_the_cookie_even_if_it_is_no_use() {
        assert_eq!(find(&[b"Bearer a"], &[b"t=b"]), Credentials::Token("a"));
        assert_eq!(find(&[], &[b"t=b"]), Credentials::Token("b"));
        assert!(is_unclear(&find(&[b"Basic YTpi"], &[b"t=b"])));
    }

    #[test]
    fn an_empty_header_is_none() {
        for value in ["", " ", "Bearer", "bearer  ", "BEARER\t"] {
            assert_eq!(find(&[value.as_bytes()], &[]), Credentials::None, "{value:?}");
            assert_eq!(find(&[value.as_bytes()], &[b"t=b"]), Credentials::Token("b"), "{value:?}");
        }
        for values in
            [&[b"".as_slice(), b""][..], &[b"", b"Bearer a"], &[b"Basic"], &[b"Bearer,"], &[b"Bearers"]]
        {
            assert!(is_unclear(&find(values, &[b"t=b"])), "{values:?}");
        }
    }

    #[test]
    fn more_than_one_authorization_is_none() {
        for values in [
            &[b"Bearer a".as_slice(), b"Bearer a"][..],
            &[b"Bearer a,Bearer b"],
            &[b"Bearer a, Bearer a"],
            &[b",Bearer a"],
        ] {
            assert!(is_unclear(&find(values, &[])), "{values:?}");
        }
    }

    #[test]
    fn cookies_of_one_name_are_candidates_and_never_more_than_four() {
        let candidates = |cookies: &[&'static [u8]]| match find(&[], cookies) {
            Credentials::Cookies(found) => found.as_slice().to_vec(),
            other => panic!("{other:?}"),
        };
        assert_eq!(candidates(&[b"t=a; t=b"]), ["a", "b"]);
        assert_eq!(candidates(&[b"x=1; t=b", b"t=a; t=b"]), ["b", "a"]);
        assert_eq!(candidates(&[b"t=a; t=; t=\xff; t=b"]), ["a", "b"], "what is no text is none of them");
        assert_eq!(candidates(&[b"t=a; t=b; t=c; t=d; t=e"]), ["a", "b", "c", "d"]);
        assert_eq!(find(&[], &[b"t=a", b"t=a; t=\"a\""]), Credentials::Token("a"), "they are the same");
        assert_eq!(find(&[], &[b"t=\xff; t=a"]), Credentials::Token("a"));
        assert_eq!(find(&[b"Bearer x"], &[b"t=a; t=b"]), Credentials::Token("x"), "the header comes first");
    }

    #[test]
    fn what_is_not_text_is_no_token() {
        assert!(is_unclear(&find(&[b"Bearer \xff\xfe"], &[])));
        assert!(is_unclear(&find(&[], &[b"t=\xff"])));
    }

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
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
        let unset = Credentials::find([], None::<(&str, [&[u8]; 0])>);
        assert_eq!(unset, Credentials::None, "without a name no cookie counts");
    }
}
