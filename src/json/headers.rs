//! The headers of requests and responses.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Response, StatusCode, Uri, Version};
use http::{header, request, uri};
use http_body_util::Full;
use tonic::{Code, Status, body::Body};

use super::routes::Kind;
use crate::grpc::status;

/// The methods of HTTP that pages may use. The others need a caller key, which does not belong in a browser.
pub(super) const PAGE_METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
/// The request headers that pages may send.
pub(super) const PAGE_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, connect-protocol-version, connect-timeout-ms, content-type, grpc-timeout, last-event-id, x-grpc-web, x-request-id, x-user-agent",
);
/// The response headers that pages may read.
pub(super) const PAGE_EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, x-request-id");
/// How long the description of the paths may be cached.
pub(super) const LONGEST_CACHE: HeaderValue = HeaderValue::from_static("max-age=300");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROTO: HeaderValue = HeaderValue::from_static("application/proto");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const CONNECT_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The encoding of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    /// Protocol Buffers.
    Proto,
}

/// How the body of a request is encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encodings {
    pub(super) body: Encoding,
    pub(super) is_gzip: bool,
}

/// A request that is not served: its status, unless it is that of the code, and the error.
pub(super) type Unserved = Box<(Option<StatusCode>, Status)>;

/// Returns the encodings of a request.
///
/// A page of any site can send a body without `content-type`, or as `text/plain`, without a preflight. So a body needs
/// the right type even if it is empty.
pub(super) fn encodings(kind: Kind, headers: &HeaderMap) -> Result<Encodings, Unserved> {
    let body = match kind {
        Kind::Query | Kind::Events => Encoding::Json,
        Kind::Connect | Kind::Body => content_type(headers)
            .filter(|encoding| kind == Kind::Connect || *encoding == Encoding::Json)
            .ok_or_else(|| {
                let types = if kind == Kind::Connect {
                    "content-type: application/json or application/proto"
                } else {
                    "content-type: application/json"
                };
                let message = format!("send {types}, even with an empty body");
                let status = status::not_served(Code::InvalidArgument, message);
                Box::new((Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), status))
            })?,
    };
    let is_gzip = is_gzip(headers).map_err(|status| Box::new((None, status)))?;
    Ok(Encodings { body, is_gzip })
}

/// Whether the body of a request is compressed with gzip.
pub(super) fn is_gzip(headers: &HeaderMap) -> Result<bool, Status> {
    let mut compressions = headers.get_all(header::CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    match (compressions.next(), compressions.next()) {
        (None | Some(b"identity" | b""), None) => Ok(false),
        (Some(b"gzip"), None) => Ok(true),
        _ => {
            let message = "the content-encoding is not supported: send gzip or identity";
            Err(status::not_served(Code::Unimplemented, message))
        }
    }
}

/// Whether a request has a body in a type of gRPC or gRPC-Web.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    const PREFIX: &[u8] = b"application/grpc";
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
    })
}

fn content_type(headers: &HeaderMap) -> Option<Encoding> {
    let (kind, is_utf8) = media_type(headers)?;
    if kind.eq_ignore_ascii_case("application/json") && is_utf8 {
        Some(Encoding::Json)
    } else {
        kind.eq_ignore_ascii_case("application/proto").then_some(Encoding::Proto)
    }
}

/// Returns the content type without its parameters, and whether they allow UTF-8.
pub(super) fn media_type(headers: &HeaderMap) -> Option<(&str, bool)> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let mut parts = value.to_str().ok()?.split(';').map(str::trim);
    let kind = parts.next()?;
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
            value.trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    Some((kind, is_utf8))
}

/// Checks the version of Connect, which a client may leave out.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(CONNECT_VERSION) {
        Some(version) if version != "1" => {
            Err(status::not_served(Code::InvalidArgument, "connect-protocol-version must be 1"))
        }
        _ => Ok(()),
    }
}

/// Whether a browser says that the page of a request has the origin of the request. No script can set the header.
pub(super) fn is_from_same_origin(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::ORIGIN)
        && headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin")
}

/// Makes the head of a request that of a request over gRPC to the method with this path.
pub(super) fn translate(parts: &mut request::Parts, path: &str) -> Result<(), Status> {
    let headers = &mut parts.headers;
    if let Some(timeout) = headers.remove(CONNECT_TIMEOUT) {
        headers.insert(GRPC_TIMEOUT, grpc_timeout(&timeout)?);
    }
    for name in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers.remove("grpc-encoding");
    headers.insert(header::CONTENT_TYPE, GRPC);
    let mut uri = uri::Parts::default();
    // A cookie is for the host that was called.
    uri.authority = parts.uri.authority().cloned();
    uri.scheme = uri.authority.is_some().then_some(uri::Scheme::HTTP);
    uri.path_and_query = path.parse().ok();
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.method = HttpMethod::POST;
    parts.version = Version::HTTP_2;
    Ok(())
}

/// Converts at most ten digits of milliseconds to at most eight digits with a unit.
fn grpc_timeout(value: &HeaderValue) -> Result<HeaderValue, Status> {
    let digits = value.to_str().unwrap_or_default();
    let is_valid = (1..=10).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let millis = if is_valid { digits.parse::<u64>().ok() } else { None };
    let timeout = match millis {
        Some(millis) if millis < 100_000_000 => format!("{millis}m"),
        Some(millis) => format!("{}S", millis / 1000),
        None => {
            let message = "connect-timeout-ms must be at most ten digits";
            return Err(status::not_served(Code::InvalidArgument, message));
        }
    };
    HeaderValue::try_from(timeout).map_err(|error| Status::internal(error.to_string()))
}

/// Removes the headers of gRPC from those of a response.
pub(super) fn clean(headers: &mut HeaderMap) {
    for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE, Status::GRPC_STATUS_DETAILS] {
        headers.remove(name);
    }
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers.remove("grpc-encoding");
    headers.remove("grpc-accept-encoding");
}

/// Adds headers to those of a response that has none of these names.
pub(super) fn add_missing(headers: &mut HeaderMap, more: HeaderMap) {
    let mut last = None;
    for (name, value) in more {
        last = name.or(last);
        if let Some(name) = &last {
            headers.append(name, value);
        }
    }
}

/// Returns the response with a message.
pub(super) fn response(encoding: Encoding, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        match encoding {
            Encoding::Json => JSON,
            Encoding::Proto => PROTO,
        },
    );
    // Most responses are about one caller, and some contain a token.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_json_and_protobuf_in_utf_8_are_bodies() {
        let of = |values: &[&'static str]| content_type(&with("content-type", values));
        for kind in
            ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
        {
            assert_eq!(of(&[kind]), Some(Encoding::Json), "{kind}");
        }
        assert_eq!(of(&["application/proto"]), Some(Encoding::Proto));
        for kind in [
            "",
            "text/plain",
            "text/plain; application/json",
            "application/json; charset=latin1",
            "application/jsonx",
        ] {
            assert_eq!(of(&[kind]), None, "{kind}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["application/json", "text/plain"]), None);
    }

    #[test]
    fn the_timeout_of_connect_is_that_of_grpc() {
        for (millis, expected) in
            [("0", "0m"), ("250", "250m"), ("99999999", "99999999m"), ("9999999999", "9999999S")]
        {
            assert_eq!(grpc_timeout(&HeaderValue::from_static(millis)).unwrap(), expected);
        }
        for wrong in ["", "1s", "-1", "+1", "1.5", "12345678901"] {
            assert!(grpc_timeout(&HeaderValue::from_static(wrong)).is_err(), "{wrong}");
        }
    }
}
