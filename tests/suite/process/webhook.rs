//! The webhook of the binary, with a receiver in the test.

mod failures;
mod receiver;
mod trust;

use std::time::{Duration, Instant};

use latchkey::grpc::pb::{self, LogoutScope};
use serde_json::{Value, json};

use self::receiver::{Answer, Receiver, SECRET};
use crate::support::{
    client::Client,
    process::Process,
    proxy::{Proxy, ProxyMode},
};

/// How long a delivery may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// The log message of a server that begins to deliver.
const DELIVERS: &str = "this server delivers the webhook";

/// The settings with which `address` is told.
fn settings<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("WEBHOOK__URL", url), ("WEBHOOK__SECRET", SECRET)];
    all.extend_from_slice(more);
    all
}

fn url(address: std::net::SocketAddr) -> String {
    format!("http://{address}/hook?key=hunter2")
}

/// Logs in repeatedly and returns the displaced sessions.
async fn displace(client: &Client, username: &str, times: usize) -> Vec<String> {
    let mut ended = Vec::new();
    for _ in 0..times {
        let answer = client.login(username, "phone").await;
        ended.extend(answer.displaced.into_iter().map(|session| session.session_id));
    }
    ended
}

/// Returns the sessions in the order of delivery, without repetitions.
fn told(events: &[Value]) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for id in events.iter().filter_map(|event| event["session_id"].as_str()) {
        if !told.iter().any(|before| before == id) {
            told.push(id.to_owned());
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_of_a_session_is_delivered_in_order_and_signed_without_a_secret_in_the_log() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let url = url(receiver.address);
    // This includes the debug log of the HTTP client.
    let level = ("LOG__LEVEL", "trace,hyper::proto=trace,hyper_util::client=trace");
    let process = Process::start(data.path(), &settings(&url, &[level]));
    let client = process.serving_client().await;
    receiver.until(SOON, "greeted", |receiver| receiver.events() == [json!({"type": "resync"})]).await;

    let user_id = client.user("alice").await;
    let first = client.login("alice", "Android").await.session.unwrap();
    let second = client.login("alice", "iPhone").await;
    client.logout(&second.token, LogoutScope::This).await;
    let third = client.login("alice", "tablet").await.session.unwrap();
    let end = pb::EndSessionsRequest {
        user_id: user_id.clone(),
        message: "maintenance".into(),
        ..Default::default()
    };
    client.end_sessions(end).await;
    client.login("alice", "tablet").await;
    let everyone = pb::EndSessionsRequest { everyone: true, ..Default::default() };
    client.end_sessions(everyone).await;
    receiver.until(SOON, "all told", |receiver| receiver.events().len() == 5).await;

    let events = receiver.events();
    let gists: Vec<_> =
        events.iter().map(|event| json!([event["type"], event["rejection"]["reason"]])).collect();
    assert_eq!(
        json!(gists),
        json!([
            ["resync", null],
            ["ended", "REPLACED"],
            ["ended", "LOGGED_OUT"],
            ["ended", "KICKED"],
            ["everyone", "KICKED"]
        ])
    );
    let replaced = &events[1];
    assert_eq!(replaced["user_id"], user_id);
    assert_eq!(replaced["session_id"], first.session_id);
    assert_eq!(replaced["slot"], "default");
    assert_eq!(replaced["rejection"]["by_device"], "iPhone");
    assert_eq!(replaced["rejection"]["terminal"], true);
    let message = "You were logged out because of a newer login on iPhone.";
    assert_eq!(replaced["rejection"]["message"], message);
    let moment = |text: &Value| humantime::parse_rfc3339(text.as_str().unwrap()).unwrap();
    let expires_at = std::time::SystemTime::try_from(first.expires_at.unwrap()).unwrap();
    assert_eq!(moment(&replaced["expires_at"]), expires_at);
    assert!(moment(&replaced["rejection"]["at"]) < expires_at);
    assert_eq!(events[2]["session_id"], second.session.unwrap().session_id);
    assert_eq!(events[3]["session_id"], third.session_id);
    assert_eq!(events[3]["rejection"]["message"], "maintenance");
    assert!(moment(&events[4]["rejection"]["at"]) > moment(&events[3]["rejection"]["at"]));

    let posts = receiver.posts();
    for post in &posts {
        assert!(post.is_signed(), "{post:?}");
        assert_eq!(post.header("content-type"), "application/json");
        assert!(post.header("user-agent").starts_with("latchkey/"));
        let mut forged = post.clone();
        forged.body = forged.body.replace("sessions", "session");
        assert!(!forged.is_signed(), "anything is taken for signed");
        let mut forged = post.clone();
        forged.id.push('x');
        assert!(!forged.is_signed(), "any id is taken for signed");
    }

    process.terminate();
    let (code, log) = process.wait(SOON);
    assert_eq!(code, Some(0), "{log}");
    for secret in [SECRET, &SECRET[6..], "nothing but a secret", "hunter2"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(log.contains(DELIVERS));
    assert!(log.contains("hyper_util::client"), "what the client does was not asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_delivery_is_repeated_with_the_same_id_until_it_succeeds() {
    let receiver = Receiver::start().await;
    let proxy = Proxy::to(receiver.address.port()).await;
    let data = tempfile::tempdir().unwrap();
    let url = url(proxy.address);
    let process = Process::start(data.path(), &settings(&url, &[("WEBHOOK__TIMEOUT", "300ms")]));
    let client = process.serving_client().await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;

    receiver.answer(&[Answer::Later(503, 2), Answer::Never, Answer::Status(307)]);
    let mut ended = displace(&client, "alice", 3).await;
    process.output_until("failed to deliver webhook events");
    ended.extend(displace(&client, "alice", 3).await);
    receiver.until_delivered(&ended, SOON).await;

    let posts = receiver.posts();
    let first = &posts[1];
    assert!(posts[1..5].iter().all(|post| post.id == first.id && post.body == first.body), "{posts:#?}");
    assert!(posts[1..5].iter().all(receiver::Post::is_signed), "{posts:#?}");
    assert!(posts[5..].iter().all(|post| post.id != first.id), "{posts:#?}");
    assert!(posts[2].at - posts[1].at >= Duration::from_secs(2), "Retry-After was not honoured");
    assert_eq!(receiver.elsewhere(), 0, "a redirect was followed");
    assert_eq!(told(&receiver.events()), ended);

    // A network failure is another outage and another log line.
    proxy.set(ProxyMode::Disconnect);
    let more = displace(&client, "alice", 2).await;
    let begun = Instant::now();
    while process.output().matches("failed to deliver webhook events").count() < 2 {
        assert!(begun.elapsed() < SOON, "{}", process.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.set(ProxyMode::Forward);
    receiver.until_delivered(&more, SOON).await;
    process.output_until("delivering webhook events again");
    ended.extend(more);
    assert_eq!(told(&receiver.events()), ended);

    process.terminate();
    let (_, log) = process.wait(SOON);
    assert_eq!(log.matches("failed to deliver webhook events").count(), 2, "{log}");
    assert_eq!(log.matches("delivering webhook events again").count(), 2, "{log}");
    assert!(log.contains("the receiver answered 503 Service Unavailable"), "{log}");
    for secret in [SECRET, "hunter2"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_respect_their_limit_and_deliveries_and_failures_are_counted() {
    let receiver = Receiver::start().await;
    receiver.answer(&[Answer::Status(500)]);
    let (data, url) = (tempfile::tempdir().unwrap(), url(receiver.address));
    let process = Process::start(data.path(), &settings(&url, &[("WEBHOOK__BATCH", "2")]));
    let client = process.serving_client().await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    client.user("alice").await;
    // On a busy machine a login takes seconds.
    receiver.answer(&[Answer::Slowly(4000)]);
    let ended = displace(&client, "alice", 12).await;
    receiver.until_delivered(&ended, SOON).await;
    let sizes: Vec<_> = receiver.posts().iter().map(|post| post.events().len()).collect();
    assert_eq!(sizes.iter().max(), Some(&2), "{sizes:?}");

    let taken = receiver.posts().iter().filter(|post| post.taken).count();
    let begun = Instant::now();
    loop {
        let (_, metrics) = process.get("/metrics").await;
        if metrics.contains(&format!("latchkey_webhook_deliveries_total {taken}\n")) {
            assert!(metrics.contains("latchkey_webhook_failures_total 1\n"), "{metrics}");
            break;
        }
        assert!(begun.elapsed() < SOON, "{metrics}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
