//! Objects in an array or one after another, and what their fields have in common in the formats of other systems.

use serde_json::{Map, Value};

use super::{
    account::Violation,
    encoding,
    record_reader::{Splitter, Step, SyntaxError},
};

/// Splits an array, or a sequence, into its objects.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectSplitter {
    expected: Expected,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// The syntax that is expected next between objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Expected {
    #[default]
    ArrayOrObject,
    /// Another object, in a file without an array.
    BareObject,
    /// The first object of the array, or its end.
    FirstObject,
    CommaOrEnd,
    Object,
    Nothing,
}

impl ObjectSplitter {
    /// Begins after the bracket that opens an array.
    pub(super) fn in_array() -> Self {
        Self { expected: Expected::FirstObject, ..Self::default() }
    }

    /// Returns whether the array has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.expected == Expected::Nothing
    }

    fn between_objects(&mut self, byte: u8) -> Step {
        self.expected = match (self.expected, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => return Step::Skip,
            (Expected::ArrayOrObject, b'[') => Expected::FirstObject,
            (Expected::ArrayOrObject | Expected::BareObject, b'{') => {
                return self.begin(Expected::BareObject);
            }
            (Expected::FirstObject | Expected::Object, b'{') => return self.begin(Expected::CommaOrEnd),
            (Expected::CommaOrEnd, b',') => Expected::Object,
            (Expected::FirstObject | Expected::CommaOrEnd, b']') => Expected::Nothing,
            (Expected::Nothing, _) => return Step::Error("has something after the end of the array"),
            (Expected::CommaOrEnd, _) => return Step::Error("should have `,` or `]` after an entry"),
            _ => return Step::Error("is not an array of objects, nor one object on each line"),
        };
        Step::Skip
    }

    fn begin(&mut self, next: Expected) -> Step {
        (self.expected, self.depth) = (next, 1);
        Step::Keep
    }

    fn in_object(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                // JSON escapes line breaks. Without this check, the text after the string would be taken for strings.
                b'\n' => return Step::Error("has a string that is not closed"),
                _ => {}
            }
            return Step::Keep;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        if self.depth == 0 { Step::KeepAndEnd } else { Step::Keep }
    }
}

impl Splitter for ObjectSplitter {
    fn step(&mut self, byte: u8, in_record: bool) -> Step {
        if in_record { self.in_object(byte) } else { self.between_objects(byte) }
    }

    fn end(&self, in_record: bool) -> Result<(), &'static str> {
        match self.expected {
            _ if in_record => Err("begins an entry that is cut off"),
            Expected::BareObject | Expected::Nothing => Ok(()),
            Expected::ArrayOrObject => Err("is the end of an empty file"),
            Expected::FirstObject | Expected::CommaOrEnd | Expected::Object => {
                Err("is where the file is cut off")
            }
        }
    }
}

/// Parses an object. After one that is not JSON, the next one cannot be found.
pub(super) fn parse(line: u64, bytes: &[u8]) -> Result<Map<String, Value>, SyntaxError> {
    let text = encoding::text(bytes)
        .map_err(|error| SyntaxError { line: line + error.lines, reason: error.reason() })?;
    // The parser's message may quote the object, which contains a password hash.
    serde_json::from_str(text).map_err(|error| SyntaxError {
        line: line + error.line().saturating_sub(1) as u64,
        reason: "is not JSON".to_owned(),
    })
}

/// Removes a field that must be text. Returns `None` if it is missing, null or empty.
pub(super) fn text(fields: &mut Map<String, Value>, field: &str) -> Result<Option<String>, Violation> {
    match fields.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(Violation::new(field, "must be a string")),
    }
}

/// Removes a field that must be true or false.
pub(super) fn flag(fields: &mut Map<String, Value>, field: &str, default: bool) -> Result<bool, Violation> {
    match fields.remove(field) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(Violation::new(field, "must be true or false")),
    }
}
