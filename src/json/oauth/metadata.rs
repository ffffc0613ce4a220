//! The metadata of the server (RFC 8414).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Uri, header, uri::Authority};
use serde_json::json;
use tonic::{Status, body::Body};

use super::{INTROSPECT, OAuthSettings, REVOKE, error};
use crate::json::headers::{self, Encoding, LONGEST_CACHE};

const PATH: &str = "/.well-known/oauth-authorization-server";

/// The metadata, and where it is served.
pub(super) struct Metadata {
    /// The path of the issuer comes after the well-known part (RFC 8414 section 3.1).
    path_of_issuer: String,
    /// `None` if the address of the endpoints is that of the request.
    document: Option<Bytes>,
}

impl Metadata {
    pub(super) fn new(settings: &OAuthSettings) -> Self {
        Self {
            path_of_issuer: format!("{PATH}{}", settings.issuer_path.as_deref().unwrap_or_default()),
            document: settings.base_url.as_deref().map(|base| document(settings, base)),
        }
    }

    /// Whether the metadata is at this path. Proxies may remove the path of the issuer, so it may be missing.
    pub(super) fn has_path(&self, path: &str) -> bool {
        path == PATH || path == self.path_of_issuer
    }

    pub(super) fn response(
        &self,
        settings: &OAuthSettings,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Response<Body> {
        if let Some(document) = &self.document {
            return response(document.clone(), LONGEST_CACHE);
        }
        let Some(base) = address(uri, headers) else {
            return error(&Status::invalid_argument(
                "`host` is missing, or not one host with an optional port",
            ));
        };
        // A cache must not hand one client the address that another one has sent.
        response(document(settings, &base), HeaderValue::from_static("no-store"))
    }
}

fn response(document: Bytes, cache_control: HeaderValue) -> Response<Body> {
    let mut response = headers::response(Encoding::Json, document);
    response.headers_mut().insert(header::CACHE_CONTROL, cache_control);
    response
}

/// Returns the address to which the request was sent.
fn address(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let authority = match (uri.authority(), hosts.next(), hosts.next()) {
        (Some(authority), ..) => authority.clone(),
        (None, Some(host), None) => host.to_str().ok()?.parse::<Authority>().ok()?,
        _ => return None,
    };
    let scheme = uri.scheme_str().filter(|scheme| *scheme == "https").unwrap_or("http");
    (!authority.as_str().contains('@')).then(|| format!("{scheme}://{authority}"))
}

/// Returns what exists. The two lists are empty although RFC 8414 has empty lists left out: one of them is required, and
/// without the other a client would assume grants that do not exist.
///
/// The issuer must be a URL. If that of the tokens is not, it is the address of the endpoints.
fn document(settings: &OAuthSettings, base: &str) -> Bytes {
    let issuer = if settings.issuer_path.is_some() { &settings.issuer } else { base };
    let everybody = ["client_secret_basic", "none"];
    let introspection = if settings.needs_caller { &everybody[..1] } else { &everybody };
    let document = json!({
        "issuer": issuer,
        "jwks_uri": format!("{base}/.well-known/jwks.json"),
        "introspection_endpoint": format!("{base}{INTROSPECT}"),
        "introspection_endpoint_auth_methods_supported": introspection,
        "revocation_endpoint": format!("{base}{REVOKE}"),
        "revocation_endpoint_auth_methods_supported": everybody,
        "response_types_supported": [],
        "grant_types_supported": [],
    });
    document.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address_of(uri: &str, hosts: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_static(host));
        }
        address(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn the_address_is_that_of_the_request() {
        for (uri, hosts, expected) in [
            ("/x", &["auth.test"][..], Some("http://auth.test")),
            ("/x", &["auth.test:8081"], Some("http://auth.test:8081")),
            ("/x", &["[::1]:8081"], Some("http://[::1]:8081")),
            ("https://auth.test/x", &[], Some("https://auth.test")),
            ("http://auth.test/x", &["other.test"], Some("http://auth.test")),
            ("/x", &[], None),
            ("/x", &[""], None),
            ("/x", &["two hosts"], None),
            ("/x", &["auth.test/path"], None),
            ("/x", &["someone@auth.test"], None),
            ("/x", &["auth.test", "auth.test"], None),
        ] {
            assert_eq!(address_of(uri, hosts).as_deref(), expected, "{uri} {hosts:?}");
        }
    }
}
