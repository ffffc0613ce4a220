//! A bare server of the library, to compare with: the messages of `Validate`, an answer that is known before
//! the question comes, the library's defaults, and nothing else. `make bench` measures Latchkey against it.
//!
//! Takes an address to listen on, by default a free port of this machine, and prints the one that it took; and how
//! many roles the session has that it answers with, by default none.

#![expect(unreachable_pub, clippy::unwrap_used, reason = "made of what the benchmark is made of")]

mod service;
mod session;

use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use service::Echo;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "whoever starts it reads the address")]
async fn main() {
    // As in a server that logs: without it the library hands each of its spans to another way of logging.
    tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new()).unwrap();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let roles = std::env::args().nth(2).map_or(0, |roles| roles.parse().unwrap());
    let listener = TcpListener::bind(address).await.unwrap();
    println!("echo listens on {}", listener.local_addr().unwrap());
    let echo = Echo { session: session::session(roles) };
    // As the library does where it is given an address: an answer must not wait for an acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(echo).serve_with_incoming(incoming).await.unwrap();
}
