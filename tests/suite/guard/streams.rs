//! Streams end with the session of their caller.

use std::time::{Duration, Instant};

use latchkey::grpc::pb;
use latchkey_client::Guard;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Guarded, PATIENCE, agrees, asks, greeting, guard, messages, told};
use crate::support::{
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

/// How soon the end of a session has to be the end of its streams.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A stream of each kind, whose client neither says anything nor hangs up.
struct Streams {
    greets_on: Streaming<messages::GreetResponse>,
    chats: Streaming<messages::GreetResponse>,
    greets_all: tokio::task::JoinHandle<Result<(), Status>>,
    _says: Vec<mpsc::UnboundedSender<messages::GreetRequest>>,
}

impl Streams {
    async fn open(guarded: &Guarded, token: &str) -> Self {
        let says = || {
            let (says, requests) = mpsc::unbounded_channel();
            says.send(greeting()).unwrap();
            (says, UnboundedReceiverStream::new(requests))
        };
        let once = tokio_stream::once(greeting());
        let mut greets_on = guarded.stream("GreetOn", once, token).await.unwrap();
        greets_on.message().await.unwrap().unwrap();
        let (chat, requests) = says();
        let mut chats = guarded.stream("Chat", requests, token).await.unwrap();
        chats.message().await.unwrap().unwrap();
        let (all, requests) = says();
        let (copy, token) =
            (Guarded { channel: guarded.channel.clone(), serving: tokio::spawn(async {}) }, token.to_owned());
        let greets_all = tokio::spawn(async move {
            copy.stream("GreetAll", requests, &token).await?.message().await.map(drop)
        });
        Self { greets_on, chats, greets_all, _says: vec![chat, all] }
    }

    /// With what each of them ends.
    async fn end(mut self) -> [Status; 3] {
        let last = async |mut stream: Streaming<messages::GreetResponse>| loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it has ended well"),
                Err(status) => return status,
            }
        };
        let all = async {
            let silent = (&mut self.greets_all).await.unwrap().unwrap_err();
            [last(self.greets_on).await, last(self.chats).await, silent]
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("they go on"))
    }

    /// They go on for a while.
    async fn go_on(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let next =
                timeout(PATIENCE, self.greets_on.message()).await.unwrap_or_else(|_| panic!("it is silent"));
            assert!(matches!(next, Ok(Some(_))), "it has ended: {next:?}");
        }
        assert!(!self.greets_all.is_finished());
        let more = timeout(Duration::from_millis(1), self.chats.message()).await;
        assert!(more.is_err(), "it has ended: {more:?}");
    }
}

/// Both ways in which a guard can learn of an end.
fn both(server: &Server) -> [(&'static str, Guard); 2] {
    let watches = Guard::new(asks(server.app.grpc, "")).open([super::OPEN]);
    [("watches", watches), ("feed", guard(server.app.grpc, &server.client).revocation_feed())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_at_once_when_the_session_is_replaced_and_those_of_others_go_on() {
    let server = Server::start(Store::Redis).await;
    for name in ["anna", "bob"] {
        server.client.user(name).await;
    }
    let bob = server.client.login("bob", "phone").await.token;
    for (way, guard) in both(&server) {
        let guarded = Guarded::start(guard).await;
        let token = server.client.login("anna", "phone").await.token;
        let mut of_bob = Streams::open(&guarded, &bob).await;
        let mut displaced = Streams::open(&guarded, &token).await;
        displaced.go_on(Duration::from_millis(600)).await;
        guarded.until_running(6).await;
        server.client.login("anna", "Zoë’s iPhone").await;
        let begun = Instant::now();
        let native = server.client.rejection(&token).await;
        assert_eq!((native.reason(), &*native.by_device), (pb::RejectionReason::Replaced, "Zoë’s iPhone"));
        for status in displaced.end().await {
            agrees(&status, &native);
        }
        assert!(begun.elapsed() < AT_ONCE, "{way}: took {:?}", begun.elapsed());
        guarded.until_running(3).await;
        of_bob.go_on(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_while_its_stream_begins_ends_the_stream() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    for (way, guard) in both(&server) {
        let guarded = Guarded::start(guard).await;
        let token = server.client.login("anna", "phone").await.token;
        let streams = Streams::open(&guarded, &token).await;
        // Before anybody looks for its end.
        server.client.login("anna", "tablet").await;
        for status in streams.end().await {
            assert_eq!(told(&status), (Code::Unauthenticated, "REPLACED".into()), "{way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_streams_are_not_watched_goes_on() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let guarded = Guarded::start(guard(server.app.grpc, &server.client).without_watch()).await;
    let token = server.client.login("anna", "phone").await.token;
    let mut streams = Streams::open(&guarded, &token).await;
    server.client.login("anna", "tablet").await;
    streams.go_on(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_the_time_of_its_session_is_up() {
    let settings = [("SESSION__SLOTS", "default,brief"), ("SLOT__BRIEF__IDLE_TIMEOUT", "1s")];
    let data = tempfile::tempdir().unwrap();
    let latchkey = crate::support::process::Process::start(data.path(), &settings);
    let client = latchkey.client().await;
    client.until_serving().await;
    client.user("anna").await;
    let watches = Guard::new(asks(latchkey.grpc, "")).open([super::OPEN]);
    for guard in [watches, guard(latchkey.grpc, &client).revocation_feed()] {
        let guarded = Guarded::start(guard).await;
        let login =
            pb::LoginRequest { slot: "brief".into(), ..crate::support::client::login_request("anna", "") };
        let token = client.try_login(login).await.unwrap().token;
        for status in Streams::open(&guarded, &token).await.end().await {
            assert_eq!(told(&status), (Code::Unauthenticated, "IDLE_TIMEOUT".into()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_outlive_an_outage_but_not_for_ever() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let proxy = Proxy::to(server.app.grpc.port()).await;
    let guard = guard(proxy.address, &server.client);
    let patient = Guarded::start(guard.clone()).await;
    // Copies would share what is known of a session, and with it the patience.
    let impatient =
        Guarded::start(super::guard(proxy.address, &server.client).outage_grace(Duration::from_secs(1)))
            .await;
    let token = server.client.login("anna", "phone").await.token;
    let mut lasting = Streams::open(&patient, &token).await;
    let mut brief = Streams::open(&impatient, &token).await;
    brief.go_on(Duration::from_millis(600)).await;
    proxy.set(ProxyMode::Disconnect);
    let begun = Instant::now();
    brief.go_on(Duration::from_millis(300)).await;
    for status in brief.end().await {
        assert_eq!(told(&status), (Code::Unavailable, "STORE_UNAVAILABLE".into()));
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    lasting.go_on(Duration::from_millis(500)).await;
    proxy.set(ProxyMode::Forward);
    lasting.go_on(Duration::from_millis(500)).await;
    server.client.login("anna", "tablet").await;
    for status in lasting.end().await {
        assert_eq!(told(&status), (Code::Unauthenticated, "REPLACED".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_more_sessions_than_may_be_watched_end_all_the_same() {
    let server = Server::start(Store::Embedded).await;
    let guarded = Guarded::start(Guard::new(asks(server.app.grpc, "")).open([super::OPEN])).await;
    let mut streams = Vec::new();
    let mut last = String::new();
    for number in 0..110 {
        let user_id = server.client.user(&format!("user{number}")).await;
        let issue = || pb::IssueSessionRequest { user_id: user_id.clone(), ..Default::default() };
        let token = server.client.try_issue(issue()).await.unwrap().token;
        let mut stream = guarded.stream("GreetOn", tokio_stream::once(greeting()), &token).await.unwrap();
        stream.message().await.unwrap().unwrap();
        streams.push(stream);
        last = user_id;
    }
    // So that each of them is looked after.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let end = pb::EndSessionsRequest { user_id: last, ..Default::default() };
    assert_eq!(server.client.end_sessions(end).await, 1);
    let mut stream = streams.pop().unwrap();
    let status = timeout(PATIENCE, async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    });
    let status = status.await.unwrap_or_else(|_| panic!("it goes on"));
    assert_eq!(told(&status), (Code::Unauthenticated, "KICKED".into()));
}
