//! JSON lines: an object a line, with the field names of the protocol.

use serde_json::{Map, Value};

use super::{
    account::{FieldError, Record, set_value},
    text::{Grammar, Step, SyntaxError, Text},
};
use crate::grpc::pb::ImportedAccount;

/// A piece is a line; blank ones are none.
#[derive(Default)]
struct Lines;

impl Grammar for Lines {
    fn step(&mut self, byte: u8, begun: bool) -> Step {
        match byte {
            b'\n' if begun => Step::End,
            b'\n' | b'\r' | b' ' | b'\t' if !begun => Step::Skip,
            _ => Step::Keep,
        }
    }

    fn end(&self, _: bool) -> Result<(), &'static str> {
        Ok(())
    }
}

/// The accounts of a file.
pub(super) struct JsonLines {
    text: Text,
    ignored: Vec<String>,
}

impl JsonLines {
    pub(super) fn new(text: Text, ignored: Vec<String>) -> Self {
        Self { text, ignored }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.text.offset()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        let Some(piece) = self.text.next(&mut Lines)? else { return Ok(None) };
        let record = Record::new(piece.line, |account| {
            read(account, piece.bytes.ok_or_else(FieldError::too_long)?, &self.ignored)
        });
        Ok(Some(record))
    }
}

fn read(account: &mut ImportedAccount, line: &[u8], ignored: &[String]) -> Result<(), FieldError> {
    // What the parser says of a syntax error may quote the line, and there is a secret in it.
    let mut fields: Map<String, Value> =
        serde_json::from_slice(line).map_err(|_| FieldError::whole("is not a JSON object"))?;
    // First, so that a refusal can name it.
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
