//! A bare tonic server with the messages of `Validate`, a constant answer and the defaults of tonic. `make bench` measures
//! Latchkey against it.
//!
//! The first argument is the address to listen on, by default a free port of 127.0.0.1; the server prints it. The second is
//! the number of roles of the session that it returns, by default 0.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use latchkey_bench::echo::{service::Echo, session::session};
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "`make bench` reads the address")]
async fn main() {
    // Without a subscriber, tracing would hand each span of the libraries to the `log` crate.
    tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new()).unwrap();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let roles = std::env::args().nth(2).map_or(0, |roles| roles.parse().unwrap());
    let listener = TcpListener::bind(address).await.unwrap();
    println!("echo listens on {}", listener.local_addr().unwrap());
    let echo = Echo { session: session(roles) };
    // The default of tonic where it binds the address itself.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(echo).serve_with_incoming(incoming).await.unwrap();
}
