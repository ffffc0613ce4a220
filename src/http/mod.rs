//! The HTTP port: forward-auth for gateways, probes, metrics and the public keys, and what else is given, such as JSON.
//!
//! | path | response |
//! |---|---|
//! | `/forward-auth` | whether a gateway may forward a request, with the identity headers: see [`forward_auth`] |
//! | `/livez` | 200 while the process runs |
//! | `/readyz` | 200 while Validate can be served, else 503, like the gRPC health of the server |
//! | `/readyz?service=NAME` | the same for one service of the gRPC health; 404 for an unknown service |
//! | `/metrics` | metrics in the OpenMetrics format |
//! | `/.well-known/jwks.json` | the public keys as a JSON Web Key Set (RFC 7517) |

pub mod forward_auth;
mod jwks;
mod limits;
mod metrics;
mod process;

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
pub use self::metrics::{Sources, registry, text};
use crate::{
    admission::ConnectionLimiter,
    domain::{Engine, health::HealthReport},
    transport::{accept::accept, http1},
};

#[derive(Clone)]
struct AppState {
    engine: Arc<Engine>,
    condition: watch::Receiver<HealthReport>,
    metrics: Arc<Registry>,
}

/// Serves the clients of `listener` that `limiter` admits, until `shutdown` and the last response. `others` serves all
/// paths that are not in the table above.
pub async fn serve(
    listener: TcpListener,
    forward_auth: ForwardAuth,
    others: Option<Router>,
    condition: watch::Receiver<HealthReport>,
    limiter: &ConnectionLimiter,
    registry: Arc<Registry>,
    shutdown: CancellationToken,
) {
    let engine = Arc::clone(forward_auth.engine());
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/.well-known/jwks.json", get(jwks))
        .route("/metrics", get(metrics))
        .with_state(AppState { metrics: registry, engine, condition })
        .merge(
            // Some gateways use the method of the original request.
            Router::new().route("/forward-auth", any(forward_auth::forward_auth)).with_state(forward_auth),
        )
        .fallback_service(others.unwrap_or_default());
    let serve = |socket, address, usage| {
        http1::serve(
            socket,
            address,
            usage,
            router.clone(),
            forward_auth::panicked,
            http1::HEAD_TIMEOUT,
            shutdown.clone(),
        )
    };
    accept(listener, limiter, &shutdown, serve).await;
}

async fn readyz(State(state): State<AppState>, uri: Uri) -> impl IntoResponse {
    let query = uri.query().unwrap_or_default();
    let service = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "service");
    let service = service.map(|(_, service)| service).unwrap_or_default();
    match state.condition.borrow().serves(&service) {
        Some(true) => (StatusCode::OK, "ok\n"),
        Some(false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        None => (StatusCode::NOT_FOUND, "unknown service\n"),
    }
}

async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    metrics::scrape(&state.metrics)
}

async fn jwks(State(state): State<AppState>, headers: HeaderMap) -> impl IntoResponse {
    jwks::response(&state.engine, &headers)
}
