//! Callers in a table of Latchkey.

use async_trait::async_trait;

use super::{
    client::SqlClient,
    connect::open,
    error::{Retries, SqlError},
    integer,
    row::{Row, Value},
    timestamp,
    url::Settings,
};
use crate::{
    domain::{
        ports::{Caller, CallerKeyHash, Callers, StoreError},
        types::Timestamp,
    },
    store::embedded::Database,
};

/// The name of the store in messages.
pub(super) const NAME: &str = "callers";

/// Callers in a table of Latchkey.
pub struct SqlCallers(pub(super) SqlClient);

impl SqlCallers {
    /// Uses the embedded database.
    pub fn embedded(database: &Database) -> Self {
        Self(SqlClient::embedded(NAME, database))
    }

    /// Opens another database, as `SqlAccounts::open` does.
    pub async fn open(settings: &Settings) -> Result<Self, String> {
        open(NAME, settings).await.map(Self)
    }

    async fn try_create(&self, caller: &Caller) -> Result<bool, SqlError> {
        let name = Value::Text(&caller.name);
        let mut transaction = self.0.begin().await?;
        let existing = transaction.fetch("SELECT name FROM @callers WHERE name = ?", &[name]).await?;
        if !existing.is_empty() {
            transaction.roll_back().await?;
            return Ok(false);
        }
        let roles = caller.roles.join(" ");
        let insert =
            "INSERT INTO @callers (name, key_hash, roles, created_at, last_used_at) VALUES (?, ?, ?, ?, ?)";
        let values = [
            name,
            Value::Bytes(&caller.key.0),
            Value::Text(&roles),
            Value::Integer(integer(caller.created_at)),
            Value::OptionalInteger(caller.last_used_at.map(integer)),
        ];
        transaction.execute(insert, &values).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

#[async_trait]
impl Callers for SqlCallers {
    async fn create(&self, caller: &Caller) -> Result<bool, StoreError> {
        let mut retries = Retries::default();
        loop {
            match self.try_create(caller).await {
                Ok(created) => return Ok(created),
                Err(error) => retries.wait(error).await?,
            }
        }
    }

    async fn list(&self) -> Result<Vec<Caller>, StoreError> {
        self.0.fetch("SELECT * FROM @callers ORDER BY name", &[]).await?.iter().map(caller).collect()
    }

    async fn revoke(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.0.execute("DELETE FROM @callers WHERE name = ?", &[Value::Text(name)]).await? > 0)
    }

    async fn used(&self, name: &str, at: Timestamp) -> Result<(), StoreError> {
        let at = Value::Integer(integer(at));
        let update = "UPDATE @callers SET last_used_at = ?
                      WHERE name = ? AND (last_used_at IS NULL OR last_used_at < ?)";
        self.0.execute(update, &[at, Value::Text(name), at]).await?;
        Ok(())
    }
}

fn caller(row: &Row) -> Result<Caller, StoreError> {
    let key = row.bytes("key_hash")?.try_into().map_err(|_| row.type_error("key_hash", "32 bytes"))?;
    Ok(Caller {
        name: row.text("name")?.to_owned(),
        key: CallerKeyHash(key),
        roles: row.text("roles")?.split_ascii_whitespace().map(str::to_owned).collect(),
        created_at: timestamp(row.integer("created_at")?),
        last_used_at: row.optional_integer("last_used_at")?.map(timestamp),
    })
}
