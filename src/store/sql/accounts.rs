//! Accounts in SQLite.

use async_trait::async_trait;
use sqlx::{Row as _, Sqlite, Transaction, sqlite::SqliteRow};

use crate::{
    domain::{
        Violation,
        password::PasswordHash,
        ports::{Account, AccountChange, Accounts, Debt, DebtCause, Disabled, Imported, StoreError},
        types::{Role, Timestamp, UserId},
        username::Username,
    },
    store::embedded::{Database, store_error},
};

/// What messages to the operator call it.
const NAME: &str = "accounts";

/// Accounts in SQLite.
pub struct SqliteAccounts(pub Database);

#[async_trait]
impl Accounts for SqliteAccounts {
    async fn find(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        let row = sqlx::query("SELECT * FROM accounts WHERE username_key = ?")
            .bind(username.key())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)?;
        row.map(|row| account(&row)).transpose()
    }

    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError> {
        let row = sqlx::query("SELECT * FROM accounts WHERE user_id = ?")
            .bind(user_id.as_str())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(failed)?;
        row.map(|row| account(&row)).transpose()
    }

    async fn list(&self, after: Option<&Username>, limit: u32) -> Result<Vec<Account>, StoreError> {
        let rows = sqlx::query("SELECT * FROM accounts WHERE username_key > ? ORDER BY username_key LIMIT ?")
            .bind(after.map_or("", Username::key))
            .bind(limit)
            .fetch_all(&self.0.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(account).collect()
    }

    async fn create(&self, account: &Account) -> Result<bool, StoreError> {
        let (disabled, disabled_until) = disabled_columns(account.disabled);
        let inserted = sqlx::query(
            "INSERT INTO accounts
                (user_id, username, username_key, password_hash, roles, disabled, disabled_until, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (username_key) DO NOTHING",
        )
        .bind(account.user_id.as_str())
        .bind(account.username.as_str())
        .bind(account.username.key())
        .bind(account.password.as_str())
        .bind(roles_column(&account.roles))
        .bind(disabled)
        .bind(disabled_until)
        .bind(integer(account.created_at))
        .execute(&self.0.writer)
        .await
        .map_err(failed)?;
        Ok(inserted.rows_affected() == 1)
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn import(&self, accounts: &[Account]) -> Result<Vec<Imported>, StoreError> {
        let mut outcomes = Vec::with_capacity(accounts.len());
        for account in accounts {
            let added = self.create(account).await?;
            outcomes.push(if added { Imported::Added } else { Imported::UsernameTaken });
        }
        Ok(outcomes)
    }

    async fn change(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
        now: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError> {
        // Immediate: two that read before they write would otherwise fail each other.
        let mut transaction = self.0.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let Some(changed) = apply(&mut transaction, user_id, change).await? else { return Ok(None) };
        let debt = match debt {
            None => None,
            Some(cause) => {
                let id =
                    sqlx::query("INSERT INTO session_debts (user_id, cause, created_at) VALUES (?, ?, ?)")
                        .bind(user_id.as_str())
                        .bind(cause_column(cause))
                        .bind(integer(now))
                        .execute(&mut *transaction)
                        .await
                        .map_err(failed)?
                        .last_insert_rowid();
                Some(Debt { id, user_id: user_id.clone(), cause })
            }
        };
        transaction.commit().await.map_err(failed)?;
        Ok(Some((changed, debt)))
    }

    async fn rehash(
        &self,
        user_id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE accounts SET password_hash = ? WHERE user_id = ? AND password_hash = ?")
            .bind(new.as_str())
            .bind(user_id.as_str())
            .bind(old.as_str())
            .execute(&self.0.writer)
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn debts(&self, before: Timestamp, limit: u32) -> Result<Vec<Debt>, StoreError> {
        let rows = sqlx::query("SELECT * FROM session_debts WHERE created_at < ? ORDER BY id LIMIT ?")
            .bind(integer(before))
            .bind(limit)
            .fetch_all(&self.0.readers)
            .await
            .map_err(failed)?;
        rows.iter().map(debt).collect()
    }

    async fn settled(&self, debt: &Debt) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM session_debts WHERE id = ?")
            .bind(debt.id)
            .execute(&self.0.writer)
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.0.readers).await.map_err(failed)?;
        Ok(())
    }
}

async fn apply(
    transaction: &mut Transaction<'_, Sqlite>,
    user_id: &UserId,
    change: AccountChange,
) -> Result<Option<Account>, StoreError> {
    let row = match change {
        AccountChange::Delete => sqlx::query("DELETE FROM accounts WHERE user_id = ? RETURNING *"),
        AccountChange::Password(ref hash) => {
            sqlx::query("UPDATE accounts SET password_hash = ? WHERE user_id = ? RETURNING *")
                .bind(hash.as_str())
        }
        AccountChange::ReplacePassword { ref old, ref new } => sqlx::query(
            "UPDATE accounts SET password_hash = ?2 WHERE password_hash = ?1 AND user_id = ?3 RETURNING *",
        )
        .bind(old.as_str())
        .bind(new.as_str()),
        AccountChange::Update { ref roles, disabled } => {
            let (is_disabled, until) = disabled.map(disabled_columns).unzip();
            sqlx::query(
                "UPDATE accounts
                 SET roles = coalesce(?, roles),
                     disabled = coalesce(?, disabled),
                     disabled_until = CASE WHEN ? THEN ? ELSE disabled_until END
                 WHERE user_id = ? RETURNING *",
            )
            .bind(roles.as_deref().map(roles_column))
            .bind(is_disabled)
            .bind(disabled.is_some())
            .bind(until.flatten())
        }
    }
    .bind(user_id.as_str())
    .fetch_optional(&mut **transaction)
    .await
    .map_err(failed)?;
    row.map(|row| account(&row)).transpose()
}

fn account(row: &SqliteRow) -> Result<Account, StoreError> {
    let text = |column| row.try_get::<&str, _>(column).map_err(failed);
    let roles: Vec<&str> = text("roles")?.split_ascii_whitespace().collect();
    let disabled: bool = row.try_get("disabled").map_err(failed)?;
    let until: Option<i64> = row.try_get("disabled_until").map_err(failed)?;
    Ok(Account {
        user_id: UserId::parse(text("user_id")?).map_err(|error| corrupt(&error))?,
        username: Username::parse(text("username")?).map_err(|error| corrupt(&error))?,
        password: PasswordHash::new(text("password_hash")?.to_owned()),
        roles: Role::parse_all(&roles).map_err(|error| corrupt(&error))?,
        disabled: match (disabled, until) {
            (false, _) => Disabled::No,
            (true, None) => Disabled::Yes,
            (true, Some(until)) => Disabled::Until(timestamp(until)),
        },
        created_at: timestamp(row.try_get("created_at").map_err(failed)?),
    })
}

fn debt(row: &SqliteRow) -> Result<Debt, StoreError> {
    let user_id: &str = row.try_get("user_id").map_err(failed)?;
    Ok(Debt {
        id: row.try_get("id").map_err(failed)?,
        user_id: UserId::parse(user_id).map_err(|error| corrupt(&error))?,
        cause: cause(row.try_get("cause").map_err(failed)?)?,
    })
}

fn disabled_columns(disabled: Disabled) -> (bool, Option<i64>) {
    (disabled != Disabled::No, disabled.until().map(integer))
}

fn roles_column(roles: &[Role]) -> String {
    roles.iter().map(Role::as_str).collect::<Vec<_>>().join(" ")
}

fn cause_column(cause: DebtCause) -> &'static str {
    match cause {
        DebtCause::AccountDisabled => "account_disabled",
        DebtCause::CredentialsChanged => "credentials_changed",
        DebtCause::Profile => "profile",
    }
}

fn cause(column: &str) -> Result<DebtCause, StoreError> {
    [DebtCause::AccountDisabled, DebtCause::CredentialsChanged, DebtCause::Profile]
        .into_iter()
        .find(|cause| cause_column(*cause) == column)
        .ok_or_else(|| StoreError::Corrupt { store: NAME, cause: format!("unknown debt {column}") })
}

fn timestamp(column: i64) -> Timestamp {
    Timestamp::from_micros(u64::try_from(column).unwrap_or_default())
}

fn integer(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_micros()).unwrap_or(i64::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err as it is")]
fn failed(error: sqlx::Error) -> StoreError {
    store_error(NAME, &error)
}

fn corrupt(violation: &Violation) -> StoreError {
    StoreError::Corrupt { store: NAME, cause: format!("{} {}", violation.field, violation.description) }
}
