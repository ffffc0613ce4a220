//! Accounts in a table of another system, read by statements that the operator has configured.
//!
//! Nothing is written to the table except for renewed password hashes, if a statement for them is configured. That
//! statement runs on connections of its own; all others are read-only.

use std::{future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;

use super::{
    account_row::NAME,
    client::SqlClient,
    connect::{Prepare, start},
    dialect::Access,
    error::SqlError,
    notices::{self, Notices, Problem, UserRef, account},
    pools::{Pools, WriteAccess},
    renewal::{Renewal, Renewals, Statements},
    row::Row,
    url::{DatabaseUrl, Settings},
    user_query::Query,
};
use crate::domain::{
    password::PasswordHash,
    ports::{Account, AccountChange, Accounts, Debt, DebtCause, Imported, StoreError},
    types::{Timestamp, UserId},
    username::Username,
};

/// The configured statements.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The SELECT of `user_id, username, password_hash` and optionally `disabled, roles` for `:username`.
    pub by_name: String,
    /// The same SELECT for `:user_id`, if accounts can be found by their ids.
    pub by_id: Option<String>,
    /// The UPDATE with `:new_hash`, `:old_hash`, `:user_id`, if hashes are renewed.
    pub update_hash: Option<String>,
}

/// Accounts in a table of another system.
pub struct ExternalUsers {
    client: SqlClient,
    queries: Arc<Queries>,
    notices: Notices,
    renewals: Renewals,
}

struct Queries {
    by_name: Query,
    by_id: Option<Query>,
    update_hash: Option<Query>,
}

impl ExternalUsers {
    /// Fails if the settings are invalid, as far as that shows without the database. The error begins with the name
    /// of the setting.
    pub fn check(settings: &Settings, lookup: &Lookup) -> Result<(), String> {
        parse(settings, lookup).map(|_| ())
    }

    /// Opens the database and verifies the statements. A database that does not answer yet is prepared in the
    /// background; its errors are then logged. Needs a Tokio runtime.
    pub async fn open(settings: &Settings, lookup: &Lookup) -> Result<Self, String> {
        let (url, queries) = parse(settings, lookup)?;
        let write_access =
            if lookup.update_hash.is_some() { WriteAccess::Separate } else { WriteAccess::None };
        let pools = Pools::new(&url, settings, write_access);
        let queries = Arc::new(queries);
        let client = start(NAME, url.address(), pools, settings, Verification(Arc::clone(&queries))).await?;
        Ok(Self { client, queries, notices: Notices::default(), renewals: Renewals::default() })
    }

    /// Returns the rows that a statement finds for a value; `user` names the user in the log.
    async fn rows(&self, query: &Query, value: &str, user: UserRef<'_>) -> Result<Vec<Row>, StoreError> {
        // A value that the column's type or character set cannot represent matches no row.
        let Some(values) = query.values(|_| value) else { return Ok(Vec::new()) };
        match self.client.fetch_foreign(&query.statement.text, &values).await {
            Err(SqlError::Characters { in_row, error }) => {
                if in_row {
                    let message = format!("it has characters that are not valid in its encoding: {error}");
                    self.notices.log(user, Problem::Characters, &message);
                }
                Ok(Vec::new())
            }
            rows => Ok(rows?),
        }
    }

    /// Returns the account for a name from the rows that were found. Several rows are found where the statement
    /// compares less strictly than the table, for example without regard to case; the one with exactly this name then
    /// counts.
    fn pick(&self, rows: &[Row], username: &Username) -> Option<Account> {
        let row = match rows {
            [] => return None,
            [row] => row,
            several => {
                let is_exact = |row: &&Row| {
                    let name = row.text("username").ok().and_then(Username::foreign);
                    name.is_some_and(|name| name.as_str() == username.as_str())
                };
                let mut exact = several.iter().filter(is_exact);
                let (Some(row), None) = (exact.next(), exact.next()) else {
                    let message = "accounts.lookup finds several rows for this name, and not one with exactly this name: nobody can log in with it";
                    self.notices.log(UserRef::Name(username), Problem::SeveralRows, message);
                    return None;
                };
                row
            }
        };
        account(row, Some(username), &self.notices)
    }
}

/// Parses the URL and the statements.
fn parse(settings: &Settings, lookup: &Lookup) -> Result<(DatabaseUrl, Queries), String> {
    let url = settings.parse_url().map_err(|error| format!("accounts.url {error}"))?;
    let dialect = url.dialect();
    let update = |text: &String| {
        Query::new("accounts.update_hash", dialect, text, &["new_hash", "old_hash", "user_id"])
    };
    let by_id = |text: &String| Query::new("accounts.lookup_by_id", dialect, text, &["user_id"]);
    let queries = Queries {
        by_name: Query::new("accounts.lookup", dialect, &lookup.by_name, &["username"])?,
        by_id: lookup.by_id.as_ref().map(by_id).transpose()?,
        update_hash: lookup.update_hash.as_ref().map(update).transpose()?,
    };
    Ok((url, queries))
}

/// Verifies the statements against the database.
struct Verification(Arc<Queries>);

impl Prepare for Verification {
    fn prepare<'a>(
        &'a self,
        client: &'a SqlClient,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>> {
        Box::pin(async move {
            self.0.by_name.check_select(client).await?;
            if let Some(by_id) = &self.0.by_id {
                by_id.check_select(client).await?;
            }
            if let Some(update) = &self.0.update_hash {
                let description = update.describe(client, Access::Write).await?;
                if !description.columns.is_empty() {
                    return Err(update.invalid("returns columns: it must be an UPDATE"));
                }
            }
            Ok(())
        })
    }
}

#[async_trait]
impl Accounts for ExternalUsers {
    async fn find(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        let by_name = &self.queries.by_name;
        let found =
            self.pick(&self.rows(by_name, username.as_str(), UserRef::Name(username)).await?, username);
        // Django's login form normalises names to NFKC, the form in which it stores them. The second lookup does not
        // depend on the result of the first, so that timing does not reveal whether a name exists.
        let Some(compatible) = username.compatible() else { return Ok(found) };
        let rows = self.rows(by_name, compatible.as_str(), UserRef::Name(&compatible)).await?;
        let is_djangos = |account: &Account| account.password.is_django_format();
        Ok(found.or_else(|| self.pick(&rows, &compatible).filter(is_djangos)))
    }

    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError> {
        let Some(by_id) = &self.queries.by_id else { return Err(unsupported("get")) };
        let rows = self.rows(by_id, user_id.as_str(), UserRef::Id(user_id)).await?;
        // The id is compared again, because MySQL converts "1x" to 1.
        let theirs = rows.iter().filter(|row| notices::user_id(row).as_ref() == Some(user_id));
        match theirs.collect::<Vec<_>>().as_slice() {
            [] => Ok(None),
            [row] => Ok(account(row, None, &self.notices)),
            _ => {
                let message = "accounts.lookup_by_id finds several rows for this id, so it finds nobody";
                self.notices.log(UserRef::Id(user_id), Problem::SeveralRows, message);
                Ok(None)
            }
        }
    }

    fn finds_by_id(&self) -> bool {
        self.queries.by_id.is_some()
    }

    fn has_other_names(&self) -> bool {
        true
    }

    fn renews_hashes(&self) -> bool {
        self.queries.update_hash.is_some() && !self.renewals.are_paused()
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn rehash(
        &self,
        username: &Username,
        user_id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<(), StoreError> {
        let Some(update) = &self.queries.update_hash else { return Err(unsupported("rehash")) };
        let statements = Statements { by_name: &self.queries.by_name, update };
        self.renewals.renew(&self.client, statements, Renewal { username, user_id, old, new }).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.client.fetch("SELECT 1", &[]).await?;
        Ok(())
    }

    async fn list(&self, _: Option<&Username>, _: u32) -> Result<Vec<Account>, StoreError> {
        Err(unsupported("list"))
    }

    async fn create(&self, _: &Account) -> Result<bool, StoreError> {
        Err(unsupported("create"))
    }

    async fn import(&self, _: &[Account]) -> Result<Vec<Imported>, StoreError> {
        Err(unsupported("import"))
    }

    async fn change(
        &self,
        _: &UserId,
        _: AccountChange,
        _: Option<DebtCause>,
        _: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError> {
        Err(unsupported("change"))
    }

    async fn debts(&self, _: Timestamp, _: u32) -> Result<Vec<Debt>, StoreError> {
        Err(unsupported("debts"))
    }

    async fn settled(&self, _: &Debt) -> Result<(), StoreError> {
        Err(unsupported("settled"))
    }
}

/// The domain does not call these methods on read-only accounts.
fn unsupported(method: &str) -> StoreError {
    StoreError::Corrupt { store: NAME, cause: format!("{method} was called on read-only accounts") }
}
