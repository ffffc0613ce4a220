//! OAuth 2.0 for resource servers: token introspection (RFC 7662), token revocation (RFC 7009) and server metadata
//! (RFC 8414).
//!
//! An introspection is a `Validate` and a revocation is a `Logout`, which the [dispatcher](Dispatcher) serves like any
//! other: the verdict, the access rules and the limits cannot differ. Cookies do not count here.

mod answer;
mod credential;
mod form;
mod metadata;
mod openapi;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::{Code, Status, body::Body, codegen::StdError};

use self::{form::Form, metadata::Metadata};
use super::{
    headers::{self, Unserved},
    received,
    request::Transcoder,
};
use crate::{
    domain::metrics::Surface,
    grpc::{access::ProvenCaller, dispatch::Dispatcher, status},
    transport::peer::Peer,
};

pub(super) use self::{
    answer::error,
    openapi::{paths, schemas},
};

const INTROSPECT: &str = "/oauth2/introspect";
const REVOKE: &str = "/oauth2/revoke";

/// The settings.
#[derive(Debug, Clone)]
pub struct OAuthSettings {
    /// The `iss` claim of tokens.
    pub issuer: String,
    /// The `aud` claim of tokens.
    pub audience: String,
    /// The path of the issuer without a slash at its end, if the issuer is a URL.
    pub issuer_path: Option<String>,
    /// The URL of the endpoints without a slash at its end. `None`: the address at which a client asks for the metadata.
    pub base_url: Option<String>,
    /// If true, an introspection needs a caller.
    pub needs_caller: bool,
}

/// A path that is served here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Call(Operation),
    Metadata,
}

/// An operation, which is a method of Latchkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Introspect,
    Revoke,
}

impl Operation {
    /// Returns the path of the method.
    fn method(self) -> &'static str {
        match self {
            Self::Introspect => "/latchkey.v1.AuthService/Validate",
            Self::Revoke => "/latchkey.v1.AuthService/Logout",
        }
    }
}

/// Serves resource servers.
pub(super) struct OAuth {
    settings: OAuthSettings,
    metadata: Metadata,
}

impl OAuth {
    pub(super) fn new(settings: OAuthSettings) -> Self {
        Self { metadata: Metadata::new(&settings), settings }
    }

    /// Returns the endpoint with this path.
    pub(super) fn find(&self, path: &str) -> Option<Endpoint> {
        match path {
            INTROSPECT => Some(Endpoint::Call(Operation::Introspect)),
            REVOKE => Some(Endpoint::Call(Operation::Revoke)),
            _ => self.metadata.has_path(path).then_some(Endpoint::Metadata),
        }
    }

    /// Answers a request from `peer`.
    pub(super) async fn serve<B>(
        &self,
        dispatcher: &Dispatcher,
        peer: &Peer,
        endpoint: Endpoint,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        match endpoint {
            Endpoint::Metadata if *request.method() != Method::GET => not_allowed("GET"),
            Endpoint::Metadata => self.metadata.response(&self.settings, request.uri(), request.headers()),
            Endpoint::Call(_) if *request.method() != Method::POST => not_allowed("POST"),
            Endpoint::Call(operation) => {
                let called = self.call(dispatcher, peer, operation, request).await;
                called.unwrap_or_else(|unserved| {
                    let (code, status) = *unserved;
                    let mut response = error(&status);
                    if let Some(code) = code {
                        *response.status_mut() = code;
                    }
                    response
                })
            }
        }
    }

    async fn call<B>(
        &self,
        dispatcher: &Dispatcher,
        peer: &Peer,
        operation: Operation,
        request: Request<B>,
    ) -> Result<Response<Body>, Unserved>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let (mut parts, body) = request.into_parts();
        form::check_type(&parts.headers)?;
        let with_usual_status = |status| Box::new((None, status));
        let is_gzip = headers::is_gzip(&parts.headers).map_err(with_usual_status)?;
        credential::translate(&mut parts.headers).map_err(with_usual_status)?;
        let form = Form { operation, query: parts.uri.query().map(str::to_owned) };
        headers::translate(&mut parts, operation.method()).map_err(with_usual_status)?;
        let body = Transcoder::new(dispatcher.limit(body, &peer.connection), is_gzip, form);
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(ProvenCaller);
        let (others, message) = received(dispatcher.serve_on(Surface::Json, peer, request).await).await;
        let body = message.and_then(|message| match operation {
            Operation::Revoke => answer::revocation(message),
            Operation::Introspect => answer::introspection(message, &self.settings),
        });
        let mut response = match body {
            Ok(body) => headers::response(headers::Encoding::Json, body),
            Err(status) => error(&status),
        };
        headers::add_missing(response.headers_mut(), others);
        Ok(response)
    }
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let message = format!("this path is for {allowed}");
    let mut response = error(&status::not_served(Code::InvalidArgument, message));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The status of a response that could not be encoded.
fn unencodable(error: &serde_json::Error) -> Status {
    Status::internal(error.to_string())
}
