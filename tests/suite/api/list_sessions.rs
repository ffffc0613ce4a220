//! `ListSessions` with `everyone`: the sessions of all users, in pages.

use latchkey::grpc::pb::{self, ListSessionsRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::server::{Server, Store};

fn everyone(page_size: i32, page_token: &str) -> ListSessionsRequest {
    ListSessionsRequest { everyone: true, page_size, page_token: page_token.into(), ..Default::default() }
}

async fn page(server: &Server, page_size: i32, token: &str) -> pb::ListSessionsResponse {
    let mut sessions = server.client.sessions.clone();
    sessions.list_sessions(server.client.admin(everyone(page_size, token))).await.unwrap().into_inner()
}

/// Returns all pages, as the usernames and devices of their sessions.
async fn pages(server: &Server, page_size: i32) -> Vec<Vec<String>> {
    let mut token = String::new();
    let mut pages = Vec::new();
    loop {
        let page = page(server, page_size, &token).await;
        pages.push(page.sessions.iter().map(|one| format!("{} {}", one.username, one.device)).collect());
        token = page.next_page_token;
        if token.is_empty() {
            return pages;
        }
    }
}

#[rstest::rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sessions_of_all_users_are_listed_in_pages(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::with(store, &[("SESSION__LIMIT", "2")]).await;
    let client = &server.client;
    assert_eq!(pages(&server, 0).await, [Vec::<String>::new()]);
    for name in ["dora", "alice", "bob", "carl"] {
        client.user(name).await;
    }
    client.login("bob", "b1").await;
    let out = client.login("alice", "a1").await.token;
    client.login("alice", "a2").await;
    client.login("dora", "d1").await;
    let all = ["alice a1", "alice a2", "bob b1", "dora d1"];
    assert_eq!(pages(&server, 0).await, [all]);
    // The sessions of one user are on one page, and the last page is the last one.
    assert_eq!(pages(&server, 1).await, [vec!["alice a1", "alice a2"], vec!["bob b1"], vec!["dora d1"]]);
    assert_eq!(pages(&server, 2).await, [vec!["alice a1", "alice a2"], vec!["bob b1", "dora d1"]]);
    let listed = page(&server, 10, "").await.sessions;
    assert!(listed.iter().all(|one| one.last_seen_at.is_some() && !one.user_id.is_empty()), "{listed:?}");

    // Changes between two pages lose no session that was live all the time and repeat none.
    let first = page(&server, 2, "").await;
    client.user("aaron").await;
    client.login("aaron", "new").await;
    client.login("carl", "c1").await;
    server.client.logout(&out, pb::LogoutScope::This).await;
    let rest = page(&server, 10, &first.next_page_token).await;
    let devices: Vec<_> = rest.sessions.iter().map(|one| one.device.as_str()).collect();
    assert_eq!((devices, rest.next_page_token.as_str()), (vec!["b1", "c1", "d1"], ""));
    assert_eq!(pages(&server, 0).await, [["aaron new", "alice a2", "bob b1", "carl c1", "dora d1"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_looks_at_a_limited_number_of_accounts() {
    let server = Server::start(Store::Embedded).await;
    let accounts = (0..1100).map(|number| pb::ImportedAccount {
        line: number,
        username: format!("user{number:04}"),
        password_hash: "!".into(),
        ..Default::default()
    });
    let accounts: Vec<_> = accounts.collect();
    let messages = accounts
        .chunks(500)
        .map(|chunk| pb::ImportAccountsRequest { accounts: chunk.to_vec(), validate_only: false });
    let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
    assert_eq!(
        server
            .client
            .accounts
            .clone()
            .import_accounts(server.client.admin(messages))
            .await
            .unwrap()
            .into_inner()
            .added,
        1100
    );
    server.client.user("zoe").await;
    server.client.login("zoe", "z1").await;
    // The first page has no session, and there is another one.
    assert_eq!(pages(&server, 10).await, [vec![], vec!["zoe z1".to_owned()]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_pages_are_violations_and_other_callers_may_not_list() {
    let server = Server::start(Store::Embedded).await;
    let user_id = server.client.user("alice").await;
    let refused = async |request: ListSessionsRequest| {
        let status =
            server.client.sessions.clone().list_sessions(server.client.admin(request)).await.unwrap_err();
        let violations = status.get_details_bad_request().unwrap().field_violations;
        (status.code(), violations[0].field.clone())
    };
    let one = |page_size, page_token: &str| ListSessionsRequest {
        user_id: user_id.clone(),
        everyone: false,
        ..everyone(page_size, page_token)
    };
    for (request, field) in [
        (ListSessionsRequest::default(), "user_id"),
        (one(10, ""), "page_size"),
        (one(0, "YWxpY2U"), "page_token"),
        (ListSessionsRequest { user_id: user_id.clone(), ..everyone(0, "") }, "everyone"),
        (everyone(-1, ""), "page_size"),
        (everyone(0, "not a token"), "page_token"),
    ] {
        assert_eq!(refused(request).await, (Code::InvalidArgument, field.to_owned()));
    }
}
