//! The token in a cookie, for pages that never see it.

use std::time::Duration;

use latchkey::grpc::pb::{
    self, LogoutScope, RejectionReason, auth_service_client::AuthServiceClient, validate_response::Verdict,
    watch_session_response::Verdict as Watched,
};
use tonic::{Code, Request, Response, Status};

use super::{
    browsers::{SITE, Web, web},
    parts,
};
use crate::support::{
    client::{PASSWORD, login_request},
    http,
    server::{Server, Store},
};

const NAME: &str = "__Host-latchkey";
const ATTRIBUTES: &str = "; Path=/; Secure; HttpOnly; SameSite=Lax";
const CLEARED: &str = "__Host-latchkey=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax";

async fn server(more: &[(&str, &str)]) -> Server {
    let mut settings =
        vec![("BROWSER__ORIGINS", SITE), ("BROWSER__SET_COOKIE", "true"), ("GATEWAY__COOKIE", NAME)];
    settings.extend_from_slice(more);
    Server::with(Store::Embedded, &settings).await
}

/// Makes a request with metadata.
pub fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in metadata {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn set_cookie<T>(answer: &Response<T>) -> Option<String> {
    let mut values = set_cookies(answer);
    assert!(values.len() <= 1, "there is more than one set-cookie: {values:?}");
    values.pop()
}

pub fn set_cookies<T>(answer: &Response<T>) -> Vec<String> {
    let values = answer.metadata().get_all("set-cookie").iter();
    values.map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// Returns `name=value` of a cookie that was set.
pub fn pair(set: &str) -> &str {
    set.split(';').next().unwrap()
}

/// A page in a browser that holds cookies and no token.
struct Page {
    web: Web,
    cookie: Option<String>,
}

impl Page {
    fn of(server: &Server) -> Self {
        Self { web: web(server.app.grpc, false), cookie: None }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut metadata = vec![("origin", SITE)];
        metadata.extend(self.cookie.as_deref().map(|cookie| ("cookie", cookie)));
        with(message, &metadata)
    }

    fn keep<T>(&mut self, answer: &Response<T>) {
        if let Some(set) = set_cookie(answer) {
            self.cookie = Some(pair(&set).to_owned()).filter(|_| !set.contains("; Max-Age=0;"));
        }
    }

    async fn login(&mut self, device: &str) -> Response<pb::LoginResponse> {
        let answer = self.web.login(self.request(login_request("alice", device))).await.unwrap();
        self.keep(&answer);
        answer
    }

    async fn verdict(&mut self) -> Result<Verdict, Status> {
        let answer = self.web.validate(self.request(pb::ValidateRequest::default())).await?;
        Ok(answer.into_inner().verdict.unwrap())
    }

    async fn logout(&mut self, scope: LogoutScope) -> (pb::LogoutResponse, Option<String>) {
        let message = pb::LogoutRequest { scope: scope.into(), ..Default::default() };
        let answer = self.web.logout(self.request(message)).await.unwrap();
        self.keep(&answer);
        let set = set_cookie(&answer);
        (answer.into_inner(), set)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_logs_in_and_out_and_never_sees_the_token() {
    let server = server(&[]).await;
    server.client.user("alice").await;
    let mut page = Page::of(&server);
    let answer = page.login("Firefox").await;
    let set = set_cookie(&answer).unwrap();
    let token = pair(&set).strip_prefix("__Host-latchkey=").unwrap();
    assert_eq!(set, format!("__Host-latchkey={token}; Max-Age=86400{ATTRIBUTES}"));
    assert_eq!(server.client.session(token).await.device, "Firefox");
    let message = answer.into_inner();
    assert_eq!((message.token.as_str(), message.session.unwrap().device.as_str()), ("", "Firefox"));

    // Every method with a token accepts the cookie, and gateways do too.
    assert!(
        matches!(page.verdict().await.unwrap(), Verdict::Session(session) if session.device == "Firefox")
    );
    let watch = page.request(pb::WatchSessionRequest::default());
    let mut watch = page.web.watch_session(watch).await.unwrap().into_inner();
    assert!(matches!(watch.message().await.unwrap().unwrap().verdict, Some(Watched::Session(_))));
    let change = page.request(pb::ChangePasswordRequest {
        current_password: PASSWORD.into(),
        new_password: PASSWORD.into(),
        ..Default::default()
    });
    page.web.change_password(change).await.unwrap();
    let cookie = page.cookie.clone().unwrap();
    let through_gateway =
        async || http::get(server.app.http, "/forward-auth", &[("cookie", cookie.as_bytes())]).await;
    assert_eq!(through_gateway().await.status, 200);

    let (message, set) = page.logout(LogoutScope::This).await;
    assert_eq!((message.ended, message.rejection, set.as_deref()), (1, None, Some(CLEARED)));
    assert_eq!(page.cookie, None);
    let Some(Watched::Rejection(end)) = watch.message().await.unwrap().unwrap().verdict else { panic!() };
    assert_eq!(end.reason(), RejectionReason::LoggedOut);
    assert_eq!(through_gateway().await.json()["reason"], "LOGGED_OUT");
    assert_eq!(page.verdict().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_cookie_gets_its_rejection_and_is_cleared() {
    let server = server(&[]).await;
    server.client.user("alice").await;
    let mut page = Page::of(&server);
    page.login("Firefox").await;
    let phone = server.client.login("alice", "phone").await.token;
    let Verdict::Rejection(rejection) = page.verdict().await.unwrap() else { panic!() };
    assert_eq!((rejection.reason(), rejection.by_device.as_str()), (RejectionReason::Replaced, "phone"));
    for scope in [LogoutScope::Others, LogoutScope::All, LogoutScope::This] {
        let cookie = page.cookie.clone();
        let (message, set) = page.logout(scope).await;
        assert_eq!(message.ended, 0);
        assert_eq!(message.rejection.unwrap().reason(), RejectionReason::Replaced);
        assert_eq!(set.as_deref(), Some(CLEARED), "{scope:?}");
        page.cookie = cookie;
    }
    assert_eq!(server.client.session(&phone).await.device, "phone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_logout_of_the_session_in_the_cookie_clears_it() {
    let server = server(&[("SESSION__LIMIT", "3")]).await;
    server.client.user("alice").await;
    let other = server.client.login("alice", "phone").await.token;
    let mut page = Page::of(&server);
    page.login("Firefox").await;
    let (message, set) = page.logout(LogoutScope::Others).await;
    assert_eq!((message.ended, set), (1, None), "this one goes on");

    // A logout with another token leaves the cookie.
    for token in [other, server.client.login("alice", "tablet").await.token, "nonsense".into()] {
        let message = pb::LogoutRequest { token: token.clone(), ..Default::default() };
        assert_eq!(set_cookie(&page.web.logout(page.request(message)).await.unwrap()), None, "{token}");
        let mut request = page.request(pb::LogoutRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        assert_eq!(set_cookie(&page.web.logout(request).await.unwrap()), None, "{token}");
    }
    assert!(matches!(page.verdict().await.unwrap(), Verdict::Session(_)));
    let (message, set) = page.logout(LogoutScope::All).await;
    assert_eq!((message.ended, set.as_deref()), (1, Some(CLEARED)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_lives_as_long_as_the_token() {
    let server = server(&[("SESSION__ABSOLUTE_TIMEOUT", "2h")]).await;
    server.client.user("alice").await;
    let mut page = Page::of(&server);
    let login = pb::LoginRequest { idempotency_key: "1".into(), ..login_request("alice", "") };
    let age = async |page: &mut Page| {
        let set = set_cookie(&page.web.login(page.request(login.clone())).await.unwrap()).unwrap();
        let (_, rest) = set.split_once("; Max-Age=").unwrap();
        rest.split_once(';').unwrap().0.parse::<u64>().unwrap()
    };
    let first = age(&mut page).await;
    assert!((7199..=7200).contains(&first), "{first}");
    server.clock.advance(Duration::from_secs(30));
    assert_eq!(age(&mut page).await, first - 30, "the same session, told again");

    let wrong = pb::LoginRequest { password: "wrong".into(), ..login_request("alice", "") };
    let status = page.web.login(page.request(wrong)).await.unwrap_err();
    assert_eq!((status.code(), status.metadata().get("set-cookie")), (Code::Unauthenticated, None));
}

/// Makes a request as a gateway does that translates browser requests to gRPC.
async fn by_gateway(server: &Server) -> AuthServiceClient<tonic::transport::Channel> {
    AuthServiceClient::connect(format!("http://{}", server.app.grpc)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_counts_only_if_no_other_site_can_have_sent_it() {
    let server = server(&[]).await;
    server.client.user("alice").await;
    let mut client = by_gateway(&server).await;
    let asked = ("x-latchkey-cookie", "true");
    let page = ("origin", SITE);
    let foreign: [&[(&str, &str)]; 5] = [
        &[("origin", "https://evil.example")],
        &[("origin", "https://evil.example"), asked],
        &[page, ("origin", "https://evil.example")],
        &[("origin", "null"), asked],
        &[("origin", ""), asked],
    ];
    for metadata in foreign {
        let status = client.login(with(login_request("alice", ""), metadata)).await.unwrap_err();
        assert_eq!(parts(&status).0, Code::PermissionDenied, "{metadata:?}: {status:?}");
        assert!(status.message().contains("browser.origins"), "{status:?}");
    }
    let refused: [&[(&str, &str)]; 5] = [
        &[],
        &[("referer", "https://app.example.com/")],
        &[("x-latchkey-cookie", "false")],
        &[("x-latchkey-cookie", "")],
        &[("x-latchkey-cookie", "1")],
    ];
    for metadata in refused {
        let login = client.login(with(login_request("alice", ""), metadata)).await.unwrap();
        assert_eq!(set_cookie(&login), None, "{metadata:?}");
        let cookie = format!("{NAME}={}", login.into_inner().token);
        let all = [metadata, &[("cookie", &cookie)]].concat();
        let status = client.validate(with(pb::ValidateRequest::default(), &all)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{metadata:?}");
        let status = client.logout(with(pb::LogoutRequest::default(), &all)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{metadata:?}");
    }
    for (metadata, is_page) in [(&[page][..], true), (&[page, asked], true), (&[asked], false)] {
        let login = client.login(with(login_request("alice", ""), metadata)).await.unwrap();
        let set = set_cookie(&login).unwrap();
        // A server that acts for a browser may need the token.
        assert_eq!(login.into_inner().token.is_empty(), is_page, "{metadata:?}");
        let all = [metadata, &[("cookie", pair(&set))]].concat();
        let verdict = client.validate(with(pb::ValidateRequest::default(), &all)).await.unwrap();
        assert!(matches!(verdict.into_inner().verdict, Some(Verdict::Session(_))), "{metadata:?}");
        let logout = client.logout(with(pb::LogoutRequest::default(), &all)).await.unwrap();
        assert_eq!(set_cookie(&logout).as_deref(), Some(CLEARED));
        assert_eq!(logout.into_inner().ended, 1);
    }
    // The logout with an explicit token clears the cookie too.
    let token = server.client.login("alice", "").await.token;
    let logout = client.logout(with(pb::LogoutRequest { token, ..Default::default() }, &[asked])).await;
    assert_eq!(set_cookie(&logout.unwrap()).as_deref(), Some(CLEARED));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explicit_token_takes_precedence_over_the_cookie() {
    let server = server(&[("SESSION__LIMIT", "3")]).await;
    server.client.user("alice").await;
    let mut client = by_gateway(&server).await;
    let [a, b, c] = [
        server.client.login("alice", "a").await.token,
        server.client.login("alice", "b").await.token,
        server.client.login("alice", "c").await.token,
    ];
    let (cookie, bearer) = (format!("theme=dark; {NAME}={a}"), format!("Bearer {b}"));
    let all = [("origin", SITE), ("cookie", &*cookie), ("authorization", &*bearer)];
    for (token, metadata, device) in
        [(&c, &all[..], "c"), (&String::new(), &all, "b"), (&String::new(), &all[..2], "a")]
    {
        let message = pb::ValidateRequest { token: token.clone(), ..Default::default() };
        let verdict = client.validate(with(message, metadata)).await.unwrap().into_inner().verdict;
        assert!(matches!(verdict, Some(Verdict::Session(session)) if session.device == device), "{device}");
    }
    for metadata in [
        &[("origin", SITE), ("cookie", &*cookie), ("authorization", "Basic YTpi")][..],
        &[("origin", SITE), ("cookie", "__Host-latchkey=")],
        &[("origin", SITE), ("cookie", "__host-latchkey=x")],
    ] {
        let status = client.validate(with(pb::ValidateRequest::default(), metadata)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{metadata:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_issues_sessions_can_ask_for_the_cookie() {
    let server = server(&[
        ("GATEWAY__COOKIE", "__Secure-latchkey"),
        ("BROWSER__COOKIE_DOMAIN", "example.com"),
        ("BROWSER__COOKIE_SAME_SITE", "strict"),
    ])
    .await;
    let user_id = server.client.user("alice").await;
    let message = pb::IssueSessionRequest { user_id, ..Default::default() };
    let mut request = server.client.admin(message.clone());
    let answer = server.client.sessions.clone().issue_session(request).await.unwrap();
    assert_eq!(set_cookie(&answer), None);
    request = server.client.admin(message);
    request.metadata_mut().insert("x-latchkey-cookie", "true".parse().unwrap());
    let answer = server.client.sessions.clone().issue_session(request).await.unwrap();
    let set = set_cookies(&answer);
    let token = answer.into_inner().token;
    let rest = "Path=/; Secure; HttpOnly; SameSite=Strict; Domain=example.com";
    assert_eq!(
        set,
        [
            "__Secure-latchkey=; Max-Age=0; Path=/; Secure; HttpOnly".to_owned(),
            format!("__Secure-latchkey={token}; Max-Age=86400; {rest}"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_configured_origins_may_send_credentials() {
    let server = server(&[]).await;
    for (origin, allowed) in [(SITE, true), ("https://evil.example", false)] {
        let headers: [(&str, &[u8]); 3] = [
            ("origin", origin.as_bytes()),
            ("access-control-request-method", b"POST"),
            ("content-type", b"application/grpc-web+proto"),
        ];
        for (line, body) in [("OPTIONS", &[][..]), ("POST", &[0; 5])] {
            let line = format!("{line} /latchkey.v1.AuthService/GetJwks");
            let answer = http::exchange(server.app.grpc, &line, &headers, body).await.unwrap();
            let header = |name: &str| answer.header(name).map(str::to_owned);
            let expected = |value: &str| allowed.then(|| value.to_owned());
            assert_eq!(header("access-control-allow-origin"), expected(SITE), "{answer:?}");
            assert_eq!(header("access-control-allow-credentials"), expected("true"), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_are_ignored_unless_the_server_sets_them() {
    let server =
        Server::with(Store::Embedded, &[("BROWSER__ORIGINS", SITE), ("GATEWAY__COOKIE", NAME)]).await;
    server.client.user("alice").await;
    let mut page = Page::of(&server);
    let login = page.login("").await;
    assert_eq!(set_cookie(&login), None);
    page.cookie = Some(format!("{NAME}={}", login.into_inner().token));
    assert_eq!(page.verdict().await.unwrap_err().code(), Code::InvalidArgument);
    let mut client = by_gateway(&server).await;
    let asked = [("x-latchkey-cookie", "true"), ("cookie", page.cookie.as_deref().unwrap())];
    let status = client.validate(with(pb::ValidateRequest::default(), &asked)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(set_cookie(&client.login(with(login_request("alice", ""), &asked)).await.unwrap()), None);
}
