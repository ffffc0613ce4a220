//! Verdicts: whether the session that a token names is live, or why not.
//!
//! A verdict checks in this order:
//!
//! 1. a session or tombstone with another generation or slot than the token names: `MALFORMED`;
//! 2. the session itself, with its two timeouts and the epoch;
//! 3. its tombstone;
//! 4. the fence;
//! 5. a later session of the same slot: the token was `REPLACED` even if its tombstone is gone;
//! 6. otherwise `UNKNOWN_SESSION`.
//!
//! Whether the token is `NOT_YET_VALID` is checked last: a session that has ended is dead, whatever the clock of the
//! server that opened it said.

use super::{Context, Session, UserSessions};
use crate::domain::{
    rejection::{Reason, Rejection},
    types::{Claims, Slot, Timestamp},
};

impl UserSessions {
    /// Returns the session of a token, or the rejection if the session is not live.
    pub fn verdict(&self, claims: &Claims, ctx: Context<'_>) -> Result<&Session, Rejection> {
        // The signature is valid but no login has issued the token, so its maker has the signing key but no session.
        if self.contradicts(claims) {
            return Err(Rejection::bare(Reason::Malformed));
        }
        let not_yet_valid = || {
            let begins = claims.not_before;
            (begins > ctx.now.after(ctx.leeway)).then(|| Rejection::at(Reason::NotYetValid, begins))
        };
        if let Some(session) = self.sessions.iter().find(|session| session.id == claims.session_id) {
            return session.lapse_rejection(ctx).or_else(not_yet_valid).map_or(Ok(session), Err);
        }
        if let Some(tombstone) = self.tombstones.iter().find(|tombstone| tombstone.id == claims.session_id) {
            return Err(tombstone.rejection());
        }
        if let Some(fence) = self.fence.as_ref().filter(|fence| fence.covers(claims.generation)) {
            return Err(fence.rejection());
        }
        let unknown = || not_yet_valid().unwrap_or(Rejection::bare(Reason::UnknownSession));
        Err(self.replacement(claims).unwrap_or_else(unknown))
    }

    /// The rejection of a session without a tombstone if a later session has taken its slot. Logins take a slot in the
    /// order of their generations.
    fn replacement(&self, claims: &Claims) -> Option<Rejection> {
        let takes = |slot: &Slot, exclusive| exclusive || *slot == claims.slot;
        let live = self
            .sessions
            .iter()
            .filter(|session| takes(&session.slot, session.exclusive))
            .map(|session| (session.generation, session.issued_at, Some(&session.device)));
        let dead =
            self.tombstones.iter().filter(|tombstone| takes(&tombstone.slot, tombstone.exclusive)).map(
                |tombstone| (tombstone.generation, Timestamp::from_micros(tombstone.generation.0), None),
            );
        live.chain(dead)
            // A generation that is not remembered proves a rollback of the store.
            .filter(|(generation, ..)| claims.generation < *generation && !self.has_lost_login(claims))
            .min_by_key(|(generation, ..)| *generation)
            .map(|(_, replaced_at, device)| Rejection {
                by_device: device.cloned().filter(|device| !device.as_str().is_empty()),
                ..Rejection::at(Reason::Replaced, replaced_at)
            })
    }

    /// Whether the session of a token is remembered with another generation or slot than the token names. No login has
    /// issued such a token.
    pub(super) fn contradicts(&self, claims: &Claims) -> bool {
        let live = self.sessions.iter().map(|session| (session.id, session.generation, &session.slot));
        let dead =
            self.tombstones.iter().map(|tombstone| (tombstone.id, tombstone.generation, &tombstone.slot));
        live.chain(dead)
            .find(|(id, ..)| *id == claims.session_id)
            .is_some_and(|(_, generation, slot)| (generation, slot) != (claims.generation, &claims.slot))
    }
}
