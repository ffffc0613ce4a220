//! Statements that the operator has configured, verified against the database.

use std::sync::OnceLock;

use sqlx::postgres::PgTypeInfo;

use super::{
    account_row::NAME,
    client::SqlClient,
    dialect::{Access, Dialect},
    error::SqlError,
    row::Value,
    session::Description,
    statement::Statement,
    typed::{Typed, is_text},
};
use crate::domain::ports::StoreError;

pub(super) struct Query {
    /// The name of the setting.
    key: &'static str,
    pub(super) statement: Statement,
    /// The types of the placeholders, if the database reports them; set by `describe`.
    parameters: OnceLock<Vec<PgTypeInfo>>,
}

impl Query {
    pub(super) fn new(
        key: &'static str,
        dialect: Dialect,
        text: &str,
        names: &[&str],
    ) -> Result<Self, String> {
        let statement = Statement::parse(dialect, text, names).map_err(|error| format!("{key} {error}"))?;
        Ok(Self { key, statement, parameters: OnceLock::new() })
    }

    /// Returns the values for the placeholders, or `None` if one of them cannot be converted to the type of its
    /// placeholder.
    pub(super) fn values<'a>(&'a self, value: impl Fn(&str) -> &'a str) -> Option<Vec<Value<'a>>> {
        let parameters = self.parameters.get().map(Vec::as_slice).unwrap_or_default();
        let typed = self.statement.names.iter().enumerate().map(|(index, name)| {
            let typed = Typed { text: value(name), parameter: parameters.get(index) };
            typed.binary().map(|_| Value::Typed(typed))
        });
        typed.collect()
    }

    /// Returns the error that the statement is invalid. `problem` continues the sentence that the name of the setting
    /// begins.
    pub(super) fn invalid(&self, problem: &str) -> StoreError {
        StoreError::Corrupt { store: NAME, cause: format!("{} {problem}", self.key) }
    }

    fn database_error(&self, error: SqlError) -> StoreError {
        match error {
            SqlError::Statement(
                StoreError::Unavailable { cause, .. } | StoreError::Corrupt { cause, .. },
            ) => self.invalid(&format!("is not accepted by the database: {cause}")),
            other => other.into(),
        }
    }

    /// Has the database describe the statement, and remembers the types of the placeholders.
    pub(super) async fn describe(
        &self,
        client: &SqlClient,
        access: Access,
    ) -> Result<Description, StoreError> {
        let described = client.describe(&self.statement.text, access).await;
        let description = described.map_err(|error| self.database_error(error))?;
        for (name, parameter) in self.statement.names.iter().zip(&description.parameters) {
            if !Typed::is_supported(parameter) {
                return Err(self.invalid(&format!(
                    "compares :{name} with a value of type {parameter}: write CAST(column AS text)"
                )));
            }
        }
        let _ = self.parameters.set(description.parameters.clone());
        Ok(description)
    }

    /// Verifies that the SELECT returns the required columns and that the user may run it.
    pub(super) async fn check_select(&self, client: &SqlClient) -> Result<(), StoreError> {
        let description = self.describe(client, Access::Read).await?;
        let dialect = client.dialect();
        for (column, required, kind) in [
            ("user_id", true, ColumnKind::Id),
            ("username", true, ColumnKind::Text),
            ("password_hash", true, ColumnKind::Text),
            ("disabled", false, ColumnKind::Bool),
            ("roles", false, ColumnKind::Names),
        ] {
            let mut matching =
                description.columns.iter().filter(|(name, _)| name.eq_ignore_ascii_case(column));
            match (matching.next(), matching.next()) {
                (None, _) if required => {
                    return Err(self.invalid(&format!("has no column {column}: name it with AS {column}")));
                }
                (Some(_), Some(_)) => {
                    return Err(self.invalid(&format!("has two columns {column}: leave one out")));
                }
                (Some((_, column_type)), None) if !kind.accepts(dialect, column_type) => {
                    return Err(self.invalid(&format!(
                        "has a column {column} of type {column_type}, which is not {}: convert it with CAST",
                        kind.describe()
                    )));
                }
                _ => {}
            }
        }
        // The database only checks permissions when the statement runs.
        let number = |_: &str| "1";
        let uuid = |_: &str| "00000000-0000-0000-0000-000000000000";
        let values = self.values(number).or_else(|| self.values(uuid)).unwrap_or_default();
        client
            .fetch_foreign(&self.statement.text, &values)
            .await
            .map_err(|error| self.database_error(error))?;
        Ok(())
    }
}

/// The kind of value that a column must have.
#[derive(Clone, Copy)]
enum ColumnKind {
    /// Text, an integer or a UUID.
    Id,
    Text,
    Bool,
    /// Text or a list of texts.
    Names,
}

impl ColumnKind {
    fn accepts(self, dialect: Dialect, column_type: &str) -> bool {
        let upper = column_type.to_ascii_uppercase();
        let integer = upper.contains("INT") || upper == "BIT";
        let boolean = integer || upper.starts_with("BOOL");
        let text = match dialect {
            // SQLite does not enforce the types of columns.
            Dialect::Sqlite => return true,
            Dialect::Postgres => is_text(column_type),
            Dialect::MySql => {
                !boolean
                    && !["FLOAT", "DOUBLE", "TIMESTAMP", "DATE", "TIME", "DATETIME", "YEAR", "GEOMETRY"]
                        .contains(&upper.as_str())
            }
        };
        match self {
            Self::Id => text || upper == "UUID" || integer && !upper.starts_with("INTERVAL"),
            Self::Text => text,
            Self::Bool => boolean && !upper.starts_with("INTERVAL"),
            Self::Names => text || upper.strip_suffix("[]").is_some_and(is_text) || upper == "NULL",
        }
    }

    const fn describe(self) -> &'static str {
        match self {
            Self::Id => "text, a whole number or a UUID",
            Self::Text => "text",
            Self::Bool => "a boolean or a whole number",
            Self::Names => "text or a list of texts",
        }
    }
}
