//! A panic ends the request or the run of a background task in which it occurs, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use latchkey::{
    app::App,
    config::Config,
    domain::{ports::Clock, types::Timestamp},
    grpc::pb::{RejectionReason, ValidateRequest},
    isolation::{panics, supervisor},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
use tonic_types::StatusExt as _;

use crate::support::{client::Client, clock::ManualClock, server::usual_settings};

/// A clock that panics on every reading while it is armed.
struct PanickingClock {
    clock: ManualClock,
    panics: AtomicBool,
}

impl Clock for PanickingClock {
    fn now(&self) -> Timestamp {
        assert!(!self.panics.load(Ordering::SeqCst), "intended panic");
        self.clock.now()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_only_its_request_and_tasks_are_restarted() {
    let data = tempfile::tempdir().unwrap();
    let settings = usual_settings(data.path());
    let settings = settings.into_iter().map(|(name, value)| (format!("LATCHKEY_{name}"), value));
    let config = Config::load(None, settings).unwrap();
    let clock = Arc::new(PanickingClock { clock: ManualClock::new(), panics: AtomicBool::new(false) });
    let app = App::start(&config, clock.clone()).await.unwrap();
    let admin_key = std::fs::read_to_string(data.path().join("admin.key")).unwrap();
    let client = Client::connect(app.grpc, &admin_key).await;
    client.until_serving().await;
    client.user("alice").await;
    let token = client.login("alice", "phone").await.token;
    // These streams share the connection with the calls that will panic.
    let (_, watch) = client.try_watch(&token).await.unwrap();
    let (questions, asked) = mpsc::channel(1);
    let mut verdicts =
        client.auth.clone().validate_stream(ReceiverStream::new(asked)).await.unwrap().into_inner();

    let (panicked, restarted) = (panics::count(), supervisor::restarts());
    clock.panics.store(true, Ordering::SeqCst);
    let status = client.try_validate(&token).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
    assert!(status.metadata().contains_key("x-request-id"), "{status:?}");
    questions.send(ValidateRequest { token: token.clone(), ..Default::default() }).await.unwrap();
    let status = verdicts.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
    let mut http = TcpStream::connect(app.http).await.unwrap();
    let request = format!(
        "GET /forward-auth HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    http.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("INTERNAL"), "{answer}");
    client.until(NotServing, Duration::from_secs(30)).await;
    clock.panics.store(false, Ordering::SeqCst);

    client.until(Serving, Duration::from_mins(1)).await;
    assert!(panics::count() >= panicked + 3);
    assert!(supervisor::restarts() > restarted);
    client.session(&token).await;
    client.login("alice", "tablet").await;
    assert_eq!(watch.end().await.reason(), RejectionReason::Replaced, "the watch has survived");
}
