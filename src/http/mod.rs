//! Inbound: answers for gateways, probes, metrics and the public keys, over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/forward-auth` | whether a request may pass, and who it is: see [`forward_auth`] |
//! | `/livez` | 200 as long as the process runs |
//! | `/readyz` | 200 while requests can be served, 503 otherwise: the same as the gRPC health |
//! | `/metrics` | what is counted, for Prometheus |
//! | `/.well-known/jwks.json` | the public keys, RFC 7517 |

mod connection;
pub mod forward_auth;
mod jwks;
mod metrics;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{any, get},
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use self::forward_auth::ForwardAuth;
use crate::{accept::accept, domain::Engine};

#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    ready: watch::Receiver<bool>,
    metrics: Arc<Registry>,
}

/// Serves on `listener`, so many clients at a time, until `shutdown`; then until the last request has its answer.
pub async fn serve(
    listener: TcpListener,
    forward_auth: ForwardAuth,
    ready: watch::Receiver<bool>,
    max_connections: usize,
    shutdown: CancellationToken,
) {
    let engine = Arc::clone(forward_auth.engine());
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/metrics", get(metrics))
        .with_state(Shared { metrics: metrics::registry(&engine), engine, ready })
        .merge(
            // Gateways ask with the method of the request or with another one: it makes no difference.
            Router::new().route("/forward-auth", any(forward_auth::forward_auth)).with_state(forward_auth),
        );
    let serve = |socket, address| {
        connection::speak(socket, address, router.clone(), connection::HEAD_TIMEOUT, shutdown.clone())
    };
    accept(listener, max_connections, &shutdown, serve).await;
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    if *shared.ready.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    metrics::scrape(&shared.metrics)
}

async fn jwks(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    jwks::answer(&shared.engine, &headers)
}
