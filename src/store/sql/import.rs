//! Adding accounts, many at a time.

use std::collections::HashMap;

use super::{
    accounts::{NAME, disabled_columns, roles_column},
    client::SqlClient,
    error::{Attempts, SqlError},
    integer,
    row::Value,
    session::Session,
};
use crate::domain::ports::{Account, Imported, StoreError};

/// Accounts in one statement. With eight values each that stays below what every database allows.
const ROWS: usize = 500;

/// See `Accounts::import`.
pub(super) async fn import(link: &SqlClient, accounts: &[Account]) -> Result<Vec<Imported>, StoreError> {
    let mut attempts = Attempts::default();
    loop {
        match try_import(link, accounts).await {
            Ok(outcomes) => return Ok(outcomes),
            // Somebody was faster with one of the names, which the next attempt sees.
            Err(fault) => attempts.again(fault).await?,
        }
    }
}

async fn try_import(link: &SqlClient, accounts: &[Account]) -> Result<Vec<Imported>, SqlError> {
    let mut transaction = link.begin().await?;
    let mut outcomes = Vec::with_capacity(accounts.len());
    for accounts in accounts.chunks(ROWS) {
        let (decided, new) = decide(&mut transaction, accounts).await?;
        insert(&mut transaction, &new).await?;
        outcomes.extend(decided);
    }
    transaction.commit().await?;
    Ok(outcomes)
}

/// What is to become of each, and those that are to be added.
async fn decide<'a>(
    transaction: &mut Session,
    accounts: &'a [Account],
) -> Result<(Vec<Imported>, Vec<&'a Account>), SqlError> {
    let marks = marks("?", accounts.len());
    // Two statements in one, because an OR over two indexes keeps some databases from using either.
    let present = format!(
        "SELECT user_id, username_key FROM @accounts WHERE user_id IN ({marks})
         UNION ALL
         SELECT user_id, username_key FROM @accounts WHERE username_key IN ({marks})"
    );
    let ids = accounts.iter().map(|account| Value::Text(account.user_id.as_str()));
    let keys = accounts.iter().map(|account| Value::Text(account.username.key()));
    let rows = transaction.fetch(&present, &ids.chain(keys).collect::<Vec<_>>()).await?;

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
                // It counts for the rest of the batch.
                key_of.insert(id, key);
                id_of.insert(key, id);
                new.push(account);
                Imported::Added
            }
            (Some(same), _) if *same == id => Imported::Present,
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
        marks("(?, ?, ?, ?, ?, ?, ?, ?)", accounts.len())
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
    let added = transaction.execute(&insert, &values.collect::<Vec<_>>()).await?;
    if usize::try_from(added) == Ok(accounts.len()) {
        Ok(())
    } else {
        let cause = format!("{added} rows were added in place of {}", accounts.len());
        Err(StoreError::Corrupt { store: NAME, cause }.into())
    }
}

fn marks(mark: &str, count: usize) -> String {
    vec![mark; count].join(", ")
}
