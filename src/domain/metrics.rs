//! Counters since the start of the process. `http/metrics.rs` exports them.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;

use super::{Error, ports::StoreError, rejection::Reason, validate::Verdict};
use crate::metrics::ThreadCounters;

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Verdicts on tokens.
    pub verdicts: Verdicts,
    /// Requests for a verdict that could not be answered, on the surfaces without statuses of gRPC.
    pub verdict_errors: VerdictErrors,
    /// Logins.
    pub logins: Logins,
    /// Commits that the session store lost after they were acknowledged.
    pub rollbacks: Counter,
    /// Kick wars that were stopped.
    pub kick_wars: Counter,
    /// Sessions displaced by a newer login.
    pub displaced: Counter,
    /// Batches that the receiver of the webhook accepted.
    pub webhook_deliveries: Counter,
    /// Deliveries to the receiver of the webhook that failed.
    pub webhook_failures: Counter,
}

/// The interface through which a verdict was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// `Validate`.
    Grpc,
    /// `ValidateStream`.
    Stream,
    /// Envoy's `Authorization.Check`.
    ExtAuthz,
    /// `/forward-auth`.
    ForwardAuth,
    /// `Validate` as JSON over HTTP.
    Json,
}

impl Surface {
    /// Every surface, in the order of its discriminant.
    pub const ALL: [Self; 5] = [Self::Grpc, Self::Stream, Self::ExtAuthz, Self::ForwardAuth, Self::Json];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Stream => "stream",
            Self::ExtAuthz => "ext_authz",
            Self::ForwardAuth => "forward_auth",
            Self::Json => "json",
        }
    }
}

/// The number of different verdicts: live, or a reason.
const VERDICTS: usize = 1 + Reason::ALL.len();

/// Counts verdicts by surface and reason.
#[derive(Debug, Default)]
pub struct Verdicts(ThreadCounters<{ Surface::ALL.len() * VERDICTS }>);

impl Verdicts {
    /// Counts a verdict.
    pub fn count(&self, surface: Surface, verdict: &Verdict) {
        let reason = match verdict {
            Verdict::Live(_) => None,
            Verdict::Rejected(rejection) => Some(rejection.reason),
        };
        self.0.add(Self::index(surface, reason), 1);
    }

    /// Returns the number of rejections for this reason, or of live sessions.
    pub fn get(&self, surface: Surface, reason: Option<Reason>) -> u64 {
        self.0.get(Self::index(surface, reason))
    }

    /// The codes of reasons begin at 1.
    fn index(surface: Surface, reason: Option<Reason>) -> usize {
        surface as usize * VERDICTS + reason.map_or(0, |reason| usize::from(reason.code()))
    }
}

/// Counts requests for a verdict that could not be answered.
#[derive(Debug, Default)]
pub struct VerdictErrors([AtomicU64; Surface::ALL.len()]);

impl VerdictErrors {
    /// Counts an error, unless the client caused it.
    pub fn count(&self, surface: Surface, error: &Error) {
        if error.is_of_server() {
            self.count_one(surface);
        }
    }

    /// Counts a request that the server could not answer.
    pub fn count_one(&self, surface: Surface) {
        self.0[surface as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of errors.
    pub fn get(&self, surface: Surface) -> u64 {
        self.0[surface as usize].load(Ordering::Relaxed)
    }
}

/// The outcome of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the metric documents them")]
pub enum LoginOutcome {
    Ok,
    InvalidCredentials,
    Throttled,
    Disabled,
    SessionLimit,
    Unavailable,
    Overloaded,
}

impl LoginOutcome {
    /// Every outcome, in the order of its discriminant.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::InvalidCredentials,
        Self::Throttled,
        Self::Disabled,
        Self::SessionLimit,
        Self::Unavailable,
        Self::Overloaded,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::InvalidCredentials => "invalid_credentials",
            Self::Throttled => "throttled",
            Self::Disabled => "disabled",
            Self::SessionLimit => "session_limit",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
        }
    }

    /// `None` for a request that is no attempt to log in, because one of its fields is wrong.
    const fn of<T>(outcome: &Result<T, Error>) -> Option<Self> {
        Some(match outcome {
            Ok(_) => Self::Ok,
            Err(Error::InvalidCredentials) => Self::InvalidCredentials,
            Err(Error::Throttled { .. } | Error::KickWar { .. }) => Self::Throttled,
            Err(Error::AccountDisabled { .. }) => Self::Disabled,
            Err(Error::SessionLimit { .. }) => Self::SessionLimit,
            Err(Error::Overloaded { .. }) => Self::Overloaded,
            Err(
                Error::Store(StoreError::Unavailable { .. } | StoreError::Corrupt { .. })
                | Error::Internal(_),
            ) => Self::Unavailable,
            Err(_) => return None,
        })
    }
}

/// Counts logins by outcome.
#[derive(Debug, Default)]
pub struct Logins([AtomicU64; LoginOutcome::ALL.len()]);

impl Logins {
    /// Counts a login.
    pub(super) fn count<T>(&self, outcome: &Result<T, Error>) {
        if let Some(outcome) = LoginOutcome::of(outcome) {
            self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of logins with this outcome.
    pub fn get(&self, outcome: LoginOutcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}

/// Counts ended sessions by reason.
#[derive(Debug, Default)]
pub struct EndedSessions([AtomicU64; Reason::ALL.len()]);

impl EndedSessions {
    /// Counts sessions that ended for these reasons.
    pub(super) fn count(&self, reasons: &[Reason]) {
        for reason in reasons {
            self.0[*reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of sessions that ended for this reason.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}
