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

/// The method of all calls.
const POST: HeaderValue = HeaderValue::from_static("POST");
/// The request headers that pages may send. The caller key is not among them, because it does not belong in a browser.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, grpc-timeout, x-grpc-web, x-request-id, x-user-agent",
);
/// The response headers that pages may read.
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("grpc-message, grpc-status, grpc-status-details-bin, x-request-id");
/// How long browsers cache a preflight, in seconds. No browser caches it for longer than two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// The web pages that may call, and the cookie in which they may keep the token.
pub struct Pages {
    origins: Vec<HeaderValue>,
    cookie: Option<Arc<TokenCookie>>,
}

impl Pages {
    /// Pages of these origins may call, with the token in `cookie` if there is one.
    pub fn new(origins: Vec<HeaderValue>, cookie: Option<TokenCookie>) -> Self {
        Self { origins, cookie: cookie.map(Arc::new) }
    }

    /// Whether no page may call.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Returns the origin of the page that sends a request.
    pub(crate) fn origin<'a>(&self, headers: &'a HeaderMap) -> PageOrigin<'a> {
        PageOrigin::find(headers, &self.origins)
    }

    /// Makes the cookie count in requests from pages of an allowed origin, over any protocol or through a gateway that has
    /// translated them to native gRPC, and in requests that enable it and come from no page.
    pub(crate) fn accept_cookie<B>(&self, request: &mut Request<B>) {
        match self.origin(request.headers()) {
            PageOrigin::Allowed(_) => self.accept_cookie_from(true, request),
            PageOrigin::None if Cookies::are_enabled(request.headers()) => {
                self.accept_cookie_from(false, request);
            }
            PageOrigin::None | PageOrigin::Foreign => {}
        }
    }

    /// Makes the cookie count in a request of which the caller knows that no page of another site can have sent it.
    pub(crate) fn accept_cookie_from<B>(&self, from_page: bool, request: &mut Request<B>) {
        if let Some(cookie) = &self.cookie {
            Cookies::accept(cookie, from_page, request);
        }
    }

    /// Answers a preflight: whether pages of an origin may call, by which methods and with which headers.
    pub(crate) fn preflight(
        &self,
        origin: Option<HeaderValue>,
        methods: HeaderValue,
        request_headers: HeaderValue,
    ) -> Response<Body> {
        let mut response = Response::new(Body::default());
        let is_allowed = origin.is_some();
        *response.status_mut() = if is_allowed { StatusCode::NO_CONTENT } else { StatusCode::BAD_REQUEST };
        let headers = response.headers_mut();
        if is_allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, request_headers);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        self.allow(headers, origin, EXPOSED_HEADERS);
        response
    }

    /// Adds the CORS headers: the origin that may read the response, and whether it may send cookies. The origin is
    /// always one of `browser.origins` and never `*`.
    pub(crate) fn allow(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>, exposed: HeaderValue) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        if self.cookie.is_some() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// Serves browsers in addition to gRPC clients.
pub struct Browsers {
    services: Arc<Dispatcher>,
    pages: Arc<Pages>,
}

impl Browsers {
    /// Serves these pages.
    pub fn new(services: Arc<Dispatcher>, pages: Arc<Pages>) -> Self {
        Self { services, pages }
    }

    /// Answers a request of a browser.
    async fn serve_browser(&self, peer: &Peer, request: Request<IncomingBody>) -> Response<Body> {
        let origin = match self.pages.origin(request.headers()) {
            PageOrigin::Allowed(origin) => Some(origin.clone()),
            PageOrigin::None | PageOrigin::Foreign => None,
        };
        if *request.method() == Method::OPTIONS {
            return self.pages.preflight(origin, POST, ALLOWED_HEADERS);
        }
        let (services, peer) = (Arc::clone(&self.services), peer.clone());
        let native = service_fn(move |request: Request<Body>| {
            let (services, peer) = (Arc::clone(&services), peer.clone());
            async move { Ok::<_, Infallible>(services.serve(&peer, request).await) }
        });
        let Ok(mut response) = GrpcWebLayer::new().layer(native).call(request).await;
        self.pages.allow(response.headers_mut(), origin, EXPOSED_HEADERS);
        response
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
        let response = if let Some(response) = cross_site::error_response(&request, &self.pages.origins) {
            self.services.count_unserved(request.uri().path(), &response);
            response
        } else {
            self.pages.accept_cookie(&mut request);
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
