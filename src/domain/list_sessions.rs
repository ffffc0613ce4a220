//! `ListSessions`: the live sessions of a user.

use super::{Engine, Error, types::UserId, validate::LiveSession};

impl Engine {
    /// Returns the live sessions of a user, the oldest login first.
    pub async fn list_sessions(&self, user_id: &UserId) -> Result<Vec<LiveSession>, Error> {
        let read = self.sessions.load(user_id).await?;
        let known = self.sessions.epoch().known().await?;
        let live = read.state.live_sessions(self.sessions.at(&known));
        Ok(live.map(|session| LiveSession::of(user_id, &read.state, session, None)).collect())
    }
}
