//! A guarded server with tonic: what `docs/integration.md` shows, and what the scenarios of all clients call
//! (`make test-clients ARGS=rust`). Its protocol is `clients/sample`, which also says how it is started.

#![expect(unreachable_pub, reason = "a module of a program")]

mod greeter;
mod messages;
mod service;

use std::error::Error;

use latchkey_client::{Client, Guard};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use crate::{greeter::Greeter, service::GreeterServer};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "whoever starts it reads the address")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (address, key) = (setting("LATCHKEY_ADDRESS"), setting("LATCHKEY_CALLER_KEY"));
    let listener = TcpListener::bind("127.0.0.1:0").await?;

    // guarded from here
    let latchkey = Client::connect(&address)?.with_caller_key(&key)?;
    let guard = Guard::new(latchkey).open(["/sample.v1.GreeterService/Begun"]);
    let mut server = Server::builder().layer(guard.clone());
    // to here

    let (role, slot) = (setting("LATCHKEY_REQUIRED_ROLE"), setting("LATCHKEY_REQUIRED_SLOT"));
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

#[expect(clippy::disallowed_methods, reason = "a setting of the sample, not of Latchkey")]
fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
