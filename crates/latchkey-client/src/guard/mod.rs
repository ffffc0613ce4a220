//! A guard for tonic and axum servers.

mod body;
mod cache;
mod checker;
mod denial;
mod feed;
mod layer;
mod log_limit;
mod session_watchers;
mod singleflight;

mod stream;

use std::{
    collections::HashSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, header};

pub use self::layer::Guarded;
use self::{checker::Checker, denial::Denial, log_limit::LogLimit};
use super::{Client, Identity, ValidateOptions};
use crate::bearer::Credentials;

/// How long streams go on while Latchkey is away, unless the guard says otherwise.
const OUTAGE_GRACE: Duration = Duration::from_mins(1);

/// Keeps everybody out whose session is not live: a [tower layer](tower::Layer) for tonic and for axum.
///
/// It takes the token of exactly one `authorization: Bearer <token>`, asks Latchkey, and hands the request on with the
/// caller's [`Identity`] in its extensions. Whatever is no verdict lets nobody in, and there is no option for that.
///
/// | what is so | gRPC | HTTP | reason |
/// |---|---|---|---|
/// | no token, or an empty one | UNAUTHENTICATED | 401 | `TOKEN_REQUIRED` |
/// | two tokens, or something else | UNAUTHENTICATED | 401 | MALFORMED |
/// | Latchkey rejects the token | UNAUTHENTICATED | 401 | the [`Reason`](super::Reason) |
/// | ... because the account is disabled | `PERMISSION_DENIED` | 403 | `ACCOUNT_DISABLED` |
/// | another slot, or without the role | `PERMISSION_DENIED` | 403 | `SLOT_REQUIRED`, `ROLE_REQUIRED` |
/// | there is no verdict | UNAVAILABLE | 503 | `STORE_UNAVAILABLE` |
///
/// In gRPC the reason is in a `google.rpc.ErrorInfo` of the domain `latchkey`, and an outage has a
/// `google.rpc.RetryInfo`; in HTTP it is in the body, in JSON, beside `www-authenticate` or `retry-after`. A request
/// speaks gRPC if its `content-type` begins with `application/grpc`.
///
/// # One stream, and few questions
///
/// All requests share one `ValidateStream`. Those that come together with the same token share a question; a question
/// that is already under way is not joined, because what ended since it was sent must be rejected.
///
/// With [`max_staleness`](Self::max_staleness) alone, Latchkey may answer from its memory. With
/// [`revocation_feed`](Self::revocation_feed) as well, the guard has a memory of its own: a yes that was asked for at
/// most so long ago is given again, and forgotten the moment the feed tells that its session has ended. It is never
/// given beyond the session's deadlines, nor while the feed is not heard (it breaks, is silent for twelve seconds, or
/// has missed something). Outages and rejections are never remembered.
///
/// What is answered from memory is no use of the session that Latchkey knows of. So a yes is given again for at most a
/// touch interval (a twentieth of the idle timeout, one minute at the most), and then asked for. A session that is
/// used no more can for that reason time out earlier than its idle timeout after its latest use, by at most as long as
/// a yes is remembered.
///
/// # Streams
///
/// When the session ends, its streams do: the body of a response that still runs ends with the trailers of a rejection
/// (gRPC) or is broken off (HTTP), and the body of a request fails, with that status. The feed tells of the end, or
/// else a `WatchSession` for each session with a stream, of which there are 100 at most; of others Latchkey is asked
/// every ten seconds. None of it is a use of the session. While Latchkey is away streams go on for
/// [`outage_grace`](Self::outage_grace), and end with UNAVAILABLE then. What has been upgraded, such as a WebSocket,
/// is not the body of a response any more and does not end.
///
/// # Copies
///
/// Copies share the stream, the memory and the feed. So a part of a server can ask for more:
/// `guard.clone().required_role("admin")`.
#[derive(Clone)]
pub struct Guard {
    checker: Arc<Checker>,
    rules: Arc<Rules>,
}

/// What is asked of a request.
#[derive(Debug, Clone, Default)]
struct Rules {
    open: HashSet<String>,
    required_role: Option<String>,
    required_slot: Option<String>,
    ask: ValidateOptions,
    feed: bool,
    /// None where streams are not watched.
    outage_grace: Option<Duration>,
}

impl Guard {
    /// Asks with this client, whose time limit is that of a verdict. Everything takes a token.
    pub fn new(client: Client) -> Self {
        let rules = Rules { outage_grace: Some(OUTAGE_GRACE), ..Rules::default() };
        Self { checker: Arc::new(Checker::new(client)), rules: Arc::new(rules) }
    }

    /// These paths are for everybody, besides those that are open already: each by its whole and exact name, as the
    /// layer sees it. `/grpc.health.v1.Health/Check`; `/healthz`. Who calls them has no identity, even with a token.
    #[must_use]
    pub fn open(self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(|rules| rules.open.extend(paths.into_iter().map(Into::into)))
    }

    /// Only for users with this role.
    #[must_use]
    pub fn required_role(self, role: impl Into<String>) -> Self {
        self.with(|rules| rules.required_role = Some(role.into()))
    }

    /// Only for sessions in this slot.
    #[must_use]
    pub fn required_slot(self, slot: impl Into<String>) -> Self {
        self.with(|rules| rules.required_slot = Some(slot.into()))
    }

    /// Requests are no use of the session: for what runs in the background.
    #[must_use]
    pub fn peek(self) -> Self {
        self.with(|rules| rules.ask.peek = true)
    }

    /// A verdict may be so old. Without it, as old as Latchkey's settings say.
    #[must_use]
    pub fn max_staleness(self, age: Duration) -> Self {
        self.with(|rules| rules.ask.max_staleness = Some(age))
    }

    /// Follows the revocation feed, which needs a caller key with the role `operator`: streams end by it, and with
    /// [`max_staleness`](Self::max_staleness) verdicts are remembered. It begins with the first request.
    #[must_use]
    pub fn revocation_feed(self) -> Self {
        self.with(|rules| rules.feed = true)
    }

    /// Streams go on for so long while Latchkey is away: one minute otherwise.
    #[must_use]
    pub fn outage_grace(self, grace: Duration) -> Self {
        self.with(|rules| rules.outage_grace = Some(grace))
    }

    /// Streams run to their own end, whatever becomes of the caller's session.
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

    /// Who may come in, and by which token.
    async fn admit(&self, headers: &HeaderMap, path: &str) -> Result<(Identity, Arc<str>), Denial> {
        let values = headers.get_all(header::AUTHORIZATION).into_iter().map(HeaderValue::as_bytes);
        let token = match Credentials::find(values, None::<(&str, [&[u8]; 0])>) {
            Credentials::Token(token) => token,
            // Cookies are not asked for here.
            Credentials::None | Credentials::Cookies(_) => return Err(Denial::NoToken),
            Credentials::Unclear(why) => return Err(Denial::Unclear(why)),
        };
        if self.rules.feed {
            self.checker.follow_feed();
        }
        let identity = match self.checker.check(token, self.rules.ask).await {
            Ok(Ok(identity)) => identity,
            Ok(Err(rejection)) => return Err(Denial::Rejected(rejection)),
            Err(unavailable) => {
                static OUTAGE: LogLimit = LogLimit::new();
                if OUTAGE.admits(Instant::now()) {
                    tracing::warn!(error.message = %unavailable, url.path = path, "Latchkey gave no verdict");
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

/// What time it is, which deadlines are compared with.
#[expect(
    clippy::disallowed_methods,
    reason = "a client has no port of the clock: its caches take it as a parameter"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
