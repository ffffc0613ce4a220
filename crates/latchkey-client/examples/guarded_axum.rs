//! An axum server with a guard. `docs/integration.md` shows its marked lines, and the scenarios of all clients call it
//! (`make test-clients ARGS=rust`). `LISTEN` is its address; the other variables of `main` are about Latchkey.

use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Json, Router, routing::get};
use latchkey_client::{Client, Guard, Identity};
use serde_json::{Value, json};
use tokio::{net::TcpListener, signal::unix};

static BEGUN: AtomicU32 = AtomicU32::new(0);

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the example prints its address")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (address, key) = (env("LATCHKEY_ADDRESS", "127.0.0.1:50051"), env("LATCHKEY_CALLER_KEY", ""));
    // guarded from here
    let guard = Guard::new(Client::connect(&address)?.with_caller_key(&key)?);
    // to here
    let guard = match (env("LATCHKEY_REQUIRED_ROLE", ""), env("LATCHKEY_REQUIRED_SLOT", "")) {
        (role, _) if !role.is_empty() => guard.required_role(role),
        (_, slot) if !slot.is_empty() => guard.required_slot(slot),
        _ => guard,
    };
    let begun = async || Json(json!({ "count": BEGUN.load(Relaxed) }));
    let app = Router::new().route("/greet", get(greet)).layer(guard).route("/begun", get(begun));

    let listener = TcpListener::bind(env("LISTEN", "127.0.0.1:0")).await?;
    println!("listens on {}", listener.local_addr()?);
    let mut terminated = unix::signal(unix::SignalKind::terminate())?;
    let stop = async move { terminated.recv().await.unwrap_or_default() };
    Ok(axum::serve(listener, app).with_graceful_shutdown(stop).await?)
}

async fn greet(caller: Identity) -> Json<Value> {
    BEGUN.fetch_add(1, Relaxed);
    let unix = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = format!("Hello, {}", caller.username);
    let (issued_at, expires_at) = (unix(caller.issued_at), unix(caller.expires_at));
    Json(json!({ "text": text, "identity": {
        "user_id": &*caller.user_id, "username": &*caller.username, "session_id": &*caller.session_id,
        "slot": &*caller.slot, "device": &*caller.device, "roles": &*caller.roles,
        "issued_at_unix": issued_at, "expires_at_unix": expires_at,
    }}))
}

#[expect(clippy::disallowed_methods, reason = "the lint is for the server")]
fn env(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.into())
}
