//! A tonic server with a guard.
//!
//! `docs/integration.md` shows its marked lines, and the scenarios of all clients call it
//! (`make test-clients ARGS=rust`). `clients/sample/sample/v1/greeter.proto` describes its protocol and the environment
//! variables.

#![expect(unreachable_pub, reason = "the tests include the modules, too")]

mod greeter;
mod messages;
mod service;

use std::error::Error;

use latchkey_client::{Client, Guard};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use crate::{greeter::Greeter, service::GreeterServer};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the example prints its address")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (address, key) = (env("LATCHKEY_ADDRESS"), env("LATCHKEY_CALLER_KEY"));
    let listener = TcpListener::bind(listen()).await?;

    // guarded from here
    let latchkey = Client::connect(&address)?.with_caller_key(&key)?;
    let guard = Guard::new(latchkey).open(["/sample.v1.GreeterService/Begun"]);
    let mut server = Server::builder().layer(guard.clone());
    // to here

    let (role, slot) = (env("LATCHKEY_REQUIRED_ROLE"), env("LATCHKEY_REQUIRED_SLOT"));
    if !role.is_empty() {
        server = Server::builder().layer(guard.required_role(role));
    } else if !slot.is_empty() {
        server = Server::builder().layer(guard.required_slot(slot));
    }
    println!("listens on {}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.add_service(GreeterServer::new(Greeter::default())).serve_with_incoming(incoming).await?;
    Ok(())
}

fn listen() -> String {
    Some(env("LISTEN")).filter(|address| !address.is_empty()).unwrap_or("127.0.0.1:0".into())
}

#[expect(clippy::disallowed_methods, reason = "the lint is for the server")]
fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
