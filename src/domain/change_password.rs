//! `ChangePassword`: a user with a live session and the current password sets a new one.

use super::{
    Engine, Error,
    audit::Action,
    origin::Origin,
    password::{NewPassword, Password, PasswordCheck},
    password_service::PresentedPassword,
    ports::{AccountChange, DebtCause},
    rejection::{Reason, Rejection},
    types::Claims,
};

/// Checks of the current password, if its hash is changed meanwhile.
const MAX_ATTEMPTS: u32 = 3;

impl Engine {
    /// Sets a new password and ends all other sessions of the user. Returns how many ended.
    ///
    /// The current password is required because a token can be stolen. It is limited as at login.
    pub async fn change_password(
        &self,
        token: &str,
        current: Password,
        new: NewPassword,
        origin: &Origin,
    ) -> Result<u32, Error> {
        self.check_accounts_writable()?;
        let claims = self.tokens.claims(token).await?;
        let outcome = self.replace_password(&claims, &current, new, origin).await;
        let mut entry = self.entry(Action::ChangePassword, &outcome, origin).user(&claims.user_id);
        entry.session_id = Some(claims.session_id);
        if let Ok(ended) = outcome {
            entry = entry.ended(ended);
        }
        self.audit.record(entry);
        outcome
    }

    async fn replace_password(
        &self,
        claims: &Claims,
        current: &Password,
        new: NewPassword,
        origin: &Origin,
    ) -> Result<u32, Error> {
        let disabled = || Error::Rejected(Rejection::bare(Reason::AccountDisabled));
        let account = async || self.accounts.get(&claims.user_id).await?.ok_or_else(disabled);
        let mut found = account().await?;
        // Checked first, because a violation costs no hash.
        let new = self.passwords.check_policy(new, &found.username)?;
        let mut new_hash = None;
        for _ in 0..MAX_ATTEMPTS {
            let read = self.sessions.load(&claims.user_id).await?;
            let verdict = {
                let known = self.sessions.epoch().known().await?;
                read.state.verdict(claims, self.sessions.at(&known)).map(drop)
            };
            if verdict.is_err() {
                self.detect_rollback(claims, &read).await?;
                if let Some(rejection) = self.record_lapse(claims, read.clone()).await? {
                    return Err(Error::Rejected(rejection));
                }
            }
            if found.disabled.at(self.clock.now()) {
                return Err(disabled());
            }
            let old = found.password;
            let presented = PresentedPassword {
                user_id: &claims.user_id,
                username: &found.username,
                password: current,
                origin,
            };
            if self.passwords.check(&presented, &read.state, Some(&old)).await? == PasswordCheck::Wrong {
                return Err(Error::InvalidCredentials);
            }
            let new = match &new_hash {
                Some(hash) => hash,
                None => &*new_hash.insert(self.passwords.hash(new.clone()).await?),
            };
            // Replaces only the hash that was checked: a password that an operator has set meanwhile must not be
            // overwritten by someone who knew the one before.
            let change = AccountChange::ReplacePassword { old, new: new.clone() };
            let cause = Some(DebtCause::CredentialsChanged);
            let changed = self.accounts.change(&claims.user_id, change, cause, self.clock.now()).await?;
            if let Some((_, debt)) = changed {
                return self.settle(debt, Some(claims.session_id)).await;
            }
            found = account().await?;
        }
        Err(Error::InvalidCredentials)
    }
}
