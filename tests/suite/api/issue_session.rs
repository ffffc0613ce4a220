//! `IssueSession`: sessions for users whom a trusted service has authenticated.

use crate::support::server::{Server, Store};
use latchkey::grpc::pb::{self, RejectionReason};
use rstest::rstest;
use tonic::{Code, Request, Status};

use super::{assert_invalid, disable, parts};
use crate::support::client::{Client, PASSWORD};

async fn issue(
    client: &Client,
    message: pb::IssueSessionRequest,
) -> Result<pb::IssueSessionResponse, Status> {
    client.sessions.clone().issue_session(client.admin(message)).await.map(tonic::Response::into_inner)
}

fn by_id(user_id: &str) -> pb::IssueSessionRequest {
    pb::IssueSessionRequest { user_id: user_id.into(), device: "SSO".into(), ..Default::default() }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issued_session_is_a_session_like_any_other(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user_with_roles("alice", &["staff"]).await;
    let password = client.login("alice", "phone").await.token;
    let issued = issue(client, by_id(&user_id)).await.unwrap();
    assert_eq!(issued.displaced[0].device, "phone");
    let rejection = client.rejection(&password).await;
    assert_eq!((rejection.reason(), rejection.by_device.as_str()), (RejectionReason::Replaced, "SSO"));
    let session = client.session(&issued.token).await;
    assert_eq!((session.username.as_str(), session.roles.as_slice()), ("alice", &["staff".to_owned()][..]));

    let by_name = pb::IssueSessionRequest { username: "ALICE".into(), ..Default::default() };
    let again = issue(client, by_name).await.unwrap();
    assert_eq!(again.displaced[0].device, "SSO");
    let keyed = pb::IssueSessionRequest { idempotency_key: "k".into(), ..by_id(&user_id) };
    let first = issue(client, keyed.clone()).await.unwrap();
    assert_eq!(issue(client, keyed).await.unwrap().token, first.token);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_who_cannot_log_in_get_no_session(#[values(Store::Embedded, Store::Redis)] store: Store) {
    let server = Server::start(store).await;

    let client = &server.client;
    let user_id = client.user("alice").await;
    let unknown = issue(client, by_id("nobody")).await.unwrap_err();
    assert_eq!(parts(&unknown), (Code::NotFound, "ACCOUNT_NOT_FOUND".into(), vec![]));
    client.update(disable(&user_id)).await;
    let disabled = issue(client, by_id(&user_id)).await.unwrap_err();
    assert_eq!(parts(&disabled), (Code::PermissionDenied, "ACCOUNT_DISABLED".into(), vec![]));

    assert_invalid(&issue(client, pb::IssueSessionRequest::default()).await.unwrap_err(), "user_id");
    let both = pb::IssueSessionRequest { username: "alice".into(), ..by_id(&user_id) };
    assert_invalid(&issue(client, both).await.unwrap_err(), "user_id");
    let nowhere = pb::IssueSessionRequest { slot: "nowhere".into(), ..by_id(&user_id) };
    assert_invalid(&issue(client, nowhere).await.unwrap_err(), "slot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_method_needs_its_role() {
    use crate::support::server::{Server, Store};
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let user_id = client.user("alice").await;
    let key = async |role: &str| {
        let create = pb::CreateCallerRequest { name: role.into(), roles: vec![role.into()] };
        client.callers.clone().create_caller(client.admin(create)).await.unwrap().into_inner().key
    };
    let (issuer, operator) = (key("issuer").await, key("operator").await);
    let as_caller = |key: &str| {
        let mut caller = client.clone();
        key.clone_into(&mut caller.admin_key);
        caller
    };
    let (issuer, operator) = (as_caller(&issuer), as_caller(&operator));

    issue(&issuer, by_id(&user_id)).await.unwrap();
    let refused = issue(&operator, by_id(&user_id)).await.unwrap_err();
    assert_eq!(parts(&refused), (Code::PermissionDenied, "CALLER_NOT_ALLOWED".into(), vec![]));

    assert_eq!(operator.list_sessions(&user_id).await.len(), 1);
    let end = pb::EndSessionsRequest { user_id: user_id.clone(), ..Default::default() };
    let refused = issuer.sessions.clone().end_sessions(issuer.admin(end.clone())).await.unwrap_err();
    assert_eq!(parts(&refused).1, "CALLER_NOT_ALLOWED");
    let feed = Request::new(pb::WatchSessionsRequest::default());
    let refused = client.sessions.clone().watch_sessions(feed).await.unwrap_err();
    assert_eq!(parts(&refused), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED".into(), vec![]));
    operator.feed("").await;
    assert_eq!(operator.end_sessions(end).await, 1);
    let login =
        pb::LoginRequest { username: "alice".into(), password: PASSWORD.into(), ..Default::default() };
    client.try_login(login).await.unwrap();
}
