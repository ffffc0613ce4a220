//! `/forward-auth`: nginx (`auth_request`), Traefik (`ForwardAuth`) and Caddy (`forward_auth`) call it before they
//! forward a request. They send the headers of the client, and the requirements of the route as query parameters.
//!
//! | status | meaning |
//! |---|---|
//! | 200 | The request is allowed. The response contains the identity headers. |
//! | 401, 403 | The request is denied for the reason in `x-latchkey-reason` and in the body. |
//! | 500 | The configuration or the caller key of the gateway is wrong, or an internal error occurred. See the log. |
//! | 503 | Nothing was decided. Retry after `retry-after` seconds. |

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Extension, Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::time::timeout;
use tracing::Instrument as _;
use url::form_urlencoded;

use crate::{
    admission::{Connection, Permit, Resource},
    domain::{Engine, Error, metrics::Surface, ports::StoreError},
    gateway::{Decision, Denial, Gateway},
    isolation::{log_limiter::LogLimiter, panics::Panic},
    trace::{RequestSpans, Sampled, TraceContext},
};

/// The retry delay of clients if the error has none of its own.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Checks the callers of the HTTP port.
#[async_trait]
pub trait CallerCheck: Send + Sync {
    /// Fails if the caller may not request verdicts.
    async fn check(
        &self,
        headers: &HeaderMap,
        peer: SocketAddr,
        connection: &Arc<Connection>,
    ) -> Result<(), Error>;
}

/// Answers the requests of gateways.
#[derive(Clone)]
pub struct ForwardAuth {
    gateway: Arc<Gateway>,
    callers: Arc<dyn CallerCheck>,
    timeout: Duration,
}

impl ForwardAuth {
    /// Creates the handler. `timeout` limits each request.
    pub fn new(gateway: Arc<Gateway>, callers: Arc<dyn CallerCheck>, timeout: Duration) -> Self {
        Self { gateway, callers, timeout }
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        self.gateway.engine()
    }
}

/// The body of an error response.
#[derive(Serialize)]
struct ErrorBody<'a> {
    reason: &'a str,
    message: String,
}

pub(super) async fn forward_auth(
    State(forward_auth): State<ForwardAuth>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(connection): Extension<Arc<Connection>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let caller = TraceContext::of(&headers);
    let spans = RequestSpans::new(caller.as_ref(), &request_id(&headers), || {
        Some(Sampled::decide(caller.clone())?.http(method_name(&method), "/forward-auth"))
    });
    let answer = answer(&forward_auth, peer, &connection, &uri, &headers);
    let response = answer.instrument(spans.span().clone()).await;
    if let Some(root) = spans.root() {
        root.http_status(response.status().as_u16());
    }
    response
}

/// The id of a request in the log: that of the client, if it can be logged (up to 64 visible characters).
fn request_id(headers: &HeaderMap) -> String {
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let id = id.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    id.map_or_else(|| format!("{:016x}", rand::random::<u64>()), str::to_owned)
}

/// The name of a method in traces, of a closed set, because clients choose it.
fn method_name(method: &Method) -> &str {
    match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH") => {
            known
        }
        _ => "_OTHER",
    }
}

async fn answer(
    forward_auth: &ForwardAuth,
    peer: SocketAddr,
    connection: &Arc<Connection>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Response {
    let errors = &forward_auth.engine().metrics().verdict_errors;
    let Ok(_permit) = Permit::take(&**connection, Resource::Requests) else {
        errors.count_one(Surface::ForwardAuth);
        return unavailable("OVERLOADED", "too many requests at a time".into(), RETRY_AFTER);
    };
    let decision = forward_auth.decide(peer, connection, uri, headers);
    let mut response = match timeout(forward_auth.timeout, decision).await {
        Ok(Ok(decision)) => forward_auth.response(&decision),
        Ok(Err(error)) => {
            errors.count(Surface::ForwardAuth, &error);
            error_response(&error)
        }
        Err(_) => {
            errors.count_one(Surface::ForwardAuth);
            let message = "the request took longer than server.request_timeout".into();
            unavailable("DEADLINE_EXCEEDED", message, RETRY_AFTER)
        }
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl ForwardAuth {
    async fn decide(
        &self,
        peer: SocketAddr,
        connection: &Arc<Connection>,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Decision, Error> {
        self.callers.check(headers, peer, connection).await?;
        let query: Vec<_> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
        let route = self.gateway.route("query", query.iter().map(|(key, value)| (&**key, &**value)))?;
        let values = |name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let (authorization, cookies) = (values(header::AUTHORIZATION), values(header::COOKIE));
        self.gateway.decide(Surface::ForwardAuth, authorization, cookies, &route).await
    }

    fn response(&self, decision: &Decision) -> Response {
        match decision {
            Decision::Allowed(None) => StatusCode::OK.into_response(),
            Decision::Allowed(Some(identity)) => {
                let headers = identity.headers(&self.gateway.settings().headers);
                with_headers(StatusCode::OK.into_response(), headers)
            }
            Decision::Denied(denial) => denial_response(denial),
        }
    }
}

fn denial_response(denial: &Denial) -> Response {
    let status = if denial.is_forbidden() { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
    let json = [(header::CONTENT_TYPE, "application/json")];
    let mut headers = denial.headers();
    // nginx does not forward the body.
    headers.push(("x-latchkey-denial", denial.body_in_header()));
    with_headers((status, json, denial.body()).into_response(), headers)
}

/// Adds headers to a response. A value that is not valid in a header becomes an internal error, so the request is not
/// allowed.
fn with_headers(mut response: Response, headers: Vec<(&str, String)>) -> Response {
    for (name, value) in headers {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_maybe_shared(value)) {
            (Ok(name), Ok(value)) => response.headers_mut().insert(name, value),
            _ => {
                return error_response(&Error::Internal(format!(
                    "the value of {name} is not valid in a header"
                )));
            }
        };
    }
    response
}

/// Returns the response to a request that was not decided. Its status is never 401 or 403, which are denials.
fn error_response(error: &Error) -> Response {
    error.log(None::<&str>);
    match error {
        Error::Store(StoreError::Unavailable { store, .. }) => {
            // Only the log contains the message of the store.
            unavailable(error.reason(), format!("the {store} store is unavailable: try again"), RETRY_AFTER)
        }
        Error::Overloaded { retry_after, .. } => unavailable(error.reason(), error.to_string(), *retry_after),
        Error::Invalid(_) | Error::CallerUnauthenticated(_) | Error::CallerNotAllowed { .. } => {
            json_error(StatusCode::INTERNAL_SERVER_ERROR, error.reason(), error.to_string())
        }
        _ => internal_error(error.reason()),
    }
}

/// Returns the response to a request that panicked.
pub(super) fn panicked(panic: &Panic) -> Response {
    static PANICS: LogLimiter = LogLimiter::new("a request panicked", 20);
    if PANICS.admits("") {
        tracing::error!(error.message = %panic, "a request panicked");
    }
    internal_error("INTERNAL")
}

fn internal_error(reason: &str) -> Response {
    json_error(StatusCode::INTERNAL_SERVER_ERROR, reason, "internal error; see the log".to_owned())
}

fn unavailable(reason: &str, message: String, retry_after: Duration) -> Response {
    let mut response = json_error(StatusCode::SERVICE_UNAVAILABLE, reason, message);
    let seconds = retry_after.as_secs().max(1);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn json_error(status: StatusCode, reason: &str, message: String) -> Response {
    (status, Json(ErrorBody { reason, message })).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;
    use crate::isolation::panics;

    #[tokio::test]
    async fn a_panic_is_answered_with_500_and_the_reason_internal() {
        let panic = panics::catch(|| panic!("intended")).unwrap_err();
        let response = panicked(&panic);
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = to_bytes(response.into_body(), 1000).await.unwrap();
        let body = str::from_utf8(&body).unwrap();
        assert!(body.contains(r#""reason":"INTERNAL""#) && !body.contains("intended"), "{body}");
    }
}
