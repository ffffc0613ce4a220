//! The values of a statement, and the rows of its result.

use sqlx::{
    Column as _, Row as _, TypeInfo as _, ValueRef as _, mysql::MySqlRow, postgres::PgRow, sqlite::SqliteRow,
};

use rusqlite::types::Value as EmbeddedValue;

use super::typed::{Typed, is_text};
use crate::{domain::ports::StoreError, store::embedded::Rows};

#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Integer(i64),
    OptionalInteger(Option<i64>),
    Bool(bool),
    /// A value for a statement of the operator.
    Typed(Typed<'a>),
}

impl Value<'_> {
    /// The value for the embedded database.
    pub(super) fn embedded(&self) -> EmbeddedValue {
        match *self {
            Self::Text(text) => text.to_owned().into(),
            Self::Bytes(bytes) => bytes.to_owned().into(),
            Self::Integer(integer) => integer.into(),
            Self::OptionalInteger(integer) => integer.into(),
            Self::Bool(boolean) => boolean.into(),
            // Only statements of an operator have such values, and none runs on the embedded database.
            Self::Typed(_) => EmbeddedValue::Null,
        }
    }
}

/// The value of one column in one row.
pub(super) enum Cell {
    Null,
    Text(String),
    /// Bytes, or text if the driver cannot distinguish the two.
    Bytes(Vec<u8>),
    /// Wide enough for signed and unsigned integers of 64 bits.
    Integer(i128),
    Bool(bool),
    List(Vec<Option<String>>),
    /// A value of another type, with the name of the type.
    Other(String),
}

impl From<EmbeddedValue> for Cell {
    fn from(value: EmbeddedValue) -> Self {
        match value {
            EmbeddedValue::Null => Self::Null,
            EmbeddedValue::Integer(integer) => Self::Integer(integer.into()),
            EmbeddedValue::Real(_) => Self::Other("REAL".to_owned()),
            EmbeddedValue::Text(text) => Self::Text(text),
            EmbeddedValue::Blob(bytes) => Self::Bytes(bytes),
        }
    }
}

pub(super) struct Row {
    store: &'static str,
    cells: Vec<(String, Cell)>,
}

impl Row {
    pub(super) fn new(store: &'static str, row: &impl DriverRow) -> Result<Self, sqlx::Error> {
        let cells = row.columns().iter().enumerate();
        let cells = cells.map(|(index, column)| Ok((column.name().to_owned(), row.cell(index)?)));
        Ok(Self { store, cells: cells.collect::<Result<_, sqlx::Error>>()? })
    }

    /// The rows of a query of the embedded database.
    pub(super) fn of_embedded(store: &'static str, rows: Rows) -> Vec<Self> {
        let Rows { columns, rows } = rows;
        let cells =
            |row: Vec<EmbeddedValue>| columns.iter().cloned().zip(row.into_iter().map(Cell::from)).collect();
        rows.into_iter().map(|row| Self { store, cells: cells(row) }).collect()
    }

    /// Returns `None` if there is no such column.
    pub(super) fn get(&self, column: &str) -> Option<&Cell> {
        self.cells.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, cell)| cell)
    }

    pub(super) fn text(&self, column: &str) -> Result<&str, StoreError> {
        match self.get(column) {
            Some(Cell::Text(text)) => Ok(text),
            Some(Cell::Bytes(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| self.type_error(column, "text in UTF-8"))
            }
            _ => Err(self.type_error(column, "text")),
        }
    }

    pub(super) fn integer(&self, column: &str) -> Result<i64, StoreError> {
        self.optional_integer(column)?.ok_or_else(|| self.type_error(column, "a whole number"))
    }

    /// Returns `None` for NULL.
    pub(super) fn optional_integer(&self, column: &str) -> Result<Option<i64>, StoreError> {
        match self.get(column) {
            Some(Cell::Null) => Ok(None),
            Some(Cell::Integer(integer)) if let Ok(integer) = i64::try_from(*integer) => Ok(Some(integer)),
            _ => Err(self.type_error(column, "a whole number")),
        }
    }

    /// Accepts a boolean or an integer, of which 0 is false.
    pub(super) fn boolean(&self, column: &str) -> Result<bool, StoreError> {
        match self.get(column) {
            Some(Cell::Bool(boolean)) => Ok(*boolean),
            Some(Cell::Integer(integer)) => Ok(*integer != 0),
            _ => Err(self.type_error(column, "true or false")),
        }
    }

    /// Accepts names separated by white space or commas, or a list of them. NULL is an empty list.
    pub(super) fn names(&self, column: &str) -> Result<Vec<&str>, StoreError> {
        match self.get(column) {
            Some(Cell::Null) => Ok(Vec::new()),
            Some(Cell::List(list)) => Ok(list.iter().flatten().map(|name| name.trim()).collect()),
            _ => {
                let text = self.text(column)?;
                let is_separator = |character: char| character.is_ascii_whitespace() || character == ',';
                Ok(text.split(is_separator).filter(|name| !name.is_empty()).collect())
            }
        }
    }

    /// Accepts text, or an integer and returns its digits.
    pub(super) fn text_or_integer(&self, column: &str) -> Result<String, StoreError> {
        match self.get(column) {
            Some(Cell::Integer(integer)) => Ok(integer.to_string()),
            _ => self.text(column).map(str::to_owned),
        }
    }

    pub(super) fn bytes(&self, column: &str) -> Result<&[u8], StoreError> {
        match self.get(column) {
            Some(Cell::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.type_error(column, "bytes")),
        }
    }

    /// Returns the error that the column is missing or its value is not `expected`.
    pub(super) fn type_error(&self, column: &str, expected: &str) -> StoreError {
        let cause = match self.get(column) {
            None => format!("there is no column {column}"),
            Some(Cell::Null) => format!("the column {column} is NULL, not {expected}"),
            Some(Cell::Other(name)) => format!("the column {column} is {name}, not {expected}"),
            Some(_) => format!("the value of the column {column} is not {expected}"),
        };
        StoreError::Corrupt { store: self.store, cause }
    }
}

/// A row of a driver, whose values can be read without knowing their types.
pub(super) trait DriverRow: sqlx::Row {
    fn cell(&self, index: usize) -> Result<Cell, sqlx::Error>;
}

impl DriverRow for SqliteRow {
    fn cell(&self, index: usize) -> Result<Cell, sqlx::Error> {
        let value = self.try_get_raw(index)?;
        if value.is_null() {
            return Ok(Cell::Null);
        }
        // This is the type of the value; SQLite does not enforce the type of the column.
        Ok(match value.type_info().name() {
            "INTEGER" | "BOOLEAN" => Cell::Integer(self.try_get_unchecked::<i64, _>(index)?.into()),
            "TEXT" => Cell::Text(self.try_get_unchecked(index)?),
            "BLOB" => Cell::Bytes(self.try_get_unchecked(index)?),
            other => Cell::Other(other.to_owned()),
        })
    }
}

impl DriverRow for PgRow {
    fn cell(&self, index: usize) -> Result<Cell, sqlx::Error> {
        let value = self.try_get_raw(index)?;
        if value.is_null() {
            return Ok(Cell::Null);
        }
        let name = value.type_info().name().to_ascii_uppercase();
        Ok(match name.as_str() {
            "BOOL" => Cell::Bool(self.try_get_unchecked(index)?),
            "INT2" => Cell::Integer(self.try_get_unchecked::<i16, _>(index)?.into()),
            "INT4" => Cell::Integer(self.try_get_unchecked::<i32, _>(index)?.into()),
            "INT8" => Cell::Integer(self.try_get_unchecked::<i64, _>(index)?.into()),
            "BYTEA" => Cell::Bytes(self.try_get_unchecked(index)?),
            "UUID" => value.as_bytes().map(uuid).map_err(sqlx::Error::Decode)?,
            "TEXT[]" | "VARCHAR[]" | "CHAR[]" | "NAME[]" => Cell::List(self.try_get_unchecked(index)?),
            // Values of this type are padded with blanks, which are not significant.
            "CHAR" => Cell::Text(trim_padding(self.try_get_unchecked(index)?)),
            text if is_text(text) => Cell::Text(self.try_get_unchecked(index)?),
            other => Cell::Other(other.to_owned()),
        })
    }
}

fn trim_padding(mut text: String) -> String {
    text.truncate(text.trim_end_matches(' ').len());
    text
}

/// Formats a UUID as RFC 9562, section 4, does.
fn uuid(bytes: &[u8]) -> Cell {
    let hex = data_encoding::HEXLOWER.encode(bytes);
    if hex.len() != 32 {
        return Cell::Other("a UUID of the wrong length".into());
    }
    Cell::Text([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

impl DriverRow for MySqlRow {
    fn cell(&self, index: usize) -> Result<Cell, sqlx::Error> {
        let value = self.try_get_raw(index)?;
        if value.is_null() {
            return Ok(Cell::Null);
        }
        let name = value.type_info().name().to_owned();
        Ok(match name.as_str() {
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => {
                Cell::Integer(self.try_get_unchecked::<i64, _>(index)?.into())
            }
            "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED"
            | "BIGINT UNSIGNED" | "BIT" => Cell::Integer(self.try_get_unchecked::<u64, _>(index)?.into()),
            "FLOAT" | "DOUBLE" | "TIMESTAMP" | "DATE" | "TIME" | "DATETIME" | "YEAR" | "GEOMETRY" => {
                Cell::Other(name)
            }
            // The server pads values of this type if PAD_CHAR_TO_FULL_LENGTH is set.
            "CHAR" => Cell::Text(trim_padding(self.try_get_unchecked(index)?)),
            // The driver cannot distinguish text with a binary collation from bytes.
            _ => Cell::Bytes(self.try_get_unchecked(index)?),
        })
    }
}
