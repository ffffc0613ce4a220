//! An HTTP/1.1 client that sends headers unchanged, also invalid ones, and a service that echoes what reaches it.

use std::{convert::Infallible, future::ready, net::SocketAddr, time::Duration};

use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// Returns the value of a header that must not be repeated. The name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found: Vec<_> = self.headers.iter().filter(|(key, _)| key == name).collect();
        assert!(found.len() <= 1, "{name} is repeated: {found:?}");
        found.first().map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a GET request with these headers.
pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &[u8])]) -> Answer {
    try_get(address, path, headers).await.unwrap_or_else(|| panic!("no answer"))
}

/// Sends a GET request that may get no answer.
pub async fn try_get(address: SocketAddr, path: &str, headers: &[(&str, &[u8])]) -> Option<Answer> {
    exchange(address, &format!("GET {path}"), headers, b"").await
}

/// Sends a request, such as `GET /`, with headers and a body.
pub async fn exchange(
    address: SocketAddr,
    line: &str,
    headers: &[(&str, &[u8])],
    body: &[u8],
) -> Option<Answer> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    let mut request = format!("{line} HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n").into_bytes();
    if !body.is_empty() {
        request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    for (name, value) in headers {
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    socket.write_all(&request).await.ok()?;
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_secs(20), socket.read_to_end(&mut bytes)).await;
    read.unwrap_or_else(|_| panic!("no answer in time")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    Some(Answer { status, headers: headers.collect(), body: body.to_owned() })
}

/// Sends a request over HTTP/2 without TLS and returns the status and headers.
pub async fn exchange_http2(
    address: SocketAddr,
    line: &str,
    headers: &[(&str, &[u8])],
    body: &[u8],
) -> (StatusCode, HeaderMap) {
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = client.request(request.body(Body::from(body.to_vec())).unwrap());
    let answer =
        timeout(Duration::from_secs(20), answer).await.unwrap_or_else(|_| panic!("no answer in time"));
    let (parts, _) = answer.unwrap().into_parts();
    (parts.status, parts.headers)
}

/// A service that answers with the headers of the request, and its path as `:path`, as a JSON list of pairs.
pub struct Echo {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Echo {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let service = service_fn(|request| ready(Ok::<_, Infallible>(echo(&request))));
                    // HTTP/1.1, and HTTP/2 without TLS as for gRPC.
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { address, accepting }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn echo(request: &Request<Incoming>) -> Response<Body> {
    let pairs = request.headers().iter().map(|(name, value)| {
        Value::from(vec![name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
    });
    let path = request.uri().path_and_query().map(ToString::to_string);
    let path = std::iter::once(Value::from(vec![":path".to_owned(), path.unwrap_or_default()]));
    Response::new(Body::from(path.chain(pairs).collect::<Value>().to_string()))
}

/// Reads the headers and the path that reached the echo service from its answer.
pub fn arrived(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}
