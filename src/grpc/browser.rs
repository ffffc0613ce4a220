//! Browser clients: gRPC-Web, CORS and the cookie, for the page origins in `browser.origins`.
//!
//! A browser can neither send native gRPC nor read trailers, and sends a preflight before a page calls a server of
//! another origin (CORS). Calls of other clients pass through unchanged.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service as _, service_fn};

use super::{
    cookie::{Cookies, TokenCookie},
    cross_site::{self, PageOrigin},
    dispatch::Dispatcher,
    response_body::{self, ResponseBody},
};
use crate::{
    isolation::panics::Panic,
    transport::{body::IncomingBody, connection::Services, http2::Begun, peer::Peer},
};

/// The request headers that pages may send. The caller key is not among them, because it does not belong in a browser.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, grpc-timeout, x-grpc-web, x-request-id, x-user-agent",
);
/// The response headers that pages may read.
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("grpc-message, grpc-status, grpc-status-details-bin, x-request-id");
/// How long browsers cache a preflight, in seconds. No browser caches it for longer than two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Serves browsers in addition to gRPC clients.
pub struct Browsers {
    services: Arc<Dispatcher>,
    origins: Vec<HeaderValue>,
    cookie: Option<Arc<TokenCookie>>,
}

impl Browsers {
    /// Serves pages of these origins, with the token in `cookie` if there is one.
    pub fn new(services: Dispatcher, origins: Vec<HeaderValue>, cookie: Option<TokenCookie>) -> Self {
        Self { services: Arc::new(services), origins, cookie: cookie.map(Arc::new) }
    }

    /// Answers a request of a browser.
    async fn serve_browser(&self, peer: &Peer, request: Request<IncomingBody>) -> Response<Body> {
        let origin = match PageOrigin::find(request.headers(), &self.origins) {
            PageOrigin::Allowed(origin) => Some(origin.clone()),
            PageOrigin::None | PageOrigin::Foreign => None,
        };
        if *request.method() == Method::OPTIONS {
            return self.preflight(origin);
        }
        let (services, peer) = (Arc::clone(&self.services), peer.clone());
        let native = service_fn(move |request: Request<Body>| {
            let (services, peer) = (Arc::clone(&services), peer.clone());
            async move { Ok::<_, Infallible>(services.serve(&peer, request).await) }
        });
        let Ok(mut response) = GrpcWebLayer::new().layer(native).call(request).await;
        self.allow(response.headers_mut(), origin);
        response
    }

    /// Makes the cookie count in requests from pages of an allowed origin, by gRPC-Web or through a gateway that has
    /// translated them to native gRPC, and in requests that enable it and come from no page.
    fn accept_cookie(&self, request: &mut Request<IncomingBody>) {
        let Some(cookie) = &self.cookie else { return };
        let from_page = match PageOrigin::find(request.headers(), &self.origins) {
            PageOrigin::Allowed(_) => true,
            PageOrigin::None if Cookies::are_enabled(request.headers()) => false,
            PageOrigin::None | PageOrigin::Foreign => return,
        };
        Cookies::accept(cookie, from_page, request);
    }

    /// Answers a preflight: whether pages of an origin may call.
    fn preflight(&self, origin: Option<HeaderValue>) -> Response<Body> {
        let mut response = Response::new(Body::default());
        let is_allowed = origin.is_some();
        *response.status_mut() = if is_allowed { StatusCode::NO_CONTENT } else { StatusCode::BAD_REQUEST };
        let headers = response.headers_mut();
        if is_allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        self.allow(headers, origin);
        response
    }

    /// Adds the CORS headers: the origin that may read the response, and whether it may send cookies. The origin is
    /// always one of `browser.origins` and never `*`.
    fn allow(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        if self.cookie.is_some() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

impl Services for Browsers {
    type Body = ResponseBody;

    /// The dispatcher begins no request that comes from a browser or has cookies.
    fn begin<B>(&self, peer: &Peer, request: &mut Request<B>, message: &Bytes) -> Begun<ResponseBody> {
        self.services.begin(peer, request, message)
    }

    fn answered_at_once(&self, requests: u64, took: Duration) {
        self.services.answered_at_once(requests, took);
    }

    async fn serve(&self, peer: &Peer, mut request: Request<IncomingBody>) -> Response<ResponseBody> {
        // A browser hides the response from a page of another origin, but the call would have run.
        let response = if let Some(response) = cross_site::error_response(&request, &self.origins) {
            self.services.count_unserved(request.uri().path(), &response);
            response
        } else {
            self.accept_cookie(&mut request);
            if request.version() == Version::HTTP_2 && !is_from_browser(&request) {
                self.services.serve(peer, request).await
            } else {
                self.serve_browser(peer, request).await
            }
        };
        response.map(|body| ResponseBody::new(body, None))
    }

    fn panicked(&self, panic: &Panic) -> Response<ResponseBody> {
        response_body::panicked(panic)
    }
}

/// Whether a request is gRPC-Web or a preflight.
fn is_from_browser(request: &Request<IncomingBody>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|kind| kind.starts_with(b"application/grpc-web"))
        || *request.method() == Method::OPTIONS
}
