//! An axum server with a guard: `GET /hello` requires `authorization: Bearer <token>`.
//!
//! The environment variable `LATCHKEY_ADDRESS` is the address of Latchkey. `LATCHKEY_CALLER_KEY` is the caller key and
//! can be empty.

use std::error::Error;

use axum::{Extension, Router, routing::get};
use latchkey_client::{Client, Guard, Identity};
use tokio::net::TcpListener;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the example prints its address")]
async fn main() -> Result<(), Box<dyn Error>> {
    let latchkey = Client::connect(&env("LATCHKEY_ADDRESS"))?.with_caller_key(&env("LATCHKEY_CALLER_KEY"))?;
    let guard = Guard::new(latchkey).open(["/healthz"]);
    let staff = guard.clone().required_role("staff");

    let app = Router::new()
        .route("/hello", get(hello).layer(guard.clone()))
        .route("/staff", get(hello).layer(staff))
        .route("/healthz", get(async || "ok").layer(guard));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listens on {}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn hello(Extension(caller): Extension<Identity>) -> String {
    format!("Hello, {}\n", caller.username)
}

#[expect(clippy::disallowed_methods, reason = "the lint is for the server")]
fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
