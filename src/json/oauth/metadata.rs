//! The metadata of the server (RFC 8414).

use bytes::Bytes;
use http::{Response, header};
use serde_json::json;
use tonic::{Status, body::Body};

use super::{INTROSPECT, OAuthSettings, REVOKE, error};
use crate::json::headers::{self, Encoding, LONGEST_CACHE};

const PATH: &str = "/.well-known/oauth-authorization-server";
const NO_ISSUER: &str = "there is no metadata, because token.issuer is not a URL: set it to the https URL of this server, after which tokens with the earlier issuer are rejected";

/// The metadata, and where it is served.
pub(super) struct Metadata {
    /// The path of the issuer comes after the well-known part (RFC 8414 section 3.1).
    path_of_issuer: String,
    document: Option<Bytes>,
}

impl Metadata {
    pub(super) fn new(settings: &OAuthSettings) -> Self {
        let path = settings.issuer_path.as_deref();
        Self {
            path_of_issuer: format!("{PATH}{}", path.unwrap_or_default()),
            document: path.map(|_| document(settings)),
        }
    }

    /// Whether the metadata is at this path. Proxies may remove the path of the issuer, so it may be missing.
    pub(super) fn has_path(&self, path: &str) -> bool {
        path == PATH || path == self.path_of_issuer
    }

    pub(super) fn response(&self) -> Response<Body> {
        let Some(document) = &self.document else { return error(&Status::not_found(NO_ISSUER)) };
        let mut response = headers::response(Encoding::Json, document.clone());
        response.headers_mut().insert(header::CACHE_CONTROL, LONGEST_CACHE);
        response
    }
}

/// Returns what exists. The two lists are empty although RFC 8414 has empty lists left out: one of them is required, and
/// without the other a client would assume grants that do not exist.
fn document(settings: &OAuthSettings) -> Bytes {
    let base = &settings.base_url;
    let everybody = ["client_secret_basic", "none"];
    let introspection = if settings.needs_caller { &everybody[..1] } else { &everybody };
    let document = json!({
        "issuer": settings.issuer,
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
