//! Protection against cross-site requests: checks the page origin and the content type before the body is read.
//!
//! A page of any site can make its visitor's browser send a POST with `content-type: text/plain` to any address that
//! the browser reaches, also over HTTP/2 and without a preflight (a CORS-safelisted request). The page could not read
//! the response, but the call would have run. No page can send `application/grpc` unless a preflight allows it, nor
//! omit or change `origin`.

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tonic::body::Body;

use super::status;

const GRPC: &[u8] = b"application/grpc";
pub(crate) const FOREIGN_ORIGIN: &str = "web pages of this origin may not call: add it to browser.origins";
const WRONG_CONTENT_TYPE: &str =
    "this port serves gRPC: use a gRPC client, which sends content-type: application/grpc";

/// The origin of the web page that sends a request.
pub(crate) enum PageOrigin<'a> {
    /// The request does not come from a page of another origin.
    None,
    /// One of the allowed origins.
    Allowed(&'a HeaderValue),
    /// Another origin, or several.
    Foreign,
}

impl<'a> PageOrigin<'a> {
    /// Compares the header `origin` with the allowed origins.
    pub(super) fn find(headers: &'a HeaderMap, allowed: &[HeaderValue]) -> Self {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Self::None,
            (Some(origin), None) if allowed.contains(origin) => Self::Allowed(origin),
            _ => Self::Foreign,
        }
    }
}

/// Returns the response to a request that must not reach a method. gRPC-Web and preflights pass only if there are
/// allowed origins.
pub(super) fn error_response<B>(request: &Request<B>, allowed: &[HeaderValue]) -> Option<Response<Body>> {
    let headers = request.headers();
    if matches!(PageOrigin::find(headers, allowed), PageOrigin::Foreign) {
        let is_grpc = headers.get(header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes(), false));
        // A gRPC client, or a gateway that translates to gRPC, reads a status and no text.
        let mut response =
            if is_grpc { status::foreign_origin(FOREIGN_ORIGIN).into_http() } else { text(FOREIGN_ORIGIN) };
        *response.status_mut() = StatusCode::FORBIDDEN;
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
        return Some(response);
    }
    let has_browsers = !allowed.is_empty();
    let is_accepted = match headers.get(header::CONTENT_TYPE) {
        Some(value) => is_grpc(value.as_bytes(), has_browsers),
        // A preflight, or a request over HTTP/1.1, which the gRPC-Web layer answers.
        None => has_browsers && (request.method() == Method::OPTIONS || request.version() != Version::HTTP_2),
    };
    if is_accepted {
        return None;
    }
    let mut response = text(WRONG_CONTENT_TYPE);
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Some(response)
}

/// Whether a content type is that of gRPC or, with `with_web`, of gRPC-Web.
fn is_grpc(value: &[u8], with_web: bool) -> bool {
    if value == GRPC {
        return true;
    }
    let Some((start, mut rest)) = value.split_at_checked(GRPC.len()) else { return false };
    if !start.eq_ignore_ascii_case(GRPC) {
        return false;
    }
    if with_web && let Some(after) = strip_prefix_ignore_case(rest, b"-web") {
        rest = strip_prefix_ignore_case(after, b"-text").unwrap_or(after);
    }
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

fn strip_prefix_ignore_case<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn text(message: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(format!("{message}\n")));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_types_of_grpc_are_accepted() {
        for kind in
            ["application/grpc", "application/grpc+proto", "Application/GRPC; x=y", "application/grpc ;x"]
        {
            assert!(is_grpc(kind.as_bytes(), false) && is_grpc(kind.as_bytes(), true), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text+proto"]
        {
            assert!(!is_grpc(kind.as_bytes(), false) && is_grpc(kind.as_bytes(), true), "{kind}");
        }
        for kind in [
            "",
            "text/plain",
            "text/plain; application/grpc",
            "application/grp",
            "application/grpcx",
            "application/grpc-webx",
            "application/grpc-text",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/json",
            " application/grpc",
        ] {
            assert!(!is_grpc(kind.as_bytes(), false) && !is_grpc(kind.as_bytes(), true), "{kind}");
        }
    }

    #[test]
    fn a_page_is_forbidden_unless_its_origin_is_allowed() {
        let allowed = [HeaderValue::from_static("https://app.example.com")];
        let status = |origins: &[&str], allowed: &[HeaderValue]| {
            let mut request = Request::post("/x").header("content-type", "application/grpc");
            for origin in origins {
                request = request.header("origin", *origin);
            }
            error_response(&request.body(()).unwrap(), allowed).map(|response| response.status().as_u16())
        };
        assert_eq!(status(&[], &[]), None);
        assert_eq!(status(&["https://app.example.com"], &allowed), None);
        assert_eq!(status(&["https://app.example.com"], &[]), Some(403), "no origin is allowed");
        for origins in [&["null"][..], &[""], &["https://evil.example"], &["https://app.example.com"; 2]] {
            assert_eq!(status(origins, &allowed), Some(403), "{origins:?}");
        }
    }
}
