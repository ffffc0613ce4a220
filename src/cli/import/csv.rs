//! CSV (RFC 4180): a header row with the field names, then one row per account. Several roles are in one cell, separated by
//! spaces.

use csv::{ReaderBuilder, StringRecord, Terminator};

use super::{
    account::{FIELDS, Record, Violation, set_text},
    record_reader::{RecordReader, Splitter, Step, SyntaxError},
};
use crate::grpc::pb::ImportedAccount;

/// Splits a file into rows. Line breaks in quotes do not end a row, and blank lines are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowSplitter {
    /// Before the first byte of a cell.
    CellStart,
    Unquoted,
    Quoted,
    /// After a quote in a quoted cell, which ends the cell or is the first of two.
    QuoteInQuoted,
}

impl Splitter for RowSplitter {
    fn step(&mut self, byte: u8, in_record: bool) -> Step {
        if !in_record {
            *self = Self::CellStart;
            if matches!(byte, b'\r' | b'\n') {
                return Step::Skip;
            }
        }
        *self = match (*self, byte) {
            (Self::Quoted, b'"') => Self::QuoteInQuoted,
            (Self::Quoted, _) | (Self::CellStart | Self::QuoteInQuoted, b'"') => Self::Quoted,
            (_, b'\n') => return Step::SkipAndEnd,
            (_, b',') => Self::CellStart,
            _ => Self::Unquoted,
        };
        Step::Keep
    }

    fn end(&self, in_record: bool) -> Result<(), &'static str> {
        if in_record && *self == Self::Quoted {
            Err("begins a row in which a quote is not closed")
        } else {
            Ok(())
        }
    }
}

/// Reads the accounts of a CSV file.
pub(super) struct Csv {
    reader: RecordReader,
    /// The fields of the columns; `None` for an ignored one.
    columns: Vec<Option<&'static str>>,
}

impl Csv {
    /// Reads the header row.
    pub(super) fn new(mut reader: RecordReader, ignored: &[String]) -> Result<Self, String> {
        let row = reader
            .next(&mut RowSplitter::CellStart)
            .map_err(|error| format!("line {}: {}", error.line, error.reason))?;
        let row = row.ok_or("line 1: must be a row of field names")?;
        let text = row.text().map_err(|violation| format!("line {}: {}", row.line, violation.reason))?;
        let header = parse_row(text).ok_or("line 1: must be a row of field names")?;
        let mut columns = Vec::new();
        for name in &header {
            let field = FIELDS.iter().find(|field| **field == name).copied();
            if field.is_none() && !ignored.iter().any(|ignored| ignored == name) {
                let violation = Violation::unknown(name);
                return Err(format!("line 1: {} {}", violation.field, violation.reason));
            }
            if field.is_some() && columns.contains(&field) {
                return Err(format!("line 1: {name} is there twice"));
            }
            columns.push(field);
        }
        for required in ["username", "password_hash"] {
            if !columns.contains(&Some(required)) {
                return Err(format!("line 1: must be a row of field names with {required} among them"));
            }
        }
        Ok(Self { reader, columns })
    }

    pub(super) const fn offset(&self) -> u64 {
        self.reader.offset()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        let Some(row) = self.reader.next(&mut RowSplitter::CellStart)? else { return Ok(None) };
        let record = Record::new(row.line, |account| set_fields(account, row.text()?, &self.columns));
        Ok(Some(record))
    }
}

fn set_fields(
    account: &mut ImportedAccount,
    row: &str,
    columns: &[Option<&'static str>],
) -> Result<(), Violation> {
    let cells = parse_row(row).ok_or_else(|| Violation::record("is not a row of CSV"))?;
    if cells.len() != columns.len() {
        let (cells, columns) = (cells.len(), columns.len());
        return Err(Violation::record(format!("has {cells} cells where the first row has {columns}")));
    }
    for (column, cell) in columns.iter().zip(&cells) {
        if let Some(field) = column {
            set_text(account, field, cell)?;
        }
    }
    Ok(())
}

/// Parses a row without its line break.
fn parse_row(row: &str) -> Option<StringRecord> {
    let row = row.strip_suffix('\r').unwrap_or(row).as_bytes();
    // With the default terminator, a carriage return in an unquoted cell would end the row.
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .terminator(Terminator::Any(b'\n'))
        .buffer_capacity(row.len().max(1))
        .from_reader(row);
    let mut cells = StringRecord::new();
    reader.read_record(&mut cells).ok()?;
    Some(cells)
}
