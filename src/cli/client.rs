//! The connection of the commands to a server.

use std::time::Duration;

use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{Common, Failure, tls};
use crate::{
    config::ValidateAccess,
    grpc::{
        access::KEY_HEADER,
        pb::{
            account_service_client::AccountServiceClient, auth_service_client::AuthServiceClient,
            caller_service_client::CallerServiceClient,
        },
    },
    store::secret_file,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a command waits for the server.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A client that sends a caller's key along, where there is one to send.
type Keyed = InterceptedService<Channel, CallerKey>;

pub(super) async fn auth(common: &Common) -> Result<AuthServiceClient<Keyed>, Failure> {
    // What it asks for is open to everybody, unless the settings here say otherwise.
    let needed = common.key_file.is_some() || common.config()?.access.validate == ValidateAccess::Caller;
    let key = if needed { CallerKey::read(common)? } else { CallerKey(None) };
    Ok(AuthServiceClient::with_interceptor(connect(common).await?, key))
}

/// A client of what only admins may do.
pub(super) type Accounts = AccountServiceClient<Keyed>;

pub(super) async fn accounts(common: &Common) -> Result<Accounts, Failure> {
    let key = CallerKey::read(common)?;
    Ok(AccountServiceClient::with_interceptor(connect(common).await?, key))
}

pub(super) async fn callers(common: &Common) -> Result<CallerServiceClient<Keyed>, Failure> {
    let key = CallerKey::read(common)?;
    Ok(CallerServiceClient::with_interceptor(connect(common).await?, key))
}

/// Sends a caller's key along.
#[derive(Clone)]
pub(super) struct CallerKey(Option<MetadataValue<Ascii>>);

impl CallerKey {
    /// The key in `--key-file`, or the admin key of the server on this machine.
    fn read(common: &Common) -> Result<Self, Failure> {
        let (path, what) = match &common.key_file {
            Some(path) => (path.clone(), "a caller key is needed"),
            None => (common.config()?.admin_key_file(), "the admin key is needed"),
        };
        let contents = secret_file::read(&path).map_err(|error| {
            Failure::Refused(match &common.key_file {
                Some(_) => format!("{what}: {error}"),
                None => format!(
                    "{what}: {error}. Run this where the server keeps its data, set access.admin_key_file, or name a file with a caller key by --key-file"
                ),
            })
        })?;
        let mut value: MetadataValue<Ascii> = std::str::from_utf8(contents.trim_ascii())
            .ok()
            .filter(|key| !key.is_empty())
            .and_then(|key| key.parse().ok())
            .ok_or_else(|| Failure::Refused(format!("{} does not hold a key", path.display())))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for CallerKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert(KEY_HEADER, key.clone());
        }
        Ok(request)
    }
}

async fn connect(common: &Common) -> Result<Channel, Failure> {
    let target = Target::of(common)?;
    let server = &target.server;
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!(
            "--server {server} is not an address such as 127.0.0.1:50051 or https://latchkey.internal:50051: {error}"
        ))
    };
    // The scheme of the endpoint is of no account to a connector of our own, and must not ask for another TLS.
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(|error| unusable(&error))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
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
    fn of(common: &Common) -> Result<Self, Failure> {
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
    let throttled = status.get_details_error_info().is_some_and(|info| info.reason == "THROTTLED");
    match status.code() {
        _ if throttled => Failure::Refused(sentence),
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
            Failure::Unavailable(sentence)
        }
        Code::InvalidArgument => Failure::Usage(sentence),
        _ => Failure::Refused(sentence),
    }
}
