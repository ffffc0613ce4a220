//! What a verdict looks like to a gateway: Envoy, nginx, Traefik or Caddy ask before they let a request pass.
//!
//! They ask in two ways, `grpc/ext_authz.rs` and `http/forward_auth.rs`, and get the same answer, which is made
//! here: where the token is found, what the route asks for besides, the headers that tell who it is, and how a
//! request is turned away. An outage is no answer: it stays an error, and the gateway fails closed.

mod denial;
mod identity;
mod route;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::domain::{
    Engine, Error,
    types::Timestamp,
    validate::{LiveSession, Verdict},
};
use latchkey_client::bearer::Credentials;

pub use self::{
    denial::{Cause, Denial},
    identity::{HeaderNames, Identity},
    route::Route,
};

/// How often wrong settings of a gateway are told of.
const TELL_INTERVAL: Duration = Duration::from_mins(1);

/// What the settings say of gateways.
#[derive(Debug, Clone, Default)]
pub struct GatewaySettings {
    /// The cookie that may hold the token, if one may.
    pub cookie: Option<String>,
    /// The headers that tell who it is.
    pub headers: HeaderNames,
}

/// Answers gateways.
pub struct Gateway {
    engine: Arc<Engine>,
    settings: GatewaySettings,
    /// When wrong settings of a gateway were last told of.
    told: Mutex<Option<Timestamp>>,
}

/// Whether a request may pass.
#[derive(Debug)]
pub enum Decision {
    /// It may, as this user; or as nobody, where the route allows that.
    Allowed(Option<Identity>),
    /// It may not.
    Denied(Denial),
}

impl Gateway {
    /// Asks this engine.
    pub fn new(engine: Arc<Engine>, settings: GatewaySettings) -> Self {
        Self { engine, settings, told: Mutex::default() }
    }

    /// The rules behind it.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What the settings say.
    pub fn settings(&self) -> &GatewaySettings {
        &self.settings
    }

    /// What a route asks for, from keys and values that stand in `place`.
    pub fn route<'a>(
        &self,
        place: &'static str,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Route, Error> {
        Route::parse(place, pairs, self.engine.slots()).map_err(|violation| {
            let error = Error::from(violation);
            self.tell(&error);
            error
        })
    }

    /// Tells whoever runs this that nobody passes for what a gateway's settings say: the gateway may not tell. Once a
    /// minute, because it is the same for every request.
    fn tell(&self, error: &Error) {
        let now = self.engine.now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| now.since(told) >= TELL_INTERVAL) {
            *told = Some(now);
            tracing::warn!(error.message = %error, "what a gateway asks for cannot be: mend its settings");
        }
    }

    /// Whether a request with these values of `authorization` and `cookie` may take this route.
    pub async fn decide<'a>(
        &self,
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
            Credentials::Unclear(why) => return Ok(Decision::Denied(Cause::Unclear(why).into())),
        };
        let cause = match verdict {
            Verdict::Live(verified) => match forbidden(&verified, route) {
                Some(cause) => cause,
                None => return Ok(Decision::Allowed(Some(Identity::of(verified)))),
            },
            Verdict::Rejected(rejection) => Cause::Rejected(rejection),
        };
        Ok(Decision::Denied(cause.into()))
    }
}

/// Why a live session does not get what the route leads to.
fn forbidden(verified: &LiveSession, route: &Route) -> Option<Cause> {
    if let Some(slot) = route.required_slot.as_ref().filter(|slot| **slot != verified.session().slot) {
        return Some(Cause::WrongSlot(slot.clone()));
    }
    let missing = route.required_role.as_ref().filter(|role| !verified.roles().contains(role));
    missing.cloned().map(Cause::MissingRole)
}
