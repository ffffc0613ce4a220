//! Floods by a client without credentials: their cost, and the service of other clients meanwhile.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::RejectionReason;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::Serving;

use super::{
    raw::{DATA, END_HEADERS, GOAWAY, HEADERS, RST_STREAM, Socket, connect_from, frame, request, request_to},
    serve,
};
use crate::support::client::Client;

/// Without loopback as a trusted proxy, each loopback address is a client.
const CLIENTS: (&str, &str) = ("THROTTLE__TRUSTED_PROXIES", "192.0.2.0/24");

/// Makes calls one after the other, which must all be served.
async fn serves_all(client: &Client, token: &str, calls: usize) -> Duration {
    let begun = Instant::now();
    for number in 0..calls {
        if number % 2 == 0 {
            client.session(token).await;
        } else {
            client.user(&format!("user{number}-{:x}", rand::random::<u64>())).await;
        }
    }
    begun.elapsed()
}

/// Opens connections and starts a number of calls on each, followed by `more`. The client reads nothing.
async fn crowd(
    connections: usize,
    calls: u32,
    connect: impl AsyncFn() -> TcpStream,
    block: &[u8],
    more: &[u8],
) -> Vec<Socket> {
    let mut crowd = Vec::new();
    for _ in 0..connections {
        let mut socket = Socket::over(connect().await, &[(4, 0)]).await;
        let mut flood = Vec::new();
        for number in 0..calls {
            flood.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, block));
            if !more.is_empty() {
                flood.extend(frame(DATA, 0, 2 * number + 1, more));
            }
        }
        socket.send(&flood).await;
        crowd.push(socket);
    }
    crowd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_messages_do_not_use_up_the_request_limit() {
    let patient = [("SERVER__BODY_TIMEOUT", "5m"), ("SERVER__REQUEST_TIMEOUT", "5m")];
    let (process, client, _data) = serve(&patient).await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let connect = async || TcpStream::connect(process.grpc).await.unwrap();
    // These are more than server.max_requests.
    let crowd = crowd(42, 256, connect, &request(&[]), &[]).await;
    let begun = Instant::now();
    while process.metric("latchkey_open_exchanges").await < 42 * 256 {
        assert!(begun.elapsed() < Duration::from_mins(1), "not all requests have arrived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = serves_all(&client, &token, 296).await;
    assert_eq!(client.serving("").await, Serving);
    println!("296 of 296 calls were served in {took:?} beside {} requests without messages", 42 * 256);
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_streams_are_limited_in_number_and_memory() {
    let (process, client, _data) = serve(&[]).await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let before = process.resident();
    let connect = async || TcpStream::connect(process.grpc).await.unwrap();
    // The largest answer is the definition of AuthService.
    let symbol = b"latchkey.v1.AuthService";
    let length = u8::try_from(symbol.len()).unwrap();
    let ask = [&[0, 0, 0, 0, length + 2, 0x22, length][..], symbol].concat();
    let reflection = request_to("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[]);
    let asking = crowd(60, 250, connect, &reflection, &ask).await;
    let health = request_to("/grpc.health.v1.Health/Watch", &[]);
    let watching = crowd(60, 250, connect, &health, &[0; 5]).await;
    // Every refused stream was answered.
    let shed = async |resource: &str| {
        let name =
            |scope| format!(r#"latchkey_requests_shed_total{{resource="{resource}",scope="{scope}"}}"#);
        process.metric(&name("connection")).await + process.metric(&name("total")).await
    };
    let begun = Instant::now();
    while shed("reflection_streams").await < 60 * 250 - 64 || shed("health_streams").await < 60 * 246 {
        assert!(begun.elapsed() < Duration::from_mins(1), "not all requests have arrived");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    serves_all(&client, &token, 100).await;
    let grown = process.resident().saturating_sub(before);
    println!("{grown} KiB for 30,000 streams of health and reflection over 120 connections");
    assert!(grown < 128 * 1024, "{grown} KiB");
    drop((asking, watching));
}

/// Opens as many idle connections from an address as possible.
async fn idle(source: &str, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for _ in 0..count {
        match timeout(Duration::from_secs(1), connect_from(source, to)).await {
            Ok(socket) => idle.push(socket),
            Err(_) => break,
        }
    }
    idle
}

/// Counts the connections that the server has closed.
async fn closed(connections: &mut [TcpStream]) -> usize {
    let mut closed = 0;
    for connection in connections {
        let read = timeout(Duration::from_millis(1), connection.read(&mut [0])).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    closed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_use_all_connections() {
    let settings = [CLIENTS, ("SERVER__MAX_CONNECTIONS", "200")];
    let (process, client, _data) = serve(&settings).await;
    let mut crowd = idle("127.0.0.9", process.grpc, 300).await;
    let mut web = idle("127.0.0.9", process.http, 300).await;
    // The address keeps a quarter of all connections and the others were closed.
    let begun = Instant::now();
    while closed(&mut crowd).await < 250 || closed(&mut web).await < 250 {
        assert!(begun.elapsed() < Duration::from_mins(1), "the idle connections are still open");
    }
    timeout(Duration::from_mins(1), process.client())
        .await
        .expect("a connection is available")
        .until_serving()
        .await;
    let name = r#"latchkey_connections_refused_total{resource="grpc_connections",scope="client"}"#;
    assert_eq!(process.metric(name).await, 250);
    let log = process.output_until("a limit is reached");
    assert!(log.contains("127.0.0.9") && log.contains("server.max_connections"), "{log}");
    client.until_serving().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_evicted_on_both_ports_when_all_are_used() {
    // Loopback is a trusted proxy here and may use all connections.
    let (process, client, _data) = serve(&[("SERVER__MAX_CONNECTIONS", "50")]).await;
    let crowd = idle("127.0.0.9", process.grpc, 120).await;
    let web = idle("127.0.0.9", process.http, 120).await;
    // The new client is behind all of these in the backlog.
    let newcomer =
        timeout(Duration::from_mins(1), process.client()).await.expect("a connection is available");
    timeout(Duration::from_mins(1), newcomer.until_serving()).await.expect("a connection is available");
    let live =
        timeout(Duration::from_mins(1), process.get("/livez")).await.expect("a connection is available");
    assert_eq!(live.0, 200);
    assert!(process.metric("latchkey_connections_evicted_total").await > 0);
    // An active connection stays open.
    assert_eq!(client.rejection("not a token").await.reason(), RejectionReason::Malformed);
    let log = process.output_until("a limit is reached");
    assert!(log.matches("a limit is reached").count() <= 2, "{log}");
    drop((crowd, web));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_closed_after_its_maximum_age_and_its_streams_say_so() {
    let settings = [("SERVER__CONNECTION_AGE", "500ms"), ("SERVER__CONNECTION_AGE_GRACE", "500ms")];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    let mut stream = process.client().await.watch_stream(&token).await.unwrap();
    stream.message().await.unwrap().unwrap();
    // This client opens a stream, reads nothing, and ignores GOAWAY.
    let mut silent = Socket::over(TcpStream::connect(process.grpc).await.unwrap(), &[(4, 0)]).await;
    silent.send(&frame(HEADERS, END_HEADERS, 1, &request_to("/grpc.health.v1.Health/Watch", &[]))).await;
    silent.send(&frame(DATA, 1, 1, &[0; 5])).await;

    let status = timeout(Duration::from_secs(10), stream.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("connect again"), "{status:?}");
    let end = async {
        let mut told = false;
        while let Some(frame) = silent.next().await {
            assert_ne!(frame.kind, RST_STREAM);
            told |= frame.kind == GOAWAY;
        }
        told
    };
    assert!(timeout(Duration::from_secs(10), end).await.expect("the connection is closed"), "no GOAWAY");
    client.session(&token).await;
}
