//! The gRPC clients of the commands, and the meaning of a status for the exit code.

use std::time::Duration;

use tonic::{
    Code, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};
use tonic_types::{ErrorInfo, StatusExt as _};

use super::{CommandError, Common, error::ReportedError, server_address::ServerAddress, tls};
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

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The deadline of a unary call, and of the first message of a stream.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Keep-alive pings of a connection with a stream: an idle stream looks the same when the server is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel that sends the caller key, if there is one.
type KeyedChannel = InterceptedService<Channel, CallerKey>;

/// The calls of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CallKind {
    /// Unary calls with the deadline [`CALL_TIMEOUT`].
    Unary,
    /// A streaming call without a deadline.
    Streaming,
}

pub(super) type Auth = AuthServiceClient<KeyedChannel>;

pub(super) async fn auth(common: &Common, kind: CallKind) -> Result<Auth, CommandError> {
    let key = optional_key(common)?;
    Ok(AuthServiceClient::with_interceptor(connect(common, kind).await?, key))
}

pub(super) type Sessions = SessionServiceClient<KeyedChannel>;

pub(super) async fn sessions(common: &Common, kind: CallKind) -> Result<Sessions, CommandError> {
    let key = key(common)?;
    Ok(SessionServiceClient::with_interceptor(connect(common, kind).await?, key))
}

pub(super) type Accounts = AccountServiceClient<KeyedChannel>;

pub(super) async fn accounts(common: &Common) -> Result<Accounts, CommandError> {
    let key = key(common)?;
    Ok(AccountServiceClient::with_interceptor(connect(common, CallKind::Unary).await?, key))
}

pub(super) async fn callers(common: &Common) -> Result<CallerServiceClient<KeyedChannel>, CommandError> {
    let key = key(common)?;
    Ok(CallerServiceClient::with_interceptor(connect(common, CallKind::Unary).await?, key))
}

/// The caller key for calls that do not need one, unless `access.validate` of the local configuration is `caller`.
pub(super) fn optional_key(common: &Common) -> Result<CallerKey, CommandError> {
    let is_needed = common.key_file.is_some() || common.config()?.access.validate == ValidateAccess::Caller;
    if is_needed { key(common) } else { Ok(CallerKey::default()) }
}

/// The key in `--key-file`, or the admin key of the local server.
fn key(common: &Common) -> Result<CallerKey, CommandError> {
    let path = match &common.key_file {
        Some(path) => path.clone(),
        None => common.config()?.admin_key_file(),
    };
    let contents = secret_file::read_to_present(&path).map_err(|error| {
        CommandError::Failed(match &common.key_file {
            Some(_) => format!("a caller key is needed: {error}"),
            None => format!(
                "the admin key is needed: {error}. Run this where the server keeps its data, set access.admin_key_file, or name a file with a caller key by --key-file"
            ),
        })
    })?;
    let key = std::str::from_utf8(&contents).ok().and_then(CallerKey::parse);
    key.ok_or_else(|| CommandError::Failed(format!("{} contains no caller key", path.display())))
}

pub(super) async fn connect(common: &Common, kind: CallKind) -> Result<Channel, CommandError> {
    let address = ServerAddress::of(common)?;
    let server = &address.authority;
    // The scheme is always http, because with https tonic would add its own TLS to that of the connector.
    let endpoint =
        Endpoint::from_shared(format!("http://{server}")).map_err(|error| address.invalid(&error))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    let endpoint = match kind {
        CallKind::Unary => endpoint.timeout(CALL_TIMEOUT),
        CallKind::Streaming => {
            endpoint.http2_keep_alive_interval(KEEP_ALIVE_INTERVAL).keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        }
    };
    let connected = match tls::connector(common, &address)? {
        None => endpoint.connect().await,
        Some(connector) => endpoint.connect_with_connector(connector).await,
    };
    connected.map_err(|error| match tls::distrust(&error) {
        Some(error) => CommandError::Reported(Box::new(ReportedError {
            exit_code: 1,
            code: "failed_precondition",
            reason: "CERTIFICATE_NOT_TRUSTED".to_owned(),
            message: format!(
                "{server} is not trusted, or does not trust this client: {error}; --ca-file names the root certificates to trust"
            ),
            retry_delay: None,
        })),
        None => CommandError::Connection(innermost(&error)),
    })
}

/// The text of the error at the end of the chain, which is the most specific one.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The error of a command whose call ended with this status.
#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
pub(super) fn command_error(status: Status) -> CommandError {
    // A status with a source comes from the connection, not from the server.
    if let Some(source) = std::error::Error::source(&status) {
        return CommandError::Connection(innermost(source));
    }
    let message = status.message().to_owned();
    CommandError::of_status(&status, message)
}

/// Returns whether the same call may succeed later. A status without an error reason does not come from the server, but from
/// the connection to it.
pub(super) fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => true,
        Code::Unknown | Code::Internal | Code::Cancelled => info(status).is_none(),
        _ => false,
    }
}

/// [`command_error`] for a call that was repeated.
pub(super) fn command_error_after_retries(status: Status) -> CommandError {
    if is_transient(&status) && info(&status).is_none() {
        return CommandError::Unavailable(format!("the server does not answer ({})", status.message()));
    }
    command_error(status)
}

/// The error reason of Latchkey, if the status has one.
pub(super) fn info(status: &Status) -> Option<ErrorInfo> {
    status.get_details_error_info()
}

/// The rejection of a token, if the status is one. Calls without a verdict in their response reject in this way.
pub(super) fn rejection(status: &Status) -> Option<pb::Rejection> {
    if status.code() != Code::Unauthenticated {
        return None;
    }
    let info = info(status)?;
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == info.reason)?;
    let metadata = |name: &str| info.metadata.get(name).cloned();
    let at = metadata("at_unix").and_then(|at| at.parse().ok());
    Some(pb::Rejection {
        reason: i32::from(reason.code()),
        at: at.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
        by_device: metadata("by_device").unwrap_or_default(),
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
        Status::with_error_details(code, "text", ErrorDetails::with_error_info(reason, "latchkey", metadata))
    }

    #[test]
    fn only_a_status_that_rejects_the_token_is_a_rejection() {
        let replaced = rejection(&status(Code::Unauthenticated, "REPLACED")).unwrap();
        assert_eq!(replaced.reason(), pb::RejectionReason::Replaced);
        assert_eq!((replaced.message.as_str(), replaced.terminal), ("text", true));
        assert_eq!(replaced.at.unwrap().seconds, 1_800_000_000);
        assert!(!rejection(&status(Code::Unauthenticated, "EXPIRED")).unwrap().terminal);
        for (code, reason) in [
            (Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
            (Code::Unauthenticated, "INVALID_CREDENTIALS"),
            // About the account, not about a session.
            (Code::PermissionDenied, "ACCOUNT_DISABLED"),
        ] {
            assert!(rejection(&status(code, reason)).is_none(), "{reason}");
        }
        assert!(rejection(&Status::unauthenticated("from a proxy")).is_none());
    }

    #[test]
    fn errors_of_the_connection_are_transient() {
        assert!(is_transient(&Status::unknown("the connection broke")));
        assert!(is_transient(&status(Code::Unavailable, "SHUTTING_DOWN")));
        assert!(is_transient(&status(Code::ResourceExhausted, "TOO_SLOW")));
        assert!(!is_transient(&status(Code::Internal, "INTERNAL")));
        assert!(!is_transient(&Status::unimplemented("an older server")));
    }
}
