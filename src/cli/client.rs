//! The connection of the commands to a server.

use std::time::Duration;

use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::{Common, Failure};
use crate::{
    grpc::{
        access::KEY_HEADER,
        pb::{account_service_client::AccountServiceClient, auth_service_client::AuthServiceClient},
    },
    store::secret_file,
};

/// How long a command waits for the server.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(super) async fn auth(common: &Common) -> Result<AuthServiceClient<Channel>, Failure> {
    Ok(AuthServiceClient::new(connect(common).await?))
}

/// A client that proves that it is an admin.
pub(super) type Accounts = AccountServiceClient<InterceptedService<Channel, AdminKey>>;

pub(super) async fn accounts(common: &Common) -> Result<Accounts, Failure> {
    let key = AdminKey::read(common)?;
    Ok(AccountServiceClient::with_interceptor(connect(common).await?, key))
}

/// Sends the admin key along.
#[derive(Clone)]
pub(super) struct AdminKey(MetadataValue<Ascii>);

impl AdminKey {
    fn read(common: &Common) -> Result<Self, Failure> {
        let path = common.config()?.admin_key_file();
        let contents = secret_file::read(&path).map_err(|error| {
            Failure::Refused(format!(
                "the admin key is needed: {error}. Run this where the server keeps its data, or set access.admin_key_file"
            ))
        })?;
        let mut value: MetadataValue<Ascii> = std::str::from_utf8(contents.trim_ascii())
            .ok()
            .and_then(|key| key.parse().ok())
            .ok_or_else(|| Failure::Refused(format!("{} does not hold an admin key", path.display())))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl Interceptor for AdminKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(KEY_HEADER, self.0.clone());
        Ok(request)
    }
}

async fn connect(common: &Common) -> Result<Channel, Failure> {
    let server = match &common.server {
        Some(server) => server.clone(),
        None => common.config()?.listen.grpc.to_string(),
    };
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!("--server {server} is not an address such as 127.0.0.1:50051: {error}"))
    };
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(|error| unusable(&error))?;
    endpoint.connect_timeout(Duration::from_secs(3)).timeout(TIMEOUT).connect().await.map_err(|_| {
        Failure::Unavailable(format!(
            "no server answers at {server}: start one with `latchkey serve`, or name it with --server"
        ))
    })
}

/// What a status means to the one who typed the command.
#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err as it is")]
pub(super) fn failed(status: Status) -> Failure {
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
