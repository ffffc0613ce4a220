//! Decisions for gateways: Envoy, nginx, Traefik or Caddy call Latchkey before they forward a request.
//!
//! `grpc/ext_authz.rs` and `http/forward_auth.rs` share this module, so their decisions cannot differ. It finds the
//! token, checks the requirements of the route, and builds the identity headers or the denial. An outage is an error
//! and not a decision; the gateway fails closed. [`latchkey_client::bearer`] finds the token and writes denials over
//! HTTP; the Rust guard uses it, too.

mod denial;
mod identity;
mod route;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::domain::{
    Engine, Error,
    metrics::Surface,
    types::Timestamp,
    validate::{LiveSession, Verdict},
};
use latchkey_client::bearer::Credentials;

pub use self::{
    denial::{Cause, Denial},
    identity::{HeaderNames, Identity},
    route::Route,
};

/// Minimum interval of warnings about invalid route configurations.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// The gateway settings.
#[derive(Debug, Clone, Default)]
pub struct GatewaySettings {
    /// The name of the cookie that may contain the token.
    pub cookie: Option<String>,
    /// The names of the identity headers.
    pub headers: HeaderNames,
}

/// Decides requests for gateways.
pub struct Gateway {
    engine: Arc<Engine>,
    settings: GatewaySettings,
    last_warning: Mutex<Option<Timestamp>>,
}

/// Whether a gateway may forward a request.
#[derive(Debug)]
pub enum Decision {
    /// The request is allowed. There is no identity if it has no token and the route makes tokens optional.
    Allowed(Option<Identity>),
    /// The request is denied.
    Denied(Denial),
}

impl Gateway {
    /// Creates a gateway that validates tokens with `engine`.
    pub fn new(engine: Arc<Engine>, settings: GatewaySettings) -> Self {
        Self { engine, settings, last_warning: Mutex::default() }
    }

    /// Returns the engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Returns the settings.
    pub fn settings(&self) -> &GatewaySettings {
        &self.settings
    }

    /// Parses the configuration of a route, which is in `field` of the request. Logs an invalid configuration.
    pub fn route<'a>(
        &self,
        field: &'static str,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Route, Error> {
        Route::parse(field, pairs, self.engine.slots()).map_err(|violation| {
            let error = Error::from(violation);
            self.warn(&error);
            error
        })
    }

    /// Logs an invalid route configuration, because the gateway may not. Every request has the same error, so this logs
    /// at most once a minute.
    fn warn(&self, error: &Error) {
        let now = self.engine.now();
        let mut last_warning = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        if last_warning.is_none_or(|last| now.since(last) >= WARNING_INTERVAL) {
            *last_warning = Some(now);
            tracing::warn!(error.message = %error, "invalid gateway route configuration");
        }
    }

    /// Decides a request with these values of `authorization` and `cookie` on a route.
    pub async fn decide<'a>(
        &self,
        surface: Surface,
        authorization: impl IntoIterator<Item = &'a [u8]>,
        cookies: impl IntoIterator<Item = &'a [u8]>,
        route: &Route,
    ) -> Result<Decision, Error> {
        let cookies = self.settings.cookie.as_deref().map(|name| (name, cookies));
        let verdict = match Credentials::find(authorization, cookies) {
            Credentials::Token(token) => self.engine.validate(token, route.peek, None).await?,
            Credentials::Cookies(tokens) => self.engine.validate_any(tokens.as_slice(), route.peek).await?.1,
            Credentials::None if route.optional => return Ok(Decision::Allowed(None)),
            Credentials::None => return Ok(Decision::Denied(Cause::NoToken.into())),
            Credentials::Malformed(message) => return Ok(Decision::Denied(Cause::Malformed(message).into())),
        };
        self.engine.metrics().verdicts.count(surface, &verdict);
        let cause = match verdict {
            Verdict::Live(session) => match unmet_requirement(&session, route) {
                Some(cause) => cause,
                None => return Ok(Decision::Allowed(Some(Identity { session }))),
            },
            Verdict::Rejected(rejection) => Cause::Rejected(rejection),
        };
        Ok(Decision::Denied(cause.into()))
    }
}

/// Returns the requirement of the route that a live session does not meet.
fn unmet_requirement(live: &LiveSession, route: &Route) -> Option<Cause> {
    if let Some(slot) = route.required_slot.as_ref().filter(|slot| **slot != live.session().slot) {
        return Some(Cause::WrongSlot(slot.clone()));
    }
    let missing = route.required_role.as_ref().filter(|role| !live.roles().contains(role));
    missing.cloned().map(Cause::MissingRole)
}
