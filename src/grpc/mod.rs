//! The gRPC services: convert protobuf messages, call the verbs of the domain and map errors to statuses.
//!
//! A request passes [`cross_site`] (page origins and content types) and [`browser`] (gRPC-Web and the cookie, if they
//! are enabled), then [`dispatch`] (request id, deadline, access check, admission) and its handler. A handler splits
//! the request with [`call`], converts the message, calls one verb and converts the result. Validate bypasses the
//! generated router: see [`validate`].
//!
//! `browser` puts the token of a cookie into `authorization`. So only `Login`, `IssueSession` and `Logout` know cookies,
//! because they set or delete one. JSON comes through [`json`](crate::json), which translates it to the same requests.

pub mod access;
mod account;
mod auth;
pub mod browser;
mod call;
mod caller;
pub(crate) mod codec;
mod convert;
pub mod cookie;
mod cookie_scope;
pub(crate) mod cross_site;
mod deadline;
pub mod dispatch;
pub mod envoy;
mod ext_authz;
pub mod health;
mod import;
pub mod methods;
pub mod origin;
mod page;
pub mod pb;
mod reflection;
pub(crate) mod request_body;
pub(crate) mod request_id;
pub(crate) mod response_body;
mod session;
pub(crate) mod status;
mod validate;
mod watch;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use self::{
    access::Access,
    account::AccountHandler,
    auth::AuthHandler,
    caller::CallerHandler,
    codec::{COMPRESSION, MAX_REQUEST},
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

/// Builds all services and their dispatcher. Imports end at `shutdown`.
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
    let import = Import { engine: Arc::clone(engine), timeout: settings.timeout, shutdown: shutdown.clone() };
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
