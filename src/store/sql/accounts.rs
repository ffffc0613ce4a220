//! Accounts in tables of Latchkey.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    SqlCallers,
    account_row::{NAME, account, disabled_columns, roles_column},
    callers,
    client::SqlClient,
    connect::open,
    corrupt,
    error::{Retries, SqlError},
    import::import,
    integer,
    pools::{Pools, WriteAccess},
    readiness::Readiness,
    row::{Row, Value},
    session::Timeouts,
    url::{DatabaseUrl, Settings},
};
use crate::{
    domain::{
        password::PasswordHash,
        ports::{Account, AccountChange, Accounts, Debt, DebtCause, Imported, StoreError},
        types::{Timestamp, UserId},
        username::Username,
    },
    store::embedded::{Database, has_accounts},
};

/// Accounts in tables of Latchkey.
pub struct SqlAccounts(pub(super) SqlClient);

impl SqlAccounts {
    /// Uses the embedded database.
    pub fn embedded(database: &Database) -> Self {
        Self(SqlClient::embedded(NAME, database))
    }

    /// Opens another database. One that does not answer yet is prepared in the background. Returns an error if an
    /// operator has to act first; it is a sentence without its subject, the name of the setting. Needs a Tokio
    /// runtime.
    pub async fn open(settings: &Settings) -> Result<Self, String> {
        open(NAME, settings).await.map(Self)
    }

    /// Whether another database has accounts of Latchkey. Creates no tables, and waits for the database only within
    /// the time limit for connecting.
    pub async fn any(settings: &Settings) -> Result<bool, StoreError> {
        let invalid = |cause| StoreError::Corrupt { store: NAME, cause };
        let url = settings.parse_url().map_err(invalid)?;
        if let DatabaseUrl::Sqlite(path) = &url {
            return has_accounts(path).await;
        }
        let pools = Pools::new(&url, settings, WriteAccess::None);
        let timeouts = Timeouts::new(settings.query_timeout);
        let readiness = Arc::new(Readiness::ready());
        let client = SqlClient::new(NAME, url.address().into(), pools, timeouts, readiness);
        match client.fetch("SELECT 1 FROM @accounts LIMIT 1", &[]).await {
            Ok(rows) => Ok(!rows.is_empty()),
            Err(error) if error.is_missing_table() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the callers in the same database, over the same connections.
    pub fn callers(&self) -> SqlCallers {
        SqlCallers(self.0.for_store(callers::NAME))
    }

    async fn find_one(&self, statement: &str, value: &str) -> Result<Option<Account>, StoreError> {
        match self.0.fetch(statement, &[Value::Text(value)]).await {
            // No row has a name that the character set of the database cannot represent.
            Err(SqlError::Characters { in_row: false, .. }) => Ok(None),
            rows => rows?.first().map(account).transpose(),
        }
    }

    async fn try_change(
        &self,
        user_id: &UserId,
        change: &AccountChange,
        debt: Option<DebtCause>,
        now: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, SqlError> {
        let id = Value::Text(user_id.as_str());
        let mut transaction = self.0.begin().await?;
        let lock = self.0.dialect().for_update();
        let read = format!("SELECT * FROM @accounts WHERE user_id = ?{lock}");
        let rows = transaction.fetch(&read, &[id]).await?;
        let Some(row) = rows.first() else {
            transaction.roll_back().await?;
            return Ok(None);
        };
        let mut account = account(row)?;
        if let AccountChange::ReplacePassword { old, .. } = change
            && account.password != *old
        {
            transaction.roll_back().await?;
            return Ok(None);
        }
        match change {
            AccountChange::Delete => {
                transaction.execute("DELETE FROM @accounts WHERE user_id = ?", &[id]).await?;
            }
            AccountChange::Password(hash) | AccountChange::ReplacePassword { new: hash, .. } => {
                account.password = hash.clone();
                let values = [Value::Text(hash.as_str()), id];
                transaction
                    .execute("UPDATE @accounts SET password_hash = ? WHERE user_id = ?", &values)
                    .await?;
            }
            AccountChange::Update { roles, disabled } => {
                account.roles = roles.clone().unwrap_or(account.roles);
                account.disabled = disabled.unwrap_or(account.disabled);
                let (disabled, until) = disabled_columns(account.disabled);
                let roles = roles_column(&account.roles);
                let update =
                    "UPDATE @accounts SET roles = ?, disabled = ?, disabled_until = ? WHERE user_id = ?";
                transaction.execute(update, &[Value::Text(&roles), disabled, until, id]).await?;
            }
        }
        let debt = match debt {
            None => None,
            Some(cause) => {
                let values = [id, Value::Text(cause_column(cause)), Value::Integer(integer(now))];
                let insert = "INSERT INTO @session_debts (user_id, cause, created_at) VALUES (?, ?, ?)";
                let id = transaction.insert(insert, &values).await?;
                Some(Debt { id, user_id: user_id.clone(), cause })
            }
        };
        transaction.commit().await?;
        Ok(Some((account, debt)))
    }
}

#[async_trait]
impl Accounts for SqlAccounts {
    async fn find(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        self.find_one("SELECT * FROM @accounts WHERE username_key = ?", username.key()).await
    }

    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError> {
        self.find_one("SELECT * FROM @accounts WHERE user_id = ?", user_id.as_str()).await
    }

    async fn list(&self, after: Option<&Username>, limit: u32) -> Result<Vec<Account>, StoreError> {
        let values = [Value::Text(after.map_or("", Username::key)), Value::Integer(limit.into())];
        let page = "SELECT * FROM @accounts WHERE username_key > ? ORDER BY username_key LIMIT ?";
        self.0.fetch(page, &values).await?.iter().map(account).collect()
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn create(&self, account: &Account) -> Result<bool, StoreError> {
        match import(&self.0, std::slice::from_ref(account)).await?.as_slice() {
            [Imported::Added] => Ok(true),
            [Imported::IdTaken] => {
                Err(StoreError::Corrupt { store: NAME, cause: "a generated user_id already exists".into() })
            }
            _ => Ok(false),
        }
    }

    async fn import(&self, accounts: &[Account]) -> Result<Vec<Imported>, StoreError> {
        import(&self.0, accounts).await
    }

    async fn change(
        &self,
        user_id: &UserId,
        change: AccountChange,
        debt: Option<DebtCause>,
        now: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError> {
        let mut retries = Retries::default();
        loop {
            match self.try_change(user_id, &change, debt, now).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => retries.wait(error).await?,
            }
        }
    }

    async fn rehash(
        &self,
        _: &Username,
        user_id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<(), StoreError> {
        let values = [new.as_str(), user_id.as_str(), old.as_str()].map(Value::Text);
        let update = "UPDATE @accounts SET password_hash = ? WHERE user_id = ? AND password_hash = ?";
        self.0.execute(update, &values).await?;
        Ok(())
    }

    async fn debts(&self, before: Timestamp, limit: u32) -> Result<Vec<Debt>, StoreError> {
        let values = [Value::Integer(integer(before)), Value::Integer(limit.into())];
        let oldest = "SELECT * FROM @session_debts WHERE created_at < ? ORDER BY id LIMIT ?";
        self.0.fetch(oldest, &values).await?.iter().map(debt).collect()
    }

    async fn settled(&self, debt: &Debt) -> Result<(), StoreError> {
        self.0.execute("DELETE FROM @session_debts WHERE id = ?", &[Value::Integer(debt.id)]).await?;
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Reads the table, because a database that answers may still deny access to it. No id is empty.
        self.find_one("SELECT * FROM @accounts WHERE user_id = ?", "").await.map(drop)
    }
}

fn debt(row: &Row) -> Result<Debt, StoreError> {
    Ok(Debt {
        id: row.integer("id")?,
        user_id: UserId::parse(row.text("user_id")?).map_err(|error| corrupt(NAME, &error))?,
        cause: cause(row.text("cause")?)?,
    })
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
        .ok_or_else(|| StoreError::Corrupt {
            store: NAME,
            cause: format!("unknown cause of a session debt: {column}"),
        })
}
