//! An axum server with a guard: `GET /greet` requires `authorization: Bearer <token>`.
//!
//! `docs/integration.md` shows its marked lines, and the scenarios of all clients call it
//! (`make test-clients ARGS=rust`). Environment variables: `LATCHKEY_ADDRESS`, `LATCHKEY_CALLER_KEY`,
//! `LATCHKEY_REQUIRED_ROLE`, `LATCHKEY_REQUIRED_SLOT`, and `LISTEN`, such as `127.0.0.1:8080`.

use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Extension, Json, Router, routing::get};
use latchkey_client::{Client, Guard, Identity};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

static BEGUN: AtomicU32 = AtomicU32::new(0);

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the example prints its address")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (address, key) = (env("LATCHKEY_ADDRESS", "127.0.0.1:50051"), env("LATCHKEY_CALLER_KEY", ""));
    let (role, slot) = (env("LATCHKEY_REQUIRED_ROLE", ""), env("LATCHKEY_REQUIRED_SLOT", ""));
    let latchkey = Client::connect(&address)?.with_caller_key(&key)?;
    let mut guard = Guard::new(latchkey);
    if !role.is_empty() {
        guard = guard.required_role(role);
    } else if !slot.is_empty() {
        guard = guard.required_slot(slot);
    }
    let app = Router::new().route("/greet", get(greet)).layer(guard).route("/begun", get(begun));

    let listener = TcpListener::bind(env("LISTEN", "127.0.0.1:0")).await?;
    println!("listens on {}", listener.local_addr()?);
    let mut terminated = signal(SignalKind::terminate())?;
    let stop = async move { terminated.recv().await.unwrap_or_default() };
    Ok(axum::serve(listener, app).with_graceful_shutdown(stop).await?)
}

async fn greet(Extension(caller): Extension<Identity>) -> Json<Value> {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    Json(json!({
        "text": format!("Hello, {}", caller.username),
        "identity": {
            "user_id": &*caller.user_id,
            "username": &*caller.username,
            "session_id": &*caller.session_id,
            "slot": &*caller.slot,
            "device": &*caller.device,
            "roles": &*caller.roles,
            "issued_at_unix": unix(caller.issued_at),
            "expires_at_unix": unix(caller.expires_at),
        },
    }))
}

async fn begun() -> Json<Value> {
    Json(json!({ "count": BEGUN.load(Ordering::Relaxed) }))
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[expect(clippy::disallowed_methods, reason = "the lint is for the server")]
fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}
