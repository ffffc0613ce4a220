//! Tokens over the key ring in use, which follows the key directory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::jwk::JwkSet;

use super::{
    Error,
    audit::{Action, Entry, LimitedAudit, Outcome},
    keyring::Keyring,
    origin::Origin,
    ports::{Clock, StoreError},
    rejection::{Reason, Rejection},
    rotation::Rotation,
    sessions::Session,
    token::{Keys, Tokens},
    types::{Claims, Role, Timestamp, UserId},
};

/// Issues and verifies tokens, and rotates their keys.
pub struct TokenService {
    tokens: Tokens,
    rotation: Rotation,
    clock: Arc<dyn Clock>,
    audit: LimitedAudit,
}

/// The result of verifying a token.
pub(super) enum TokenCheck {
    /// Its signature and times are good.
    Good(Arc<Claims>),
    /// It is not a good token.
    Rejected(Rejection),
    /// Its key is not known here, and the key directory may have changed since it was last read.
    UnknownKey,
}

impl TokenService {
    /// A service over the keys of `tokens`, which `rotation` keeps up to date.
    pub fn new(tokens: Tokens, rotation: Rotation, clock: Arc<dyn Clock>, audit: LimitedAudit) -> Self {
        Self { tokens, rotation, clock, audit }
    }

    /// The tolerance for clocks that differ.
    pub fn leeway(&self) -> Duration {
        self.tokens.leeway()
    }

    /// The public keys (RFC 7517).
    pub fn jwks(&self) -> JwkSet {
        self.tokens.keyring().jwks()
    }

    pub(super) fn issue(&self, user_id: &UserId, session: &Session, roles: &[Role]) -> Result<String, Error> {
        self.tokens.issue(user_id, session, roles)
    }

    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<Claims>, Rejection> {
        self.tokens.verify(token, now)
    }

    /// The keys in use, to check several tokens.
    pub(super) fn keys(&self) -> Keys<'_> {
        self.tokens.keys()
    }

    fn check(&self, token: &str, now: Timestamp) -> TokenCheck {
        self.check_with(&self.keys(), token, now)
    }

    /// Verifies a token, and tells an unknown key that may be in the directory from a bad signature.
    pub(super) fn check_with(&self, keys: &Keys<'_>, token: &str, now: Timestamp) -> TokenCheck {
        match keys.verify(token, now) {
            Ok(claims) => TokenCheck::Good(claims),
            Err(rejection) if rejection.reason == Reason::BadSignature && self.may_have_new_key(token) => {
                TokenCheck::UnknownKey
            }
            Err(rejection) => TokenCheck::Rejected(rejection),
        }
    }

    fn may_have_new_key(&self, token: &str) -> bool {
        !self.rotation.is_up_to_date() && self.tokens.names_unknown_key(token)
    }

    /// The claims of a good token; otherwise [`Error::Rejected`]. Waits where its key may have been added since the key
    /// directory was last read.
    pub(super) async fn claims(&self, token: &str) -> Result<Arc<Claims>, Error> {
        match self.check(token, self.clock.now()) {
            TokenCheck::Good(claims) => Ok(claims),
            TokenCheck::Rejected(rejection) => Err(Error::Rejected(rejection)),
            TokenCheck::UnknownKey => {
                self.read_new_keys().await?;
                self.verify(token, self.clock.now()).map_err(Error::Rejected)
            }
        }
    }

    /// Waits until the key directory has been read recently.
    pub(super) async fn read_new_keys(&self) -> Result<(), StoreError> {
        self.rotation.wait_for_read().await
    }

    /// Has the key directory read now, and the result logged.
    pub fn reload_keys(&self) {
        self.rotation.read_now();
    }

    /// Follows the key directory for as long as it is polled.
    pub async fn rotate_keys(&self) {
        loop {
            let (begun, read) = self.rotation.read_next().await;
            let succeeded = read.is_ok();
            let wrong = match read {
                Ok(files) => self.rotation.observe(files, begun),
                Err(error) => Some(error),
            };
            // Keys that are known reach their activation delay even while the directory cannot be read.
            let unusable = self.use_keys(begun).err();
            self.rotation.report(&wrong.or(unusable).unwrap_or_default());
            self.rotation.note_read(begun, succeeded);
        }
    }

    fn use_keys(&self, now: Instant) -> Result<(), String> {
        let ring = self.rotation.ring(now)?;
        let before = self.tokens.keyring();
        let requested = self.rotation.take_request();
        if before.is_same(&ring) {
            if requested {
                tracing::info!("the signing keys are unchanged");
            }
            return Ok(());
        }
        for key in ring.keys().iter().filter(|key| before.find(&key.kid).is_none()) {
            tracing::info!(token.kid = key.kid, "published a new signing key");
        }
        let signing = ring.signing().kid.clone();
        self.replace(ring);
        if before.signing().kid != signing {
            tracing::info!(token.kid = signing, "using a new signing key");
            let entry =
                Entry::new(self.clock.now(), Action::UseSigningKey, Outcome::Done, &Origin::default());
            self.audit.record(entry.detail(format!("kid {signing}")));
        }
        Ok(())
    }

    fn replace(&self, ring: Keyring) {
        for (kid, until) in self.tokens.rotate(ring) {
            let now = self.clock.now();
            if until > now {
                tracing::warn!(
                    token.kid = kid,
                    token.needed_for_seconds = until.since(now).as_secs(),
                    "a signing key was removed that live sessions still need: their tokens are rejected as BAD_SIGNATURE. Put the file back for so long, or let these users log in again"
                );
            } else {
                tracing::info!(token.kid = kid, "removed a signing key");
            }
        }
    }
}
