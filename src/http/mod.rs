//! Inbound: answers for gateways, probes, metrics and the public keys, over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/forward-auth` | whether a request may pass, and who it is: see [`forward_auth`] |
//! | `/livez` | 200 as long as the process runs |
//! | `/readyz` | 200 while Validate can be served, 503 otherwise: the same as the gRPC health |
//! | `/readyz?service=NAME` | the same of a service that the gRPC health tells of; 404 for others |
//! | `/metrics` | what is counted, for Prometheus |
//! | `/.well-known/jwks.json` | the public keys, RFC 7517 |

pub mod forward_auth;
mod jwks;
mod limits;
mod metrics;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse,
    routing::{any, get},
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use self::forward_auth::ForwardAuth;
use crate::{
    admission::{Admission, ConnectionLimiter},
    domain::{Engine, health::Condition},
    transport::{accept::accept, http1},
};

#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    condition: watch::Receiver<Condition>,
    metrics: Arc<Registry>,
}

/// Serves on `listener` the clients that `gate` admits, until `shutdown`; then until the last request has its answer.
pub async fn serve(
    listener: TcpListener,
    forward_auth: ForwardAuth,
    condition: watch::Receiver<Condition>,
    gate: &ConnectionLimiter,
    admission: &Arc<Admission>,
    shutdown: CancellationToken,
) {
    let engine = Arc::clone(forward_auth.engine());
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/metrics", get(metrics))
        .with_state(Shared { metrics: metrics::registry(&engine, admission), engine, condition })
        .merge(
            // Gateways ask with the method of the request or with another one: it makes no difference.
            Router::new().route("/forward-auth", any(forward_auth::forward_auth)).with_state(forward_auth),
        );
    let serve = |socket, address, account| {
        http1::serve(
            socket,
            address,
            account,
            router.clone(),
            forward_auth::panicked,
            http1::HEAD_TIMEOUT,
            shutdown.clone(),
        )
    };
    accept(listener, gate, &shutdown, serve).await;
}

async fn readyz(State(shared): State<Shared>, uri: Uri) -> impl IntoResponse {
    let query = uri.query().unwrap_or_default();
    let service = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "service");
    let service = service.map(|(_, service)| service).unwrap_or_default();
    match shared.condition.borrow().serves(&service) {
        Some(true) => (StatusCode::OK, "ok\n"),
        Some(false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        None => (StatusCode::NOT_FOUND, "unknown service\n"),
    }
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    metrics::scrape(&shared.metrics)
}

async fn jwks(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    jwks::answer(&shared.engine, &headers)
}
