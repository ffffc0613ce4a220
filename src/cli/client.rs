//! The connection of the commands to a server.

use std::time::Duration;

use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};
use tonic_types::{ErrorInfo, StatusExt as _};

use super::{Common, Failure, tls};
use crate::{
    config::ValidateAccess,
    domain::rejection::Reason,
    grpc::pb::{
        self, account_service_client::AccountServiceClient, auth_service_client::AuthServiceClient,
        caller_service_client::CallerServiceClient, session_service_client::SessionServiceClient,
    },
    store::secret_file,
};
use latchkey_client::CallerKey;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a command waits for the server.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
/// How often a connection that carries a stream is tried, and how long that may take: a stream on which
/// nothing happens looks the same whether the other side is there or not.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// A client that sends a caller's key along, where there is one to send.
type Keyed = InterceptedService<Channel, CallerKey>;

/// What a connection is to carry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// Calls, which are answered within [`TIMEOUT`] or not at all.
    Calls,
    /// A stream, which lasts for as long as it lasts.
    Stream,
}

/// A client of what users do.
pub(super) type Auth = AuthServiceClient<Keyed>;

pub(super) async fn auth(common: &Common, carries: Carries) -> Result<Auth, Failure> {
    let key = key_of_users(common)?;
    Ok(AuthServiceClient::with_interceptor(connect(common, carries).await?, key))
}

/// A client of what is done with the sessions of others.
pub(super) type Sessions = SessionServiceClient<Keyed>;

pub(super) async fn sessions(common: &Common, carries: Carries) -> Result<Sessions, Failure> {
    let key = key(common)?;
    Ok(SessionServiceClient::with_interceptor(connect(common, carries).await?, key))
}

/// A client of what only admins may do.
pub(super) type Accounts = AccountServiceClient<Keyed>;

pub(super) async fn accounts(common: &Common) -> Result<Accounts, Failure> {
    let key = key(common)?;
    Ok(AccountServiceClient::with_interceptor(connect(common, Carries::Calls).await?, key))
}

pub(super) async fn callers(common: &Common) -> Result<CallerServiceClient<Keyed>, Failure> {
    let key = key(common)?;
    Ok(CallerServiceClient::with_interceptor(connect(common, Carries::Calls).await?, key))
}

/// For what users do: that is open to everybody, unless the settings here say otherwise.
pub(super) fn key_of_users(common: &Common) -> Result<CallerKey, Failure> {
    let needed = common.key_file.is_some() || common.config()?.access.validate == ValidateAccess::Caller;
    if needed { key(common) } else { Ok(CallerKey::default()) }
}

/// The key in `--key-file`, or the admin key of the server on this machine.
fn key(common: &Common) -> Result<CallerKey, Failure> {
    let (path, what) = match &common.key_file {
        Some(path) => (path.clone(), "a caller key is needed"),
        None => (common.config()?.admin_key_file(), "the admin key is needed"),
    };
    let contents = secret_file::read_to_present(&path).map_err(|error| {
        Failure::Refused(match &common.key_file {
            Some(_) => format!("{what}: {error}"),
            None => format!(
                "{what}: {error}. Run this where the server keeps its data, set access.admin_key_file, or name a file with a caller key by --key-file"
            ),
        })
    })?;
    let key = std::str::from_utf8(&contents).ok().and_then(CallerKey::parse);
    key.ok_or_else(|| Failure::Refused(format!("{} does not hold a key", path.display())))
}

async fn connect(common: &Common, carries: Carries) -> Result<Channel, Failure> {
    let target = Target::of(common)?;
    let server = &target.server;
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!(
            "--server {server} is not an address such as 127.0.0.1:50051 or https://latchkey.internal:50051: {error}"
        ))
    };
    // The scheme of the endpoint is of no account to a connector of our own, and must not ask for another TLS.
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(|error| unusable(&error))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    let endpoint = match carries {
        Carries::Calls => endpoint.timeout(TIMEOUT),
        Carries::Stream => endpoint.http2_keep_alive_interval(KEEP_ALIVE.0).keep_alive_timeout(KEEP_ALIVE.1),
    };
    let connected = match tls::connector(common, &target)? {
        None => endpoint.connect().await,
        Some(connector) => endpoint.connect_with_connector(connector).await,
    };
    connected.map_err(|error| match tls::reason(&error) {
        Some(reason) => Failure::Refused(format!("{server} is not trusted, or does not trust us: {reason}")),
        None => Failure::Unavailable(format!(
            "no server answers at {server}: start one with `latchkey serve`, or name it with --server"
        )),
    })
}

/// Where the server is, and how to speak to it.
pub(super) struct Target {
    /// Host and port.
    pub(super) server: String,
    /// By TLS?
    pub(super) encrypted: bool,
    /// Is it the one that the settings here describe?
    pub(super) local: bool,
}

impl Target {
    /// `https://` asks for TLS and `http://` for none. Without either, TLS is spoken if the settings of this
    /// machine have it, or if there are roots to trust.
    pub(super) fn of(common: &Common) -> Result<Self, Failure> {
        let given = common.server.as_deref();
        if let Some(server) = given.and_then(|server| server.strip_prefix("https://")) {
            return Ok(Self { server: authority(server), encrypted: true, local: false });
        }
        if let Some(server) = given.and_then(|server| server.strip_prefix("http://")) {
            return Ok(Self { server: authority(server), encrypted: false, local: false });
        }
        let config = common.config()?;
        let server = given.map_or_else(|| config.listen.grpc.to_string(), str::to_owned);
        let local = config.tls.is_on() && common.ca_file.is_none();
        Ok(Self { server, encrypted: local || common.ca_file.is_some(), local })
    }
}

fn authority(server: &str) -> String {
    server.trim_end_matches('/').to_owned()
}

/// What a status means to the one who typed the command.
#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err as it is")]
pub(super) fn failed(status: Status) -> Failure {
    // No server has said this: it is about the connection to one.
    if std::error::Error::source(&status).is_some() {
        return Failure::Unavailable(format!(
            "the connection to the server broke: {}. Does it speak TLS (https:// before its name), or require a client certificate (--certificate-file)?",
            status.message()
        ));
    }
    let mut sentence = status.message().to_owned();
    if let Some(delay) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        let whole = Duration::from_secs(delay.as_secs() + u64::from(delay.subsec_nanos() > 0));
        sentence = format!("{sentence} (try again in {})", humantime::format_duration(whole));
    }
    // The server is there and says no; more of the same would not be taken either.
    let throttled = info(&status).is_some_and(|info| info.reason == "THROTTLED");
    match status.code() {
        _ if throttled => Failure::Refused(sentence),
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
            Failure::Unavailable(sentence)
        }
        Code::InvalidArgument => Failure::Usage(sentence),
        _ => Failure::Refused(sentence),
    }
}

/// Whether the same call may do better in a while. What carries no reason of the server was not said by
/// the server, but by the connection to it.
pub(super) fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => true,
        Code::Unknown | Code::Internal | Code::Cancelled => info(status).is_none(),
        _ => false,
    }
}

/// As [`failed`], of a call that was repeated in vain.
pub(super) fn failed_after_retries(status: Status) -> Failure {
    if is_transient(&status) && info(&status).is_none() {
        return Failure::Unavailable(format!("the server does not answer ({})", status.message()));
    }
    failed(status)
}

/// What Latchkey itself says about a status.
pub(super) fn info(status: &Status) -> Option<ErrorInfo> {
    status.get_details_error_info()
}

/// The rejection of a token, where a status is one: of the calls that have no other way to say so.
pub(super) fn rejection(status: &Status) -> Option<pb::Rejection> {
    if status.code() != Code::Unauthenticated {
        return None;
    }
    let info = info(status)?;
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == info.reason)?;
    let told = |name: &str| info.metadata.get(name).cloned();
    let at = told("at_unix").and_then(|at| at.parse().ok());
    Some(pb::Rejection {
        reason: i32::from(reason.code()),
        at: at.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
        by_device: told("by_device").unwrap_or_default(),
        message: status.message().to_owned(),
        terminal: reason.is_terminal(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let metadata = HashMap::from([("at_unix".to_owned(), "1800000000".to_owned())]);
        Status::with_error_details(code, "told", ErrorDetails::with_error_info(reason, "latchkey", metadata))
    }

    #[test]
    fn a_status_that_rejects_the_token_is_a_rejection_and_no_other_is() {
        let replaced = rejection(&status(Code::Unauthenticated, "REPLACED")).unwrap();
        assert_eq!(replaced.reason(), pb::RejectionReason::Replaced);
        assert_eq!((replaced.message.as_str(), replaced.terminal), ("told", true));
        assert_eq!(replaced.at.unwrap().seconds, 1_800_000_000);
        assert!(!rejection(&status(Code::Unauthenticated, "EXPIRED")).unwrap().terminal);
        for (code, reason) in [
            (Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
            (Code::Unauthenticated, "INVALID_CREDENTIALS"),
            // Of the account, not of a session.
            (Code::PermissionDenied, "ACCOUNT_DISABLED"),
        ] {
            assert!(rejection(&status(code, reason)).is_none(), "{reason}");
        }
        assert!(rejection(&Status::unauthenticated("from a proxy")).is_none());
    }

    #[test]
    fn what_the_connection_says_is_transient_and_what_the_server_says_is_not() {
        assert!(is_transient(&Status::unknown("the connection broke")));
        assert!(is_transient(&status(Code::Unavailable, "SHUTTING_DOWN")));
        assert!(is_transient(&status(Code::ResourceExhausted, "TOO_SLOW")));
        assert!(!is_transient(&status(Code::Internal, "INTERNAL")));
        assert!(!is_transient(&Status::unimplemented("an older server")));
    }
}
