//! A server in this process: the same [`App`] as in production, whose methods are called without a connection.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fs,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use latchkey::{
    admission::Admission,
    app::App,
    config::Config,
    domain::{
        accounts::AccountKey,
        login::SessionRequest,
        origin::Origin,
        password::NewPassword,
        ports::Clock,
        types::{Device, Role, Timestamp},
        username::Username,
    },
    gateway::{Gateway, GatewaySettings, HeaderNames},
    grpc::{
        self,
        access::{Access, AccessSettings},
        dispatch::{DispatchSettings, Dispatcher},
        health::Health,
        origin::Origins,
    },
    transport::peer::Peer,
};
use tempfile::TempDir;
use tokio::{
    runtime::{self, Runtime},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Stands for the token of the live session in an input.
pub(crate) const TOKEN: &str = "$TOKEN";

/// The name of the cookie that may contain the token.
const COOKIE: &str = "token";

/// A call that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// A Saturday in 2033. No session lapses, because the clock does not move.
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(2_000_000_000)
    }
}

pub(crate) struct Server {
    runtime: Runtime,
    dispatcher: Dispatcher,
    peer: Peer,
    /// The names of the identity headers.
    pub(crate) headers: HeaderNames,
    /// The token of a live session.
    pub(crate) token: String,
    /// The user of that session.
    pub(crate) user_id: String,
    _app: App,
    _data: TempDir,
}

/// The response to a call.
pub(crate) struct Response {
    /// The status of gRPC.
    pub(crate) code: i32,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Returns the only message of the response.
    pub(crate) fn message(&self) -> &[u8] {
        assert!(
            self.body.len() >= 5 && self.body[0] == 0,
            "the response is not one message without compression"
        );
        let length = u32::from_be_bytes([self.body[1], self.body[2], self.body[3], self.body[4]]);
        assert_eq!(self.body.len() - 5, length as usize, "the response is not one message");
        &self.body[5..]
    }
}

pub(crate) static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

impl Server {
    fn start() -> Self {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().expect("the runtime starts");
        let data = tempfile::tempdir().expect("there is room for a database");
        let (app, token, user_id) = runtime.block_on(start_app(&data));
        let headers = HeaderNames {
            user_id: "x-latchkey-user-id".to_owned(),
            username: "x-latchkey-username".to_owned(),
            session_id: "x-latchkey-session-id".to_owned(),
            slot: "x-latchkey-slot".to_owned(),
            roles: "x-latchkey-roles".to_owned(),
        };
        let settings = GatewaySettings { cookie: Some(COOKIE.to_owned()), headers: headers.clone() };
        let gateway = Arc::new(Gateway::new(Arc::clone(&app.engine), settings));
        let origins = Origins::new(Vec::new());
        let access =
            Access::new(b"admin", AccessSettings::default(), Arc::clone(&app.engine), origins.clone());
        let limits = DispatchSettings { timeout: LIMIT, body_timeout: LIMIT };
        let dispatcher = runtime.block_on(async {
            let health = Health::not_serving().await;
            let shutdown = CancellationToken::new();
            grpc::services(&gateway, access, &origins, &health, limits, false, &shutdown)
                .expect("the services start")
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let connection = Admission::new(&[], Vec::new()).connection(address.ip());
        let peer = Peer { address, certificate: None, connection };
        Self { runtime, dispatcher, peer, headers, token, user_id, _app: app, _data: data }
    }

    /// Calls a method with a body in these chunks.
    pub(crate) fn call(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        chunks: impl IntoIterator<Item = Bytes>,
    ) -> Response {
        let mut request = Request::post(method).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Chunks(chunks.into_iter().collect())).expect("the request is valid");
        self.runtime.block_on(async {
            within(Box::pin(async {
                let response = self.dispatcher.serve(&self.peer, request).await;
                let (head, body) = response.into_parts();
                let body = body.collect().await.expect("the response has a body");
                let code = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
                let code = code(&head.headers).or_else(|| body.trailers().and_then(code));
                Response { code: code.expect("the response has a status"), body: body.to_bytes().to_vec() }
            }))
            .await
        })
    }
}

/// Frames a message as gRPC does.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("inputs are small");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("the call hangs")
}

async fn start_app(data: &TempDir) -> (App, String, String) {
    let file = data.path().join("latchkey.toml");
    let directory = data.path().to_str().expect("the path is text");
    let settings = format!(
        "data_dir = '{directory}'\n\
         listen.grpc = '127.0.0.1:0'\n\
         listen.http = '127.0.0.1:0'\n\
         password = {{ allow_weak = true, memory_kib = 8, iterations = 1 }}\n\
         audit.log = false\n"
    );
    fs::write(&file, settings).expect("the directory is writable");
    let config = Config::load(Some(&file), []).expect("the configuration is valid");
    let app = App::start(&config, Arc::new(FixedClock)).await.expect("the server starts");
    let username = Username::parse("J\u{fc}rgen, 100%").expect("the name is valid");
    let password = NewPassword::new("password", "correct horse battery staple".to_owned());
    let roles = vec![Role::parse("staff").expect("the role is valid")];
    let origin = Origin::default();
    let account =
        app.engine.create_account(username, password, roles, &origin).await.expect("the account is created");
    let request = SessionRequest {
        slot: String::new(),
        device: Device::parse("phone").expect("the device is valid"),
        login_key: None,
        takeover: false,
    };
    let subject = AccountKey::Id(account.user_id.clone());
    let login = app.engine.issue_session(&subject, request, &origin).await.expect("the session is opened");
    (app, login.token, account.user_id.to_string())
}

/// A body in chunks.
struct Chunks(VecDeque<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}
