//! Inserts accounts, many in one statement.

use std::collections::HashMap;

use super::{
    account_row::{NAME, disabled_columns, roles_column},
    client::SqlClient,
    error::{Retries, SqlError},
    integer,
    row::Value,
    session::Session,
};
use crate::domain::ports::{Account, Imported, StoreError};

/// The most accounts in one statement. With eight values each, it stays below the limits of every database.
const MAX_ROWS: usize = 500;

/// See `Accounts::import`.
pub(super) async fn import(client: &SqlClient, accounts: &[Account]) -> Result<Vec<Imported>, StoreError> {
    let mut retries = Retries::default();
    loop {
        match try_import(client, accounts).await {
            Ok(outcomes) => return Ok(outcomes),
            // Another transaction has inserted one of the names, which the next attempt sees.
            Err(error) => retries.wait(error).await?,
        }
    }
}

async fn try_import(client: &SqlClient, accounts: &[Account]) -> Result<Vec<Imported>, SqlError> {
    let mut transaction = client.begin().await?;
    let mut outcomes = Vec::with_capacity(accounts.len());
    for accounts in accounts.chunks(MAX_ROWS) {
        let (decided, new) = decide(&mut transaction, accounts).await?;
        insert(&mut transaction, &new).await?;
        outcomes.extend(decided);
    }
    transaction.commit().await?;
    Ok(outcomes)
}

/// Returns the outcome of each account, and the accounts to insert.
async fn decide<'a>(
    transaction: &mut Session,
    accounts: &'a [Account],
) -> Result<(Vec<Imported>, Vec<&'a Account>), SqlError> {
    let placeholders = repeat("?", accounts.len());
    // A union, because an OR over two indexes keeps some databases from using either.
    let existing = format!(
        "SELECT user_id, username_key FROM @accounts WHERE user_id IN ({placeholders})
         UNION ALL
         SELECT user_id, username_key FROM @accounts WHERE username_key IN ({placeholders})"
    );
    let ids = accounts.iter().map(|account| Value::Text(account.user_id.as_str()));
    let keys = accounts.iter().map(|account| Value::Text(account.username.key()));
    let rows = transaction.fetch(&existing, &ids.chain(keys).collect::<Vec<_>>()).await?;

    let (mut key_of, mut id_of) = (HashMap::new(), HashMap::new());
    for row in &rows {
        let (id, key) = (row.text("user_id")?, row.text("username_key")?);
        key_of.insert(id, key);
        id_of.insert(key, id);
    }
    let mut new = Vec::new();
    let mut outcomes = Vec::with_capacity(accounts.len());
    for account in accounts {
        let (id, key) = (account.user_id.as_str(), account.username.key());
        outcomes.push(match (id_of.get(key), key_of.get(id)) {
            (None, None) => {
                // The rest of the batch sees it, too.
                key_of.insert(id, key);
                id_of.insert(key, id);
                new.push(account);
                Imported::Added
            }
            (Some(existing), _) if *existing == id => Imported::Present,
            (Some(_), _) => Imported::UsernameTaken,
            (None, Some(_)) => Imported::IdTaken,
        });
    }
    Ok((outcomes, new))
}

async fn insert(transaction: &mut Session, accounts: &[&Account]) -> Result<(), SqlError> {
    if accounts.is_empty() {
        return Ok(());
    }
    let insert = format!(
        "INSERT INTO @accounts
            (user_id, username, username_key, password_hash, roles, disabled, disabled_until, created_at)
         VALUES {}",
        repeat("(?, ?, ?, ?, ?, ?, ?, ?)", accounts.len())
    );
    let roles: Vec<String> = accounts.iter().map(|account| roles_column(&account.roles)).collect();
    let values = accounts.iter().zip(&roles).flat_map(|(account, roles)| {
        let (disabled, until) = disabled_columns(account.disabled);
        [
            Value::Text(account.user_id.as_str()),
            Value::Text(account.username.as_str()),
            Value::Text(account.username.key()),
            Value::Text(account.password.as_str()),
            Value::Text(roles),
            disabled,
            until,
            Value::Integer(integer(account.created_at)),
        ]
    });
    let inserted = transaction.execute(&insert, &values.collect::<Vec<_>>()).await?;
    if usize::try_from(inserted) == Ok(accounts.len()) {
        Ok(())
    } else {
        let cause = format!("INSERT added {inserted} rows instead of {}", accounts.len());
        Err(StoreError::Corrupt { store: NAME, cause }.into())
    }
}

fn repeat(placeholders: &str, count: usize) -> String {
    vec![placeholders; count].join(", ")
}
