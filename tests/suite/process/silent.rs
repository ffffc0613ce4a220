//! Clients that send or read nothing do not delay the stop of the server.

use std::time::{Duration, Instant};

use latchkey::grpc::pb::LoginRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::raw::{DATA, END_HEADERS, HEADERS, Socket, frame, request_to};
use crate::support::{process::Process, tls::Authority};

/// Encodes a message with its prefix.
fn message(message: &impl prost::Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message.encode_to_vec()].concat()
}

/// Starts a call on a connection whose client reads no answers.
async fn call(process: &Process, path: &str, message: &[u8], ends: bool) -> Socket {
    let connection = TcpStream::connect(process.grpc).await.unwrap();
    let mut socket = Socket::over(connection, &[(4, 0)]).await;
    socket.send(&frame(HEADERS, END_HEADERS, 1, &request_to(path, &[]))).await;
    socket.send(&frame(DATA, u8::from(ends), 1, message)).await;
    socket
}

async fn http(process: &Process, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(process.http).await.unwrap();
    socket.write_all(text.as_bytes()).await.unwrap();
    socket
}

async fn ends_soon(process: Process) {
    let begun = Instant::now();
    process.terminate();
    let wait = move || process.wait(Duration::from_mins(1));
    let (code, output) = tokio::task::spawn_blocking(wait).await.unwrap();
    assert_eq!(code, Some(0), "{output}");
    // The shortest time-out for clients is ten seconds, for the head of a request.
    assert!(begun.elapsed() < Duration::from_secs(9), "took {:?}: {output}", begun.elapsed());
    assert!(!output.contains("did not finish within server.shutdown_grace"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_stalled_clients_do_not_delay_the_stop() {
    let data = tempfile::tempdir().unwrap();
    let settings = [
        ("BROWSER__ORIGINS", "https://app.example.com"),
        ("SERVER__SHUTDOWN_GRACE", "1m"),
        ("SERVER__BODY_TIMEOUT", "1m"),
    ];
    let process = Process::start(data.path(), &settings);
    process.serving_client().await;
    // The clients send nothing, or only a preface so that GOAWAY and PING get no answer, or half of a request.
    let nothing = TcpStream::connect(process.grpc).await.unwrap();
    let preface = Socket::connect(process.grpc).await;
    let mut half = TcpStream::connect(process.grpc).await.unwrap();
    half.write_all(b"POST /latchkey.v1.AuthService/Validate HTTP/1.1\r\nhost:").await.unwrap();
    let heads = [http(&process, "").await, http(&process, "GET /livez HTTP/1.1\r\nhost:").await];
    // This connection is idle after a request.
    let mut answered = http(&process, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    answered.read_exact(&mut [0; 12]).await.unwrap();
    let unfinished = call(&process, "/latchkey.v1.AuthService/Validate", &[0, 0, 0, 1, 0], false).await;
    let silent = call(&process, "/latchkey.v1.AuthService/ValidateStream", &[], false).await;
    let unread = call(&process, "/grpc.health.v1.Health/Watch", &[0; 5], true).await;
    let jwks = call(&process, "/latchkey.v1.AuthService/GetJwks", &[0; 5], true).await;
    let login = LoginRequest { username: "nobody".into(), password: "x".into(), ..Default::default() };
    let login = call(&process, "/latchkey.v1.AuthService/Login", &message(&login), true).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ends_soon(process).await;
    drop((nothing, preface, half, heads, answered, unfinished, silent, unread, (jwks, login)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_tls_handshakes_do_not_delay_the_stop() {
    let data = tempfile::tempdir().unwrap();
    let (certificate, key) = Authority::new("test").server().write(data.path(), "server");
    let settings = [
        ("TLS__CERTIFICATE_FILE", certificate.to_str().unwrap()),
        ("TLS__KEY_FILE", key.to_str().unwrap()),
        ("SERVER__SHUTDOWN_GRACE", "1m"),
    ];
    let process = Process::start(data.path(), &settings);
    let silent = TcpStream::connect(process.grpc).await.unwrap();
    let mut half = TcpStream::connect(process.grpc).await.unwrap();
    half.write_all(&[22, 3, 1]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    ends_soon(process).await;
    drop((silent, half));
}
