//! The scopes in which a browser can hold cookies of the same name: one host, or a domain with all of its hosts.
//!
//! A browser sends all of them, and a server cannot tell them apart. So setting or deleting the cookie in one scope
//! deletes it in the others. Otherwise a stale cookie would be sent until it expires.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Request, header, uri::Authority};

/// Maximum number of domains of a host whose cookies are deleted.
const MAX_DOMAINS: usize = 4;

/// The scopes other than that of the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherScopes {
    /// No other scope: browsers accept a cookie whose name begins with `__Host-` for one host only.
    None,
    /// The host, if the cookie is for a domain.
    Host,
    /// The domains of the host, if the cookie is for the host only.
    Domains,
}

impl OtherScopes {
    pub(super) fn of(name: &str, has_domain: bool) -> Self {
        // Browsers ignore case here (RFC 6265bis section 5.4).
        if name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("__Host-")) {
            Self::None
        } else if has_domain {
            Self::Host
        } else {
            Self::Domains
        }
    }

    /// Whether the scopes depend on the host of the request.
    pub(super) fn need_host(self) -> bool {
        self == Self::Domains
    }

    /// Returns the attribute `Domain` of a cookie in each scope; it is empty for the host.
    pub(super) fn domain_attributes(self, host: Option<&str>) -> Vec<String> {
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

/// Returns the host of a request without the port.
pub(super) fn host<B>(request: &Request<B>) -> Option<Arc<str>> {
    let authority = request.uri().authority().cloned().or_else(|| host_header(request.headers()))?;
    Some(authority.host().into())
}

fn host_header(headers: &HeaderMap) -> Option<Authority> {
    Authority::try_from(headers.get(header::HOST)?.as_bytes()).ok()
}

/// Returns the domains for which a host can set cookies, from the host upwards. Names with one label and addresses have
/// none. Public suffixes such as `co.uk` are left to browsers, which ignore cookies for them.
fn domains(host: &str) -> impl Iterator<Item = &str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_name = host.bytes().all(is_allowed) && host.parse::<IpAddr>().is_err();
    let host = Some(host.trim_end_matches('.')).filter(|_| is_name);
    std::iter::successors(host, |domain| domain.split_once('.').map(|(_, rest)| rest))
        .filter(|domain| domain.contains('.') && !domain.starts_with('.'))
        .take(MAX_DOMAINS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domains_of_a_host_are_those_it_can_set_cookies_for() {
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
        assert_eq!(OtherScopes::of("t", true).domain_attributes(None), [""]);
        let others = OtherScopes::of("__Secure-t", false);
        assert_eq!(others.domain_attributes(Some("app.test")), ["; Domain=app.test"]);
        assert_eq!(others.domain_attributes(None), [""; 0]);
        let request =
            |uri: &str, host: &str| super::host(&Request::post(uri).header("host", host).body(()).unwrap());
        assert_eq!(request("http://a.test:8080/x", "b.test").as_deref(), Some("a.test"));
        assert_eq!(request("/x", "b.test:8080").as_deref(), Some("b.test"));
        assert_eq!(request("/x", "b.test/;x"), None);
    }
}
