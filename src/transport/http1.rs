//! A connection of the HTTP port: HTTP/1.1 with limits.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, response::Response};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::drain;
use crate::{
    admission::Connection,
    isolation::panics::{self, Panic},
};

/// Timeout for the headers of a request, from the start of the connection or from the previous response. It is longer
/// than the idle timeout of gateways (Caddy: two minutes), so that they close idle connections and not the server.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(150);
/// Maximum size of the headers of a request, in bytes. Gateways send all headers of a browser.
const MAX_HEAD: usize = 64 * 1024;

/// Serves a connection until the client closes it, sends no request within `head_timeout` or is evicted, or until
/// `shutdown` and the last response.
pub(crate) async fn serve(
    client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    connection: Arc<Connection>,
    router: Router,
    panicked: fn(&Panic) -> Response,
    head_timeout: Duration,
    shutdown: CancellationToken,
) {
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(address));
        request.extensions_mut().insert(Arc::clone(&connection));
        connection.note_requests(1);
        let (response, connection) = (router.clone().call(request), Arc::clone(&connection));
        async move {
            let mut response = pin!(response);
            let response = panics::caught(response.as_mut()).await;
            connection.note_open(0);
            response.unwrap_or_else(|panic| Ok(panicked(&panic)))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(MAX_HEAD);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(client), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = connection.evicted() => None,
        () = shutdown.cancelled() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        serving.as_mut().graceful_shutdown();
        // Ends its streams.
        connection.close();
        tokio::select! {
            ended = serving => ended,
            () = drain::idle(&connection) => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client.address = %address, error.message = %error, "a connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::{http::StatusCode, response::IntoResponse as _, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        task::JoinHandle,
        time::timeout,
    };

    use super::*;
    use crate::admission::Admission;

    const TIMEOUT: Duration = Duration::from_millis(200);

    fn panicked(_: &Panic) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, "the handler of panics").into_response()
    }

    fn connect(shutdown: &CancellationToken) -> (DuplexStream, JoinHandle<()>) {
        let (ours, theirs) = duplex(1 << 20);
        let router = Router::new()
            .route("/", get(async |peer: ConnectInfo<SocketAddr>| peer.0.to_string()))
            .route("/panic", get(async || -> &str { panic!("this is meant to happen") }));
        let address: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let usage = Admission::new(&[], Vec::new()).connection(address.ip());
        (ours, tokio::spawn(serve(theirs, address, usage, router, panicked, TIMEOUT, shutdown.clone())))
    }

    async fn ask(client: &mut DuplexStream) {
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 1000];
        let length = client.read(&mut answer).await.unwrap();
        let answer = str::from_utf8(&answer[..length]).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("192.0.2.1:7"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_sends_no_request_in_time_is_disconnected() {
        let shutdown = CancellationToken::new();
        // Nothing at all, half a head, and nothing after an answer.
        for begin in ["", "GET / HTTP/1.1\r\nhost:", "answered"] {
            let (mut client, serving) = connect(&shutdown);
            if begin == "answered" {
                tokio::time::sleep(TIMEOUT / 2).await;
                ask(&mut client).await;
            } else {
                client.write_all(begin.as_bytes()).await.unwrap();
            }
            let begun = Instant::now();
            timeout(TIMEOUT * 50, serving).await.expect("it is disconnected").unwrap();
            assert!(begun.elapsed() >= TIMEOUT.mul_f32(0.9), "{begin}: {:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn a_request_that_panics_is_answered_and_does_not_end_its_connection() {
        let (mut client, _serving) = connect(&CancellationToken::new());
        client.write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 1000];
        let length = client.read(&mut answer).await.unwrap();
        let answer = str::from_utf8(&answer[..length]).unwrap();
        assert!(answer.starts_with("HTTP/1.1 500") && answer.ends_with("the handler of panics"), "{answer}");
        ask(&mut client).await;
    }

    #[tokio::test]
    async fn headers_that_are_too_large_are_answered_with_431() {
        let (mut client, serving) = connect(&CancellationToken::new());
        let _ = client.write_all(b"GET / HTTP/1.1\r\nx: ").await;
        let _ = client.write_all(&vec![b'x'; MAX_HEAD]).await;
        serving.await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test]
    async fn a_shutdown_disconnects_idle_clients() {
        let shutdown = CancellationToken::new();
        let (mut client, serving) = connect(&shutdown);
        ask(&mut client).await;
        shutdown.cancel();
        serving.await.unwrap();
    }
}
