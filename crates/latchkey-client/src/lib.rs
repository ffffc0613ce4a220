//! The client for Rust: calls with types, and a guard that keeps everybody out of a tonic or axum server whose
//! session is not live.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use latchkey_client::{Client, Guard, Login};
//!
//! let client = Client::connect("127.0.0.1:50051")?;
//! let token = client.login(Login::new("anna", "correct horse battery staple", "Firefox")).await?.token;
//! match client.validate(&token, Default::default()).await? {
//!     Ok(identity) => println!("{} may come in", identity.username),
//!     Err(rejection) => println!("{rejection}; log in by yourself: {}", !rejection.terminal),
//! }
//!
//! // Every method of the server takes `authorization: Bearer <token>` now, but for those that are open.
//! let guard = Guard::new(client).open(["/grpc.health.v1.Health/Check"]);
//! let server = tonic::transport::Server::builder().layer(guard);
//! # let _ = server; Ok(())
//! # }
//! ```
//!
//! A handler asks [`Identity::of`] the request's extensions who calls. What a guarded server answers, and what the
//! guard does when Latchkey is away, is told at [`Guard`].
//!
//! It stands on the generated code (`crate::proto`), on tonic and on tower, and on nothing of the server.

pub mod bearer;
mod connect;
mod guard;
mod identity;
mod key;
mod login;
pub mod proto;
mod rejection;
mod verdict;

use std::time::Duration;

use tonic::{
    Code, Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::proto::{
    self as pb, auth_service_client::AuthServiceClient, session_service_client::SessionServiceClient,
};

pub use self::{
    connect::ConnectError,
    guard::{Guard, Guarded},
    identity::Identity,
    key::CallerKey,
    login::{Displaced, LoggedIn, LoggedOut, Login, Scope},
    rejection::Rejection,
    verdict::{Unavailable, Verdict},
};
pub use crate::proto::RejectionReason as Reason;

/// How long Latchkey may take for a verdict, unless the client says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take for a login, which waits for a hash, and a logout.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel that sends the caller's key along.
type Keyed = InterceptedService<Channel, CallerKey>;

/// Asks Latchkey. A copy shares the connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    key: CallerKey,
    timeout: Duration,
}

/// How to ask for a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ValidateOptions {
    /// Does not count as a use of the session.
    pub peek: bool,
    /// How old the answer may be. None leaves that to the settings of Latchkey.
    pub max_staleness: Option<Duration>,
}

impl Client {
    /// Of the Latchkey at this address, in plaintext. Connects with the first call, and again when it has to, and so
    /// has to be made within a Tokio runtime.
    pub fn connect(address: &str) -> Result<Self, ConnectError> {
        connect::endpoint(address).map(Self::with_endpoint)
    }

    /// The same of an endpoint of your own, such as one with TLS. What finds out soon that Latchkey is gone is set
    /// on it: the limit of connecting and the keepalive.
    pub fn with_endpoint(endpoint: Endpoint) -> Self {
        Self::with_channel(connect::tuned(endpoint).connect_lazy())
    }

    /// Over a channel that is left as it is.
    pub fn with_channel(channel: Channel) -> Self {
        Self { channel, key: CallerKey::default(), timeout: TIMEOUT }
    }

    /// Says who asks: with a caller's key, for a Latchkey with `access.validate = "caller"` and for the revocation
    /// feed. An empty one is none.
    pub fn with_caller_key(mut self, key: &str) -> Result<Self, ConnectError> {
        self.key = match key.trim_ascii() {
            "" => CallerKey::default(),
            key => CallerKey::parse(key).ok_or(ConnectError::Key)?,
        };
        Ok(self)
    }

    /// How long Latchkey may take for a verdict: [`TIMEOUT`] otherwise.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What is true of a token. An outage is never a verdict.
    pub async fn validate(&self, token: &str, ask: ValidateOptions) -> Result<Verdict, Unavailable> {
        if let Some(rejection) = verdict::rejected_unasked(token) {
            return Ok(Err(rejection));
        }
        let mut auth = self.auth();
        let asked = tokio::time::timeout(self.timeout, auth.validate(ask.about(token))).await;
        let answer = asked.map_err(|_| Unavailable::too_slow(self.timeout))??;
        verdict::verdict(answer.into_inner())
    }

    /// Opens a session by a password. The details of the status say why not: [`reason`].
    pub async fn login(&self, login: Login) -> Result<LoggedIn, Status> {
        let mut request = Request::new(pb::LoginRequest::from(login));
        request.set_timeout(LOGIN_TIMEOUT);
        within(LOGIN_TIMEOUT, self.auth().login(request)).await?.try_into()
    }

    /// Ends the session of a token, or others of its user. A token that is already dead, or is none, is no error.
    pub async fn logout(&self, token: &str, scope: Scope) -> Result<LoggedOut, Status> {
        // An empty one would be taken for that of the metadata.
        if let Some(rejection) = verdict::rejected_unasked(token) {
            return Ok(LoggedOut { ended: 0, rejection: Some(rejection) });
        }
        let mut request = Request::new(pb::LogoutRequest { token: token.into(), scope: scope.into() });
        request.set_timeout(LOGIN_TIMEOUT);
        let answer = within(LOGIN_TIMEOUT, self.auth().logout(request)).await?;
        Ok(LoggedOut { ended: answer.ended, rejection: answer.rejection.map(Rejection::from) })
    }

    /// Everything else that users do, as it is generated from the protocol.
    pub fn auth(&self) -> AuthServiceClient<Keyed> {
        AuthServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }

    /// What is done with the sessions of others, as it is generated from the protocol.
    pub fn sessions(&self) -> SessionServiceClient<Keyed> {
        SessionServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }
}

impl ValidateOptions {
    fn about(self, token: &str) -> pb::ValidateRequest {
        let max_staleness = self.max_staleness.map(|age| {
            // What is too long for the protocol is as good as the longest.
            prost_types::Duration::try_from(age)
                .unwrap_or(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 })
        });
        pb::ValidateRequest { token: token.to_owned(), peek: self.peek, max_staleness }
    }
}

/// Why Latchkey itself refused a call, as it names it: `INVALID_CREDENTIALS`. None where somebody else says so, such
/// as the connection.
pub fn reason(status: &Status) -> Option<String> {
    use tonic_types::StatusExt as _;
    let info = status.get_details_error_info()?;
    (info.domain == pb::ERROR_DOMAIN).then_some(info.reason)
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::new(Code::DeadlineExceeded, format!("no answer within {limit:?}"))),
    }
}
