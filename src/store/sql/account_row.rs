//! Converts accounts to and from rows of the table `accounts`.

use super::{
    corrupt, integer,
    row::{Row, Value},
    timestamp,
};
use crate::domain::{
    password::PasswordHash,
    ports::{Account, Disabled, StoreError},
    types::{Role, UserId},
    username::Username,
};

/// The name of the store in messages.
pub(super) const NAME: &str = "accounts";

pub(super) fn account(row: &Row) -> Result<Account, StoreError> {
    let roles: Vec<&str> = row.text("roles")?.split_ascii_whitespace().collect();
    Ok(Account {
        user_id: UserId::parse(row.text("user_id")?).map_err(|error| corrupt(NAME, &error))?,
        username: Username::parse(row.text("username")?).map_err(|error| corrupt(NAME, &error))?,
        password: PasswordHash::new(row.text("password_hash")?.to_owned()),
        roles: Role::parse_all(&roles).map_err(|error| corrupt(NAME, &error))?,
        disabled: match (row.boolean("disabled")?, row.optional_integer("disabled_until")?) {
            (false, _) => Disabled::No,
            (true, None) => Disabled::Yes,
            (true, Some(until)) => Disabled::Until(timestamp(until)),
        },
        created_at: timestamp(row.integer("created_at")?),
    })
}

/// Returns the values of the columns `disabled` and `disabled_until`.
pub(super) fn disabled_columns(disabled: Disabled) -> (Value<'static>, Value<'static>) {
    (Value::Bool(disabled != Disabled::No), Value::OptionalInteger(disabled.until().map(integer)))
}

/// Returns the value of the column `roles`.
pub(super) fn roles_column(roles: &[Role]) -> String {
    roles.iter().map(Role::as_str).collect::<Vec<_>>().join(" ")
}
