//! Accounts in a table that is not ours, read through statements that the operator has configured.
//!
//! Nothing is ever written there but, where a statement for it is configured, a renewed hash; and that on
//! connections apart: the others can only read.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use sqlx::postgres::PgTypeInfo;

use super::{
    accounts::NAME,
    corrupt,
    dialect::Dialect,
    fault::Fault,
    link::{Description, Link, Purpose},
    pools::{Rights, pools},
    row::{Cell, Row, Value},
    start::{Prepare, start},
    statement::Statement,
    target::{Settings, Target},
    typed::{Typed, is_text},
};
use crate::domain::{
    password::PasswordHash,
    ports::{Account, AccountChange, Accounts, Debt, DebtCause, Disabled, Imported, StoreError},
    types::{Role, Timestamp, UserId},
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
pub struct LookupAccounts {
    link: Link,
    queries: Arc<Queries>,
}

struct Queries {
    by_name: Query,
    by_id: Option<Query>,
    update_hash: Option<Query>,
}

impl LookupAccounts {
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
        Ok(Self { link, queries })
    }

    async fn one(&self, query: &Query, value: &str) -> Result<Option<Account>, StoreError> {
        // A text that is no value of the column's type is in no row.
        let Some(values) = query.values(|_| value) else { return Ok(None) };
        let rows = self.link.fetch_foreign(&query.statement.text, &values).await?;
        match rows.as_slice() {
            [] => Ok(None),
            [row] => account(row).map(Some),
            _ => Err(query.refuse("found more than one row for one user: make it find one at most")),
        }
    }
}

/// The statements, as far as they can be told without the database.
fn prepared(settings: &Settings, lookup: &Lookup) -> Result<(Target, Queries), String> {
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

/// A configured statement.
struct Query {
    /// The name of the setting.
    key: &'static str,
    statement: Statement,
    /// The types of its values, where the database tells: known once it was asked.
    wanted: OnceLock<Vec<PgTypeInfo>>,
}

impl Query {
    fn new(key: &'static str, dialect: Dialect, text: &str, names: &[&str]) -> Result<Self, String> {
        let statement = Statement::parse(dialect, text, names).map_err(|error| format!("{key} {error}"))?;
        Ok(Self { key, statement, wanted: OnceLock::new() })
    }

    /// The values for its placeholders; `None` if one of them is none of the type that the database wants.
    fn values<'a>(&'a self, value: impl Fn(&str) -> &'a str) -> Option<Vec<Value<'a>>> {
        let wanted = self.wanted.get().map(Vec::as_slice).unwrap_or_default();
        let typed = self.statement.names.iter().enumerate().map(|(index, name)| {
            let typed = Typed { text: value(name), wanted: wanted.get(index) };
            typed.binary().map(|_| Value::Typed(typed))
        });
        typed.collect()
    }

    fn refuse(&self, sentence: &str) -> StoreError {
        StoreError::Corrupt { store: NAME, cause: format!("{} {sentence}", self.key) }
    }

    fn refused(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::Refused(StoreError::Unavailable { cause, .. } | StoreError::Corrupt { cause, .. }) => {
                self.refuse(&format!("is refused by the database: {cause}"))
            }
            other => other.into(),
        }
    }

    /// Asks the database what it makes of the statement.
    async fn describe(&self, link: &Link, purpose: Purpose) -> Result<Description, StoreError> {
        let described = link.describe(&self.statement.text, purpose).await;
        let description = described.map_err(|fault| self.refused(fault))?;
        for (name, wanted) in self.statement.names.iter().zip(&description.wanted) {
            if !Typed::is_possible(wanted) {
                return Err(self.refuse(&format!(
                    "compares :{name} with a value of type {wanted}: write CAST(column AS text)"
                )));
            }
        }
        let _ = self.wanted.set(description.wanted.clone());
        Ok(description)
    }

    async fn check_select(&self, link: &Link) -> Result<(), StoreError> {
        let description = self.describe(link, Purpose::Read).await?;
        let dialect = link.dialect();
        for (column, required, readable) in [
            ("user_id", true, Reads::Written),
            ("username", true, Reads::Text),
            ("password_hash", true, Reads::Text),
            ("disabled", false, Reads::Bool),
            ("roles", false, Reads::Names),
        ] {
            let mut found = description.columns.iter().filter(|(name, _)| name.eq_ignore_ascii_case(column));
            match (found.next(), found.next()) {
                (None, _) if required => {
                    return Err(self.refuse(&format!("has no column {column}: name it with AS {column}")));
                }
                (Some(_), Some(_)) => {
                    return Err(self.refuse(&format!("has two columns {column}: leave one out")));
                }
                (Some((_, of)), None) if !readable.from(dialect, of) => {
                    return Err(self.refuse(&format!(
                        "has a column {column} of type {of}, which is not {}: convert it with CAST",
                        readable.describe()
                    )));
                }
                _ => {}
            }
        }
        // Permissions are looked at when it runs.
        let sample = |_: &str| "1";
        let nil = |_: &str| "00000000-0000-0000-0000-000000000000";
        let values = self.values(sample).or_else(|| self.values(nil)).unwrap_or_default();
        link.fetch_foreign(&self.statement.text, &values).await.map_err(|fault| self.refused(fault))?;
        Ok(())
    }
}

/// What a column must be readable as.
#[derive(Clone, Copy)]
enum Reads {
    /// Text, or a number.
    Written,
    Text,
    Bool,
    /// Text, or a list of texts.
    Names,
}

impl Reads {
    /// Whether a column of this type is.
    fn from(self, dialect: Dialect, name: &str) -> bool {
        let upper = name.to_ascii_uppercase();
        let integer = upper.contains("INT") || upper == "BIT";
        let boolean = integer || upper.starts_with("BOOL");
        let text = match dialect {
            // A column's type there is no more than a wish.
            Dialect::Sqlite => return true,
            Dialect::Postgres => is_text(name),
            Dialect::MySql => {
                !boolean
                    && !["FLOAT", "DOUBLE", "TIMESTAMP", "DATE", "TIME", "DATETIME", "YEAR", "GEOMETRY"]
                        .contains(&upper.as_str())
            }
        };
        match self {
            Self::Written => text || upper == "UUID" || integer && !upper.starts_with("INTERVAL"),
            Self::Text => text,
            Self::Bool => boolean && !upper.starts_with("INTERVAL"),
            Self::Names => text || upper.strip_suffix("[]").is_some_and(is_text) || upper == "NULL",
        }
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::Written => "text, a whole number or a UUID",
            Self::Text => "text",
            Self::Bool => "a boolean or a whole number",
            Self::Names => "text or a list of texts",
        }
    }
}

/// Makes sure that the statements are what we need.
struct Check(Arc<Queries>);

impl Prepare for Check {
    fn prepare<'a>(
        &'a self,
        link: &'a Link,
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
impl Accounts for LookupAccounts {
    async fn find(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        self.one(&self.queries.by_name, username.as_str()).await
    }

    async fn get(&self, user_id: &UserId) -> Result<Option<Account>, StoreError> {
        let Some(by_id) = &self.queries.by_id else { return Err(never("get")) };
        // MySQL takes "1x" for 1.
        let found = self.one(by_id, user_id.as_str()).await?;
        Ok(found.filter(|account| account.user_id == *user_id))
    }

    fn finds_by_id(&self) -> bool {
        self.queries.by_id.is_some()
    }

    fn renews_hashes(&self) -> bool {
        self.queries.update_hash.is_some()
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn rehash(
        &self,
        user_id: &UserId,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<(), StoreError> {
        let Some(update) = &self.queries.update_hash else { return Err(never("rehash")) };
        let values = update.values(|name| match name {
            "new_hash" => new.as_str(),
            "old_hash" => old.as_str(),
            _ => user_id.as_str(),
        });
        let Some(values) = values else { return Ok(()) };
        let mut session = self.link.begin().await?;
        session.execute_foreign(&update.statement.text, &values).await?;
        Ok(session.commit().await?)
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

fn account(row: &Row) -> Result<Account, StoreError> {
    let lookup =
        |cause: String| StoreError::Corrupt { store: NAME, cause: format!("accounts.lookup: {cause}") };
    let user_id = UserId::parse(&row.written("user_id")?).map_err(|error| corrupt(NAME, &error))?;
    let named = |cause: &str| lookup(format!("the account {user_id} {cause}"));
    let username = Username::foreign(row.text("username")?).ok_or_else(|| named("has an empty username"))?;
    let password = match row.get("password_hash") {
        // An account without a password: nobody can log in with one.
        Some(Cell::Null) => "",
        _ => row.text("password_hash")?,
    };
    let disabled = match row.get("disabled") {
        None | Some(Cell::Null) => false,
        Some(_) => row.boolean("disabled")?,
    };
    let roles = if row.get("roles").is_some() { row.names("roles")? } else { Vec::new() };
    let roles = Role::parse_all(&roles)
        .map_err(|error| named(&format!("has roles of which {}", error.description)))?;
    Ok(Account {
        username,
        password: PasswordHash::new(password.to_owned()),
        roles,
        disabled: if disabled { Disabled::Yes } else { Disabled::No },
        created_at: Timestamp::default(),
        user_id,
    })
}
