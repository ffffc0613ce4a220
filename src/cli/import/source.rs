//! The file with the accounts, in any format.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, stdin},
    path::Path,
};

use super::{
    CommandError,
    account::Record,
    csv::Csv,
    django::{self, Django},
    json_lines::JsonLines,
    record_reader::{RecordReader, SyntaxError},
};

/// Size of the read buffer in bytes.
const BUFFER_SIZE: usize = 64 * 1024;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Detects the format by the name and the first bytes of the file.
    Auto,
    /// JSON lines: one object per line, with the fields `user_id`, `username`, `password_hash`, `roles`,
    /// `disabled`, `disabled_until` and `created_at`.
    Jsonl,
    /// CSV: a row with these field names, then one row per account. Roles are separated by spaces.
    Csv,
    /// The output of `manage.py dumpdata auth.group auth.user` of Django.
    Django,
}

pub(super) struct Source {
    reader: Reader,
    /// The size of the file; `None` for a pipe.
    pub(super) size: Option<u64>,
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
    ) -> Result<Self, CommandError> {
        let read_error = |error| CommandError::Usage(format!("{} cannot be read: {error}", path.display()));
        let (mut reader, size): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
            (Box::new(BufReader::with_capacity(BUFFER_SIZE, stdin())), None)
        } else {
            let file = File::open(path).map_err(read_error)?;
            let data = file.metadata().map_err(read_error)?;
            (Box::new(BufReader::with_capacity(BUFFER_SIZE, file)), data.is_file().then_some(data.len()))
        };
        let beginning = reader.fill_buf().map_err(read_error)?;
        // Some programs write a byte order mark.
        let mark = if beginning.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let format = match format {
            Format::Auto => detect(path, &beginning[mark..]),
            format => format,
        };
        reader.consume(mark);
        let reader = RecordReader::new(reader);
        let reader = match format {
            Format::Auto | Format::Jsonl => Reader::JsonLines(JsonLines::new(reader, ignored.to_vec())),
            Format::Csv => Reader::Csv(
                Csv::new(reader, ignored)
                    .map_err(|message| CommandError::Usage(format!("{}: {message}", path.display())))?,
            ),
            Format::Django => Reader::Django(Box::new(Django::new(reader, django))),
        };
        Ok(Self { reader, size })
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        match &mut self.reader {
            Reader::JsonLines(reader) => reader.next(),
            Reader::Csv(reader) => reader.next(),
            Reader::Django(reader) => reader.next(),
        }
    }

    /// The number of bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        match &self.reader {
            Reader::JsonLines(reader) => reader.offset(),
            Reader::Csv(reader) => reader.offset(),
            Reader::Django(reader) => reader.offset(),
        }
    }

    /// The number of entries that are not users.
    pub(super) fn skipped(&self) -> u64 {
        if let Reader::Django(reader) = &self.reader { reader.skipped } else { 0 }
    }
}

/// Detects JSON by its first bracket, and takes anything else for CSV.
fn detect(path: &Path, beginning: &[u8]) -> Format {
    let extension = path.extension().map(OsStr::to_ascii_lowercase);
    let text = beginning.trim_ascii_start();
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("csv") => Format::Csv,
        _ if text.starts_with(b"[") => Format::Django,
        _ if text.starts_with(b"{") => {
            let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let is_django = line.windows(7).any(|word| word == b"\"model\"");
            if is_django { Format::Django } else { Format::Jsonl }
        }
        Some("jsonl" | "ndjson") => Format::Jsonl,
        _ if text.is_empty() => Format::Jsonl,
        _ => Format::Csv,
    }
}
