//! JSON lines: one object per line, with the field names of the protocol.

use serde_json::{Map, Value};

use super::{
    account::{Record, Violation, set_value},
    record_reader::{RecordReader, Splitter, Step, SyntaxError},
};
use crate::grpc::pb::ImportedAccount;

/// Splits a file into lines, and skips blank ones.
struct LineSplitter;

impl Splitter for LineSplitter {
    fn step(&mut self, byte: u8, in_record: bool) -> Step {
        match byte {
            b'\n' if in_record => Step::SkipAndEnd,
            b'\n' | b'\r' | b' ' | b'\t' if !in_record => Step::Skip,
            _ => Step::Keep,
        }
    }

    fn end(&self, _: bool) -> Result<(), &'static str> {
        Ok(())
    }
}

/// Reads the accounts of a file of JSON lines.
pub(super) struct JsonLines {
    reader: RecordReader,
    ignored: Vec<String>,
}

impl JsonLines {
    pub(super) fn new(reader: RecordReader, ignored: Vec<String>) -> Self {
        Self { reader, ignored }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.reader.offset()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        let Some(line) = self.reader.next(&mut LineSplitter)? else { return Ok(None) };
        let record = Record::new(line.line, |account| set_fields(account, line.text()?, &self.ignored));
        Ok(Some(record))
    }
}

fn set_fields(account: &mut ImportedAccount, line: &str, ignored: &[String]) -> Result<(), Violation> {
    // The parser's message may quote the line, which contains a password hash.
    let mut fields: Map<String, Value> =
        serde_json::from_str(line).map_err(|_| Violation::record("is not a JSON object"))?;
    // Set first, so that a violation can name the user.
    if let Some(username) = fields.remove("username") {
        set_value(account, "username", username)?;
    }
    for (field, value) in fields {
        if !ignored.contains(&field) {
            set_value(account, &field, value)?;
        }
    }
    Ok(())
}
