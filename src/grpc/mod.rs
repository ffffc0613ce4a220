//! Inbound: protobuf to domain and back. The one place that says tonic.

pub mod access;
mod account;
mod auth;
mod body;
pub mod browser;
mod caller;
mod codec;
mod convert;
pub mod cookie;
mod cookie_scope;
mod cross_site;
mod deadline;
pub mod dispatch;
pub mod envoy;
mod ext_authz;
pub mod health;
mod import;
pub mod origin;
pub mod pb;
mod reflection;
mod request_id;
mod response_body;
mod session;
mod status;
mod validate;
mod watch;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, service::Routes};

use self::{
    access::Access,
    account::AccountHandler,
    auth::AuthHandler,
    caller::CallerHandler,
    dispatch::{DispatchSettings, Dispatcher},
    envoy::service::auth::v3::authorization_server::AuthorizationServer,
    ext_authz::CheckHandler,
    health::Health,
    import::Import,
    origin::Origins,
    pb::{
        account_service_server::AccountServiceServer, auth_service_server::AuthServiceServer,
        caller_service_server::CallerServiceServer, session_service_server::SessionServiceServer,
    },
    session::SessionHandler,
};
use crate::gateway::Gateway;

/// A larger request is refused before it is decoded, in bytes. A compressed one is measured both as it comes and as it
/// is decompressed, which stops at the limit.
const MAX_REQUEST: usize = 64 * 1024;

/// The compression that requests may have. Responses are not compressed: most are smaller than what it would save.
const COMPRESSION: CompressionEncoding = CompressionEncoding::Gzip;

/// Every service, behind the guard. Streams end at `shutdown`.
pub fn services(
    gateway: &Arc<Gateway>,
    access: Access,
    origins: &Origins,
    health: &Health,
    settings: DispatchSettings,
    reflection: bool,
    shutdown: &CancellationToken,
) -> Result<Dispatcher, String> {
    let engine = gateway.engine();
    let import =
        Import { engine: Arc::clone(engine), patience: settings.timeout, shutdown: shutdown.clone() };
    let mut services = Routes::builder();
    services
        .add_service(
            AuthServiceServer::new(AuthHandler::new(Arc::clone(engine), origins.clone()))
                .max_decoding_message_size(MAX_REQUEST)
                .accept_compressed(COMPRESSION),
        )
        .add_service(
            SessionServiceServer::new(SessionHandler::new(Arc::clone(engine), origins.clone()))
                .max_decoding_message_size(MAX_REQUEST)
                .accept_compressed(COMPRESSION),
        )
        .add_service(
            AccountServiceServer::new(AccountHandler::new(Arc::clone(engine), origins.clone(), import))
                .max_decoding_message_size(MAX_REQUEST)
                .accept_compressed(COMPRESSION),
        )
        .add_service(
            CallerServiceServer::new(CallerHandler::new(Arc::clone(engine), origins.clone()))
                .max_decoding_message_size(MAX_REQUEST)
                .accept_compressed(COMPRESSION),
        )
        .add_service(
            AuthorizationServer::new(CheckHandler::new(Arc::clone(gateway)))
                .max_decoding_message_size(ext_authz::MAX_REQUEST)
                .accept_compressed(COMPRESSION),
        )
        .add_service(health.service());
    if reflection {
        reflection::add_to(&mut services)?;
    }
    let router = services.routes().prepare().into_axum_router();
    Ok(Dispatcher::new(Arc::clone(engine), router, access, settings))
}
