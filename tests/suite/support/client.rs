//! A gRPC client with the words that tests use.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{
    self, account_service_client::AccountServiceClient, auth_service_client::AuthServiceClient,
    caller_service_client::CallerServiceClient, validate_response::Verdict,
};
use tonic::{Request, Status, transport::Channel, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// The password of every test user.
pub const PASSWORD: &str = "correct horse battery staple";

#[derive(Clone)]
pub struct Client {
    pub auth: AuthServiceClient<Channel>,
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

    /// Over a connection that is there.
    pub fn over(channel: Channel, admin_key: &str) -> Self {
        Self {
            auth: AuthServiceClient::new(channel.clone()),
            accounts: AccountServiceClient::new(channel.clone()),
            callers: CallerServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
            admin_key: admin_key.trim().to_owned(),
        }
    }

    /// The request with the admin key.
    pub fn admin<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-latchkey-key", self.admin_key.parse().unwrap());
        request
    }

    /// Creates a user with the usual password: the id.
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

    pub async fn try_validate(&self, token: &str) -> Result<Verdict, Status> {
        let message = pb::ValidateRequest { token: token.into(), ..Default::default() };
        self.auth.clone().validate(message).await.map(|answer| answer.into_inner().verdict.unwrap())
    }

    pub async fn validate(&self, token: &str) -> Verdict {
        self.try_validate(token).await.unwrap()
    }

    /// The session of a token that must be good.
    pub async fn session(&self, token: &str) -> pb::Session {
        match self.validate(token).await {
            Verdict::Session(session) => session,
            Verdict::Rejection(rejection) => panic!("rejected: {rejection:?}"),
        }
    }

    /// The rejection of a token that must be bad.
    pub async fn rejection(&self, token: &str) -> pb::Rejection {
        match self.validate(token).await {
            Verdict::Session(session) => panic!("accepted: {session:?}"),
            Verdict::Rejection(rejection) => rejection,
        }
    }

    pub async fn logout(&self, token: &str, scope: pb::LogoutScope) -> pb::LogoutResponse {
        let message = pb::LogoutRequest { token: token.into(), scope: scope.into() };
        self.auth.clone().logout(message).await.unwrap().into_inner()
    }

    pub async fn update(&self, message: pb::UpdateAccountRequest) -> pb::UpdateAccountResponse {
        self.accounts.clone().update_account(self.admin(message)).await.unwrap().into_inner()
    }

    /// What the health service says of a service.
    pub async fn serving(&self, service: &str) -> ServingStatus {
        let message = HealthCheckRequest { service: service.into() };
        self.health.clone().check(message).await.unwrap().into_inner().status()
    }

    /// Waits until the server says that it serves.
    pub async fn until_serving(&self) {
        self.until(ServingStatus::Serving, Duration::from_secs(10)).await;
    }

    /// Waits until the server says this of itself; how long it took.
    pub async fn until(&self, status: ServingStatus, limit: Duration) -> Duration {
        let begun = Instant::now();
        while self.serving("").await != status {
            assert!(begun.elapsed() < limit, "not {status:?} after {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }
}

pub fn login_request(username: &str, device: &str) -> pb::LoginRequest {
    pb::LoginRequest {
        username: username.into(),
        password: PASSWORD.into(),
        slot: String::new(),
        device: device.into(),
    }
}

/// Whether a verdict accepts.
pub fn is_live(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Session(_))
}
