//! The file with the accounts, in any format.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Cursor, Read, stdin},
    path::Path,
};

use super::{
    CommandError,
    account::Record,
    auth0::Auth0,
    csv::Csv,
    django::{self, Django},
    encoding::{UTF8_MARK, foreign},
    json_lines::JsonLines,
    keycloak::{self, Keycloak},
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
    /// The export of a realm with its users, or of its users, by `kc.sh export` of Keycloak.
    Keycloak,
    /// The export of password hashes that Auth0 gives on request, or a file for its bulk import.
    Auth0,
}

/// Settings of single formats.
pub(super) struct Settings {
    pub(super) ignored: Vec<String>,
    pub(super) django: django::Settings,
    pub(super) keycloak: keycloak::Settings,
    /// The field of Auth0's users with the username, if it is not the usual one.
    pub(super) auth0_username: Option<String>,
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
    Keycloak(Box<Keycloak>),
    Auth0(Auth0),
}

impl Source {
    pub(super) fn open(path: &Path, format: Format, settings: Settings) -> Result<Self, CommandError> {
        let read_error = |error| CommandError::Usage(format!("{} cannot be read: {error}", path.display()));
        let (mut file, size): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
            (Box::new(stdin()), None)
        } else {
            let file = File::open(path).map_err(read_error)?;
            let data = file.metadata().map_err(read_error)?;
            (Box::new(file), data.is_file().then_some(data.len()))
        };
        let mut beginning = beginning(&mut file).map_err(read_error)?;
        if let Some(encoding) = foreign(&beginning) {
            let path = path.display();
            return Err(CommandError::Usage(format!(
                "{path} is {encoding}: convert it with `iconv -f {encoding} -t UTF-8 {path}` and import the result"
            )));
        }
        if beginning.starts_with(UTF8_MARK) {
            beginning.drain(..UTF8_MARK.len());
        }
        let format = match format {
            Format::Auto => detect(path, &beginning),
            format => format,
        };
        let rest = BufReader::with_capacity(BUFFER_SIZE, file);
        let reader: Box<dyn BufRead + Send> = Box::new(Cursor::new(beginning).chain(rest));
        let reader = RecordReader::new(reader);
        let Settings { ignored, django, keycloak, auth0_username } = settings;
        let reader = match format {
            Format::Auto | Format::Jsonl => Reader::JsonLines(JsonLines::new(reader, ignored)),
            Format::Csv => Reader::Csv(
                Csv::new(reader, &ignored)
                    .map_err(|message| CommandError::Usage(format!("{}: {message}", path.display())))?,
            ),
            Format::Django => Reader::Django(Box::new(Django::new(reader, django))),
            Format::Keycloak => Reader::Keycloak(Box::new(Keycloak::new(reader, keycloak))),
            Format::Auth0 => Reader::Auth0(Auth0::new(reader, auth0_username)),
        };
        Ok(Self { reader, size })
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        match &mut self.reader {
            Reader::JsonLines(reader) => reader.next(),
            Reader::Csv(reader) => reader.next(),
            Reader::Django(reader) => reader.next(),
            Reader::Keycloak(reader) => reader.next(),
            Reader::Auth0(reader) => reader.next(),
        }
    }

    /// The number of bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        match &self.reader {
            Reader::JsonLines(reader) => reader.offset(),
            Reader::Csv(reader) => reader.offset(),
            Reader::Django(reader) => reader.offset(),
            Reader::Keycloak(reader) => reader.offset(),
            Reader::Auth0(reader) => reader.offset(),
        }
    }

    /// The number of entries that are not users.
    pub(super) fn skipped(&self) -> u64 {
        match &self.reader {
            Reader::Django(reader) => reader.skipped,
            Reader::Keycloak(reader) => reader.skipped,
            Reader::JsonLines(_) | Reader::Csv(_) | Reader::Auth0(_) => 0,
        }
    }
}

/// Reads what arrives first: at least the bytes that tell the encoding, if the file has as many.
fn beginning(file: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; BUFFER_SIZE];
    let mut length = 0;
    while length < 4 {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Detects JSON by its first bracket and the names of its first fields, and takes anything else for CSV.
fn detect(path: &Path, beginning: &[u8]) -> Format {
    let extension = path.extension().map(OsStr::to_ascii_lowercase);
    let text = beginning.trim_ascii_start();
    let find = |name: &str| {
        let name = format!("\"{name}\"");
        text.windows(name.len()).position(|word| word == name.as_bytes())
    };
    let has = |name: &str| find(name).is_some();
    match extension.as_ref().and_then(|extension| extension.to_str()) {
        Some("csv") => Format::Csv,
        _ if text.starts_with(b"[") => {
            let is_auth0 = !has("model") && (has("custom_password_hash") || has("email"));
            if is_auth0 { Format::Auth0 } else { Format::Django }
        }
        _ if text.starts_with(b"{") => {
            let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
            // The export of a realm begins with its fields, and its users have a name.
            let is_realm = ["realm", "users"].iter().filter_map(|name| find(name)).min();
            if line.windows(7).any(|word| word == b"\"model\"") {
                Format::Django
            } else if is_realm.is_some_and(|realm| find("username").is_none_or(|user| realm < user)) {
                Format::Keycloak
            } else if has("passwordHash") || has("custom_password_hash") {
                Format::Auth0
            } else {
                Format::Jsonl
            }
        }
        Some("jsonl" | "ndjson") => Format::Jsonl,
        _ if text.is_empty() => Format::Jsonl,
        _ => Format::Csv,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_detected_by_the_first_fields() {
        for (name, beginning, format) in [
            ("a.csv", "{", Format::Csv),
            ("a", "username,password_hash", Format::Csv),
            ("a.ndjson", "", Format::Jsonl),
            ("a", "{\"username\": \"realm\"}", Format::Jsonl),
            ("a", "{\"username\": \"a\", \"realm\": \"b\"}", Format::Jsonl),
            ("a", " [{\"model\": \"auth.user\", \"fields\": {\"email\": 1}}]", Format::Django),
            ("a", "[\n]", Format::Django),
            ("a", "{\"model\": \"auth.user\"}", Format::Django),
            ("a.json", "{\n  \"id\" : \"7c\",\n  \"realm\" : \"shop\",", Format::Keycloak),
            ("a.json", "{\n  \"realm\" : \"shop\",\n  \"users\" : [ {\n \"username\"", Format::Keycloak),
            ("a.json", "{\"_id\":{\"$oid\":\"5d\"},\"email\":\"a\",\"passwordHash\":\"$2b\"}", Format::Auth0),
            ("a.json", "[{\"email\": \"a\", \"password_hash\": \"$2b\"}]", Format::Auth0),
        ] {
            assert_eq!(detect(Path::new(name), beginning.as_bytes()), format, "{name}: {beginning}");
        }
    }
}
