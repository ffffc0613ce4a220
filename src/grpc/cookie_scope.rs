//! The scopes in which a browser can hold cookies of one name: for one host alone, or for a domain and all hosts of it.
//!
//! It sends all of them, and a server cannot tell which is which. So whoever sets or clears the cookie in one scope clears
//! it in the others, or a stale one stays for as long as it lives.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Request, header, uri::Authority};

/// How many domains of a host are cleared at the most.
const MAX_DOMAINS: usize = 4;

/// The scopes besides that of the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherScopes {
    /// There are none: browsers take a cookie with this name for one host only (`__Host-`).
    None,
    /// The host alone, where the cookie is for a domain.
    Host,
    /// The domains of the host, where the cookie is for the host alone.
    Domains,
}

impl OtherScopes {
    /// Those of the cookie of this name.
    pub(super) fn of(name: &str, has_domain: bool) -> Self {
        // As browsers compare it (RFC 6265bis section 5.4).
        if name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("__Host-")) {
            Self::None
        } else if has_domain {
            Self::Host
        } else {
            Self::Domains
        }
    }

    /// Whether they depend on the host that is called.
    pub(super) fn need_host(self) -> bool {
        self == Self::Domains
    }

    /// The attribute `Domain` of a cookie in each of them, empty for the host alone.
    pub(super) fn of_host(self, host: Option<&str>) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Host => vec![String::new()],
            Self::Domains => {
                let domains = host.map(domains).into_iter().flatten();
                domains.map(|domain| format!("; Domain={domain}")).collect()
            }
        }
    }
}

/// The host that a request calls, without its port.
pub(super) fn host<B>(request: &Request<B>) -> Option<Arc<str>> {
    let authority = request.uri().authority().cloned().or_else(|| named(request.headers()))?;
    Some(authority.host().into())
}

fn named(headers: &HeaderMap) -> Option<Authority> {
    Authority::try_from(headers.get(header::HOST)?.as_bytes()).ok()
}

/// The domains that a cookie of this host can be for, from the host upwards. A name of one label is none, and an address
/// has none; that nobody can have a cookie for `co.uk` is known to browsers.
fn domains(host: &str) -> impl Iterator<Item = &str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_name = host.bytes().all(plain) && host.parse::<IpAddr>().is_err();
    let host = Some(host.trim_end_matches('.')).filter(|_| is_name);
    std::iter::successors(host, |domain| domain.split_once('.').map(|(_, rest)| rest))
        .filter(|domain| domain.contains('.') && !domain.starts_with('.'))
        .take(MAX_DOMAINS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domains_of_a_host_are_all_that_it_can_have_cookies_for() {
        let of = |host: &'static str| domains(host).collect::<Vec<_>>();
        assert_eq!(of("app.example.com"), ["app.example.com", "example.com"]);
        assert_eq!(of("example.com."), ["example.com"]);
        assert_eq!(of("a.b.c.d.e.f"), ["a.b.c.d.e.f", "b.c.d.e.f", "c.d.e.f", "d.e.f"]);
        for host in ["localhost", "127.0.0.1", "[::1]", "", ".", "..", "a;b.example.com", "a.b; Secure"] {
            assert!(of(host).iter().all(|domain| !domain.contains(';')), "{host}");
        }
        assert_eq!(of("127.0.0.1"), [""; 0]);
        assert_eq!(of("localhost"), [""; 0]);
        assert_eq!(of("a;b.example.com"), [""; 0]);
    }

    #[test]
    fn the_other_scopes_depend_on_the_name_and_the_domain() {
        assert_eq!(OtherScopes::of("__host-t", false), OtherScopes::None);
        assert_eq!(OtherScopes::of("t", true).of_host(None), [""]);
        let others = OtherScopes::of("__Secure-t", false);
        assert_eq!(others.of_host(Some("app.test")), ["; Domain=app.test"]);
        assert_eq!(others.of_host(None), [""; 0]);
        let request =
            |uri: &str, host: &str| super::host(&Request::post(uri).header("host", host).body(()).unwrap());
        assert_eq!(request("http://a.test:8080/x", "b.test").as_deref(), Some("a.test"));
        assert_eq!(request("/x", "b.test:8080").as_deref(), Some("b.test"));
        assert_eq!(request("/x", "b.test/;x"), None);
    }
}
