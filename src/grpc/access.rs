//! Who may call what: by full method path, default deny.
//!
//! A caller proves who it is with a key or, where it sends none, with the certificate of its connection. A
//! key that is not known is not made good by a certificate: whoever sends a key means it, and should learn
//! that it was revoked.
//!
//! On a method that is open to everybody, a key or a certificate only tells who calls, for the audit trail.
//! One that is not known is passed over there: without it the same call would be served, so a refusal would
//! protect nothing; and revoking the key of a gateway, or an outage of the store of keys, would keep its users
//! from logging in.

use std::{net::SocketAddr, sync::Arc};

use aws_lc_rs::{constant_time, digest};
use http::{Extensions, HeaderMap, HeaderValue};

use super::{origin::Origins, pb::KEY_HEADER};
use crate::transport::peer::Peer;
use crate::{
    admission::{Connection, Resource},
    domain::{
        Engine, Error,
        callers::{
            ADMIN, Identity,
            certificates::Certificates,
            key::CallerKey,
            role::{CallerRole, CallerRoles},
        },
    },
};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Everybody who can reach the port.
    Open,
    /// Services that ask for verdicts: everybody, or callers with the role `validator`, as the settings say.
    Validator,
    /// Callers with this role.
    Role(CallerRole),
}

/// The rule of a method; what has none is not served.
pub fn rule(path: &str) -> Option<Rule> {
    Some(match path {
        "/latchkey.v1.AuthService/Login"
        | "/latchkey.v1.AuthService/Logout"
        | "/latchkey.v1.AuthService/WatchSession"
        | "/latchkey.v1.AuthService/ChangePassword"
        | "/latchkey.v1.AuthService/GetJwks"
        | "/grpc.health.v1.Health/Check"
        | "/grpc.health.v1.Health/Watch"
        | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Rule::Open,
        "/latchkey.v1.AuthService/Validate"
        | "/latchkey.v1.AuthService/ValidateStream"
        | "/envoy.service.auth.v3.Authorization/Check" => Rule::Validator,
        "/latchkey.v1.SessionService/IssueSession" => Rule::Role(CallerRole::Issuer),
        "/latchkey.v1.SessionService/ListSessions"
        | "/latchkey.v1.SessionService/EndSessions"
        | "/latchkey.v1.SessionService/WatchSessions" => Rule::Role(CallerRole::Operator),
        "/latchkey.v1.AccountService/CreateAccount"
        | "/latchkey.v1.AccountService/GetAccount"
        | "/latchkey.v1.AccountService/ListAccounts"
        | "/latchkey.v1.AccountService/UpdateAccount"
        | "/latchkey.v1.AccountService/SetPassword"
        | "/latchkey.v1.AccountService/UnlockAccount"
        | "/latchkey.v1.AccountService/DeleteAccount"
        | "/latchkey.v1.AccountService/ImportAccounts"
        | "/latchkey.v1.CallerService/CreateCaller"
        | "/latchkey.v1.CallerService/ListCallers"
        | "/latchkey.v1.CallerService/RevokeCaller" => Rule::Role(CallerRole::Admin),
        _ => return None,
    })
}

/// Whether the answer of a method is a stream, which may stay open for long.
pub(super) fn is_streaming(path: &str) -> bool {
    matches!(
        path,
        "/latchkey.v1.AuthService/ValidateStream"
            | "/latchkey.v1.AuthService/WatchSession"
            | "/latchkey.v1.SessionService/WatchSessions"
            | "/grpc.health.v1.Health/Watch"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
}

/// Whether what a method takes is a stream of messages.
pub(super) fn takes_stream(path: &str) -> bool {
    matches!(
        path,
        "/latchkey.v1.AuthService/ValidateStream"
            | "/latchkey.v1.AccountService/ImportAccounts"
            | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    )
}

/// What a call counts towards that may stay open for long.
pub(super) fn open_stream(path: &str) -> Option<Resource> {
    match path {
        "/grpc.health.v1.Health/Watch" => Some(Resource::HealthStreams),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => Some(Resource::ReflectionStreams),
        _ => (is_streaming(path) || takes_stream(path)).then_some(Resource::Streams),
    }
}

/// What the settings say of callers.
#[derive(Debug, Default)]
pub struct AccessSettings {
    /// Whether asking for verdicts needs the role `validator`.
    pub validate_needs_role: bool,
    /// The certificates that are callers.
    pub certificates: Certificates,
}

/// Knows the callers.
pub struct Access {
    /// The admin key is kept as a hash: random as it is, a plain one is enough.
    admin: [u8; 32],
    settings: AccessSettings,
    engine: Arc<Engine>,
    origins: Origins,
}

impl Access {
    /// Access with the admin key, and the callers that `engine` knows.
    pub fn new(admin_key: &[u8], settings: AccessSettings, engine: Arc<Engine>, origins: Origins) -> Self {
        Self { admin: fingerprint(admin_key.trim_ascii()), settings, engine, origins }
    }

    /// The role that a method needs.
    fn needed(&self, rule: Rule) -> Option<CallerRole> {
        match rule {
            Rule::Role(needed) => Some(needed),
            Rule::Validator if self.settings.validate_needs_role => Some(CallerRole::Validator),
            Rule::Open | Rule::Validator => None,
        }
    }

    /// Whether not everybody may call a method with this rule.
    pub(super) fn demands(&self, rule: Rule) -> bool {
        self.needed(rule).is_some()
    }

    /// Who calls, if that is known and may call a method with this rule.
    pub(super) async fn check(
        &self,
        rule: Rule,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Option<Arc<str>>, Error> {
        let presented = Presented::of(headers);
        let Some(needed) = self.needed(rule) else { return Ok(self.recall(&presented, peer)) };
        let identity = match presented {
            Presented::Key(key) if self.is_admin(key.as_bytes()) => admin(),
            Presented::Key(key) => self.authenticate(key).await?,
            Presented::None => self.certified(peer)?,
            Presented::Several => {
                return Err(Error::CallerUnauthenticated(
                    "there are several caller keys in `x-latchkey-key`: send one",
                ));
            }
        };
        if identity.roles.allow(needed) {
            Ok(Some(identity.name))
        } else {
            Err(Error::CallerNotAllowed { caller: identity.name, role: needed })
        }
    }

    /// The same for a verdict over HTTP, where there are no certificates. A refusal is recorded.
    pub async fn check_http(
        &self,
        headers: &HeaderMap,
        address: SocketAddr,
        connection: &Arc<Connection>,
        path: &str,
    ) -> Result<(), Error> {
        let peer = Peer { address, certificate: None, connection: Arc::clone(connection) };
        let checked = self.check(Rule::Validator, headers, &peer).await;
        checked.map(drop).inspect_err(|error| {
            let mut extensions = Extensions::new();
            extensions.insert(peer.clone());
            self.refused(error, path, headers, &extensions);
        })
    }

    /// Records that a call was refused because of its caller.
    pub(super) fn refused(&self, error: &Error, method: &str, headers: &HeaderMap, extensions: &Extensions) {
        let mut origin = self.origins.of(headers, extensions);
        match error {
            Error::CallerUnauthenticated(_) => {}
            Error::CallerNotAllowed { caller, .. } => origin.caller = Some(caller.to_string()),
            // Nothing was decided.
            _ => return,
        }
        self.engine.call_refused(error, &origin, method);
    }

    /// Who calls, as far as is known without asking a store.
    fn recall(&self, presented: &Presented<'_>, peer: &Peer) -> Option<Arc<str>> {
        let identity = match presented {
            Presented::None => self.listed(peer),
            Presented::Key(key) if self.is_admin(key.as_bytes()) => Some(admin()),
            Presented::Key(key) => self.engine.callers().recall(&CallerKey::hash_of(key.as_bytes())?),
            Presented::Several => None,
        };
        identity.map(|identity| identity.name)
    }

    async fn authenticate(&self, key: &HeaderValue) -> Result<Identity, Error> {
        let known = match CallerKey::hash_of(key.as_bytes()) {
            Some(hash) => self.engine.callers().authenticate(&hash).await?,
            None => None,
        };
        known.ok_or(Error::CallerUnauthenticated("the caller key in `x-latchkey-key` is not known"))
    }

    fn certified(&self, peer: &Peer) -> Result<Identity, Error> {
        let peer =
            Some(peer).filter(|peer| peer.certificate.is_some()).ok_or(Error::CallerUnauthenticated(
                "this method needs a caller key: send it in the metadata `x-latchkey-key`",
            ))?;
        self.listed(peer).ok_or(Error::CallerUnauthenticated(
            "no name in the client certificate is listed in access.certificates, and there is no caller key in `x-latchkey-key`",
        ))
    }

    /// The caller whose certificate this is.
    fn listed(&self, peer: &Peer) -> Option<Identity> {
        self.settings.certificates.identify(peer.certificate.as_deref()?)
    }

    fn is_admin(&self, key: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&fingerprint(key), &self.admin).is_ok()
    }
}

/// The keys that came with a request.
enum Presented<'a> {
    None,
    Key(&'a HeaderValue),
    Several,
}

impl<'a> Presented<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut keys = headers.get_all(KEY_HEADER).iter();
        match (keys.next(), keys.next()) {
            (None, _) => Self::None,
            (Some(key), None) => Self::Key(key),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

fn admin() -> Identity {
    Identity { name: ADMIN.into(), roles: CallerRoles::from(CallerRole::Admin) }
}

fn fingerprint(key: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
    bytes
}

#[cfg(test)]
mod tests;
