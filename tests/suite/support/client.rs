//! A gRPC client with short methods for the calls that tests make.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{
    self, account_service_client::AccountServiceClient, auth_service_client::AuthServiceClient,
    caller_service_client::CallerServiceClient, session_service_client::SessionServiceClient,
    validate_response::Verdict, watch_session_response::Verdict as Watched,
    watch_sessions_response::Event as FeedEvent,
};
use tokio::time::timeout;
use tonic::{Request, Status, Streaming, transport::Channel, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// The password of every test user.
pub const PASSWORD: &str = "correct horse battery staple";

/// The name of logins in the health service.
pub const LOGIN: &str = "latchkey.v1.AuthService/Login";

#[derive(Clone)]
pub struct Client {
    pub auth: AuthServiceClient<Channel>,
    pub sessions: SessionServiceClient<Channel>,
    pub accounts: AccountServiceClient<Channel>,
    pub callers: CallerServiceClient<Channel>,
    pub health: HealthClient<Channel>,
    pub admin_key: String,
}

impl Client {
    pub async fn connect(address: SocketAddr, admin_key: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Self::over(endpoint.connect().await.unwrap(), admin_key)
    }

    /// Uses an open connection.
    pub fn over(channel: Channel, admin_key: &str) -> Self {
        Self {
            auth: AuthServiceClient::new(channel.clone()),
            sessions: SessionServiceClient::new(channel.clone()),
            accounts: AccountServiceClient::new(channel.clone()),
            callers: CallerServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
            admin_key: admin_key.trim().to_owned(),
        }
    }

    /// Makes a request with the admin key.
    pub fn admin<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-latchkey-key", self.admin_key.parse().unwrap());
        request
    }

    /// Creates a user with the usual password and returns the id.
    pub async fn user(&self, username: &str) -> String {
        self.user_with_roles(username, &[]).await
    }

    pub async fn user_with_roles(&self, username: &str, roles: &[&str]) -> String {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let message =
            pb::CreateAccountRequest { username: username.into(), password: PASSWORD.into(), roles };
        let answer = self.accounts.clone().create_account(self.admin(message)).await.unwrap();
        answer.into_inner().account.unwrap().user_id
    }

    pub async fn try_login(&self, message: pb::LoginRequest) -> Result<pb::LoginResponse, Status> {
        self.auth.clone().login(message).await.map(tonic::Response::into_inner)
    }

    /// Logs in with the usual password.
    pub async fn login(&self, username: &str, device: &str) -> pb::LoginResponse {
        self.try_login(login_request(username, device)).await.unwrap()
    }

    /// Opens a session as a trusted service does, without hashing a password.
    pub async fn try_issue(
        &self,
        message: pb::IssueSessionRequest,
    ) -> Result<pb::IssueSessionResponse, Status> {
        let answer = self.sessions.clone().issue_session(self.admin(message)).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Ends sessions and returns their number.
    pub async fn try_end(&self, message: pb::EndSessionsRequest) -> Result<u32, Status> {
        let answer = self.sessions.clone().end_sessions(self.admin(message)).await;
        answer.map(|answer| answer.into_inner().ended)
    }

    /// Watches the session of a token.
    pub async fn watch_stream(&self, token: &str) -> Result<Streaming<pb::WatchSessionResponse>, Status> {
        let message = pb::WatchSessionRequest { token: token.into() };
        self.auth.clone().watch_session(message).await.map(tonic::Response::into_inner)
    }

    /// Opens the feed after a cursor, or from now on if the cursor is empty.
    pub async fn feed_stream(&self, after: &str) -> Result<Streaming<pb::WatchSessionsResponse>, Status> {
        let message = pb::WatchSessionsRequest { after: after.into(), ..Default::default() };
        let answer = self.sessions.clone().watch_sessions(self.admin(message)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub async fn try_validate(&self, token: &str) -> Result<Verdict, Status> {
        let message = pb::ValidateRequest { token: token.into(), ..Default::default() };
        self.auth.clone().validate(message).await.map(|answer| answer.into_inner().verdict.unwrap())
    }

    pub async fn validate(&self, token: &str) -> Verdict {
        self.try_validate(token).await.unwrap()
    }

    /// Returns the session of a token that must be accepted.
    pub async fn session(&self, token: &str) -> pb::Session {
        match self.validate(token).await {
            Verdict::Session(session) => session,
            Verdict::Rejection(rejection) => panic!("rejected: {rejection:?}"),
        }
    }

    /// Returns the rejection of a token that must be rejected.
    pub async fn rejection(&self, token: &str) -> pb::Rejection {
        match self.validate(token).await {
            Verdict::Session(session) => panic!("accepted: {session:?}"),
            Verdict::Rejection(rejection) => rejection,
        }
    }

    /// Watches the session of a token. Returns the session and the rest of the stream.
    pub async fn try_watch(&self, token: &str) -> Result<(pb::Session, Watch), Status> {
        let mut stream = self.watch_stream(token).await?;
        match stream.message().await?.unwrap().verdict.unwrap() {
            Watched::Session(session) => Ok((session, Watch(stream))),
            Watched::Rejection(rejection) => panic!("the watch begins with {rejection:?}"),
        }
    }

    /// Watches the session of a token that must be accepted.
    pub async fn watch(&self, token: &str) -> Watch {
        self.try_watch(token).await.unwrap().1
    }

    /// Opens the feed as `feed_stream` does and reads its first heartbeat.
    pub async fn feed(&self, after: &str) -> Feed {
        self.feed_of(pb::WatchSessionsRequest { after: after.into(), ..Default::default() }).await
    }

    pub async fn feed_of(&self, message: pb::WatchSessionsRequest) -> Feed {
        let stream = self.sessions.clone().watch_sessions(self.admin(message)).await.unwrap().into_inner();
        let mut feed = Feed { stream, cursor: String::new() };
        assert!(matches!(feed.next().await, FeedEvent::Heartbeat(pb::Heartbeat { as_of: None })));
        feed
    }

    pub async fn end_sessions(&self, message: pb::EndSessionsRequest) -> u32 {
        self.try_end(message).await.unwrap()
    }

    pub async fn list_sessions(&self, user_id: &str) -> Vec<pb::Session> {
        let message = pb::ListSessionsRequest { user_id: user_id.into(), ..Default::default() };
        self.sessions.clone().list_sessions(self.admin(message)).await.unwrap().into_inner().sessions
    }

    pub async fn logout(&self, token: &str, scope: pb::LogoutScope) -> pb::LogoutResponse {
        let message = pb::LogoutRequest { token: token.into(), scope: scope.into() };
        self.auth.clone().logout(message).await.unwrap().into_inner()
    }

    pub async fn update(&self, message: pb::UpdateAccountRequest) -> pb::UpdateAccountResponse {
        self.accounts.clone().update_account(self.admin(message)).await.unwrap().into_inner()
    }

    /// Returns the status that the health service reports.
    pub async fn serving(&self, service: &str) -> ServingStatus {
        let message = HealthCheckRequest { service: service.into() };
        self.health.clone().check(message).await.unwrap().into_inner().status()
    }

    /// Waits until the server serves, including logins.
    pub async fn until_serving(&self) {
        for service in ["", LOGIN] {
            self.until_service(service, ServingStatus::Serving, Duration::from_secs(10)).await;
        }
    }

    /// Waits until the server has this status and returns how long that took.
    pub async fn until(&self, status: ServingStatus, limit: Duration) -> Duration {
        self.until_service("", status, limit).await
    }

    /// Waits until a service has this status and returns how long that took.
    pub async fn until_service(&self, service: &str, status: ServingStatus, limit: Duration) -> Duration {
        let begun = Instant::now();
        while self.serving(service).await != status {
            assert!(begun.elapsed() < limit, "{service} is not {status:?} after {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }
}

/// How long a message of a stream may take.
const PATIENCE: Duration = Duration::from_secs(10);

async fn in_time<T>(message: impl Future<Output = T>) -> T {
    timeout(PATIENCE, message).await.unwrap_or_else(|_| panic!("nothing arrived within {PATIENCE:?}"))
}

/// A stream that waits for the end of one session.
pub struct Watch(Streaming<pb::WatchSessionResponse>);

impl Watch {
    /// Waits for the end of the session and of the stream.
    pub async fn end(mut self) -> pb::Rejection {
        let end = async {
            let last = self.0.message().await.unwrap().unwrap().verdict;
            assert!(self.0.message().await.unwrap().is_none(), "a message follows {last:?}");
            last
        };
        match in_time(end).await {
            Some(Watched::Rejection(rejection)) => rejection,
            other => panic!("not an end: {other:?}"),
        }
    }

    /// Waits for the error that ends the stream.
    pub async fn error(mut self) -> Status {
        in_time(self.0.message()).await.unwrap_err()
    }

    /// Whether no message arrives for a short time.
    pub async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(50), self.0.message()).await.is_err()
    }
}

/// A reader of the revocation feed.
pub struct Feed {
    stream: Streaming<pb::WatchSessionsResponse>,
    /// The cursor of the last message.
    pub cursor: String,
}

impl Feed {
    pub async fn try_next(&mut self) -> Result<FeedEvent, Status> {
        let message = in_time(self.stream.message()).await?;
        let message = message.unwrap();
        assert!(!message.cursor.is_empty());
        self.cursor = message.cursor;
        Ok(message.event.unwrap())
    }

    pub async fn next(&mut self) -> FeedEvent {
        self.try_next().await.unwrap()
    }

    /// Returns the next session that has ended and ignores heartbeats.
    pub async fn ended(&mut self) -> pb::EndedSession {
        loop {
            match self.next().await {
                FeedEvent::Ended(ended) => return ended,
                FeedEvent::Heartbeat(_) => {}
                other => panic!("not an end: {other:?}"),
            }
        }
    }
}

pub fn login_request(username: &str, device: &str) -> pb::LoginRequest {
    pb::LoginRequest {
        username: username.into(),
        password: PASSWORD.into(),
        device: device.into(),
        ..Default::default()
    }
}

pub fn is_live(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Session(_))
}
