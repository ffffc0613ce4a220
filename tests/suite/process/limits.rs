//! Limits: requests, messages, memory and connections beyond the limits of the server.

mod frames;

use std::{fs, process::Command, time::Duration};

use latchkey::grpc::pb::{ListCallersRequest, RejectionReason, ValidateRequest};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::Serving;
use tonic_types::StatusExt as _;

use super::{serve, wire::Wire};
use crate::support::{
    client::{Client, login_request},
    process::{LATCHKEY, Process, command},
};

/// Makes a call that always succeeds.
async fn works(client: &Client) {
    assert_eq!(client.rejection("not a token").await.reason(), RejectionReason::Malformed);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_shed_and_probes_are_not() {
    // Two slow logins occupy all requests.
    let settings = [
        ("SERVER__MAX_REQUESTS", "2"),
        ("SERVER__CLIENT_SHARE_PERCENT", "100"),
        ("PASSWORD__MEMORY_KIB", "131072"),
        ("PASSWORD__ITERATIONS", "16"),
    ];
    let (process, client, _data) = serve(&settings).await;
    let held = [client.clone(), client.clone()].map(|client| {
        tokio::spawn(async move { client.try_login(login_request("nobody", "")).await.unwrap_err() })
    });

    timeout(Duration::from_secs(20), async {
        while !process.get("/metrics").await.1.contains("latchkey_requests_in_flight 2\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("both have arrived");
    let list = async || client.callers.clone().list_callers(client.admin(ListCallersRequest {})).await;
    let shed = list().await.unwrap_err();
    assert_eq!(shed.code(), Code::ResourceExhausted, "{shed:?}");
    assert_eq!(shed.get_details_error_info().unwrap().reason, "OVERLOADED");
    assert!(shed.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(client.serving("").await, Serving);
    // Both ports share the limit; answers from memory do not count.
    let (status, body) = process.get("/forward-auth").await;
    assert!(status == 503 && body.contains("OVERLOADED"), "{status} {body}");
    works(&client).await;
    let metrics = process.get("/metrics").await.1;
    assert!(!metrics.contains(r#"latchkey_requests_shed_total{resource="requests",scope="total"} 0"#));

    for login in held {
        login.await.unwrap();
    }
    list().await.expect("the request slots become free");
    let log = process.output_until("a limit is no longer reached");
    let told = |line: &&str| line.contains("a limit is reached") && line.contains(r#""limit.scope":"total""#);
    assert_eq!(log.lines().filter(told).count(), 1, "{log}");
}

#[tokio::test]
async fn a_missing_message_times_out() {
    let (process, client, _data) = serve(&[("SERVER__BODY_TIMEOUT", "200ms")]).await;
    let mut wire = Wire::connect(process.grpc).await;
    for method in ["Validate", "Login", "ValidateStream"] {
        let mut call = wire.open(method).await;
        // The time-out of a stream begins with a partial message, as a stream may be silent for long.
        call.announce(100);
        let answer = timeout(Duration::from_secs(3), call.outcome()).await.expect("the call ends");
        assert_eq!(answer.code(), Code::DeadlineExceeded, "{method}: {answer:?}");
        assert_eq!(answer.get_details_error_info().unwrap().reason, "DEADLINE_EXCEEDED");
        assert!(answer.message().contains("server.body_timeout"), "{answer:?}");
    }
    let call = wire.open("ValidateStream").await;
    assert!(
        timeout(Duration::from_millis(600), call.outcome()).await.is_err(),
        "the stream has begun no message"
    );
    works(&client).await;
}

#[tokio::test]
async fn unfinished_messages_hold_no_more_memory_than_they_may() {
    let (process, client, _data) = serve(&[("SERVER__MAX_UNFINISHED_MIB", "1")]).await;
    let mut wire = Wire::connect(process.grpc).await;
    // A connection may use a sixteenth of the limit, which is one of these messages.
    let mut calls = Vec::new();
    for _ in 0..4 {
        let mut call = wire.open("Validate").await;
        call.announce(64 * 1024);
        call.send("x".repeat(40 * 1024).as_bytes());
        calls.push(call);
    }
    let answers = calls.into_iter().map(|call| timeout(Duration::from_secs(2), call.outcome()));
    let answers = futures_util::future::join_all(answers).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::ok).collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    for answer in refused {
        assert_eq!(answer.code(), Code::ResourceExhausted, "{answer:?}");
        assert!(answer.message().contains("unfinished requests"), "{answer:?}");
    }
    works(&client).await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_ended() {
    let (process, client, _data) = serve(&[("SERVER__REQUEST_TIMEOUT", "200ms")]).await;
    // The message is never sent.
    let mut wire = Wire::connect(process.grpc).await;
    let call = wire.open("Validate").await;
    let answer = timeout(Duration::from_secs(3), call.answer()).await.expect("the call ends");
    assert_eq!(answer.code(), Code::DeadlineExceeded, "{answer:?}");
    assert_eq!(answer.get_details_error_info().unwrap().reason, "DEADLINE_EXCEEDED");
    works(&client).await;
}

#[tokio::test]
async fn a_message_over_64_kib_is_refused_before_it_has_arrived() {
    let (process, client, _data) = serve(&[]).await;
    let status = client.try_validate(&"x".repeat(65 * 1024)).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    // The length alone is an error; the message itself is never sent.
    let mut wire = Wire::connect(process.grpc).await;
    let mut call = wire.open("Validate").await;
    call.announce(64 * 1024 + 1);
    let refused = timeout(Duration::from_secs(3), call.answer()).await.expect("at once").code();
    assert_eq!(refused, status.code());
    let mut call = wire.open("Validate").await;
    call.announce(64 * 1024);
    assert!(
        timeout(Duration::from_millis(200), call.answer()).await.is_err(),
        "the announced length is allowed"
    );

    // The largest allowed message gets a verdict.
    let mut message = ValidateRequest { token: String::new(), ..Default::default() };
    message.token = "x".repeat(64 * 1024 - 4);
    assert_eq!(prost::Message::encoded_len(&message), 64 * 1024);
    assert_eq!(client.rejection(&message.token).await.reason(), RejectionReason::Malformed);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_leaves() {
    let (process, first, _data) = serve(&[("SERVER__MAX_CONNECTIONS", "2")]).await;
    let second = process.client().await;
    works(&second).await;

    let third = process.client().await;
    let waiting = tokio::spawn({
        let third = third.clone();
        async move { works(&third).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "the third was served while there were two");
    works(&first).await;
    drop(second);
    timeout(Duration::from_secs(3), waiting).await.expect("its turn has come").unwrap();
}

#[tokio::test]
async fn http_connections_beyond_the_limit_wait_until_one_leaves() {
    let (process, client, _data) = serve(&[("SERVER__MAX_CONNECTIONS", "2")]).await;
    let connect = async || {
        let mut socket = TcpStream::connect(process.http).await.unwrap();
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        socket
    };
    let answer = async |socket: &mut TcpStream| {
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    };
    let (mut first, mut second) = (connect().await, connect().await);
    answer(&mut first).await;
    answer(&mut second).await;
    let mut third = connect().await;
    let early = timeout(Duration::from_millis(300), answer(&mut third)).await;
    assert!(early.is_err(), "the third was served while there were two");
    // Each port has a limit of its own.
    works(&client).await;
    drop(first);
    timeout(Duration::from_secs(3), answer(&mut third)).await.expect("its turn has come");
}

/// Returns the processor time of a process in seconds.
fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime and stime, in hundredths of a second, follow the name in parentheses.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..=12].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

#[tokio::test]
async fn without_file_descriptors_the_server_does_not_spin_and_recovers() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    process.serving_client().await;
    // The limit is lowered after the start, because the server adapts to the one at the start.
    let limit = ["--pid", &process.pid().to_string(), "--nofile=60:60"];
    assert!(Command::new("prlimit").args(limit).status().unwrap().success());

    let mut crowd = Vec::new();
    for _ in 0..80 {
        crowd.push(TcpStream::connect(process.grpc).await.unwrap());
        crowd.push(TcpStream::connect(process.http).await.unwrap());
    }
    timeout(Duration::from_secs(5), async {
        while !process.output().contains("failed to accept a connection") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the server runs out of descriptors");
    let (used, lines) = (processor_time(process.pid()), process.output().lines().count());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = processor_time(process.pid()) - used;
    let lines = process.output().lines().count() - lines;
    assert!(used < 0.3, "{used} s of processor time in one second");
    assert!(lines < 40, "{lines} lines of log in one second");

    drop(crowd);
    let newcomer =
        timeout(Duration::from_secs(3), process.client()).await.expect("the server accepts clients again");
    timeout(Duration::from_secs(3), newcomer.until_serving()).await.expect("the server serves again");
    newcomer.user("alice").await;
    newcomer.try_login(login_request("alice", "phone")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_of_disconnected_clients_free_their_place_and_memory() {
    // One slow hash at a time outlasts its client, and a short queue would soon be full.
    let settings = [
        ("PASSWORD__THREADS", "1"),
        ("PASSWORD__QUEUE", "16"),
        ("PASSWORD__MEMORY_KIB", "1024"),
        ("PASSWORD__ITERATIONS", "4"),
    ];
    let (process, client, _data) = serve(&settings).await;
    client.user("alice").await;
    client.login("alice", "").await;
    let before = process.resident();
    for number in 0..500 {
        let stranger = Client::connect(process.grpc, "").await;
        let login =
            tokio::spawn(
                async move { stranger.try_login(login_request(&format!("user{number}"), "")).await },
            );
        tokio::time::sleep(Duration::from_millis(1)).await;
        login.abort();
    }
    // The whole queue is free again for as many logins.
    let begun = std::time::Instant::now();
    loop {
        let logins = (0..17).map(|_| client.try_login(login_request("alice", "")));
        if futures_util::future::join_all(logins).await.iter().all(Result::is_ok) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", process.output());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB for 500 logins that nobody waited for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_descriptor_limit_is_raised_and_bounds_connections() {
    let data = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -Sn 100; ulimit -Hn 400; exec \"$0\" serve", LATCHKEY]);
    for (name, value) in command(data.path(), &[]).get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let process = Process::launch(limited, data.path());
    process.output_until("each port accepts 131 connections at a time instead of 10000");
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("400"), "{files}");

    let client = process.serving_client().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(process.grpc).await.unwrap());
    }
    assert_eq!(process.get("/readyz").await.0, 200);
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    client.session(&token).await;
    assert!(!process.output().contains("failed to accept a connection"), "{}", process.output());
}
