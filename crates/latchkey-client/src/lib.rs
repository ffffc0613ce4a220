//! Client for Latchkey, a gRPC authentication service in which the latest login wins.
//!
//! - [`Client`] logs users in and out and validates access tokens. The generated clients, [`Client::auth`] and
//!   [`Client::sessions`], offer all other calls of the protocol.
//! - [`Guard`] is a [tower layer](tower::Layer) for tonic and axum servers. It lets a request through only if the
//!   session of its access token is live, and ends streams when the session ends.
//!
//! # Connecting
//!
//! [`Client::connect`] takes the address of Latchkey, or those of its replicas. The client connects with the first call
//! and reconnects when it has to. Clones share the connections.
//!
//! A [caller key](Client::with_caller_key) authenticates the calling service. It is required if the server has
//! `access.validate = "caller"`, and for the [revocation feed](Guard::revocation_feed).
//!
//! ```no_run
//! # fn example() -> Result<(), latchkey_client::ConnectError> {
//! use latchkey_client::Client;
//!
//! let client = Client::connect("127.0.0.1:50051")?.with_caller_key("lkc_...")?;
//! # let _ = client; Ok(())
//! # }
//! ```
//!
//! # Logging in and out
//!
//! A login ends the oldest session of the user in the same slot, if the slot is full. [`error_reason`] tells why a
//! login failed.
//!
//! ```no_run
//! # async fn example(client: latchkey_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use latchkey_client::{Login, Scope, error_reason};
//!
//! let login = Login::new("anna", "correct horse battery staple", "Firefox on Linux");
//! match client.login(login).await {
//!     Ok(logged_in) => {
//!         for displaced in &logged_in.displaced {
//!             println!("the session on {} has ended", displaced.device);
//!         }
//!         client.logout(&logged_in.token, Scope::This).await?;
//!     }
//!     Err(status) if error_reason(&status).as_deref() == Some("INVALID_CREDENTIALS") => {
//!         println!("unknown user or wrong password");
//!     }
//!     Err(status) => return Err(status.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Validating a token
//!
//! [`Client::validate`] returns a [`Verdict`]: the [`Identity`] behind the token, or the [`Rejection`] that explains
//! why the token is not valid. A validation counts as a use of the session and restarts its idle timeout, unless
//! [`ValidateOptions::peek`] is set.
//!
//! ```no_run
//! # async fn example(client: latchkey_client::Client, token: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use latchkey_client::{ValidateOptions, Verdict};
//!
//! match client.validate(token, ValidateOptions::default()).await? {
//!     Verdict::Live(identity) => println!("{} has the roles {:?}", identity.username, identity.roles),
//!     Verdict::Rejected(rejection) if rejection.terminal => println!("{} [Log in]", rejection.message),
//!     Verdict::Rejected(rejection) => println!("logging in again: {}", rejection.name()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Outages
//!
//! An outage is an error and never a verdict. [`Unavailable`] means that Latchkey is unreachable, took longer than
//! the [timeout](Client::with_timeout), or refused to serve this caller. It says nothing about the token: deny
//! access, and do not log the user out. A [`Guard`] answers UNAVAILABLE (gRPC) or 503 (HTTP), and there is no option
//! to let requests through instead.
//!
//! # Restarts of Latchkey
//!
//! A client for several replicas survives the restart of one of them without a failed call. `validate`, `logout`, and
//! `login` with an [idempotency key](Login::idempotency_key) are repeated, on another replica if there is one, when
//! Latchkey is unavailable or the connection fails: at most four attempts within the timeout, with a short backoff, and
//! none while more than half of the calls fail. A `login` without a key is repeated only if it was not sent.
//! [`Client::without_retries`] turns this off.
//!
//! ```no_run
//! # fn example() -> Result<(), latchkey_client::ConnectError> {
//! let client = latchkey_client::Client::connect("10.0.0.1:50051,10.0.0.2:50051")?;
//! # let _ = client; Ok(())
//! # }
//! ```
//!
//! # Guarding a tonic server
//!
//! After this, every method takes the metadata `authorization: Bearer <token>` ([RFC 6750, section 2.1]), except the
//! [open](Guard::open) ones. Handlers read the [`Identity`] of the caller from the extensions of the request.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use latchkey_client::{Client, Guard, Identity};
//! use tonic::{Request, Status, transport::Server};
//!
//! let guard = Guard::new(Client::connect("127.0.0.1:50051")?).open(["/grpc.health.v1.Health/Check"]);
//! let server = Server::builder().layer(guard); // .add_service(...).serve(...)
//!
//! fn caller<T>(request: &Request<T>) -> Result<&Identity, Status> {
//!     Identity::of(request.extensions()).ok_or_else(|| Status::internal("the method is not guarded"))
//! }
//! # let _ = server; let _ = caller::<()>; Ok(())
//! # }
//! ```
//!
//! # Guarding an axum server
//!
//! With the feature `axum`, handlers take the [`Identity`] of the caller as an argument, and those that also serve open
//! paths an `Option<Identity>`. Without the feature, `Extension<Identity>` is the same.
//!
#![cfg_attr(feature = "axum", doc = "```no_run")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, routing::get};
//! use latchkey_client::{Client, Guard, Identity};
//!
//! async fn hello(caller: Identity) -> String {
//!     format!("Hello, {}", caller.username)
//! }
//!
//! let guard = Guard::new(Client::connect("127.0.0.1:50051")?);
//! let staff = guard.clone().required_role("staff");
//! let app: Router = Router::new()
//!     .route("/hello", get(hello).layer(guard))
//!     .route("/reports", get(hello).layer(staff));
//! # let _ = app; Ok(())
//! # }
//! ```
//!
//! # Caching verdicts
//!
//! By default, a guard asks Latchkey about every request. With the revocation feed it caches live sessions and removes
//! them from the cache as soon as the feed reports their end. See [Caching](Guard#caching) for the exact rules.
//!
//! ```no_run
//! # fn example(client: latchkey_client::Client) {
//! use latchkey_client::Guard;
//! use std::time::Duration;
//!
//! // The caller key of the client needs the role `operator`.
//! let guard = Guard::new(client).revocation_feed().max_staleness(Duration::from_secs(10));
//! # let _ = guard;
//! # }
//! ```
//!
//! # Watching a session
//!
//! An app that holds a token can wait for the end of its session instead of polling. The first message of the stream
//! is the session, the last one is the rejection, and nothing comes between them. A stream that fails says nothing
//! about the session: open it again. The example `watch` does so.
//!
//! ```no_run
//! # async fn example(client: latchkey_client::Client, token: String) -> Result<(), tonic::Status> {
//! use latchkey_client::{
//!     Rejection,
//!     proto::{WatchSessionRequest, watch_session_response::Verdict},
//! };
//!
//! let mut stream = client.auth().watch_session(WatchSessionRequest { token }).await?.into_inner();
//! while let Some(message) = stream.message().await? {
//!     if let Some(Verdict::Rejection(rejection)) = message.verdict {
//!         println!("the session has ended: {}", Rejection::from(rejection));
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # TLS
//!
//! Enable the feature `tls-ring` or `tls-aws-lc`, and for public certificates `tls-native-roots` or `tls-webpki-roots`.
//! Then pass an [`Endpoint`] with a `ClientTlsConfig` to [`Client::with_endpoint`].
//!
#![cfg_attr(any(feature = "tls-ring", feature = "tls-aws-lc"), doc = "```no_run")]
#![cfg_attr(not(any(feature = "tls-ring", feature = "tls-aws-lc")), doc = "```ignore")]
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use latchkey_client::Client;
//! use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
//!
//! let ca = Certificate::from_pem(std::fs::read_to_string("ca.pem")?);
//! let tls = ClientTlsConfig::new().ca_certificate(ca);
//! let endpoint = Endpoint::from_static("https://latchkey.example.com:50051").tls_config(tls)?;
//! let client = Client::with_endpoint(endpoint);
//! # let _ = client; Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! No feature is enabled by default.
//!
//! - `axum`: [`Identity`] is an extractor of axum 0.8.
//! - `tls-ring`: TLS with the cryptography of `ring`.
//! - `tls-aws-lc`: TLS with the cryptography of `aws-lc-rs`.
//! - `tls-native-roots`: trusts the root certificates of the operating system, with
//!   `ClientTlsConfig::with_native_roots`.
//! - `tls-webpki-roots`: trusts the root certificates of Mozilla, with `ClientTlsConfig::with_webpki_roots`.
//!
//! [RFC 6750, section 2.1]: https://www.rfc-editor.org/rfc/rfc6750#section-2.1

pub mod bearer;
mod caller_key;
mod connect;
#[cfg(feature = "axum")]
mod extract;
mod guard;
mod identity;
mod jitter;
mod login;
pub mod proto;
mod rejection;
mod replicas;
mod verdict;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::{
    proto::{
        self as pb, auth_service_client::AuthServiceClient, session_service_client::SessionServiceClient,
    },
    replicas::{Replicas, Retry},
};

#[cfg(feature = "axum")]
pub use self::extract::NotGuarded;
pub use self::{
    caller_key::CallerKey,
    connect::ConnectError,
    guard::{Guard, Guarded},
    identity::Identity,
    login::{Displaced, LoggedIn, LoggedOut, Login, Scope},
    rejection::Rejection,
    verdict::{Unavailable, Verdict},
};
/// The reason of a [`Rejection`].
pub use crate::proto::RejectionReason as Reason;

/// The default of [`Client::with_timeout`]: one second.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout of logins, which wait for a password hash, and of logouts.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest duration that the protocol can express, about 10,000 years.
const MAX_PROTO_DURATION: prost_types::Duration =
    prost_types::Duration { seconds: 315_576_000_000, nanos: 0 };

type AuthenticatedChannel = InterceptedService<Channel, CallerKey>;

/// A client for Latchkey. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    replicas: Arc<Replicas>,
    key: CallerKey,
    timeout: Duration,
    retries: bool,
}

/// Options of [`Client::validate`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ValidateOptions {
    /// Does not count the validation as a use of the session, so that the idle timeout goes on. For requests that a
    /// client makes without its user, such as polling.
    pub peek: bool,
    /// The maximum age of the verdict. Zero makes Latchkey read its primary store. `None` applies the server's
    /// `validate.max_staleness`.
    pub max_staleness: Option<Duration>,
}

impl Client {
    /// Creates a client for an address such as `127.0.0.1:50051` or `http://latchkey:50051`, without TLS. Several
    /// addresses are separated by commas, see [`with_endpoints`](Self::with_endpoints).
    ///
    /// The client connects with the first call. It must be created within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError::InvalidAddress`] if the address cannot be parsed or has another scheme than `http`. An
    /// unreachable server is reported by the first call.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    pub fn connect(address: &str) -> Result<Self, ConnectError> {
        let endpoints = address.split(',').map(connect::parse_endpoint).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::with_endpoints(endpoints))
    }

    /// Creates a client for an endpoint with settings of its own, such as TLS.
    ///
    /// Overwrites the connect timeout and the keepalive of the endpoint, so that a server that disappears is noticed
    /// within seconds. Use [`with_channel`](Self::with_channel) to keep them.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime.
    pub fn with_endpoint(endpoint: Endpoint) -> Self {
        Self::with_endpoints([endpoint])
    }

    /// Creates a client for several replicas of Latchkey, with the settings of [`with_endpoint`](Self::with_endpoint).
    ///
    /// Calls take turns. A replica to which the connection has failed gets no calls for a second, unless all have
    /// failed.
    ///
    /// # Panics
    ///
    /// Panics outside of a Tokio runtime, and if there is no endpoint.
    pub fn with_endpoints(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self::over(endpoints.into_iter().map(|endpoint| connect::with_keep_alive(endpoint).connect_lazy()))
    }

    /// Creates a client over an existing channel. The settings of the channel are not changed.
    pub fn with_channel(channel: Channel) -> Self {
        Self::over([channel])
    }

    fn over(channels: impl IntoIterator<Item = Channel>) -> Self {
        let replicas = Replicas::new(channels);
        Self { replicas, key: CallerKey::default(), timeout: DEFAULT_TIMEOUT, retries: true }
    }

    /// Sends this caller key with every call. An empty key sends none.
    ///
    /// A key is required if the server has `access.validate = "caller"`, and for calls of
    /// [`sessions`](Self::sessions).
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError::InvalidCallerKey`] if the key contains anything but visible ASCII characters.
    pub fn with_caller_key(mut self, key: &str) -> Result<Self, ConnectError> {
        self.key = match key.trim_ascii() {
            "" => CallerKey::default(),
            key => CallerKey::parse(key).ok_or(ConnectError::InvalidCallerKey)?,
        };
        Ok(self)
    }

    /// Sets how long a validation may take before it is [`Unavailable`]. The default is [`DEFAULT_TIMEOUT`].
    ///
    /// Logins and logouts have a fixed timeout of ten seconds.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends every call once. The default is [to repeat](crate#restarts-of-latchkey) calls that are safe to repeat.
    #[must_use]
    pub fn without_retries(mut self) -> Self {
        self.retries = false;
        self
    }

    /// Validates an access token. Counts as a use of the session, unless [`ValidateOptions::peek`] is set.
    ///
    /// A token that is not valid is a [`Verdict::Rejected`] and not an error.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if there is no verdict. Deny access then, but do not treat the session as ended.
    pub async fn validate(&self, token: &str, options: ValidateOptions) -> Result<Verdict, Unavailable> {
        if let Some(rejection) = verdict::reject_locally(token) {
            return Ok(Verdict::Rejected(rejection));
        }
        let request = options.to_request(token);
        let validate = |channel| {
            let (mut auth, request) = (self.auth_over(channel), request.clone());
            async move { auth.validate(request).await }
        };
        match self.call(self.timeout, Retry::Safe, validate).await {
            Some(response) => response?.try_into(),
            None => Err(Unavailable::timed_out(self.timeout)),
        }
    }

    /// Opens a session with a username and a password.
    ///
    /// # Errors
    ///
    /// Returns the status of the call. [`error_reason`] tells why Latchkey refused the login, such as
    /// `INVALID_CREDENTIALS`, `ACCOUNT_DISABLED`, `SESSION_LIMIT` or `THROTTLED`. After `STORE_UNAVAILABLE` and after a
    /// timeout the login may have taken place: repeat it with the same [`Login::idempotency_key`].
    pub async fn login(&self, login: Login) -> Result<LoggedIn, Status> {
        let message = pb::LoginRequest::from(login);
        let retry = if message.idempotency_key.is_empty() { Retry::Unsent } else { Retry::Safe };
        let login = |channel| {
            let (mut auth, request) = (self.auth_over(channel), with_login_timeout(message.clone()));
            async move { auth.login(request).await }
        };
        timely(self.call(LOGIN_TIMEOUT, retry, login).await)?.try_into()
    }

    /// Ends the session of a token, other sessions of its user, or all of them.
    ///
    /// A token that is not, or no longer, valid is no error: [`LoggedOut::rejection`] says why it is not.
    ///
    /// # Errors
    ///
    /// Returns the status of the call. A logout can be repeated.
    pub async fn logout(&self, token: &str, scope: Scope) -> Result<LoggedOut, Status> {
        // Latchkey would replace an empty token by the one in the metadata.
        if let Some(rejection) = verdict::reject_locally(token) {
            return Ok(LoggedOut { ended: 0, rejection: Some(rejection) });
        }
        let message = pb::LogoutRequest { token: token.into(), scope: scope.into() };
        let logout = |channel| {
            let (mut auth, request) = (self.auth_over(channel), with_login_timeout(message.clone()));
            async move { auth.logout(request).await }
        };
        let response = timely(self.call(LOGIN_TIMEOUT, Retry::Safe, logout).await)?;
        Ok(LoggedOut { ended: response.ended, rejection: response.rejection.map(Rejection::from) })
    }

    /// Returns the generated client of `AuthService`, which has the other calls of users, such as `change_password` and
    /// `watch_session`. It shares the connection to one replica and the caller key. The timeout does not apply to it, and
    /// nothing is repeated.
    pub fn auth(&self) -> AuthServiceClient<AuthenticatedChannel> {
        self.auth_over(self.replicas.pick().channel.clone())
    }

    /// Returns the generated client of `SessionService`, which opens, lists and ends sessions of all users. It requires
    /// a caller key with the role `issuer` or `operator`. The timeout does not apply to it, and nothing is repeated.
    pub fn sessions(&self) -> SessionServiceClient<AuthenticatedChannel> {
        SessionServiceClient::with_interceptor(self.replicas.pick().channel.clone(), self.key.clone())
    }

    fn auth_over(&self, channel: Channel) -> AuthServiceClient<AuthenticatedChannel> {
        AuthServiceClient::with_interceptor(channel, self.key.clone())
    }

    /// Makes a call with the retries of this client. `None` means that there was no answer in time.
    async fn call<T, F>(
        &self,
        timeout: Duration,
        retry: Retry,
        call: impl Fn(Channel) -> F,
    ) -> Option<Result<T, Status>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = deadline(timeout);
        self.replicas.call(deadline, self.retries.then_some(retry), call).await
    }
}

impl ValidateOptions {
    fn to_request(self, token: &str) -> pb::ValidateRequest {
        let max_staleness =
            self.max_staleness.map(|age| prost_types::Duration::try_from(age).unwrap_or(MAX_PROTO_DURATION));
        pb::ValidateRequest { token: token.to_owned(), peek: self.peek, max_staleness }
    }
}

/// Returns the machine-readable reason of an error of Latchkey, such as `INVALID_CREDENTIALS`.
///
/// It is the `reason` of the `google.rpc.ErrorInfo` in the details of the status: an
/// [`ErrorReason`](proto::ErrorReason), or a [`RejectionReason`](proto::RejectionReason) where a call needs a live
/// session, each without its prefix. Returns `None` for errors that are not from Latchkey, such as a failed connection.
///
/// ```
/// use latchkey_client::error_reason;
/// use tonic::Status;
///
/// assert_eq!(error_reason(&Status::unavailable("connection refused")), None);
/// ```
pub fn error_reason(status: &Status) -> Option<String> {
    use tonic_types::StatusExt as _;
    let info = status.get_details_error_info()?;
    (info.domain == pb::ERROR_DOMAIN).then_some(info.reason)
}

fn with_login_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LOGIN_TIMEOUT);
    request
}

/// Returns a status instead of no answer in time.
fn timely<T>(result: Option<Result<T, Status>>) -> Result<T, Status> {
    result.unwrap_or_else(|| Err(Status::deadline_exceeded(format!("no answer within {LOGIN_TIMEOUT:?}"))))
}

/// Returns the end of a time limit, or a time in the far future if the limit is longer than time itself.
fn deadline(timeout: Duration) -> Instant {
    const FAR: Duration = Duration::from_hours(24 * 365 * 30);
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + FAR)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Code;
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn a_staleness_beyond_the_protocol_is_sent_as_the_maximum() {
        for (age, seconds) in [(Duration::ZERO, 0), (Duration::MAX, MAX_PROTO_DURATION.seconds)] {
            let options = ValidateOptions { max_staleness: Some(age), ..Default::default() };
            assert_eq!(options.to_request("token").max_staleness.unwrap().seconds, seconds);
        }
        assert_eq!(ValidateOptions::default().to_request("token").max_staleness, None);
    }

    #[test]
    fn the_error_reason_is_that_of_latchkey_only() {
        let status = |domain: &str| {
            let details = ErrorDetails::with_error_info("THROTTLED", domain, HashMap::new());
            Status::with_error_details(Code::ResourceExhausted, "later", details)
        };
        assert_eq!(error_reason(&status("latchkey")).as_deref(), Some("THROTTLED"));
        assert_eq!(error_reason(&status("example.com")), None);
    }

    #[tokio::test]
    async fn a_caller_key_that_cannot_be_sent_is_an_error() {
        let client = || Client::connect("127.0.0.1:1").unwrap();
        assert_eq!(client().with_caller_key("ü").unwrap_err(), ConnectError::InvalidCallerKey);
        assert!(client().with_caller_key(" \n").unwrap().key.value().is_none());
        assert_eq!(client().with_caller_key("lkc_1\n").unwrap().key.value().unwrap(), "lkc_1");
    }

    #[tokio::test]
    async fn an_unreachable_server_is_unavailable() {
        let client = Client::connect("127.0.0.1:1").unwrap();
        let unavailable = client.validate("token", ValidateOptions::default()).await.unwrap_err();
        assert_eq!(unavailable.code, Code::Unavailable);
        let verdict = client.validate("", ValidateOptions::default()).await.unwrap();
        assert_eq!(verdict.rejection().unwrap().reason, Reason::Malformed);
    }
}

/// Compiles the examples of the README.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
