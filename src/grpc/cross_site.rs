//! Refuses what no gRPC client sends, before anything of it is read: requests of web pages of other sites, and requests
//! of another content type.
//!
//! A page of any site can make its visitor's browser send a POST with `content-type: text/plain` to any address that the
//! browser reaches, over HTTP/2 as well, and without asking first (a CORS-safelisted request). It could not read the
//! answer, but the call would have been made. No page can send `application/grpc` without being allowed to by a
//! preflight, nor leave out or change `origin`.

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tonic::body::Body;

use super::status;

const GRPC: &[u8] = b"application/grpc";
const FOREIGN: &str = "web pages of this origin may not call: name it in browser.origins";

/// What a request says of the web site that sends it.
pub(super) enum Site<'a> {
    /// Nothing: it is no page of another origin.
    None,
    /// One of those that may call.
    Allowed(&'a HeaderValue),
    /// Another one, or more than one.
    Foreign,
}

impl<'a> Site<'a> {
    /// Compares `origin` with the sites that may call.
    pub(super) fn of(headers: &'a HeaderMap, allowed: &[HeaderValue]) -> Self {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Self::None,
            (Some(origin), None) if allowed.contains(origin) => Self::Allowed(origin),
            _ => Self::Foreign,
        }
    }
}

/// The answer to a request that must not reach a method. gRPC-Web and preflights go on only where sites are allowed.
pub(super) fn refusal<B>(request: &Request<B>, allowed: &[HeaderValue]) -> Option<Response<Body>> {
    let headers = request.headers();
    if matches!(Site::of(headers, allowed), Site::Foreign) {
        let speaks_grpc =
            headers.get(header::CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes(), false));
        // A gRPC client, or a gateway that makes gRPC of what pages send, reads a status and no text.
        let mut response =
            if speaks_grpc { status::foreign_origin(FOREIGN).into_http() } else { answer(FOREIGN) };
        *response.status_mut() = StatusCode::FORBIDDEN;
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
        return Some(response);
    }
    let has_browsers = !allowed.is_empty();
    let is_right = match headers.get(header::CONTENT_TYPE) {
        Some(value) => is_grpc(value.as_bytes(), has_browsers),
        // A preflight; and what is no gRPC-Web over HTTP/1.1, which has an answer of its own.
        None => has_browsers && (request.method() == Method::OPTIONS || request.version() != Version::HTTP_2),
    };
    (!is_right).then(|| {
        let why = "this port speaks gRPC: send content-type: application/grpc, such as by a gRPC client";
        let mut response = answer(why);
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        response
    })
}

/// Whether a content type is that of gRPC, or of gRPC-Web where that is spoken.
fn is_grpc(value: &[u8], with_web: bool) -> bool {
    if value == GRPC {
        return true;
    }
    let Some((start, mut rest)) = value.split_at_checked(GRPC.len()) else { return false };
    if !start.eq_ignore_ascii_case(GRPC) {
        return false;
    }
    if with_web && let Some(after) = without(rest, b"-web") {
        rest = without(after, b"-text").unwrap_or(after);
    }
    matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

fn without<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn answer(why: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(format!("{why}\n")));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_types_of_grpc_are_taken() {
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
    fn a_page_is_refused_unless_its_site_is_named() {
        let allowed = [HeaderValue::from_static("https://app.example.com")];
        let status = |origins: &[&str], allowed: &[HeaderValue]| {
            let mut request = Request::post("/x").header("content-type", "application/grpc");
            for origin in origins {
                request = request.header("origin", *origin);
            }
            refusal(&request.body(()).unwrap(), allowed).map(|response| response.status().as_u16())
        };
        assert_eq!(status(&[], &[]), None);
        assert_eq!(status(&["https://app.example.com"], &allowed), None);
        assert_eq!(status(&["https://app.example.com"], &[]), Some(403), "no site is named");
        for origins in [&["null"][..], &[""], &["https://evil.example"], &["https://app.example.com"; 2]] {
            assert_eq!(status(origins, &allowed), Some(403), "{origins:?}");
        }
    }
}
