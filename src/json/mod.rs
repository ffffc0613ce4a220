//! JSON over HTTP: the paths of the `google.api.http` annotations and Connect's unary protocol.
//!
//! A request is matched by [`routes`], its message is translated by [`message`] when the [dispatcher](Dispatcher) reads
//! it, and the dispatcher serves it like a request over gRPC. So access rules, limits, deadlines, cookies and metrics
//! are those of gRPC. All of this is driven by the descriptors: a new method needs no code here.
//!
//! [`oauth`] serves resource servers that speak OAuth 2.0 only, through the same dispatcher.
//!
//! The HTTP port serves [`Json::router`], the gRPC port [`port::WithJson`].

mod error;
mod events;
mod headers;
mod message;
mod oauth;
mod openapi;
pub mod port;
mod request;
mod routes;
mod template;
mod unique;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use axum::{
    Extension, Router,
    extract::{ConnectInfo, State},
};
use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use prost_reflect::DescriptorPool;
use tonic::{Code, Status, body::Body, codegen::StdError};

use self::{
    headers::{Encoding, LONGEST_CACHE},
    oauth::OAuth,
    request::Transcoder,
    routes::{Found, Kind, Match, Routes},
};
use crate::{
    admission::Connection,
    domain::metrics::Surface,
    grpc::{
        browser::Pages,
        cross_site::{FOREIGN_ORIGIN, PageOrigin},
        dispatch::Dispatcher,
        pb,
        response_body::ResponseBody,
        status,
    },
    transport::peer::Peer,
};

pub use self::oauth::OAuthSettings;

/// The path of the description of all paths.
const OPENAPI: &str = "/openapi.json";
/// The length of the prefix of a message in gRPC.
const PREFIX: usize = 5;

/// Serves JSON over HTTP.
pub struct Json {
    dispatcher: Arc<Dispatcher>,
    pages: Arc<Pages>,
    pool: DescriptorPool,
    routes: Routes,
    oauth: OAuth,
    openapi: OnceLock<Bytes>,
}

impl Json {
    /// Translates requests for `dispatcher`, and serves these pages too.
    pub fn new(dispatcher: Arc<Dispatcher>, pages: Arc<Pages>, oauth: OAuthSettings) -> Result<Self, String> {
        let pool = DescriptorPool::decode(pb::PUBLISHED)
            .map_err(|error| format!("failed to read the descriptors of the protocol: {error}"))?;
        let routes = Routes::new(&pool)?;
        Ok(Self { dispatcher, pages, pool, routes, oauth: OAuth::new(oauth), openapi: OnceLock::new() })
    }

    /// Returns the router of the HTTP port for all paths of methods.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(serve_http).with_state(self)
    }

    /// Whether pages may call.
    fn has_pages(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Answers a request over gRPC that came over HTTP/1.1.
    fn needs_http2(&self) -> Response<Body> {
        let message = "gRPC needs HTTP/2: over HTTP/1.1 send content-type: application/json";
        let mut response = self.error(&status::not_served(Code::InvalidArgument, message));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        response
    }

    /// Answers a request from `peer`.
    pub(crate) async fn serve<B>(&self, peer: &Peer, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let origin = match self.pages.origin(request.headers()) {
            PageOrigin::None => None,
            PageOrigin::Allowed(origin) => Some(origin.clone()),
            // A browser hides the response from a page of another origin, but the call would have run.
            PageOrigin::Foreign => {
                let status = status::foreign_origin(FOREIGN_ORIGIN);
                let mut response = match self.oauth.find(request.uri().path()) {
                    Some(_) => oauth::error(&status),
                    None => self.error(&status),
                };
                response.headers_mut().insert(header::VARY, HeaderValue::from_static("origin"));
                return response;
            }
        };
        // Only answers of methods are for pages.
        let is_for_pages = self.has_pages() && self.routes.has_path(request.uri().path());
        if *request.method() == Method::OPTIONS && is_for_pages {
            return self.pages.preflight(origin, headers::PAGE_METHODS, headers::PAGE_HEADERS);
        }
        let mut response = self.answer(peer, request).await;
        if is_for_pages {
            self.pages.allow(response.headers_mut(), origin, headers::PAGE_EXPOSED);
        }
        response
    }

    async fn answer<B>(&self, peer: &Peer, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let path = request.uri().path();
        if path == OPENAPI {
            return if *request.method() == Method::GET { self.openapi() } else { self.not_allowed("GET") };
        }
        if let Some(endpoint) = self.oauth.find(path) {
            return self.oauth.serve(&self.dispatcher, peer, endpoint, request).await;
        }
        match self.routes.find(request.method(), path) {
            Match::Found(found) => self.call(peer, found, request).await.unwrap_or_else(|error| {
                let (code, status) = *error;
                let mut response = self.error(&status);
                if let Some(code) = code {
                    *response.status_mut() = code;
                }
                response
            }),
            Match::WrongMethod(allowed) => self.not_allowed(&allowed),
            Match::None => {
                let status =
                    status::not_served(Code::Unimplemented, "there is no such method: see /openapi.json");
                let mut response = self.error(&status);
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }

    async fn call<B>(
        &self,
        peer: &Peer,
        found: Found<'_>,
        mut request: Request<B>,
    ) -> Result<Response<Body>, Box<(Option<StatusCode>, Status)>>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let Found { method, kind, captures } = found;
        if kind == Kind::Connect && method.is_streaming() {
            let message = "streams are for gRPC, and WatchSession for server-sent events: GET /v1/watch";
            return Err(Box::new((None, status::not_served(Code::Unimplemented, message))));
        }
        let encodings = headers::encodings(kind, request.headers())?;
        if kind == Kind::Connect {
            headers::check_version(request.headers()).map_err(|status| Box::new((None, status)))?;
        }
        if kind == Kind::Events && headers::is_from_same_origin(request.headers()) {
            // A page reads events of its own origin without `origin`, and cannot add headers.
            self.pages.accept_cookie_from(true, &mut request);
        } else {
            self.pages.accept_cookie(&mut request);
        }
        let (mut parts, body) = request.into_parts();
        let transcoding = request::Transcoding {
            message: method.input.clone(),
            kind,
            captures,
            query: parts.uri.query().map(str::to_owned),
            encoding: encodings.body,
        };
        headers::translate(&mut parts, &method.path).map_err(|status| Box::new((None, status)))?;
        let body = self.dispatcher.limit(body, &peer.connection);
        let body = Transcoder::new(body, encodings.is_gzip, transcoding);
        let response = self.dispatcher.serve_on(Surface::Json, peer, Request::from_parts(parts, body)).await;
        Ok(if kind == Kind::Events {
            self.events(response, method)
        } else {
            self.unary(response, method, encodings.body).await
        })
    }

    /// Translates the response of a unary method.
    async fn unary(
        &self,
        response: Response<Body>,
        method: &routes::Method,
        encoding: Encoding,
    ) -> Response<Body> {
        let (others, message) = received(response).await;
        let message = match encoding {
            Encoding::Proto => message,
            Encoding::Json => {
                message.and_then(|message| message::to_json(&method.output, message).map(Bytes::from))
            }
        };
        let mut response = match message {
            Ok(message) => headers::response(encoding, message),
            Err(status) => self.error(&status),
        };
        headers::add_missing(response.headers_mut(), others);
        response
    }

    /// Translates the response of a method that sends a stream.
    fn events(&self, response: Response<Body>, method: &routes::Method) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        let failure = Status::from_header_map(&parts.headers);
        headers::clean(&mut parts.headers);
        let mut response = match failure {
            Some(status) => self.error(&status),
            None => events::response(ResponseBody::new(body, None), method.output.clone()),
        };
        headers::add_missing(response.headers_mut(), parts.headers);
        response
    }

    /// Returns the response with an error.
    fn error(&self, status: &Status) -> Response<Body> {
        error::response(&self.pool, status)
    }

    fn not_allowed(&self, allowed: &str) -> Response<Body> {
        let message = format!("this path is for {allowed}");
        let mut response = self.error(&status::not_served(Code::Unimplemented, message));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        if let Ok(allowed) = HeaderValue::from_str(allowed) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }

    fn openapi(&self) -> Response<Body> {
        let document = self.openapi.get_or_init(|| openapi::document().into()).clone();
        let mut response = Response::new(Body::new(Full::new(document)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, LONGEST_CACHE);
        response
    }
}

/// Returns the headers of a response of a unary method that are not those of gRPC, and its message.
async fn received(response: Response<Body>) -> (HeaderMap, Result<Bytes, Status>) {
    let (mut parts, body) = response.into_parts();
    let failure = Status::from_header_map(&parts.headers);
    headers::clean(&mut parts.headers);
    let message = match failure {
        Some(status) => Err(status),
        None => ResponseBody::new(body, None).collect().await.and_then(|collected| {
            match collected.trailers().and_then(Status::from_header_map) {
                Some(status) if status.code() != Code::Ok => Err(status),
                _ => Ok(collected.to_bytes()),
            }
        }),
    };
    let message = message.map(|mut message| {
        message.advance(PREFIX.min(message.len()));
        message
    });
    (parts.headers, message)
}

/// Answers a request to the HTTP port, where there are no client certificates.
async fn serve_http(
    State(json): State<Arc<Json>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Extension(connection): Extension<Arc<Connection>>,
    request: axum::extract::Request,
) -> axum::response::Response {
    let peer = Peer { address, certificate: None, connection };
    json.serve(&peer, request).await.map(axum::body::Body::new)
}
