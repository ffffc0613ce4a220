//! Debts: session changes that follow from account changes and are still owed.
//!
//! An account change and its debt are written in one transaction, like a row of a transactional outbox. The request
//! that changes the account settles the debt before it answers; after a crash or an outage this task does (ADR 0014).

use std::time::Duration;

use crate::{
    domain::{
        Engine, Error,
        audit::{Action, Entry, Outcome},
        origin::Origin,
        ports::{Debt, DebtCause},
        rejection::Reason,
        session_repository::{Committed, Contention, Decision},
        types::{SessionId, UserId},
    },
    isolation::log_limiter::LogLimiter,
};

/// Younger debts are left to the requests that made them, because these report how many sessions ended.
const MIN_AGE: Duration = Duration::from_secs(15);

impl Engine {
    /// Settles debts that were left by a crash or an outage. Returns their number.
    pub async fn settle_debts(&self) -> Result<usize, Error> {
        if self.accounts.read_only() {
            return Ok(0);
        }
        let before = self.clock.now().before(MIN_AGE);
        let debts = self.accounts.debts(before, 100).await?;
        let mut last_error = None;
        for debt in &debts {
            // A debt that cannot be settled must not block the others.
            match self.apply_debt(debt, None).await {
                Ok(ended) => {
                    self.accounts.settled(debt).await?;
                    let entry = Entry::new(
                        self.clock.now(),
                        Action::SessionsEnded,
                        Outcome::Done,
                        &Origin::default(),
                    );
                    let detail = "sessions have followed an earlier change of the account";
                    self.audit.record(entry.user(&debt.user_id).ended(ended).detail(detail));
                }
                Err(error) => last_error = Some(error),
            }
        }
        last_error.map_or(Ok(debts.len()), Err)
    }

    /// Settles the debt of an account change; the session `kept` stays. Returns how many sessions ended.
    pub(in crate::domain) async fn settle(
        &self,
        debt: Option<Debt>,
        kept: Option<SessionId>,
    ) -> Result<u32, Error> {
        let Some(debt) = debt else { return Ok(0) };
        let ended = self.apply_debt(&debt, kept).await?;
        if let Err(error) = self.accounts.settled(&debt).await {
            // The debt will be settled again, which also ends sessions that the user has opened by then.
            static NOT_REMOVED: LogLimiter =
                LogLimiter::new("failed to remove the settled debt of an account change", 1);
            if NOT_REMOVED.admits("") {
                tracing::warn!(error.message = %error, "failed to remove the settled debt of an account change; it will be settled again");
            }
        }
        Ok(ended)
    }

    async fn apply_debt(&self, debt: &Debt, kept: Option<SessionId>) -> Result<u32, Error> {
        let reason = match debt.cause {
            DebtCause::AccountDisabled => Reason::AccountDisabled,
            DebtCause::CredentialsChanged => Reason::CredentialsChanged,
            DebtCause::Profile => return self.update_profile(&debt.user_id).await,
        };
        let read = self.sessions.load(&debt.user_id).await?;
        let longest = self.slots.longest();
        self.sessions
            .transact(&debt.user_id, read, |state, at| {
                Decision::Write(state.fence_except(kept, reason, longest, at))
            })
            .await
    }

    async fn update_profile(&self, user_id: &UserId) -> Result<u32, Error> {
        let mut contention = Contention::default();
        let mut read = self.sessions.load(user_id).await?;
        loop {
            // The register is read before the account, as at login, so a newer account makes the commit conflict.
            let Some(account) = self.accounts.get(user_id).await? else { return Ok(0) };
            let next = {
                let known = self.sessions.epoch().known().await?;
                read.state.update_profile(account.profile(), self.sessions.at(&known))
            };
            match self.sessions.commit(user_id, &read, next).await? {
                Committed::Done(()) => return Ok(0),
                Committed::Conflict(newer) => {
                    read = self.sessions.after_conflict(user_id, newer, &mut contention).await?;
                }
            }
        }
    }
}
