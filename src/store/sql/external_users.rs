//! Accounts in a table that is not ours, read through statements that the operator has configured.
//!
//! Nothing is ever written there but, where a statement for it is configured, a renewed hash; and that on
//! connections apart: the others can only read.

use std::{future::Future, pin::Pin, sync::Arc};

use async_trait::async_trait;

use super::{
    accounts::NAME,
    client::{Purpose, SqlClient},
    connect::{Prepare, start},
    error::SqlError,
    notices::{self, Kind, Notices, Who, account},
    pools::{Rights, pools},
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

/// The statements.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// SELECT of `user_id, username, password_hash` and optionally `disabled, roles`, for `:username`.
    pub by_name: String,
    /// The same for `:user_id`, if accounts are to be found by their ids.
    pub by_id: Option<String>,
    /// UPDATE with `:new_hash`, `:old_hash`, `:user_id`, if hashes are to be renewed.
    pub update_hash: Option<String>,
}

/// Accounts in a table that is not ours.
pub struct ExternalUsers {
    link: SqlClient,
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
    /// Refuses settings that cannot work, in one sentence that begins with the name of the setting.
    pub fn check(settings: &Settings, lookup: &Lookup) -> Result<(), String> {
        prepared(settings, lookup).map(|_| ())
    }

    /// Opens the table. A database that does not answer yet is waited for in the background; what it then
    /// says of the statements is the same sentence as here. Needs a Tokio runtime.
    pub async fn open(settings: &Settings, lookup: &Lookup) -> Result<Self, String> {
        let (target, queries) = prepared(settings, lookup)?;
        let pools = pools(&target, settings, Rights::Apart { writes: lookup.update_hash.is_some() });
        let queries = Arc::new(queries);
        let link = start(NAME, target.address(), pools, settings, Check(Arc::clone(&queries))).await?;
        Ok(Self { link, queries, notices: Notices::default(), renewals: Renewals::default() })
    }

    /// Returns the rows that a statement finds for a value; `who` names the user in the log.
    async fn rows(&self, query: &Query, value: &str, who: Who<'_>) -> Result<Vec<Row>, StoreError> {
        // A value that the column's type or character set cannot represent matches no row.
        let Some(values) = query.values(|_| value) else { return Ok(Vec::new()) };
        match self.link.fetch_foreign(&query.statement.text, &values).await {
            Err(SqlError::Characters { of_row, error }) => {
                if of_row {
                    let problem = format!("it holds characters that cannot be read: {error}");
                    self.notices.log(who, Kind::Characters, &problem);
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
                    let problem = "accounts.lookup finds several rows for this name, and not one with exactly this name: nobody can log in with it";
                    self.notices.log(Who::Name(username), Kind::SeveralRows, problem);
                    return None;
                };
                row
            }
        };
        account(row, Some(username), &self.notices)
    }
}

/// The statements, as far as they can be told without the database.
fn prepared(settings: &Settings, lookup: &Lookup) -> Result<(DatabaseUrl, Queries), String> {
    let target = settings.target().map_err(|error| format!("accounts.url {error}"))?;
    let dialect = target.dialect();
    let update = |text: &String| {
        Query::new("accounts.update_hash", dialect, text, &["new_hash", "old_hash", "user_id"])
    };
    let by_id = |text: &String| Query::new("accounts.lookup_by_id", dialect, text, &["user_id"]);
    let queries = Queries {
        by_name: Query::new("accounts.lookup", dialect, &lookup.by_name, &["username"])?,
        by_id: lookup.by_id.as_ref().map(by_id).transpose()?,
        update_hash: lookup.update_hash.as_ref().map(update).transpose()?,
    };
    Ok((target, queries))
}

/// Makes sure that the statements are what we need.
struct Check(Arc<Queries>);

impl Prepare for Check {
    fn prepare<'a>(
        &'a self,
        link: &'a SqlClient,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>> {
        Box::pin(async move {
            self.0.by_name.check_select(link).await?;
            if let Some(by_id) = &self.0.by_id {
                by_id.check_select(link).await?;
            }
            if let Some(update) = &self.0.update_hash {
                let description = update.describe(link, Purpose::Write).await?;
                if !description.columns.is_empty() {
                    return Err(update.refuse("answers with columns: it must be an UPDATE"));
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
        let found = self.pick(&self.rows(by_name, username.as_str(), Who::Name(username)).await?, username);
        // Django's login form normalises names to NFKC, the form in which it stores them. The second lookup does not
        // depend on the result of the first, so that timing does not reveal whether a name exists.
        let Some(compatible) = username.compatible() else { return Ok(found) };
        let rows = self.rows(by_name, compatible.as_str(), Who::Name(&compatible)).await?;
        let djangos = |account: &Account| account.password.is_djangos();
        Ok(found.or_else(|| self.pick(&rows, &compatible).filter(djangos)))
    }

    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError> {
        let Some(by_id) = &self.queries.by_id else { return Err(never("get")) };
        let rows = self.rows(by_id, user_id.as_str(), Who::Id(user_id)).await?;
        // MySQL takes "1x" for 1.
        let theirs = rows.iter().filter(|row| notices::user_id(row).as_ref() == Some(user_id));
        match theirs.collect::<Vec<_>>().as_slice() {
            [] => Ok(None),
            [row] => Ok(account(row, None, &self.notices)),
            _ => {
                let problem = "accounts.lookup_by_id finds several rows for this id, so it finds nobody";
                self.notices.log(Who::Id(user_id), Kind::SeveralRows, problem);
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
        let Some(update) = &self.queries.update_hash else { return Err(never("rehash")) };
        let statements = Statements { by_name: &self.queries.by_name, update };
        self.renewals.renew(&self.link, statements, Renewal { username, user_id, old, new }).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.link.fetch("SELECT 1", &[]).await?;
        Ok(())
    }

    async fn list(&self, _: Option<&Username>, _: u32) -> Result<Vec<Account>, StoreError> {
        Err(never("list"))
    }

    async fn create(&self, _: &Account) -> Result<bool, StoreError> {
        Err(never("create"))
    }

    async fn import(&self, _: &[Account]) -> Result<Vec<Imported>, StoreError> {
        Err(never("import"))
    }

    async fn change(
        &self,
        _: &UserId,
        _: AccountChange,
        _: Option<DebtCause>,
        _: Timestamp,
    ) -> Result<Option<(Account, Option<Debt>)>, StoreError> {
        Err(never("change"))
    }

    async fn debts(&self, _: Timestamp, _: u32) -> Result<Vec<Debt>, StoreError> {
        Err(never("debts"))
    }

    async fn settled(&self, _: &Debt) -> Result<(), StoreError> {
        Err(never("settled"))
    }
}

/// The rules do not ask for this where accounts are only read.
fn never(what: &str) -> StoreError {
    StoreError::Corrupt {
        store: NAME,
        cause: format!("{what} was called on accounts that are only looked up"),
    }
}
