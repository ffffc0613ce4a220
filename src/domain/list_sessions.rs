//! `ListSessions`: the live sessions of a user, or those of all users in pages.

use super::{Engine, Error, types::UserId, username::Username, validate::LiveSession};

/// How many accounts are read at a time.
const CHUNK: u32 = 250;
/// How many accounts one page looks at, which limits the cost of a call where few users are logged in.
const MAX_ACCOUNTS: u32 = 1000;

/// Live sessions of several users.
#[derive(Debug, Default)]
pub struct SessionPage {
    /// The sessions, by username, those of a user with the oldest login first.
    pub sessions: Vec<LiveSession>,
    /// The last user of this page; `None` on the last page.
    pub next: Option<Username>,
}

impl Engine {
    /// Returns the live sessions of a user, the oldest login first.
    pub async fn list_sessions(&self, user_id: &UserId) -> Result<Vec<LiveSession>, Error> {
        let read = self.sessions.load(user_id).await?;
        let known = self.sessions.epoch().known().await?;
        let live = read.state.live_sessions(self.sessions.at(&known));
        Ok(live.map(|session| LiveSession::of(user_id, &read.state, session, None)).collect())
    }

    /// Returns a page of the live sessions of all users, beginning after the user `after`. It ends after the user with
    /// whom it has `limit` sessions. Accounts are the list of all users, because a store of sessions cannot list its
    /// users in a stable order.
    pub async fn list_all_sessions(
        &self,
        mut after: Option<Username>,
        limit: usize,
    ) -> Result<SessionPage, Error> {
        if self.accounts.read_only() {
            return Err(Error::ExternalAccounts(
                "accounts belong to another system and cannot be listed (accounts.lookup is set): list the sessions of one user at a time",
            ));
        }
        let mut page = SessionPage::default();
        for _ in 0..MAX_ACCOUNTS / CHUNK {
            let accounts = self.accounts.list(after.as_ref(), CHUNK).await?;
            let is_last = accounts.len() < CHUNK as usize;
            let users: Vec<_> = accounts.iter().map(|account| &account.user_id).collect();
            let reads = self.sessions.load_many(&users).await;
            let known = self.sessions.epoch().known().await?;
            let last = accounts.last().map(|account| account.username.clone());
            for (account, read) in accounts.iter().zip(reads) {
                let state = read?.state;
                let live = state.live_sessions(self.sessions.at(&known));
                let live = live.map(|session| LiveSession::of(&account.user_id, &state, session, None));
                page.sessions.extend(live);
                let is_end = is_last && last.as_ref() == Some(&account.username);
                if page.sessions.len() >= limit && !is_end {
                    page.next = Some(account.username.clone());
                    return Ok(page);
                }
            }
            if is_last {
                return Ok(page);
            }
            after = last;
        }
        page.next = after;
        Ok(page)
    }
}
