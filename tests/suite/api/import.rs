//! `AccountService.ImportAccounts`: added and refused accounts, and interrupted streams.

use rstest::rstest;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _, stream};
use latchkey::{
    domain::password::Password,
    grpc::pb::{self, ImportAccountsRequest, ImportAccountsResponse, ImportedAccount},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use super::{assert_invalid, parts};
use crate::support::{
    client::{Client, PASSWORD, login_request},
    server::{Server, Store},
};

/// A hash of the usual password.
async fn usual_hash(server: &Server) -> String {
    let password = Password::presented(PASSWORD.into()).unwrap();
    server.app.engine.passwords().hasher().hash(password).await.unwrap().as_str().to_owned()
}

fn account(line: u64, user_id: &str, username: &str, hash: &str) -> ImportedAccount {
    ImportedAccount {
        line,
        user_id: user_id.into(),
        username: username.into(),
        password_hash: hash.into(),
        ..Default::default()
    }
}

fn message(accounts: Vec<ImportedAccount>) -> ImportAccountsRequest {
    ImportAccountsRequest { accounts, validate_only: false }
}

async fn send(
    client: &Client,
    messages: impl Stream<Item = ImportAccountsRequest> + Send + 'static,
) -> Result<ImportAccountsResponse, Status> {
    let answer = client.accounts.clone().import_accounts(client.admin(messages)).await;
    answer.map(tonic::Response::into_inner)
}

async fn import(client: &Client, accounts: Vec<ImportedAccount>) -> ImportAccountsResponse {
    send(client, stream::iter([message(accounts)])).await.unwrap()
}

/// Returns the numbers of added, present and refused accounts.
fn counts(answer: &ImportAccountsResponse) -> (u64, u64, u64) {
    (answer.added, answer.present, answer.refused)
}

async fn all(client: &Client) -> Vec<pb::Account> {
    let request = client.admin(pb::ListAccountsRequest { page_size: 1000, ..Default::default() });
    client.accounts.clone().list_accounts(request).await.unwrap().into_inner().accounts
}

/// Waits until there is this number of accounts.
async fn until_there_are(client: &Client, count: usize) {
    let begun = Instant::now();
    while all(client).await.len() < count {
        assert!(begun.elapsed() < Duration::from_secs(10), "the accounts do not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imported_users_log_in_with_their_passwords(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let hash = usual_hash(&server).await;
    let alice = ImportedAccount {
        roles: vec!["staff".into(), "admin".into(), "staff".into()],
        created_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5000 }),
        ..account(1, "7", "Alice", &hash)
    };
    let gone = ImportedAccount { disabled: true, ..account(2, "8", "gone", &hash) };
    let until = prost_types::Timestamp { seconds: 32_000_000_000, nanos: 0 };
    let away = ImportedAccount { disabled_until: Some(until), ..account(3, "9", "away", &hash) };
    let (ours, sso) = (account(4, "", "ours", &hash), account(5, "x-1", "sso", "!"));
    let answer = import(client, vec![alice, gone, away, ours, sso]).await;
    assert_eq!(answer, ImportAccountsResponse { added: 5, ..Default::default() });

    let accounts = all(client).await;
    assert_eq!(
        accounts[0],
        pb::Account {
            user_id: "7".into(),
            username: "Alice".into(),
            roles: vec!["admin".into(), "staff".into()],
            disabled: false,
            disabled_until: None,
            created_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5000 }),
        }
    );
    let of = |name: &str| accounts.iter().find(|account| account.username == name).unwrap();
    assert_eq!((of("away").disabled, of("away").disabled_until), (true, Some(until)));
    assert!(of("ours").user_id.len() > 20 && of("ours").created_at.is_some());

    assert_eq!(client.login("alice", "").await.session.unwrap().user_id, "7");
    client.login("ours", "").await;
    let disabled = client.try_login(login_request("gone", "")).await.unwrap_err();
    assert_eq!(parts(&disabled).1, "ACCOUNT_DISABLED");
    // No password matches this hash.
    for password in [PASSWORD, "!", ""] {
        let request = pb::LoginRequest { password: password.into(), ..login_request("sso", "") };
        client.try_login(request).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn importing_again_changes_nothing() {
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let hash = usual_hash(&server).await;
    let accounts = || vec![account(1, "1", "alice", &hash), account(2, "", "bob", &hash)];
    assert_eq!(counts(&import(client, accounts()).await), (2, 0, 0));
    let before = all(client).await;

    // A user who has changed the password keeps the new one.
    let changed = pb::SetPasswordRequest { user_id: "1".into(), password: "a newer password".into() };
    client.accounts.clone().set_password(client.admin(changed)).await.unwrap();
    assert_eq!(counts(&import(client, accounts()).await), (0, 2, 0));
    let renamed = vec![ImportedAccount { roles: vec!["admin".into()], ..account(1, "1", "ALICE", &hash) }];
    assert_eq!(counts(&import(client, renamed).await), (0, 1, 0));
    assert_eq!(all(client).await, before);
    client.try_login(login_request("alice", "")).await.unwrap_err();
    client.login("bob", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_violation_refuses_only_its_account() {
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let hash = usual_hash(&server).await;
    import(client, vec![account(1, "1", "alice", &hash)]).await;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let good = || account(0, "", "name", &hash);
    let bad = [
        (ImportedAccount { username: String::new(), ..good() }, "username", "is missing"),
        (ImportedAccount { username: " bob".into(), ..good() }, "username", "white space"),
        (ImportedAccount { user_id: "two words".into(), ..good() }, "user_id", "printable"),
        (ImportedAccount { roles: vec!["Content Editors".into()], ..good() }, "roles", "letters"),
        (ImportedAccount { created_at: time(-1), ..good() }, "created_at", "1970"),
        (ImportedAccount { disabled_until: time(1_700_000_000_000), ..good() }, "disabled_until", "9999"),
        (ImportedAccount { password_hash: String::new(), ..good() }, "password_hash", "is missing"),
        (ImportedAccount { password_hash: "hunter2".into(), ..good() }, "password_hash", "unknown kind"),
        (
            ImportedAccount { password_hash: hash.replace("m=8", "m=99999999"), ..good() },
            "password_hash",
            "memory or time",
        ),
        (
            ImportedAccount { password_hash: format!("!{}", "x".repeat(512)), ..good() },
            "password_hash",
            "512",
        ),
        (
            ImportedAccount { username: "ALICE".into(), user_id: "2".into(), ..good() },
            "username",
            "another user_id",
        ),
        (ImportedAccount { user_id: "1".into(), ..good() }, "user_id", "another username"),
    ];
    // Each is imported between valid accounts.
    let mut sent = Vec::new();
    for (number, (account, _, _)) in (1..).zip(&bad) {
        sent.push(ImportedAccount { line: number * 10, ..account.clone() });
        sent.push(ImportedAccount { line: number * 10 + 1, username: format!("good{number}"), ..good() });
    }
    let answer = import(client, sent).await;
    assert_eq!(counts(&answer), (bad.len() as u64, 0, bad.len() as u64));
    for (number, (refusal, (account, field, said))) in (1..).zip(answer.refusals.iter().zip(&bad)) {
        assert_eq!((refusal.line, &refusal.username), (number * 10, &account.username), "{refusal:?}");
        assert_eq!(refusal.field, *field, "{refusal:?}");
        assert!(refusal.description.contains(said), "{refusal:?}");
        assert!(!refusal.description.contains("hunter2") && !refusal.description.contains("$argon2"));
    }
    assert_eq!(all(client).await.len(), 1 + bad.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_with_one_name_is_refused() {
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let hash = usual_hash(&server).await;
    let first = vec![
        account(5, "", "Jürgen", &hash),
        account(6, "", "JÜRGEN", &hash),
        account(7, "9", "ju\u{308}rgen", &hash),
        // A refused account reserves no name.
        account(8, "", "bob", "no hash"),
        account(9, "", "bob", &hash),
    ];
    let answer = import(client, first).await;
    assert_eq!(counts(&answer), (2, 0, 3));
    assert_eq!(answer.refusals.iter().map(|refusal| refusal.line).collect::<Vec<_>>(), [6, 7, 8]);
    assert!(answer.refusals[0].description.contains("line 5"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validate_only_reports_the_outcome_and_adds_no_account() {
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let hash = usual_hash(&server).await;
    import(client, vec![account(1, "1", "alice", &hash)]).await;
    let accounts = vec![
        account(1, "1", "alice", &hash),
        account(2, "", "Alice2", &hash),
        account(3, "2", "ALICE", &hash),
        account(4, "1", "eve", &hash),
        account(5, "", "bob", "no hash"),
        account(6, "6", "carol", &hash),
    ];
    let checked = stream::iter([ImportAccountsRequest { accounts: accounts.clone(), validate_only: true }]);
    let checked = send(client, checked).await.unwrap();
    assert_eq!(counts(&checked), (2, 1, 3));
    assert_eq!(all(client).await.len(), 1);
    assert_eq!(import(client, accounts).await, checked, "and so it is");
    assert_eq!(all(client).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_bounded() {
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let many = |count| (0..count).map(|number| account(number, "", &format!("u{number}"), "!")).collect();
    let too_many = send(client, stream::iter([message(many(1001))])).await.unwrap_err();
    assert_invalid(&too_many, "accounts");
    let large = vec![account(1, "", &"x".repeat(70_000), "!")];
    let large = send(client, stream::iter([message(large)])).await.unwrap_err();
    assert_eq!((large.code(), parts(&large).1), (Code::InvalidArgument, "INVALID_REQUEST".into()));
    assert_eq!(all(client).await.len(), 0);

    let most = import(client, many(1000)).await;
    assert_eq!(counts(&most), (1000, 0, 0));
    assert_eq!(send(client, stream::empty()).await.unwrap(), ImportAccountsResponse::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_needs_the_admin_key() {
    let server = Server::start(Store::Embedded).await;
    let messages = stream::iter([message(vec![account(1, "", "alice", "!")])]);
    let status = server.client.accounts.clone().import_accounts(Request::new(messages)).await.unwrap_err();
    assert_eq!(parts(&status), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED".into(), vec![]));
    assert_eq!(all(&server.client).await.len(), 0);
}

/// A call whose requests the test sends one by one.
fn open(
    client: &Client,
) -> (mpsc::Sender<ImportAccountsRequest>, tokio::task::JoinHandle<Result<ImportAccountsResponse, Status>>) {
    let (messages, stream) = mpsc::channel(1);
    let client = client.clone();
    let call = tokio::spawn(async move { send(&client, ReceiverStream::new(stream)).await });
    (messages, call)
}

fn ten(from: u64) -> ImportAccountsRequest {
    message((from..from + 10).map(|n| account(n, &n.to_string(), &format!("user{n:03}"), "!")).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_leaves_whole_messages_and_can_be_repeated() {
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let (messages, call) = open(client);
    messages.send(ten(0)).await.unwrap();
    messages.send(ten(10)).await.unwrap();
    until_there_are(client, 20).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(all(client).await.len(), 20);
    let again = send(client, stream::iter([ten(0), ten(10), ten(20)])).await.unwrap();
    assert_eq!(counts(&again), (10, 20, 0));

    // The stream breaks at a different point in each round.
    for round in 1..=10 {
        let (messages, call) = open(client);
        let from = round * 1000;
        let sending = tokio::spawn(async move {
            for batch in 0..50 {
                if messages.send(ten(from + batch * 10)).await.is_err() {
                    return;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        call.abort();
        sending.await.unwrap();
        // The message in progress may still be added.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let count = all(client).await.len();
        assert_eq!(count % 10, 0, "{count} accounts after round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_may_be_long_but_not_idle_between_messages() {
    let server = Server::with(Store::Embedded, &[("SERVER__REQUEST_TIMEOUT", "1s")]).await;
    let client = &server.client;
    let begun = Instant::now();
    let slow = stream::iter(0..7).then(|n| async move {
        tokio::time::sleep(Duration::from_millis(250)).await;
        ten(n * 10)
    });
    assert_eq!(counts(&send(client, slow).await.unwrap()), (70, 0, 0));
    assert!(begun.elapsed() > Duration::from_secs(1), "longer than any other call may take");

    let (messages, call) = open(client);
    messages.send(ten(100)).await.unwrap();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(parts(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into(), vec![]));
    assert_eq!(all(client).await.len(), 80, "what it had sent is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_does_not_delay_the_stop_of_the_server() {
    let server = Server::start(Store::Embedded).await;
    let (messages, call) = open(&server.client);
    messages.send(ten(0)).await.unwrap();
    until_there_are(&server.client, 10).await;
    let Server { app, .. } = server;
    let begun = Instant::now();
    assert!(app.stop().await, "the stream held it up");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(parts(&status), (Code::Unavailable, "SHUTTING_DOWN".into(), vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_accounts_fit_into_one_call() {
    const COUNT: u64 = 100_000;
    let server =
        Server::with(Store::Embedded, &[("SERVER__REQUEST_TIMEOUT", "1s"), ("LOG__LEVEL", "warn")]).await;
    let client = &server.client;
    let messages = stream::iter((0..COUNT / 500).map(|batch| {
        let numbers = batch * 500..(batch + 1) * 500;
        message(numbers.map(|n| account(n, &n.to_string(), &format!("user{n:06}"), "!")).collect())
    }));
    assert_eq!(counts(&send(client, messages).await.unwrap()), (COUNT, 0, 0));
    let last = pb::GetAccountRequest { key: Some(pb::get_account_request::Key::UserId("99999".into())) };
    let last = client.accounts.clone().get_account(client.admin(last)).await.unwrap().into_inner();
    assert_eq!(last.account.unwrap().username, "user099999");
}
