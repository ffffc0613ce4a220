//! The bare echo straight on `h2`: the floor that `make bench` measures unary calls of Latchkey against.
//!
//! The argument is the address to listen on, by default a free port of 127.0.0.1; the server prints it.

#![expect(clippy::unwrap_used, reason = "a benchmark that panics has failed")]

use latchkey::admission::Admission;
use latchkey_bench::echo::{http2, session::session};
use tokio::net::TcpListener;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "`make bench` reads the address")]
async fn main() {
    // Without a subscriber, tracing would hand each span of the libraries to the `log` crate.
    tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new()).unwrap();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let listener = TcpListener::bind(address).await.unwrap();
    println!("echo listens on {}", listener.local_addr().unwrap());
    let admission = Admission::new(&[], Vec::new());
    loop {
        let (socket, peer) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let usage = admission.connection(peer.ip());
        tokio::spawn(async move { http2::serve(socket, &session(0), &usage).await });
    }
}
