//! The webhook of the real binary, to a receiver of the tests' own.

mod receiver;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{self, LogoutScope};
use serde_json::{Value, json};
use tonic_health::pb::health_check_response::ServingStatus::NotServing;

use self::receiver::{Answer, Receiver, SECRET};
use crate::support::{
    client::Client,
    process::{Process, command, run},
    proxy::{Mood, Proxy},
    redis::{Flavour, RedisServer},
    tls::Authority,
};

const DOCS: &str = include_str!("../../../docs/webhook.md");

/// How long a delivery may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// How long another server may take to go on after a crash: the lease, and the look after it.
const TAKEN_OVER: Duration = Duration::from_secs(20);
/// What a server says when it begins to deliver.
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

async fn serving(process: &Process) -> Client {
    let client = process.client().await;
    client.until_serving().await;
    client
}

/// Logs in so often, each time displacing the session before: those that ended.
async fn displace(client: &Client, username: &str, times: usize) -> Vec<String> {
    let mut ended = Vec::new();
    for _ in 0..times {
        let answer = client.login(username, "phone").await;
        ended.extend(answer.displaced.into_iter().map(|session| session.session_id));
    }
    ended
}

/// The sessions in the order in which they were told, each once.
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
async fn whatever_ends_sessions_is_told_in_order_signed_and_without_a_secret_in_the_log() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let url = url(receiver.address);
    // Not even where all that the client does is asked for.
    let level = ("LOG__LEVEL", "trace,hyper::proto=trace,hyper_util::client=trace");
    let process = Process::start(data.path(), &settings(&url, &[level]));
    let client = serving(&process).await;
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
async fn what_is_not_taken_comes_again_under_the_same_id_until_it_is() {
    let receiver = Receiver::start().await;
    let proxy = Proxy::to(receiver.address.port()).await;
    let data = tempfile::tempdir().unwrap();
    let url = url(proxy.address);
    let process = Process::start(data.path(), &settings(&url, &[("WEBHOOK__TIMEOUT", "300ms")]));
    let client = serving(&process).await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;

    receiver.answer(&[Answer::Later(503, 2), Answer::Never, Answer::Status(307)]);
    let mut ended = displace(&client, "alice", 3).await;
    process.output_until("does not take what it is sent");
    ended.extend(displace(&client, "alice", 3).await);
    receiver.until_told_of(&ended, SOON).await;

    let posts = receiver.posts();
    let first = &posts[1];
    assert!(posts[1..5].iter().all(|post| post.id == first.id && post.body == first.body), "{posts:#?}");
    assert!(posts[1..5].iter().all(receiver::Post::is_signed), "{posts:#?}");
    assert!(posts[5..].iter().all(|post| post.id != first.id), "{posts:#?}");
    assert!(posts[2].at - posts[1].at >= Duration::from_secs(2), "Retry-After was not honoured");
    assert_eq!(receiver.elsewhere(), 0, "a redirect was followed");
    assert_eq!(told(&receiver.events()), ended);

    // Another outage, of the network this time: another line.
    proxy.set(Mood::HangsUp);
    let more = displace(&client, "alice", 2).await;
    let begun = Instant::now();
    while process.output().matches("does not take what it is sent").count() < 2 {
        assert!(begun.elapsed() < SOON, "{}", process.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    proxy.set(Mood::Carries);
    receiver.until_told_of(&more, SOON).await;
    process.output_until("takes what it is sent again");
    ended.extend(more);
    assert_eq!(told(&receiver.events()), ended);

    process.terminate();
    let (_, log) = process.wait(SOON);
    assert_eq!(log.matches("does not take what it is sent").count(), 2, "{log}");
    assert_eq!(log.matches("takes what it is sent again").count(), 2, "{log}");
    assert!(log.contains("it answers 503 Service Unavailable"), "{log}");
    for secret in [SECRET, "hunter2"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_server_is_killed_before_the_receiver_has_taken_it() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let url = url(receiver.address);
    let settings = settings(&url, &[]);
    let mut process = Process::start(data.path(), &settings);
    let client = serving(&process).await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    let mut ended = displace(&client, "alice", 3).await;
    receiver.until_told_of(&ended, SOON).await;

    // In the middle of a POST, and of what is yet to be sent.
    receiver.always(Some(Answer::Never));
    let before = receiver.posts().len();
    ended.extend(displace(&client, "alice", 20).await);
    receiver.until(SOON, "one is under way", |receiver| receiver.posts().len() > before).await;
    process.kill();
    receiver.always(Some(Answer::Status(500)));
    let before = receiver.posts().len();
    let mut process = Process::start(data.path(), &settings);
    let client = serving(&process).await;
    ended.extend(displace(&client, "alice", 3).await);
    receiver.until(TAKEN_OVER, "one has failed", |receiver| receiver.posts().len() > before).await;
    process.kill();

    receiver.always(None);
    let process = Process::start(data.path(), &settings);
    serving(&process).await;
    receiver.until_told_of(&ended, TAKEN_OVER).await;
    assert_eq!(told(&receiver.events()), ended);
    let resyncs = receiver.events().iter().filter(|event| event["type"] == "resync").count();
    assert_eq!(resyncs, 1, "what can be told again needs no resync");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_lets_what_is_under_way_be_taken_waits_for_no_retry_and_gives_the_lease_up() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let url = url(receiver.address);
    let settings = settings(&url, &[]);
    let process = Process::start(data.path(), &settings);
    let client = serving(&process).await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    receiver.answer(&[Answer::Slowly(1000)]);
    let mut ended = displace(&client, "alice", 2).await;
    receiver.until(SOON, "one is under way", |receiver| receiver.posts().len() == 2).await;
    process.terminate();
    let (code, log) = process.wait(SOON);
    assert_eq!(code, Some(0), "{log}");

    let process = Process::start(data.path(), &settings);
    let begun = Instant::now();
    process.output_until(DELIVERS);
    assert!(begun.elapsed() < Duration::from_secs(5), "the lease was not given up");
    let client = serving(&process).await;
    receiver.answer(&[Answer::Later(503, 300)]);
    ended.extend(displace(&client, "alice", 1).await);
    process.output_until("does not take what it is sent");
    assert_eq!(receiver.posts().len(), 3, "what was taken came again");
    process.terminate();
    let begun = Instant::now();
    let (code, log) = process.wait(SOON);
    assert_eq!(code, Some(0), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());

    let process = Process::start(data.path(), &settings);
    serving(&process).await;
    receiver.until_told_of(&ended, SOON).await;
    assert_eq!(told(&receiver.events()), ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_one_delivers_and_the_other_goes_on_when_it_is_killed() {
    let receiver = Receiver::start().await;
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let (url, store) = (url(receiver.address), redis.url());
    let settings = settings(&url, &[("SESSIONS__URL", &store), ("SESSIONS__RESPONSE_TIMEOUT", "10s")]);
    let mut first = Process::start(data.path(), &settings);
    let client = serving(&first).await;
    first.output_until(DELIVERS);
    let second = Process::start(data.path(), &settings);
    let other = serving(&second).await;
    client.user("alice").await;
    client.user("bob").await;

    let mut alice = Vec::new();
    for _ in 0..10 {
        alice.extend(displace(&client, "alice", 5).await);
        alice.extend(displace(&other, "alice", 5).await);
    }
    receiver.until_told_of(&alice, SOON).await;
    assert!(!second.output().contains(DELIVERS), "both deliver");
    let told_before = told(&receiver.events());
    assert_eq!(told_before, alice);

    receiver.always(Some(Answer::Never));
    let before = receiver.posts().len();
    let mut bob = displace(&client, "bob", 5).await;
    receiver.until(SOON, "one is under way", |receiver| receiver.posts().len() > before).await;
    first.kill();
    receiver.always(None);
    bob.extend(displace(&other, "bob", 5).await);
    receiver.until_told_of(&bob, TAKEN_OVER).await;
    assert!(second.output().contains(DELIVERS));
    assert_eq!(told(&receiver.events())[alice.len()..], bob);

    // And one that stops in good order is not waited for.
    let third = Process::start(data.path(), &settings);
    let client = serving(&third).await;
    second.terminate();
    let (code, log) = second.wait(SOON);
    assert_eq!(code, Some(0), "{log}");
    let begun = Instant::now();
    third.output_until(DELIVERS);
    assert!(begun.elapsed() < Duration::from_secs(5), "the lease was not given up");
    let more = displace(&client, "alice", 3).await;
    receiver.until_told_of(&more, SOON).await;
    assert_eq!(receiver.most_under_way(), 1, "two have delivered at a time");
    let resyncs = receiver.events().iter().filter(|event| event["type"] == "resync").count();
    assert_eq!(resyncs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_frozen_sends_nothing_once_another_has_taken_over() {
    let receiver = Receiver::start().await;
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let (url, store) = (url(receiver.address), redis.url());
    let settings = settings(&url, &[("SESSIONS__URL", &store), ("SESSIONS__RESPONSE_TIMEOUT", "10s")]);
    let first = Process::start(data.path(), &settings);
    let client = serving(&first).await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    receiver.always(Some(Answer::Status(500)));
    let ended = displace(&client, "alice", 3).await;
    first.output_until("does not take what it is sent");
    first.signal("STOP");
    let its_own = receiver.posts().len();
    let second = Process::start(data.path(), &settings);
    let begun = Instant::now();
    while !second.output().contains(DELIVERS) {
        assert!(begun.elapsed() < TAKEN_OVER, "nobody has taken over: {}", second.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.signal("CONT");
    first.output_until("does not deliver the webhook any more");
    receiver.always(None);
    receiver.until_told_of(&ended, SOON).await;
    let posts = receiver.posts();
    let (before, after) = posts.split_at(its_own);
    let again = after.iter().find(|post| before.iter().any(|before| before.id == post.id));
    assert!(again.is_none(), "{again:?}");
    assert_eq!(receiver.most_under_way(), 1);
    assert_eq!(told(&receiver.events()), ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_has_lost_is_told_as_a_resync_and_what_it_has_kept_is_not() {
    for (arguments, resyncs) in [(&["--appendonly", "yes", "--appendfsync", "always"][..], 1), (&[], 2)] {
        let receiver = Receiver::start().await;
        let mut redis = RedisServer::with(Flavour::Redis, arguments);
        let data = tempfile::tempdir().unwrap();
        let (url, store) = (url(receiver.address), redis.url());
        let process = Process::start(data.path(), &settings(&url, &[("SESSIONS__URL", &store)]));
        let client = serving(&process).await;
        client.user("alice").await;
        receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
        receiver.answer(&[Answer::Status(500)]);
        let before = displace(&client, "alice", 3).await;
        process.output_until("does not take what it is sent");
        redis.kill();
        client.until(NotServing, SOON).await;
        redis.restart();
        client.until_serving().await;
        let resyncs_told =
            |receiver: &Receiver| receiver.events().iter().filter(|event| event["type"] == "resync").count();
        receiver.until(SOON, "resynced", |receiver| resyncs_told(receiver) == resyncs).await;
        let after = displace(&client, "alice", 3).await;
        receiver.until_told_of(&after, SOON).await;
        assert_eq!(resyncs_told(&receiver), resyncs, "{arguments:?}");
        if resyncs == 1 {
            assert_eq!(told(&receiver.events()), [before, after].concat());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_tls_must_have_a_certificate_of_a_root_that_is_trusted() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let folder = tempfile::tempdir().unwrap();
    let roots = ours.write(folder.path());
    for (authority, trusted) in [(&ours, true), (&others, false)] {
        let receiver = Receiver::with_tls(&authority.server()).await;
        let data = tempfile::tempdir().unwrap();
        let url = format!("https://localhost:{}/hook", receiver.address.port());
        let mut command = command(data.path(), &settings(&url, &[]));
        command.arg("serve").env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR");
        let process = Process::launch(command, data.path());
        if trusted {
            receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
        } else {
            let log = process.output_until("does not take what it is sent");
            assert!(log.contains("invalid peer certificate"), "{log}");
            assert!(receiver.posts().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_no_larger_than_is_set_and_deliveries_and_failures_are_counted() {
    let receiver = Receiver::start().await;
    receiver.answer(&[Answer::Status(500)]);
    let (data, url) = (tempfile::tempdir().unwrap(), url(receiver.address));
    let process = Process::start(data.path(), &settings(&url, &[("WEBHOOK__BATCH", "2")]));
    let client = serving(&process).await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    client.user("alice").await;
    receiver.answer(&[Answer::Slowly(300)]);
    let ended = displace(&client, "alice", 12).await;
    receiver.until_told_of(&ended, SOON).await;
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

#[test]
fn a_secret_that_others_can_read_or_that_is_none_is_refused_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("secret");
    for (contents, mode, said) in [
        (SECRET, 0o644, "webhook.secret_file: "),
        ("whsec_hunter2", 0o600, "webhook.secret_file: what "),
        ("hunter2 hunter2 hunter2 hunter2", 0o600, "webhook.secret_file: what "),
    ] {
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file =
            [("WEBHOOK__URL", "http://127.0.0.1:1/"), ("WEBHOOK__SECRET_FILE", path.to_str().unwrap())];
        for arguments in [&["serve"][..], &["serve", "--check"]] {
            let mut command = command(data.path(), &file);
            command.args(arguments);
            let output = run(command, "");
            let said_so = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said_so}");
            assert!(said_so.contains(said), "{said_so}");
            assert!(!said_so.contains("hunter2") && !said_so.contains(SECRET), "{said_so}");
        }
    }
    // With a line end, as most editors and `echo` leave one.
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    let file = [("WEBHOOK__URL", "http://127.0.0.1:1/"), ("WEBHOOK__SECRET_FILE", path.to_str().unwrap())];
    let mut command = command(data.path(), &file);
    command.args(["serve", "--check"]);
    assert_eq!(run(command, "").status.code(), Some(0));
}

/// A Python: the one that Django is tested with, or the system's. `None` where there is none and need not be.
#[expect(clippy::print_stdout, reason = "so that nobody takes a skipped test for a passed one")]
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("LATCHKEY_TEST_DJANGO").map(PathBuf::from);
    let python = named.unwrap_or_else(|| "python3".into());
    if Command::new(&python).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "there is no Python");
    println!("skipped: no Python here");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_of_the_documentation_verifies_what_is_sent_and_nothing_else() {
    let Some(python) = python() else { return };
    let (_, after) = DOCS.split_once("<!-- tested: verify -->\n```python\n").unwrap();
    let snippet = after.split_once("```").unwrap().0;
    let verify = |post: &receiver::Post, secret: &str| {
        let headers: serde_json::Map<String, Value> =
            ["webhook-id", "webhook-timestamp", "webhook-signature"]
                .map(|name| (name.to_owned(), post.header(name).into()))
                .into_iter()
                .collect();
        let input = json!({"secret": secret, "headers": headers, "body": post.body}).to_string();
        let script = format!(
            "{snippet}\nimport sys\ngiven = json.load(sys.stdin)\n\
             print(json.dumps(verify(given['secret'], given['headers'], given['body'].encode())))"
        );
        let mut command = Command::new(&python);
        command.args(["-c", &script]);
        let output = run(command, &input);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice::<Value>(&output.stdout).map_err(|_| error)
    };

    let receiver = Receiver::start().await;
    let url = url(receiver.address);
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &settings(&url, &[]));
    let client = serving(&process).await;
    // What happened before it began is only hinted at, by the resync that it begins with.
    receiver.until(SOON, "begun", |receiver| receiver.events().len() == 1).await;
    client.user("zoë").await;
    client.login("zoë", "Zoë’s phone").await;
    client.login("zoë", "Zoë’s tablet").await;
    receiver.until(SOON, "told", |receiver| receiver.events().len() == 2).await;
    let posts = receiver.posts();
    let post = posts.last().unwrap();
    let events = verify(post, SECRET).unwrap();
    assert_eq!(json!(post.events()), events);
    assert_eq!(events[0]["rejection"]["by_device"], "Zoë’s tablet");

    let mut forged = post.clone();
    forged.body = forged.body.replace("tablet", "table");
    assert!(verify(&forged, SECRET).unwrap_err().contains("not signed with our secret"));
    let other = "whsec_YW5vdGhlciBzZWNyZXQgYWx0b2dldGhlcg==";
    assert!(verify(post, other).unwrap_err().contains("not signed with our secret"));
    let mut old = post.clone();
    old.headers.insert("webhook-timestamp", "1700000000".parse().unwrap());
    assert!(verify(&old, SECRET).unwrap_err().contains("too old"));
}
