//! `/forward-auth`: nginx (`auth_request`), Traefik (`ForwardAuth`) and Caddy (`forward_auth`) ask before they let a
//! request pass. They send on the client's headers, and what the route asks for as query parameters.
//!
//! | status | what it means |
//! |---|---|
//! | 200 | the request may pass, with the identity headers of this answer |
//! | 401, 403 | it may not, for the reason in `x-latchkey-reason` and in the body |
//! | 500 | the gateway's settings are wrong, or its caller key, or it is a fault of ours: the log says which |
//! | 503 | it could not be decided: try again after `retry-after` seconds |

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Extension, Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::time::timeout;
use url::form_urlencoded;

use crate::{
    admission::{Connection, Permit, Resource},
    domain::{Engine, Error, ports::StoreError},
    gateway::{Decision, Denial, Gateway},
    isolation::{log_limiter::LogLimiter, panics::Panic},
};

/// When to ask again where a store does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Knows who may ask for verdicts.
#[async_trait]
pub trait CallerCheck: Send + Sync {
    /// Refuses who may not, by the headers of the request and where it comes from.
    async fn may_ask(
        &self,
        headers: &HeaderMap,
        peer: SocketAddr,
        connection: &Arc<Connection>,
    ) -> Result<(), Error>;
}

/// Answers gateways.
#[derive(Clone)]
pub struct ForwardAuth(Arc<Inner>);

struct Inner {
    gateway: Arc<Gateway>,
    callers: Arc<dyn CallerCheck>,
    timeout: Duration,
}

impl ForwardAuth {
    /// Each answer within this time.
    pub fn new(gateway: Arc<Gateway>, callers: Arc<dyn CallerCheck>, timeout: Duration) -> Self {
        Self(Arc::new(Inner { gateway, callers, timeout }))
    }

    /// The rules behind it.
    pub(super) fn engine(&self) -> &Arc<Engine> {
        self.0.gateway.engine()
    }
}

/// What is said of a request that was not decided.
#[derive(Serialize)]
struct Failure<'a> {
    reason: &'a str,
    message: String,
}

pub(super) async fn forward_auth(
    State(ForwardAuth(inner)): State<ForwardAuth>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(connection): Extension<Arc<Connection>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Ok(_place) = Permit::take(&*connection, Resource::Requests) else {
        return later("OVERLOADED", "too many requests at a time".into(), RETRY);
    };
    let mut response = match timeout(inner.timeout, inner.decide(peer, &connection, &uri, &headers)).await {
        Ok(Ok(decision)) => inner.answer(&decision),
        Ok(Err(error)) => failed(&error),
        Err(_) => later("DEADLINE_EXCEEDED", "it took longer than server.request_timeout".into(), RETRY),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Inner {
    async fn decide(
        &self,
        peer: SocketAddr,
        connection: &Arc<Connection>,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Decision, Error> {
        self.callers.may_ask(headers, peer, connection).await?;
        let query: Vec<_> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
        let route = self.gateway.route("query", query.iter().map(|(key, value)| (&**key, &**value)))?;
        let values = |name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        self.gateway.decide(values(header::AUTHORIZATION), values(header::COOKIE), &route).await
    }

    fn answer(&self, decision: &Decision) -> Response {
        match decision {
            Decision::Allowed(None) => StatusCode::OK.into_response(),
            Decision::Allowed(Some(identity)) => {
                let headers = identity.headers(&self.gateway.settings().headers);
                with(StatusCode::OK.into_response(), headers)
            }
            Decision::Denied(denial) => denied(denial),
        }
    }
}

fn denied(denial: &Denial) -> Response {
    let status = if denial.is_forbidden() { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
    let json = [(header::CONTENT_TYPE, "application/json")];
    let mut headers = denial.headers();
    // nginx passes on no body of ours.
    headers.push(("x-latchkey-denial", denial.body_in_header()));
    with((status, json, denial.body()).into_response(), headers)
}

/// The response with these headers; one that cannot be sent makes it a fault of ours, and nobody passes.
fn with(mut response: Response, headers: Vec<(&str, String)>) -> Response {
    for (name, value) in headers {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_maybe_shared(value)) {
            (Ok(name), Ok(value)) => response.headers_mut().insert(name, value),
            _ => return failed(&Error::Internal(format!("the value of {name} cannot be sent in a header"))),
        };
    }
    response
}

/// What is no verdict must not look like one: 401 and 403 are for users.
fn failed(error: &Error) -> Response {
    error.log(None::<&str>);
    match error {
        Error::Store(StoreError::Unavailable { store, .. }) => {
            // What the store said stays in the log.
            later(error.reason(), format!("the {store} store is unavailable: try again"), RETRY)
        }
        Error::Overloaded { retry_after, .. } => later(error.reason(), error.to_string(), *retry_after),
        Error::Invalid(_) | Error::CallerUnauthenticated(_) | Error::CallerNotAllowed { .. } => {
            failure(StatusCode::INTERNAL_SERVER_ERROR, error.reason(), error.to_string())
        }
        _ => {
            let message = "internal error; the log has it".to_owned();
            failure(StatusCode::INTERNAL_SERVER_ERROR, error.reason(), message)
        }
    }
}

/// The answer to a request that panicked.
pub(super) fn panicked(panic: &Panic) -> Response {
    static PANICS: LogLimiter = LogLimiter::new("a request panicked", 20);
    if PANICS.admits("") {
        tracing::error!(error.message = %panic, "a request panicked");
    }
    let message = "internal error; the log has it".to_owned();
    failure(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
}

fn later(reason: &str, message: String, retry_after: Duration) -> Response {
    let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, reason, message);
    let seconds = retry_after.as_secs().max(1);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn failure(status: StatusCode, reason: &str, message: String) -> Response {
    (status, Json(Failure { reason, message })).into_response()
}
