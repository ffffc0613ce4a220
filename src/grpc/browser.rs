//! gRPC-Web, and which web sites may use it: what browsers need, where the settings allow it.
//!
//! A browser can neither send a gRPC request nor read trailers, and asks before a site calls a server of another
//! origin (CORS). Calls of other clients go by untouched.

use std::{convert::Infallible, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service as _, service_fn};

use super::{
    cookie::{Cookies, TokenCookie},
    cross_site::{self, Site},
    dispatch::{self, Dispatcher},
    response_body::ResponseBody,
};
use crate::{
    isolation::panics::Panic,
    transport::{connection::Services, peer::Peer},
};

/// What a site may send besides what every site may. Not the key of a caller, which has no place in a browser.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, grpc-timeout, x-grpc-web, x-request-id, x-user-agent",
);
/// What a site may read of an answer.
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("grpc-message, grpc-status, grpc-status-details-bin, x-request-id");
/// How long a browser remembers that a site may call, in seconds; two hours are the most that any does.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Services that browsers can call, too.
pub struct Browsers {
    services: Arc<Dispatcher>,
    origins: Vec<HeaderValue>,
    cookie: Option<Arc<TokenCookie>>,
}

impl Browsers {
    /// These services, for sites of these origins; with the token in this cookie, where there is one.
    pub fn new(services: Dispatcher, origins: Vec<HeaderValue>, cookie: Option<TokenCookie>) -> Self {
        Self { services: Arc::new(services), origins, cookie: cookie.map(Arc::new) }
    }

    /// The answer to what a browser sends.
    async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let origin = match Site::of(request.headers(), &self.origins) {
            Site::Allowed(origin) => Some(origin.clone()),
            Site::None | Site::Foreign => None,
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

    /// Makes the cookie count where it may: in what comes from a page of one of these sites, by gRPC-Web or through a
    /// gateway that has made native gRPC of it; and in what asks for it and comes from no page.
    fn mind_cookie(&self, request: &mut Request<Incoming>) {
        let Some(cookie) = &self.cookie else { return };
        let by_page = match Site::of(request.headers(), &self.origins) {
            Site::Allowed(_) => true,
            Site::None if Cookies::asked(request.headers()) => false,
            Site::None | Site::Foreign => return,
        };
        Cookies::let_in(cookie, by_page, request);
    }
}

impl Services for Browsers {
    type Body = ResponseBody;

    async fn serve(&self, peer: &Peer, mut request: Request<Incoming>) -> Response<ResponseBody> {
        // A browser keeps the response from a foreign site, but the call would have been made.
        let response = if let Some(denial) = cross_site::refusal(&request, &self.origins) {
            denial
        } else {
            self.mind_cookie(&mut request);
            if request.version() == Version::HTTP_2 && !is_from_browser(&request) {
                self.services.serve(peer, request).await
            } else {
                self.answer(peer, request).await
            }
        };
        response.map(|body| ResponseBody::new(body, None))
    }

    fn panicked(&self, panic: &Panic) -> Response<ResponseBody> {
        dispatch::panicked(panic)
    }
}

/// Whether this is what browsers send, or ask leave to send.
fn is_from_browser(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|kind| kind.starts_with(b"application/grpc-web"))
        || *request.method() == Method::OPTIONS
}

impl Browsers {
    /// Whether a site may call, which its browser asks first.
    fn preflight(&self, origin: Option<HeaderValue>) -> Response<Body> {
        if origin.is_none() {
            return self.immediately(StatusCode::BAD_REQUEST, None);
        }
        self.immediately(StatusCode::NO_CONTENT, origin)
    }

    fn immediately(&self, status: StatusCode, origin: Option<HeaderValue>) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if origin.is_some() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        self.allow(headers, origin);
        response
    }

    /// Says to whom the answer may be shown, and whether with cookies. The origin is always a site that was named, and
    /// never `*`.
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
