//! Renews password hashes in a foreign table without ever losing one.
//!
//! A column can truncate what is written to it, and a trigger can change it. The new hash is therefore read back
//! before the commit, by the statement that will find it at the next login.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{client::SqlClient, error::SqlError, notices, row::Row, session::Session, user_query::Query};
use crate::domain::{password::PasswordHash, ports::StoreError, types::UserId, username::Username};

/// How long renewals pause after one was rolled back. Somebody has to change the column or the statement; until then
/// every login would compute a hash in vain.
const PAUSE: Duration = Duration::from_mins(10);

/// The statements that a renewal needs.
#[derive(Clone, Copy)]
pub(super) struct Statements<'a> {
    pub(super) by_name: &'a Query,
    pub(super) update: &'a Query,
}

/// Describes one renewal.
#[derive(Clone, Copy)]
pub(super) struct Renewal<'a> {
    /// The name that the account was found by.
    pub(super) username: &'a Username,
    pub(super) user_id: &'a UserId,
    pub(super) old: &'a PasswordHash,
    pub(super) new: &'a PasswordHash,
}

/// Tracks whether renewals work.
#[derive(Default)]
pub(super) struct Renewals(Mutex<State>);

#[derive(Default)]
struct State {
    paused_at: Option<Instant>,
    logged: bool,
}

/// The outcome of a renewal.
enum Outcome {
    /// The new hash was committed, or the old one had changed meanwhile.
    Done,
    /// The new hash was not stored as it is, so the transaction was rolled back.
    RolledBack(String),
}

impl Renewals {
    /// Returns whether renewals are paused.
    pub(super) fn are_paused(&self) -> bool {
        self.state().paused_at.is_some_and(|at| at.elapsed() < PAUSE)
    }

    /// Replaces the hash, unless the new one cannot be read back as it is.
    pub(super) async fn renew(
        &self,
        client: &SqlClient,
        statements: Statements<'_>,
        renewal: Renewal<'_>,
    ) -> Result<(), StoreError> {
        let problem = match renew(client, statements, renewal).await {
            Ok(Outcome::Done) => {
                *self.state() = State::default();
                return Ok(());
            }
            Ok(Outcome::RolledBack(problem)) => problem,
            // The database did not accept the statement or the value.
            Err(SqlError::Statement(StoreError::Corrupt { cause, .. })) => cause,
            Err(error) => return Err(error.into()),
        };
        let mut state = self.state();
        state.paused_at = Some(Instant::now());
        if !std::mem::replace(&mut state.logged, true) {
            tracing::warn!(
                user.id = %renewal.user_id,
                error.message = problem,
                "accounts.update_hash did not store a new hash unchanged, so the old one was kept; renewals pause for ten minutes: the column needs room for 128 characters, and accounts.lookup must return what was stored"
            );
        }
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn renew(
    client: &SqlClient,
    statements: Statements<'_>,
    renewal: Renewal<'_>,
) -> Result<Outcome, SqlError> {
    let mut session = client.begin().await?;
    // The account must be found by the same name before and after the update.
    let found = stored(&mut session, statements.by_name, renewal).await?.is_some();
    let changed = if found { update(&mut session, statements.update, renewal).await? } else { 0 };
    if changed == 0 {
        // The password or the name was changed meanwhile.
        session.roll_back().await?;
        return Ok(Outcome::Done);
    }
    let stored = stored(&mut session, statements.by_name, renewal).await?;
    let problem = match &stored {
        _ if changed > 1 => format!("it changed {changed} rows for one user"),
        Some(stored) if stored.is_same(renewal.new) => {
            session.commit().await?;
            return Ok(Outcome::Done);
        }
        Some(stored) => format!(
            "the stored hash has {} characters instead of {}",
            stored.as_str().chars().count(),
            renewal.new.as_str().chars().count()
        ),
        None => "the row was not found after the update".to_owned(),
    };
    session.roll_back().await?;
    if let Some(stored) = &stored {
        restore(client, statements, renewal, stored).await?;
    }
    Ok(Outcome::RolledBack(problem))
}

/// Writes the old hash back where a rollback had no effect, as on tables without transactions (`MyISAM`).
async fn restore(
    client: &SqlClient,
    statements: Statements<'_>,
    renewal: Renewal<'_>,
    written: &PasswordHash,
) -> Result<(), SqlError> {
    let mut session = client.begin().await?;
    let is_restored = |stored: Option<PasswordHash>| stored.is_none_or(|stored| stored != *written);
    if is_restored(stored(&mut session, statements.by_name, renewal).await?) {
        return session.roll_back().await;
    }
    let reverse = Renewal { old: written, new: renewal.old, ..renewal };
    update(&mut session, statements.update, reverse).await?;
    let stored = stored(&mut session, statements.by_name, renewal).await?;
    session.commit().await?;
    if !stored.is_some_and(|stored| stored.is_same(renewal.old)) {
        tracing::error!(
            user.id = %renewal.user_id,
            "the table of accounts.update_hash has no transactions, and the old hash could not be restored: set the password of this user again"
        );
    }
    Ok(())
}

/// Executes the update and returns how many rows it changed.
async fn update(session: &mut Session, update: &Query, renewal: Renewal<'_>) -> Result<u64, SqlError> {
    let values = update.values(|name| match name {
        "new_hash" => renewal.new.as_str(),
        "old_hash" => renewal.old.as_str(),
        _ => renewal.user_id.as_str(),
    });
    // An id that is not a value of the column's type matches no row.
    let Some(values) = values else { return Ok(0) };
    session.execute_foreign(&update.statement.text, &values).await
}

/// Returns the hash that a login would find now.
async fn stored(
    session: &mut Session,
    by_name: &Query,
    renewal: Renewal<'_>,
) -> Result<Option<PasswordHash>, SqlError> {
    let compatible =
        Some(renewal.username).filter(|_| renewal.old.is_django_format()).and_then(Username::compatible);
    for username in compatible.iter().chain([renewal.username]) {
        let Some(values) = by_name.values(|_| username.as_str()) else { continue };
        let rows = session.fetch_foreign(&by_name.statement.text, &values).await?;
        let is_theirs = |row: &&Row| notices::user_id(row).as_ref() == Some(renewal.user_id);
        if let Some(row) = rows.iter().find(is_theirs) {
            return Ok(Some(PasswordHash::new(row.text("password_hash").unwrap_or_default().to_owned())));
        }
    }
    Ok(None)
}
