//! The guard for tonic and axum servers.

mod body;
mod cache;
mod checker;
mod denial;
mod feed;
mod layer;
mod log_limiter;
mod session_watchers;
mod singleflight;
mod validate_stream;

use std::{
    collections::HashSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, header};

pub use self::layer::Guarded;
pub(super) use self::log_limiter::LogLimiter;
use self::{checker::Checker, denial::Denial};
use super::{Client, Identity, ValidateOptions, Verdict};
use crate::bearer::Credentials;

const DEFAULT_OUTAGE_GRACE: Duration = Duration::from_mins(1);

/// A [tower layer](tower::Layer) that lets only requests with a live session through, for tonic and axum servers.
///
/// The guard takes the token of the header `authorization: Bearer <token>`, validates it, and stores the [`Identity`]
/// of the caller in the extensions of the request. An `Identity` that is already there is removed.
///
/// ```no_run
/// use latchkey_client::{Client, Guard};
///
/// # fn example() -> Result<(), latchkey_client::ConnectError> {
/// let guard = Guard::new(Client::connect("127.0.0.1:50051")?).open(["/grpc.health.v1.Health/Check"]);
/// let server = tonic::transport::Server::builder().layer(guard);
/// # let _ = server; Ok(())
/// # }
/// ```
///
/// With axum, layers that answer requests by themselves, such as one for CORS, belong outside of the guard: a preflight
/// request has no token. With the feature `axum`, [`Identity`] is an extractor.
///
/// # Responses
///
/// A request without a live session is denied, and the service behind the guard is not called.
///
/// | cause | gRPC | HTTP | reason |
/// |---|---|---|---|
/// | no token, or an empty one | `UNAUTHENTICATED` | 401 | `TOKEN_REQUIRED` |
/// | two tokens, or something else | `UNAUTHENTICATED` | 401 | `MALFORMED` |
/// | Latchkey rejects the token | `UNAUTHENTICATED` | 401 | the [`Reason`](super::Reason) |
/// | the account is disabled | `PERMISSION_DENIED` | 403 | `ACCOUNT_DISABLED` |
/// | the session lacks the slot or the role | `PERMISSION_DENIED` | 403 | `SLOT_REQUIRED`, `ROLE_REQUIRED` |
/// | Latchkey gives no verdict | `UNAVAILABLE` | 503 | `STORE_UNAVAILABLE` |
///
/// Over gRPC, the reason is in a `google.rpc.ErrorInfo` of the domain `latchkey`, and an outage has a
/// `google.rpc.RetryInfo`. Over HTTP, the reason is in the JSON body, together with the header `www-authenticate`
/// (RFC 6750 section 3) or `retry-after`. A request counts as gRPC if its `content-type` begins with
/// `application/grpc`.
///
/// # Validation
///
/// All requests share one `ValidateStream`. Concurrent requests with the same token share a validation. A request never
/// joins a validation that was sent before it arrived, because the session could have ended since. Only with
/// [caching](#caching) may the validation be older, by at most `max_staleness`.
///
/// # Caching
///
/// With [`max_staleness`](Self::max_staleness) alone, Latchkey may answer from its own cache, and the guard caches
/// nothing. With [`revocation_feed`](Self::revocation_feed) as well, the guard caches live sessions. A cached session
/// is used until one of these happens:
///
/// - The feed reports that the session has ended.
/// - The verdict is older than `max_staleness`.
/// - One touch interval is over: a twentieth of the idle timeout, at most one minute. Latchkey does not see requests
///   that are answered from the cache, so a use must reach it from time to time. A session can therefore time out
///   earlier after its latest use than the idle timeout, by at most the time for which it is cached.
/// - The session reaches its absolute or idle deadline.
/// - The feed is interrupted: it fails, is silent for twelve seconds, or has missed events.
///
/// Rejections and outages are never cached.
///
/// # Streams
///
/// When a session ends, the guard ends its streams. A gRPC response ends with the status of the rejection in its
/// trailers, and any other response is aborted. A request body fails with the same status. Watching a stream does not
/// count as a use of the session.
///
/// The guard learns of the end from the revocation feed, or else from a `WatchSession` stream for each session with an
/// open stream. It opens at most 100 of those and validates the other sessions every ten seconds.
///
/// If Latchkey is unavailable, streams go on for the [`outage_grace`](Self::outage_grace) and then end with
/// `UNAVAILABLE`. Upgraded connections, such as those of a WebSocket, are not ended.
///
/// # Clones
///
/// Clones share the stream, the cache and the feed, while each has its own rules. So a part of a server can require
/// more:
///
/// ```
/// # fn example(guard: latchkey_client::Guard) {
/// let admin = guard.clone().required_role("admin");
/// # let _ = admin;
/// # }
/// ```
#[derive(Clone)]
pub struct Guard {
    checker: Arc<Checker>,
    rules: Arc<Rules>,
}

/// The rules of a guard.
#[derive(Debug, Clone, Default)]
struct Rules {
    open: HashSet<String>,
    required_role: Option<String>,
    required_slot: Option<String>,
    options: ValidateOptions,
    revocation_feed: bool,
    /// `None` if streams are not watched.
    outage_grace: Option<Duration>,
}

impl Guard {
    /// Creates a guard that validates tokens with this client and its [timeout](Client::with_timeout). No path is open.
    pub fn new(client: Client) -> Self {
        let rules = Rules { outage_grace: Some(DEFAULT_OUTAGE_GRACE), ..Rules::default() };
        Self { checker: Arc::new(Checker::new(client)), rules: Arc::new(rules) }
    }

    /// Adds paths that need no token, such as `/grpc.health.v1.Health/Check` or `/healthz`.
    ///
    /// A path must match exactly and as a whole, as the layer sees it. Requests to open paths have no [`Identity`],
    /// even if they have a token.
    #[must_use]
    pub fn open(self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(|rules| rules.open.extend(paths.into_iter().map(Into::into)))
    }

    /// Requires this role. A user without it gets `ROLE_REQUIRED`.
    #[must_use]
    pub fn required_role(self, role: impl Into<String>) -> Self {
        self.with(|rules| rules.required_role = Some(role.into()))
    }

    /// Requires a session in this slot. Others get `SLOT_REQUIRED`.
    #[must_use]
    pub fn required_slot(self, slot: impl Into<String>) -> Self {
        self.with(|rules| rules.required_slot = Some(slot.into()))
    }

    /// Does not count requests as uses of the session, for services that clients call without their user. See
    /// [`ValidateOptions::peek`].
    #[must_use]
    pub fn peek(self) -> Self {
        self.with(|rules| rules.options.peek = true)
    }

    /// Sets the maximum age of a verdict. The default is the server's `validate.max_staleness`. See
    /// [Caching](Self#caching).
    #[must_use]
    pub fn max_staleness(self, age: Duration) -> Self {
        self.with(|rules| rules.options.max_staleness = Some(age))
    }

    /// Follows the revocation feed, which ends streams and, with [`max_staleness`](Self::max_staleness), allows the
    /// guard to cache live sessions.
    ///
    /// The client needs a caller key with the role `operator`. Without it, the guard logs an error and works without
    /// the feed. The guard opens the feed with the first request.
    #[must_use]
    pub fn revocation_feed(self) -> Self {
        self.with(|rules| rules.revocation_feed = true)
    }

    /// Sets how long streams go on while Latchkey is unavailable. The default is one minute.
    ///
    /// Streams of the same session share the value of the first of them.
    #[must_use]
    pub fn outage_grace(self, grace: Duration) -> Self {
        self.with(|rules| rules.outage_grace = Some(grace))
    }

    /// Does not watch streams: they go on after their session has ended.
    #[must_use]
    pub fn without_watch(self) -> Self {
        self.with(|rules| rules.outage_grace = None)
    }

    fn with(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(Arc::make_mut(&mut self.rules));
        self
    }

    fn is_open(&self, path: &str) -> bool {
        self.rules.open.contains(path)
    }

    /// Returns the caller and the token of a request.
    async fn authenticate(&self, headers: &HeaderMap, path: &str) -> Result<(Identity, Arc<str>), Denial> {
        let authorization = headers.get_all(header::AUTHORIZATION).into_iter().map(HeaderValue::as_bytes);
        let token = match Credentials::find(authorization, None::<(&str, [&[u8]; 0])>) {
            Credentials::Token(token) => token,
            Credentials::None | Credentials::Cookies(_) => return Err(Denial::NoToken),
            Credentials::Malformed(message) => return Err(Denial::Malformed(message)),
        };
        if self.rules.revocation_feed {
            self.checker.follow_feed();
        }
        let identity = match self.checker.validate(token, self.rules.options).await {
            Ok(Verdict::Live(identity)) => identity,
            Ok(Verdict::Rejected(rejection)) => return Err(Denial::Rejected(rejection)),
            Err(unavailable) => {
                static OUTAGE: LogLimiter = LogLimiter::new();
                if OUTAGE.admits(Instant::now()) {
                    tracing::warn!(
                        error.message = %unavailable,
                        url.path = path,
                        "failed to validate a token, request denied"
                    );
                }
                return Err(Denial::Outage);
            }
        };
        let Rules { required_role, required_slot, .. } = &*self.rules;
        if let Some(slot) = required_slot.as_ref().filter(|slot| **slot != *identity.slot) {
            return Err(Denial::WrongSlot(slot.clone()));
        }
        if let Some(role) = required_role.as_ref().filter(|role| !identity.has_role(role)) {
            return Err(Denial::MissingRole(role.clone()));
        }
        Ok((identity, token.into()))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Returns the current time, which the deadlines of sessions are compared with.
#[expect(
    clippy::disallowed_methods,
    reason = "the lint is for the server; the cache takes time as a parameter"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
