//! Debts: session changes that follow from account changes and are still owed.
//!
//! An account change and its debt are written in one transaction, like a row of a transactional outbox. The request
//! that made the debt settles it; after a crash or an outage this task does.

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

/// A younger debt is being settled by the request that made it, which reports how many sessions it ended.
const DEBT_AGE: Duration = Duration::from_secs(15);

impl Engine {
    /// Settles debts that were left behind by a crash or an outage: how many.
    pub async fn settle_debts(&self) -> Result<usize, Error> {
        if self.accounts.read_only() {
            return Ok(0);
        }
        let before = self.clock.now().before(DEBT_AGE);
        let debts = self.accounts.debts(before, 100).await?;
        let mut failure = None;
        for debt in &debts {
            // One that cannot be settled must not hold up the others.
            match self.settle(debt, None).await {
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
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(debts.len()), Err)
    }

    /// Makes sessions follow their account, all but `kept`: how many ended.
    pub(in crate::domain) async fn follow(
        &self,
        debt: Option<Debt>,
        kept: Option<SessionId>,
    ) -> Result<u32, Error> {
        let Some(debt) = debt else { return Ok(0) };
        let ended = self.settle(&debt, kept).await?;
        if let Err(error) = self.accounts.settled(&debt).await {
            // The debt will be settled once more, which ends what the user has opened by then: too much
            // rather than too little.
            static UNSETTLED: LogLimiter =
                LogLimiter::new("could not record that sessions have followed an account", 1);
            if UNSETTLED.admits("") {
                tracing::warn!(error.message = %error, "could not record that sessions have followed an account");
            }
        }
        Ok(ended)
    }

    async fn settle(&self, debt: &Debt, kept: Option<SessionId>) -> Result<u32, Error> {
        let reason = match debt.cause {
            DebtCause::AccountDisabled => Reason::AccountDisabled,
            DebtCause::CredentialsChanged => Reason::CredentialsChanged,
            DebtCause::Profile => return self.show_profile(&debt.user_id).await,
        };
        let read = self.sessions.load(&debt.user_id).await?;
        let longest = self.slots.longest();
        self.sessions
            .transact(&debt.user_id, read, |state, at| {
                Decision::Write(state.fence_except(kept, reason, longest, at))
            })
            .await
    }

    async fn show_profile(&self, user_id: &UserId) -> Result<u32, Error> {
        let mut contention = Contention::default();
        let mut read = self.sessions.load(user_id).await?;
        loop {
            // The register before the account, as at login: whoever is faster with a newer account makes
            // this conflict.
            let Some(account) = self.accounts.get(user_id).await? else { return Ok(0) };
            let next = {
                let known = self.sessions.epoch().known().await?;
                read.state.update_profile(account.profile(), self.sessions.at(&known))
            };
            match self.sessions.commit(user_id, &read, next).await? {
                Committed::Done(()) => return Ok(0),
                Committed::Conflict(newer) => {
                    read = self.sessions.after_conflict(user_id, newer, &mut contention).await?
                }
            }
        }
    }
}
