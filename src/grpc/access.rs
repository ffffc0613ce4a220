//! Access control: authenticates callers by key or certificate and checks their roles.
//!
//! A caller proves who it is with a key or, without one, with the certificate of its connection. An unknown key is not
//! replaced by the certificate: whoever sends a key means it, and should learn that it was revoked.
//!
//! On a method that is open to everybody, a key or a certificate only names the caller in the audit trail. An unknown
//! one is ignored there: the same call would succeed without it, so an error would protect nothing, and revoking the
//! key of a gateway, or an outage of the store of keys, would keep its users from logging in.

use std::{net::SocketAddr, sync::Arc};

use aws_lc_rs::{constant_time, digest};
use http::{Extensions, HeaderMap, HeaderValue};

use super::{methods::Rule, origin::Origins, pb::KEY_HEADER};
use crate::{
    admission::Connection,
    domain::{
        Engine, Error,
        callers::{
            ADMIN, Identity,
            certificates::Certificates,
            key::CallerKey,
            role::{CallerRole, CallerRoles},
        },
    },
    transport::peer::Peer,
};

/// The access settings.
#[derive(Debug, Default)]
pub struct AccessSettings {
    /// Whether Validate requires the role `validator`.
    pub validate_needs_role: bool,
    /// The certificates of callers.
    pub certificates: Certificates,
}

/// In the extensions of a request, demands that its caller key be known even if the method is open to everybody: OAuth
/// answers every wrong client credential with an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProvenCaller;

/// Authenticates callers and checks their roles.
pub struct Access {
    /// The SHA-256 hash of the admin key. The key is random, so a fast hash is enough.
    admin_key_hash: [u8; 32],
    settings: AccessSettings,
    engine: Arc<Engine>,
    origins: Origins,
}

impl Access {
    /// Creates access control with an admin key and the callers of `engine`.
    pub fn new(admin_key: &[u8], settings: AccessSettings, engine: Arc<Engine>, origins: Origins) -> Self {
        Self { admin_key_hash: sha256(admin_key.trim_ascii()), settings, engine, origins }
    }

    fn role_for(&self, rule: Rule) -> Option<CallerRole> {
        match rule {
            Rule::Role(required) => Some(required),
            Rule::Validator if self.settings.validate_needs_role => Some(CallerRole::Validator),
            Rule::Open | Rule::Validator => None,
        }
    }

    /// Whether a method with this rule requires a role.
    pub(super) fn requires_role(&self, rule: Rule) -> bool {
        self.role_for(rule).is_some()
    }

    /// Returns the name of the caller, if it is known. Fails if the caller may not call a method with this rule.
    pub(super) async fn check(
        &self,
        rule: Rule,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Option<Arc<str>>, Error> {
        let keys = CallerKeys::find(headers);
        let Some(required) = self.role_for(rule) else { return Ok(self.identify_from_memory(&keys, peer)) };
        let identity = self.authenticate(&keys, peer).await?;
        if identity.roles.allow(required) {
            Ok(Some(identity.name))
        } else {
            Err(Error::CallerNotAllowed { caller: identity.name, role: required })
        }
    }

    /// Like [`check`](Self::check), but an unknown key is an error even if the method is open to everybody.
    pub(super) async fn check_proven(
        &self,
        rule: Rule,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Option<Arc<str>>, Error> {
        let keys = CallerKeys::find(headers);
        if self.requires_role(rule) || matches!(keys, CallerKeys::None) {
            return self.check(rule, headers, peer).await;
        }
        Ok(Some(self.authenticate(&keys, peer).await?.name))
    }

    async fn authenticate(&self, keys: &CallerKeys<'_>, peer: &Peer) -> Result<Identity, Error> {
        match keys {
            CallerKeys::One(key) if self.is_admin_key(key.as_bytes()) => Ok(admin()),
            CallerKeys::One(key) => self.authenticate_key(key).await,
            CallerKeys::None => self.authenticate_certificate(peer),
            CallerKeys::Several => Err(Error::CallerUnauthenticated(
                "there are several caller keys in `x-latchkey-key`: send one",
            )),
        }
    }

    /// Checks the caller of a request for a verdict over HTTP, where there are no certificates, and audits an error.
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
            self.audit_refusal(error, path, headers, &extensions);
        })
    }

    /// Writes to the audit trail that a call was refused because of its caller.
    pub(super) fn audit_refusal(
        &self,
        error: &Error,
        method: &str,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) {
        let mut origin = self.origins.resolve(headers, extensions);
        match error {
            Error::CallerUnauthenticated(_) => {}
            Error::CallerNotAllowed { caller, .. } => origin.caller = Some(caller.to_string()),
            // The caller could not be checked, such as in an outage of the accounts.
            _ => return,
        }
        self.engine.audit_refused_call(error, &origin, method);
    }

    /// Returns the name of the caller without a query to the store.
    fn identify_from_memory(&self, keys: &CallerKeys<'_>, peer: &Peer) -> Option<Arc<str>> {
        let identity = match keys {
            CallerKeys::None => self.identify_certificate(peer),
            CallerKeys::One(key) if self.is_admin_key(key.as_bytes()) => Some(admin()),
            CallerKeys::One(key) => self.engine.callers().recall(&CallerKey::hash_of(key.as_bytes())?),
            CallerKeys::Several => None,
        };
        identity.map(|identity| identity.name)
    }

    async fn authenticate_key(&self, key: &HeaderValue) -> Result<Identity, Error> {
        let identity = match CallerKey::hash_of(key.as_bytes()) {
            Some(hash) => self.engine.callers().authenticate(&hash).await?,
            None => None,
        };
        identity.ok_or(Error::CallerUnauthenticated("the caller key in `x-latchkey-key` is not known"))
    }

    fn authenticate_certificate(&self, peer: &Peer) -> Result<Identity, Error> {
        if peer.certificate.is_none() {
            return Err(Error::CallerUnauthenticated(
                "this method needs a caller key: send it in the metadata `x-latchkey-key`",
            ));
        }
        self.identify_certificate(peer).ok_or(Error::CallerUnauthenticated(
            "no name in the client certificate is listed in access.certificates, and there is no caller key in `x-latchkey-key`",
        ))
    }

    fn identify_certificate(&self, peer: &Peer) -> Option<Identity> {
        self.settings.certificates.identify(peer.certificate.as_deref()?)
    }

    fn is_admin_key(&self, key: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&sha256(key), &self.admin_key_hash).is_ok()
    }
}

/// The caller keys in the headers of a request.
enum CallerKeys<'a> {
    None,
    One(&'a HeaderValue),
    Several,
}

impl<'a> CallerKeys<'a> {
    fn find(headers: &'a HeaderMap) -> Self {
        let mut keys = headers.get_all(KEY_HEADER).iter();
        match (keys.next(), keys.next()) {
            (None, _) => Self::None,
            (Some(key), None) => Self::One(key),
            (Some(_), Some(_)) => Self::Several,
        }
    }
}

fn admin() -> Identity {
    Identity { name: ADMIN.into(), roles: CallerRoles::from(CallerRole::Admin) }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
