//! Watches and the revocation feed under load and failures: every acknowledged end is reported, and no other.

mod feed;
mod load;

use std::{collections::HashSet, time::Duration};

use latchkey::grpc::pb::{self, RejectionReason, watch_session_response::Verdict};
use redis::streams::StreamRangeReply;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming, transport::Endpoint};
use tonic_types::StatusExt as _;

use self::{
    feed::{Reader, Received},
    load::Load,
};
use crate::support::{
    client::Client,
    process::Process,
    proxy::{Proxy, ProxyMode},
    redis::{Flavour, RedisServer},
    replicas::Replicas,
};

/// How long a report may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Starts a Redis that persists what it acknowledges.
fn durable_redis() -> RedisServer {
    RedisServer::with(Flavour::Redis, &["--appendonly", "yes", "--appendfsync", "always"])
}

async fn on(redis: RedisServer) -> Replicas {
    let url = redis.url();
    Replicas::on(redis, [&url, &url], &[]).await
}

/// Watches a live session.
async fn watch(client: &Client, token: &str) -> Streaming<pb::WatchSessionResponse> {
    let mut stream = client.watch_stream(token).await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    assert!(matches!(first.verdict, Some(Verdict::Session(_))), "{first:?}");
    stream
}

/// Reads the rejection at the end of a stream, which must end with OK.
async fn end(stream: &mut Streaming<pb::WatchSessionResponse>) -> RejectionReason {
    let end = async {
        let last = stream.message().await.unwrap().unwrap();
        assert!(stream.message().await.unwrap().is_none());
        match last.verdict {
            Some(Verdict::Rejection(rejection)) => rejection.reason(),
            other => panic!("the last message is no rejection: {other:?}"),
        }
    };
    timeout(SOON, end).await.unwrap()
}

/// Reads the error of a stream that breaks without a message.
async fn broken<T: std::fmt::Debug>(mut stream: Streaming<T>) -> Status {
    timeout(SOON, stream.message()).await.unwrap().unwrap_err()
}

/// Checks that every acknowledged displacement is reported, each end once and in the order of the logins.
async fn tells_everything(reader: &Reader, load: &Load) {
    let acknowledged = load.displaced();
    reader.until("everything is told", |told| acknowledged.iter().all(|id| told.has(id))).await;
    let told = reader.told();
    assert_eq!(told.resyncs, 0, "nothing was lost, so nothing must be thrown away");
    assert_eq!(told.ended.len(), told.sessions().len(), "an event was reported twice");
    assert!(told.ended.iter().all(|ended| ended.reason == RejectionReason::Replaced));
    for logins in load.logins() {
        let order: Vec<_> = told.ended.iter().map(|ended| &ended.session_id).collect();
        let places: Vec<_> =
            logins.iter().filter_map(|login| order.iter().position(|id| *id == login)).collect();
        assert!(places.is_sorted(), "not in the order of the logins: {places:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_with_its_data_loses_no_event_and_no_stream() {
    let mut replicas = on(durable_redis()).await;
    let clients = replicas.clients(1).await;
    let readers = [Reader::open(&clients[0]).await, Reader::open(&clients[1]).await];

    let load = Load::start(&clients, &clients, 20).await;
    load.until_displaced(200).await;
    replicas.redis.kill();
    let displaced = load.displaced().len();
    // Every reader notices the outage in this time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    replicas.redis.restart();
    load.until_displaced(displaced + 200).await;
    let load = load.stop().await;

    let (watched, unanswered) = (load.watched().await, load.unanswered());
    println!(
        "{} displacements were acknowledged, {unanswered} logins were not; {} streams watched",
        load.displaced().len(),
        watched.len()
    );
    assert!(unanswered > 0, "Redis was killed while nobody asked for anything");
    for (session_id, told) in &watched {
        assert_eq!(told.as_ref().unwrap(), &[RejectionReason::Replaced], "{session_id}");
    }
    for reader in &readers {
        tells_everything(reader, &load).await;
        assert!(reader.is_open(), "{}", reader.standing());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_all_data_in_redis_causes_a_resync_and_unknown_sessions() {
    let replicas = on(RedisServer::start()).await;
    let clients = replicas.clients(1).await;
    let readers = [Reader::open(&clients[0]).await, Reader::open(&clients[1]).await];
    let mut watches = Vec::new();
    for number in 0..5 {
        let name = format!("user{number}");
        clients[0].user(&name).await;
        let token = clients[0].login(&name, "phone").await.token;
        for client in &clients {
            watches.push(watch(client, &token).await);
        }
    }

    let () = replicas.redis.query(&redis::cmd("FLUSHALL"));
    for watch in &mut watches {
        assert_eq!(end(watch).await, RejectionReason::UnknownSession);
    }
    for reader in &readers {
        reader.until("a resync is told", |told| told.resyncs > 0).await;
        assert!(reader.is_open(), "{}", reader.standing());
    }
    // The feed continues.
    let old = clients[0].login("user0", "phone").await.session.unwrap().session_id;
    clients[1].login("user0", "tablet").await;
    for reader in &readers {
        reader.until("what happens after the resync is told", |told| told.has(&old)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_killed_server_miss_nothing_on_another() {
    let mut replicas = on(RedisServer::start()).await;
    let clients = replicas.clients(1).await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(Reader::open(&clients[0]).await);
    }
    let load = Load::start(&clients, &[], 10).await;
    load.until_displaced(200).await;
    replicas.processes[0].kill();
    let mut broken_off = Vec::new();
    for reader in readers {
        let (told, end) = reader.end().await;
        assert_ne!(end.code(), Code::Ok, "the stream ended with OK");
        assert!(
            end.get_details_error_info().is_none(),
            "the status does not come from the transport: {end:?}"
        );
        broken_off.push(told);
    }
    let displaced = load.displaced().len();
    load.until_displaced(displaced + 100).await;

    // Two readers move to the other server at once and two to the successor of the first.
    let mut readers = Vec::new();
    for told in broken_off.drain(..2) {
        readers.push(Reader::resume(&clients[1], told).await);
    }
    let successor = replicas.one_more(&[]).await;
    for told in broken_off {
        readers.push(Reader::resume(&successor.client().await, told).await);
    }
    let displaced = load.displaced().len();
    load.until_displaced(displaced + 200).await;
    let load = load.stop().await;
    let acknowledged = load.displaced();
    for reader in &readers {
        reader.until("everything is told", |told| acknowledged.iter().all(|id| told.has(id))).await;
        assert_eq!(reader.told().resyncs, 0);
        assert!(reader.is_open(), "{}", reader.standing());
    }
    println!("{} displacements, each told to each of {} readers", acknowledged.len(), readers.len());
}

/// Reads the retry delay at the end of a stream whose server stops.
fn comes_again_after(status: &Status) -> Duration {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    status.get_details_retry_info().unwrap().retry_delay.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_stopping_server_get_spread_retry_delays() {
    let replicas = on(RedisServer::start()).await;
    let clients = replicas.clients(1).await;
    clients[0].user("alice").await;
    let token = clients[0].login("alice", "phone").await.token;
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(watch(&clients[0], &token).await);
    }
    let reader = Reader::open(&clients[0]).await;
    let load = Load::start(&clients, &[], 10).await;
    load.until_displaced(200).await;

    replicas.processes[0].terminate();
    let (told, status) = reader.end().await;
    comes_again_after(&status);
    let mut delays = HashSet::new();
    for watch in watches {
        delays.insert(comes_again_after(&broken(watch).await));
    }
    assert!(delays.len() > 10, "all clients would reconnect at once: {delays:?}");
    // The test reconnects as clients do.
    let mut again = watch(&clients[1], &token).await;
    let reader = Reader::resume(&clients[1], told).await;
    let displaced = load.displaced().len();
    load.until_displaced(displaced + 100).await;
    let load = load.stop().await;
    let acknowledged = load.displaced();
    reader.until("everything is told", |told| acknowledged.iter().all(|id| told.has(id))).await;
    assert_eq!(reader.told().resyncs, 0);
    clients[1].login("alice", "tablet").await;
    assert_eq!(end(&mut again).await, RejectionReason::Replaced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_embedded_store_a_cursor_misses_nothing_through_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::start(data.path(), &[]);
    process.client().await.user("alice").await;
    let mut told = Received::default();
    for kill in [false, true] {
        let client = process.client().await;
        let reader = Reader::resume(&client, told).await;
        let mut ended = Vec::new();
        let mut displace = async |client: &Client, times| {
            for _ in 0..times {
                let displaced = client.login("alice", "phone").await.displaced;
                ended.extend(displaced.into_iter().map(|session| session.session_id));
            }
        };
        displace(&client, 20).await;
        told = reader.leave().await;
        displace(&client, 20).await;
        if kill {
            process.kill();
        } else {
            process.terminate();
            tokio::task::spawn_blocking(move || process.wait(SOON)).await.unwrap();
        }
        process = Process::start(data.path(), &[]);
        let client = process.client().await;
        displace(&client, 20).await;
        let reader = Reader::resume(&client, told).await;
        displace(&client, 20).await;
        reader.until("everything is told", |told| ended.iter().all(|id| told.has(id))).await;
        told = reader.leave().await;
        assert_eq!(told.resyncs, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_is_dropped_delays_no_other_and_loses_nothing() {
    let replicas = on(RedisServer::start()).await;
    let [process, _] = &replicas.processes;
    let client = process.client().await;
    // Small windows make the server notice the stalled reader soon.
    let narrow = Endpoint::from_shared(format!("http://{}", process.grpc)).unwrap();
    let narrow = narrow.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let lazy = Client::over(narrow.connect().await.unwrap(), &client.admin_key);
    let mut stuck = lazy.feed_stream("").await.unwrap();
    let mut told = Received::default();
    told.take(stuck.message().await.unwrap().unwrap());
    let diligent = Reader::open(&client).await;

    let load = Load::start(std::slice::from_ref(&client), &[], 20).await;
    load.until_displaced(50).await;
    let before = process.resident();
    // These are far more events than the server buffers for slow readers.
    diligent.until_within(Duration::from_mins(2), "enough has happened", |told| told.pages > 1500).await;
    let load = load.stop().await;
    let grown = process.resident().saturating_sub(before);

    tells_everything(&diligent, &load).await;
    let lag = load.lag(&diligent.told());
    println!(
        "{} displacements in {} pages: {grown} KiB more; told after {lag:?} at the latest",
        load.displaced().len(),
        diligent.told().pages
    );
    assert!(lag < Duration::from_secs(5), "one reader held up another: {lag:?}");
    assert!(grown < 16 * 1024, "{grown} KiB for one reader that does not read");

    let status = loop {
        match timeout(SOON, stuck.message()).await.expect("the reader is still waiting") {
            Ok(message) => told.take(message.expect("the stream ended with OK")),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "TOO_SLOW");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    let acknowledged = load.displaced();
    assert!(told.ended.len() < acknowledged.len(), "the reader was not dropped as too slow");
    let reader = Reader::resume(&client, told).await;
    reader.until("everything is told", |told| acknowledged.iter().all(|id| told.has(id))).await;
    assert_eq!(reader.told().resyncs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_ends_a_stream_with_an_error_and_never_a_verdict() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[]);
    let client = process.client().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    let proxy = Proxy::to(process.grpc.port()).await;
    let far = Client::connect(proxy.address, &client.admin_key).await;
    let (stream, feed) = (watch(&far, &token).await, Reader::open(&far).await);

    proxy.set(ProxyMode::Disconnect);
    let status = broken(stream).await;
    assert!(status.get_details_error_info().is_none(), "the server did not say this: {status:?}");
    let (_, status) = feed.end().await;
    assert_ne!(status.code(), Code::Ok);
    assert!(status.get_details_error_info().is_none(), "the server did not say this: {status:?}");

    // A stalled connection delivers nothing.
    proxy.set(ProxyMode::Forward);
    let far = Client::connect(proxy.address, &client.admin_key).await;
    let mut stream = watch(&far, &token).await;
    client.session(&token).await;
    proxy.set(ProxyMode::Stall);
    client.login("alice", "tablet").await;
    assert!(timeout(Duration::from_millis(300), stream.message()).await.is_err());
    proxy.set(ProxyMode::Forward);
    assert_eq!(end(&mut stream).await, RejectionReason::Replaced);
}

/// Reads the whole event log of each stream.
fn log(redis: &RedisServer) -> Vec<(String, Vec<u8>)> {
    let streams: Vec<String> = redis.query(redis::cmd("KEYS").arg("lk:*:events"));
    let mut log = Vec::new();
    for stream in streams {
        let entries: StreamRangeReply = redis.query(redis::cmd("XRANGE").arg(&stream).arg("-").arg("+"));
        for mut entry in entries.ids {
            if let Some(event) = entry.map.remove("e") {
                log.push((stream.clone(), redis::from_redis_value(event).unwrap()));
            }
        }
    }
    log
}

/// Appends this to the event log, all at once.
fn append(redis: &RedisServer, log: &[(String, Vec<u8>)]) {
    let mut append = redis::cmd("EVAL");
    append
        .arg("for i, stream in ipairs(KEYS) do redis.call('XADD', stream, '*', 'e', ARGV[i]) end")
        .arg(log.len());
    for (stream, _) in log {
        append.arg(stream);
    }
    for (_, event) in log {
        append.arg(event);
    }
    let () = redis.query(&append);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_starting_server_misses_nothing() {
    let redis = RedisServer::start();
    let to_redis = Proxy::to(redis.port).await;
    let data = tempfile::tempdir().unwrap();
    let settings = [("SESSIONS__URL", format!("redis://{}", to_redis.address))];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    let load = Load::start(std::slice::from_ref(&client), &[], 100).await;
    load.until_displaced(1000).await;
    load.stop().await;
    let events = log(&redis);
    let cursor = Reader::open(&client).await.leave().await.cursor;

    // While the new server does not reach Redis, it cannot look where the log ends, and once it does, it takes
    // a moment until it looks again. The reader comes first, finds that nothing has happened, and waits for it.
    process.kill();
    to_redis.set(ProxyMode::Disconnect);
    let process = Process::start(data.path(), &settings);
    let client = process.client().await;
    process.output_until("failed to connect to Redis");
    to_redis.set(ProxyMode::Forward);
    let (mut stream, mut told) = loop {
        let mut told = Received { cursor: cursor.clone(), ..Received::default() };
        let mut stream = client.feed_stream(&cursor).await.unwrap();
        told.take(stream.message().await.unwrap().unwrap());
        match timeout(Duration::from_millis(5), stream.message()).await {
            Err(_) => break (stream, told),
            Ok(message) => assert_eq!(message.unwrap_err().code(), Code::Unavailable),
        }
    };
    // Then more events arrive than one read returns.
    append(&redis, &events);
    let all = async {
        while told.sessions().len() < events.len() {
            told.take(stream.message().await.unwrap().unwrap());
        }
    };
    let in_time = timeout(SOON, all).await.is_ok();
    assert!(in_time, "{} of {} events were told", told.sessions().len(), events.len());
    assert_eq!(told.resyncs, 0);
}
