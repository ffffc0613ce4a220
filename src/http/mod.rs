//! Inbound: probes, metrics and the public keys, over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process runs |
//! | `/readyz` | 200 while requests can be served, 503 otherwise: the same as the gRPC health |
//! | `/metrics` | what is counted, for Prometheus |
//! | `/.well-known/jwks.json` | the public keys, RFC 7517 |

mod metrics;

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::domain::Engine;

#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    ready: watch::Receiver<bool>,
    metrics: Arc<Registry>,
}

/// Serves on `listener` until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    ready: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/metrics", get(metrics))
        .with_state(Shared { metrics: metrics::registry(&engine), engine, ready });
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(error.message = %error, "the HTTP port has failed");
    }
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

async fn jwks(State(shared): State<Shared>) -> impl IntoResponse {
    // Short, so that a new key is known soon after it was added.
    let headers = [(header::CACHE_CONTROL, "public, max-age=60")];
    (headers, axum::Json(shared.engine.tokens.keyring().jwks()))
}
