//! CSV (RFC 4180): a row of field names, then a row an account. Several roles stand in one cell, with
//! blanks between them.

use csv_core::ReadRecordResult;

use super::{
    account::{FIELDS, FieldError, Record, set_text},
    text::{Grammar, Step, SyntaxError, Text},
};
use crate::grpc::pb::ImportedAccount;

/// A piece is a row, which a line break in quotes does not end; blank lines are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Before the first byte of a cell.
    Cell,
    Bare,
    Quoted,
    /// After a quote in quotes, which ends them or is the first of two.
    Quote,
}

impl Grammar for Rows {
    fn step(&mut self, byte: u8, begun: bool) -> Step {
        if !begun {
            *self = Self::Cell;
            if matches!(byte, b'\r' | b'\n') {
                return Step::Skip;
            }
        }
        *self = match (*self, byte) {
            (Self::Quoted, b'"') => Self::Quote,
            (Self::Quoted, _) | (Self::Cell | Self::Quote, b'"') => Self::Quoted,
            (_, b'\n') => return Step::End,
            (_, b',') => Self::Cell,
            _ => Self::Bare,
        };
        Step::Keep
    }

    fn end(&self, begun: bool) -> Result<(), &'static str> {
        if begun && *self == Self::Quoted {
            Err("begins a row in which a quote is not closed")
        } else {
            Ok(())
        }
    }
}

/// The accounts of a file.
pub(super) struct Csv {
    text: Text,
    /// The names of the columns; `None` is one that is passed over.
    columns: Vec<Option<&'static str>>,
}

impl Csv {
    /// Reads the names of the columns.
    pub(super) fn new(mut text: Text, ignored: &[String]) -> Result<Self, String> {
        let header = match text.next(&mut Rows::Cell) {
            Ok(Some(piece)) => piece.bytes.and_then(cells),
            Ok(None) => None,
            Err(broken) => return Err(format!("line {}: {}", broken.line, broken.reason)),
        };
        let header = header.ok_or("line 1: must be a row of field names")?;
        let mut columns = Vec::new();
        for name in &header {
            let known = FIELDS.iter().find(|field| *field == name).copied();
            if known.is_none() && !ignored.contains(name) {
                let flaw = FieldError::unknown(name);
                return Err(format!("line 1: {} {}", flaw.field, flaw.reason));
            }
            if known.is_some() && columns.contains(&known) {
                return Err(format!("line 1: {name} is there twice"));
            }
            columns.push(known);
        }
        for needed in ["username", "password_hash"] {
            if !columns.contains(&Some(needed)) {
                return Err(format!("line 1: must be a row of field names with {needed} among them"));
            }
        }
        Ok(Self { text, columns })
    }

    pub(super) const fn offset(&self) -> u64 {
        self.text.offset()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        let Some(piece) = self.text.next(&mut Rows::Cell)? else { return Ok(None) };
        let record = Record::new(piece.line, |account| {
            read(account, piece.bytes.ok_or_else(FieldError::too_long)?, &self.columns)
        });
        Ok(Some(record))
    }
}

fn read(
    account: &mut ImportedAccount,
    row: &[u8],
    columns: &[Option<&'static str>],
) -> Result<(), FieldError> {
    let cells = cells(row).ok_or_else(|| FieldError::whole("is not a row of UTF-8 text"))?;
    if cells.len() != columns.len() {
        let (here, there) = (cells.len(), columns.len());
        return Err(FieldError::whole(format!("has {here} cells where the first row has {there}")));
    }
    for (column, cell) in columns.iter().zip(&cells) {
        if let Some(field) = column {
            set_text(account, field, cell)?;
        }
    }
    Ok(())
}

/// The cells of a row without its line break.
fn cells(row: &[u8]) -> Option<Vec<String>> {
    let row = row.strip_suffix(b"\r").unwrap_or(row);
    // Line breaks are no business of the parser: what it is given is one row.
    let mut reader = csv_core::ReaderBuilder::new().terminator(csv_core::Terminator::Any(b'\n')).build();
    let mut text = vec![0; row.len()];
    let mut ends = vec![0; row.len() + 1];
    let (result, read, _, mut count) = reader.read_record(row, &mut text, &mut ends);
    if result == ReadRecordResult::InputEmpty && read == row.len() {
        // The end of the input ends the last cell.
        let (_, _, _, more) = reader.read_record(&[], &mut [], &mut ends[count..]);
        count += more;
    }
    let mut start = 0;
    ends[..count]
        .iter()
        .map(|end| {
            let cell = std::str::from_utf8(text.get(start..*end)?).ok()?;
            start = *end;
            Some(cell.to_owned())
        })
        .collect()
}
