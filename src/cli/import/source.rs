//! The file that accounts come from, whatever its format.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, stdin},
    path::Path,
};

use super::{
    Failure,
    account::Record,
    csv::Csv,
    django::{self, Django},
    json_lines::JsonLines,
    text::{SyntaxError, Text},
};

/// How much is read at once, in bytes.
const BUFFER: usize = 64 * 1024;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Whichever of the others it looks like.
    Auto,
    /// JSON lines: an object a line, with the fields `user_id`, `username`, `password_hash`, `roles`,
    /// `disabled`, `disabled_until` and `created_at`.
    Jsonl,
    /// CSV: a row of field names, the same ones, then a row an account. Roles with blanks between them.
    Csv,
    /// What `manage.py dumpdata auth.group auth.user` of Django writes.
    Django,
}

/// A file with accounts.
pub(super) struct Source {
    reader: Reader,
    /// How long it is, where that can be known.
    pub(super) bytes: Option<u64>,
}

enum Reader {
    JsonLines(JsonLines),
    Csv(Csv),
    Django(Box<Django>),
}

impl Source {
    pub(super) fn open(
        path: &Path,
        format: Format,
        ignored: &[String],
        django: django::Settings,
    ) -> Result<Self, Failure> {
        let unreadable = |error| Failure::Usage(format!("{} cannot be read: {error}", path.display()));
        let (mut reader, bytes): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
            (Box::new(BufReader::with_capacity(BUFFER, stdin())), None)
        } else {
            let file = File::open(path).map_err(unreadable)?;
            let data = file.metadata().map_err(unreadable)?;
            (Box::new(BufReader::with_capacity(BUFFER, file)), data.is_file().then_some(data.len()))
        };
        let beginning = reader.fill_buf().map_err(unreadable)?;
        // What some programs write before UTF-8 says nothing.
        let mark = if beginning.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let format = match format {
            Format::Auto => guess(path, &beginning[mark..]),
            format => format,
        };
        reader.consume(mark);
        let text = Text::new(reader);
        let reader = match format {
            Format::Auto | Format::Jsonl => Reader::JsonLines(JsonLines::new(text, ignored.to_vec())),
            Format::Csv => Reader::Csv(
                Csv::new(text, ignored)
                    .map_err(|sentence| Failure::Usage(format!("{}: {sentence}", path.display())))?,
            ),
            Format::Django => Reader::Django(Box::new(Django::new(text, django))),
        };
        Ok(Self { reader, bytes })
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        match &mut self.reader {
            Reader::JsonLines(reader) => reader.next(),
            Reader::Csv(reader) => reader.next(),
            Reader::Django(reader) => reader.next(),
        }
    }

    /// How much of it has been read, in bytes.
    pub(super) fn offset(&self) -> u64 {
        match &self.reader {
            Reader::JsonLines(reader) => reader.offset(),
            Reader::Csv(reader) => reader.offset(),
            Reader::Django(reader) => reader.offset(),
        }
    }

    /// How much of it was not about users.
    pub(super) fn skipped(&self) -> u64 {
        if let Reader::Django(reader) = &self.reader { reader.skipped } else { 0 }
    }
}

/// JSON begins with a bracket, CSV with a name.
fn guess(path: &Path, beginning: &[u8]) -> Format {
    let extension = path.extension().map(OsStr::to_ascii_lowercase);
    let begins = beginning.trim_ascii_start();
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("csv") => Format::Csv,
        _ if begins.starts_with(b"[") => Format::Django,
        _ if begins.starts_with(b"{") => {
            let line = begins.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let entry = line.windows(7).any(|word| word == b"\"model\"");
            if entry { Format::Django } else { Format::Jsonl }
        }
        Some("jsonl" | "ndjson") => Format::Jsonl,
        _ if begins.is_empty() => Format::Jsonl,
        _ => Format::Csv,
    }
}
