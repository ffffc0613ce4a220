//! Statements that an operator has configured, and what the database makes of them.

use std::sync::OnceLock;

use sqlx::postgres::PgTypeInfo;

use super::{
    accounts::NAME,
    client::{Description, Purpose, SqlClient},
    dialect::Dialect,
    error::SqlError,
    row::Value,
    statement::Statement,
    typed::{Typed, is_text},
};
use crate::domain::ports::StoreError;

/// A configured statement.
pub(super) struct Query {
    /// The name of the setting.
    key: &'static str,
    pub(super) statement: Statement,
    /// The types of its values, where the database tells: known once it was asked.
    wanted: OnceLock<Vec<PgTypeInfo>>,
}

impl Query {
    pub(super) fn new(
        key: &'static str,
        dialect: Dialect,
        text: &str,
        names: &[&str],
    ) -> Result<Self, String> {
        let statement = Statement::parse(dialect, text, names).map_err(|error| format!("{key} {error}"))?;
        Ok(Self { key, statement, wanted: OnceLock::new() })
    }

    /// The values for its placeholders; `None` if one of them is none of the type that the database wants.
    pub(super) fn values<'a>(&'a self, value: impl Fn(&str) -> &'a str) -> Option<Vec<Value<'a>>> {
        let wanted = self.wanted.get().map(Vec::as_slice).unwrap_or_default();
        let typed = self.statement.names.iter().enumerate().map(|(index, name)| {
            let typed = Typed { text: value(name), wanted: wanted.get(index) };
            typed.binary().map(|_| Value::Typed(typed))
        });
        typed.collect()
    }

    pub(super) fn refuse(&self, sentence: &str) -> StoreError {
        StoreError::Corrupt { store: NAME, cause: format!("{} {sentence}", self.key) }
    }

    fn refused(&self, fault: SqlError) -> StoreError {
        match fault {
            SqlError::Refused(StoreError::Unavailable { cause, .. } | StoreError::Corrupt { cause, .. }) => {
                self.refuse(&format!("is refused by the database: {cause}"))
            }
            other => other.into(),
        }
    }

    /// Asks the database what it makes of the statement.
    pub(super) async fn describe(
        &self,
        link: &SqlClient,
        purpose: Purpose,
    ) -> Result<Description, StoreError> {
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

    pub(super) async fn check_select(&self, link: &SqlClient) -> Result<(), StoreError> {
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
