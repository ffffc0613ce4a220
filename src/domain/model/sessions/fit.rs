//! Whether a token fits the session that it names.

use super::{At, Session, UserSessions};
use crate::domain::{
    rejection::{Reason, Rejection},
    types::Claims,
};

impl UserSessions {
    /// Whether a token with these claims is good: its session, or why not.
    pub fn verdict(&self, claims: &Claims, at: At<'_>) -> Result<&Session, Rejection> {
        // Signed, and not as we sign: whoever made it has our key or a fault, and no session.
        if self.contradicts(claims) {
            Err(Rejection::bare(Reason::Malformed))
        } else {
            self.standing(claims, at)
        }
    }

    /// Whether the session that a token names is remembered with another generation or slot than the token says. No
    /// login has issued such a token.
    pub(super) fn contradicts(&self, claims: &Claims) -> bool {
        let live = self.sessions.iter().map(|session| (session.id, session.generation, &session.slot));
        let dead = self.tombstones.iter().map(|grave| (grave.id, grave.generation, &grave.slot));
        live.chain(dead)
            .find(|(id, ..)| *id == claims.session_id)
            .is_some_and(|(_, generation, slot)| (generation, slot) != (claims.generation, &claims.slot))
    }
}
