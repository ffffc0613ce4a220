//! Splits a file into records, and says in which line each begins.
//!
//! Every format is split before it is parsed: the parsers do not report where they are, and would hold a whole file in
//! memory if a bracket or a quote is not closed.

use std::{fmt::Display, io::BufRead};

use super::{account::Violation, encoding};

/// The size of a record in bytes beyond which its contents are dropped.
const MAX_RECORD: usize = 1 << 20;

/// The decision of a record reader about one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Skips a byte between records.
    Skip,
    /// Adds the byte to the record, which begins with it if none has begun.
    Keep,
    /// Adds the byte to the record and ends it.
    KeepAndEnd,
    /// Skips the byte and ends the record.
    SkipAndEnd,
    /// The byte is a syntax error, after which no further record can be found.
    Error(&'static str),
}

/// The rules by which a format is split into records.
pub(super) trait Splitter {
    /// Decides about the next byte; `in_record` tells whether a record has begun.
    fn step(&mut self, byte: u8, in_record: bool) -> Step;

    /// Checks whether the file may end here.
    fn end(&self, in_record: bool) -> Result<(), &'static str>;
}

/// The bytes of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawRecord<'a> {
    /// The line in which it begins.
    pub(super) line: u64,
    /// `None` if it is longer than [`MAX_RECORD`].
    pub(super) bytes: Option<&'a [u8]>,
}

impl<'a> RawRecord<'a> {
    /// Returns the record as text.
    pub(super) fn text(&self) -> Result<&'a str, Violation> {
        let bytes = self.bytes.ok_or_else(Violation::too_long)?;
        encoding::text(bytes).map_err(|error| {
            let place = match error.lines {
                0 => String::new(),
                lines => format!("goes on to line {}, which ", self.line + lines),
            };
            Violation::record(place + &error.reason())
        })
    }
}

/// The rest of a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: u64,
    /// A predicate whose subject is the line: "is not JSON".
    pub(super) reason: String,
}

/// Reads a file once, record by record.
pub(super) struct RecordReader {
    reader: Box<dyn BufRead + Send>,
    line: u64,
    offset: u64,
    record: Vec<u8>,
}

impl RecordReader {
    pub(super) fn new(reader: Box<dyn BufRead + Send>) -> Self {
        Self { reader, line: 1, offset: 0, record: Vec::new() }
    }

    /// The number of bytes read so far.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn next(
        &mut self,
        splitter: &mut impl Splitter,
    ) -> Result<Option<RawRecord<'_>>, SyntaxError> {
        self.record.clear();
        let mut first_line = None;
        let mut length = 0;
        let mut ended = false;
        while !ended {
            let error = |line, reason: &dyn Display| SyntaxError { line, reason: reason.to_string() };
            let buffer = self
                .reader
                .fill_buf()
                .map_err(|cause| error(self.line, &format!("cannot be read: {cause}")))?;
            if buffer.is_empty() {
                let line = first_line.unwrap_or(self.line);
                splitter.end(first_line.is_some()).map_err(|reason| error(line, &reason))?;
                break;
            }
            let mut used = 0;
            for &byte in buffer {
                let step = splitter.step(byte, first_line.is_some());
                if let Step::Error(reason) = step {
                    return Err(error(self.line, &reason));
                }
                if matches!(step, Step::Keep | Step::KeepAndEnd) {
                    first_line.get_or_insert(self.line);
                    length += 1;
                    if length <= MAX_RECORD {
                        self.record.push(byte);
                    }
                }
                used += 1;
                self.line += u64::from(byte == b'\n');
                ended = matches!(step, Step::KeepAndEnd | Step::SkipAndEnd);
                if ended {
                    break;
                }
            }
            self.reader.consume(used);
            self.offset += used as u64;
        }
        let bytes = (length <= MAX_RECORD).then_some(self.record.as_slice());
        Ok(first_line.map(|line| RawRecord { line, bytes }))
    }
}

#[cfg(test)]
impl RecordReader {
    /// Reads a text that arrives in chunks of this size, as from a pipe.
    pub(super) fn of(text: &[u8], chunk: usize) -> Self {
        let reader = std::io::Cursor::new(text.to_vec());
        Self::new(Box::new(std::io::BufReader::with_capacity(chunk.max(1), reader)))
    }
}
