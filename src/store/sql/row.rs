//! Values on their way into a statement, and rows on their way out.

use sqlx::{
    Column as _, Row as _, TypeInfo as _, ValueRef as _, mysql::MySqlRow, postgres::PgRow, sqlite::SqliteRow,
};

use super::typed::{Typed, is_text};
use crate::domain::ports::StoreError;

/// A value for a statement.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Integer(i64),
    /// Where there may be none.
    Optional(Option<i64>),
    Bool(bool),
    /// For a statement that is not ours.
    Typed(Typed<'a>),
}

/// What stands in one column of one row.
pub(super) enum Cell {
    Null,
    Text(String),
    /// Bytes, or a text whose database does not tell the two apart.
    Bytes(Vec<u8>),
    /// Wide enough for signed and unsigned.
    Integer(i128),
    Bool(bool),
    List(Vec<Option<String>>),
    /// Something of a type that we do not read.
    Other(String),
}

/// A row.
pub(super) struct Row {
    store: &'static str,
    cells: Vec<(String, Cell)>,
}

impl Row {
    pub(super) fn new(store: &'static str, row: &impl Cells) -> Result<Self, sqlx::Error> {
        let cells = row.columns().iter().enumerate();
        let cells = cells.map(|(index, column)| Ok((column.name().to_owned(), row.cell(index)?)));
        Ok(Self { store, cells: cells.collect::<Result<_, sqlx::Error>>()? })
    }

    /// What stands in this column, if there is one.
    pub(super) fn get(&self, column: &str) -> Option<&Cell> {
        self.cells.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, cell)| cell)
    }

    pub(super) fn text(&self, column: &str) -> Result<&str, StoreError> {
        match self.get(column) {
            Some(Cell::Text(text)) => Ok(text),
            Some(Cell::Bytes(bytes)) => {
                std::str::from_utf8(bytes).map_err(|_| self.unreadable(column, "text in UTF-8"))
            }
            _ => Err(self.unreadable(column, "text")),
        }
    }

    pub(super) fn integer(&self, column: &str) -> Result<i64, StoreError> {
        self.optional(column)?.ok_or_else(|| self.unreadable(column, "a whole number"))
    }

    /// A number, or NULL.
    pub(super) fn optional(&self, column: &str) -> Result<Option<i64>, StoreError> {
        match self.get(column) {
            Some(Cell::Null) => Ok(None),
            Some(Cell::Integer(integer)) if let Ok(integer) = i64::try_from(*integer) => Ok(Some(integer)),
            _ => Err(self.unreadable(column, "a whole number")),
        }
    }

    /// True or false; as a number, 0 is false.
    pub(super) fn boolean(&self, column: &str) -> Result<bool, StoreError> {
        match self.get(column) {
            Some(Cell::Bool(boolean)) => Ok(*boolean),
            Some(Cell::Integer(integer)) => Ok(*integer != 0),
            _ => Err(self.unreadable(column, "true or false")),
        }
    }

    /// Names separated by white space or commas, or a list of them; NULL is none.
    pub(super) fn names(&self, column: &str) -> Result<Vec<&str>, StoreError> {
        match self.get(column) {
            Some(Cell::Null) => Ok(Vec::new()),
            Some(Cell::List(list)) => Ok(list.iter().flatten().map(|name| name.trim()).collect()),
            _ => {
                let text = self.text(column)?;
                let separates = |character: char| character.is_ascii_whitespace() || character == ',';
                Ok(text.split(separates).filter(|name| !name.is_empty()).collect())
            }
        }
    }

    /// Text, or a whole number as text.
    pub(super) fn written(&self, column: &str) -> Result<String, StoreError> {
        match self.get(column) {
            Some(Cell::Integer(integer)) => Ok(integer.to_string()),
            _ => self.text(column).map(str::to_owned),
        }
    }

    pub(super) fn bytes(&self, column: &str) -> Result<&[u8], StoreError> {
        match self.get(column) {
            Some(Cell::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.unreadable(column, "bytes")),
        }
    }

    pub(super) fn unreadable(&self, column: &str, expected: &str) -> StoreError {
        let cause = match self.get(column) {
            None => format!("there is no column {column}"),
            Some(Cell::Null) => format!("the column {column} is NULL, not {expected}"),
            Some(Cell::Other(name)) => format!("the column {column} is {name}, not {expected}"),
            Some(_) => format!("the column {column} holds something else than {expected}"),
        };
        StoreError::Corrupt { store: self.store, cause }
    }
}

/// A row of one of the drivers.
pub(super) trait Cells: sqlx::Row {
    fn cell(&self, index: usize) -> Result<Cell, sqlx::Error>;
}

impl Cells for SqliteRow {
    fn cell(&self, index: usize) -> Result<Cell, sqlx::Error> {
        let value = self.try_get_raw(index)?;
        if value.is_null() {
            return Ok(Cell::Null);
        }
        // The type of this value: the column's is no more than a wish.
        Ok(match value.type_info().name() {
            "INTEGER" | "BOOLEAN" => Cell::Integer(self.try_get_unchecked::<i64, _>(index)?.into()),
            "TEXT" => Cell::Text(self.try_get_unchecked(index)?),
            "BLOB" => Cell::Bytes(self.try_get_unchecked(index)?),
            other => Cell::Other(other.to_owned()),
        })
    }
}

impl Cells for PgRow {
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
            // Padded by its type, which does not count what it is padded with.
            "CHAR" => Cell::Text(unpadded(self.try_get_unchecked(index)?)),
            text if is_text(text) => Cell::Text(self.try_get_unchecked(index)?),
            other => Cell::Other(other.to_owned()),
        })
    }
}

fn unpadded(mut text: String) -> String {
    text.truncate(text.trim_end_matches(' ').len());
    text
}

/// In the form of RFC 9562, section 4.
fn uuid(bytes: &[u8]) -> Cell {
    let hex = data_encoding::HEXLOWER.encode(bytes);
    if hex.len() != 32 {
        return Cell::Other("UUID of the wrong length".into());
    }
    Cell::Text([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

impl Cells for MySqlRow {
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
            // As the server gives it unless PAD_CHAR_TO_FULL_LENGTH is set.
            "CHAR" => Cell::Text(unpadded(self.try_get_unchecked(index)?)),
            // Text with a binary collation looks like bytes, and the other way round.
            _ => Cell::Bytes(self.try_get_unchecked(index)?),
        })
    }
}
