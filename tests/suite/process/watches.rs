//! Ten thousand watches: their cost while nothing happens, and their latency when the sessions end.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use latchkey::grpc::pb::{
    EndSessionsRequest, IssueSessionRequest, RejectionReason, WatchSessionResponse,
    watch_session_response::Verdict,
};
use tokio::{task::JoinSet, time::timeout};
use tonic::Streaming;

use crate::support::{client::Client, process::Process, redis::RedisServer};

const USERS: usize = 1000;
/// Each user has a session in every slot.
const SLOTS: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
const WATCHES: usize = USERS * SLOTS.len();
const CONNECTIONS: usize = 200;
/// The documented limit: bytes of resident memory for an idle stream, including its share of a connection.
const BYTES_PER_WATCH: u64 = 8 * 1024;
/// How long it may take until the last watch reports the end of all sessions.
const ALL_TOLD: Duration = Duration::from_secs(10);

struct Issued {
    session_id: String,
    token: String,
}

async fn issue(client: &Client, user_id: &str, slot: &str) -> Issued {
    let message = IssueSessionRequest {
        user_id: user_id.into(),
        slot: slot.into(),
        device: "phone".into(),
        ..Default::default()
    };
    let answer = client.try_issue(message).await.unwrap();
    Issued { session_id: answer.session.unwrap().session_id, token: answer.token }
}

/// Opens a session in every slot of every user. Returns the tokens and the users.
async fn sessions(client: &Client) -> (Vec<String>, Vec<Issued>) {
    let users =
        stream::iter(0..USERS).map(|number| async move { client.user(&format!("user{number}")).await });
    let users: Vec<_> = users.buffered(16).collect().await;
    let wanted = users.iter().flat_map(|user| SLOTS.map(|slot| (user, slot)));
    let issued = stream::iter(wanted).map(|(user, slot)| issue(client, user, slot)).buffered(16);
    let issued = issued.collect().await;
    (users, issued)
}

/// Opens the watches on several connections, each with its share.
async fn watch_all(process: &Process, sessions: &[Issued]) -> Vec<Streaming<WatchSessionResponse>> {
    let share = sessions.len() / CONNECTIONS;
    let connections = sessions.chunks(share).map(|sessions| async move {
        let client = process.client().await;
        let client = &client;
        let watches = sessions.iter().map(|session| async move {
            let mut stream = client.watch_stream(&session.token).await?;
            let first = stream.message().await?.unwrap();
            assert!(matches!(first.verdict, Some(Verdict::Session(_))), "{first:?}");
            Ok::<_, tonic::Status>(stream)
        });
        stream::iter(watches).buffered(share).try_collect::<Vec<_>>().await.unwrap()
    });
    stream::iter(connections).buffered(4).concat().await
}

/// Waits until the server follows the event log and has all its connections.
async fn until_following(client: &Client, user_id: &str) {
    let issued = issue(client, user_id, SLOTS[0]).await;
    let mut stream = client.watch_stream(&issued.token).await.unwrap();
    stream.message().await.unwrap().unwrap();
    issue(client, user_id, SLOTS[0]).await;
    assert_eq!(timeout(ALL_TOLD, end(stream)).await.unwrap(), RejectionReason::Replaced);
}

/// Reads the last message of a stream.
async fn end(mut stream: Streaming<WatchSessionResponse>) -> RejectionReason {
    let last = stream.message().await.unwrap().unwrap();
    assert!(stream.message().await.unwrap().is_none());
    match last.verdict {
        Some(Verdict::Rejection(rejection)) => rejection.reason(),
        other => panic!("the last message is no rejection: {other:?}"),
    }
}

fn connections_to(redis: &RedisServer) -> usize {
    let list: String = redis.query(redis::cmd("CLIENT").arg("LIST"));
    list.lines().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_watches_are_cheap_and_each_learns_of_the_end() {
    let redis = RedisServer::start();
    let data = tempfile::tempdir().unwrap();
    let (url, slots) = (redis.url(), SLOTS.join(","));
    // A busy machine must not look like an outage.
    let settings = [
        ("SESSIONS__URL", url.as_str()),
        ("SESSIONS__RESPONSE_TIMEOUT", "60s"),
        ("SERVER__REQUEST_TIMEOUT", "60s"),
        ("SESSION__SLOTS", slots.as_str()),
    ];
    let mut process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    let begun = Instant::now();
    let (users, issued) = sessions(&client).await;
    let issuing = begun.elapsed();

    // A new process has no free memory that the streams could reuse.
    process.kill();
    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    until_following(&client, &client.user("early").await).await;
    let (before, links) = (process.resident(), connections_to(&redis));
    let begun = Instant::now();
    let watches = watch_all(&process, &issued).await;
    let opening = begun.elapsed();
    assert_eq!(watches.len(), WATCHES);
    let (after, links_now) = (process.resident(), connections_to(&redis));
    let each = after.saturating_sub(before) * 1024 / WATCHES as u64;

    let mut ends = JoinSet::new();
    for (watch, issued) in watches.into_iter().zip(&issued) {
        let session_id = issued.session_id.clone();
        ends.spawn(async move { (session_id, end(watch).await) });
    }
    let begun = Instant::now();
    issue(&client, &users[USERS / 2], SLOTS[0]).await;
    let displaced = &issued[USERS / 2 * SLOTS.len()].session_id;
    let first =
        timeout(ALL_TOLD, ends.join_next()).await.expect("the watch reports the end").unwrap().unwrap();
    let displacing = begun.elapsed();
    assert_eq!((&first.0, first.1), (displaced, RejectionReason::Replaced));

    let begun = Instant::now();
    client.try_end(EndSessionsRequest { everyone: true, ..Default::default() }).await.unwrap();
    let all = async {
        while let Some(end) = ends.join_next().await {
            assert_eq!(end.unwrap().1, RejectionReason::Kicked);
        }
    };
    timeout(ALL_TOLD, all).await.expect("all learn of it");
    let ending = begun.elapsed();

    println!(
        "{WATCHES} watches over {CONNECTIONS} connections: resident memory from {before} to {after} KiB, {each} bytes each with its share of a connection; {links} connections to Redis before, {links_now} with them; issuing took {issuing:?}, opening {opening:?}, a displacement {displacing:?}, the end of all {ending:?}"
    );
    assert!(each < BYTES_PER_WATCH, "{each} bytes for an idle stream");
    assert!(links_now <= links, "{links_now} connections to Redis, and {links} before");
}
