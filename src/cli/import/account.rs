//! The fields of an account, by their names in the protocol, as text or as JSON has them.

use serde_json::Value;

use crate::grpc::pb::ImportedAccount;

/// What a file may say of an account.
pub(super) const FIELDS: [&str; 7] =
    ["user_id", "username", "password_hash", "roles", "disabled", "disabled_until", "created_at"];

/// Why an account of a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FieldError {
    /// The field that is to blame; empty where it is the whole.
    pub(super) field: String,
    /// What is wrong with it, to be read after its name.
    pub(super) reason: String,
}

impl FieldError {
    pub(super) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: field.to_owned(), reason: reason.into() }
    }

    /// Of the whole.
    pub(super) fn whole(reason: impl Into<String>) -> Self {
        Self::new("", reason)
    }

    /// Of an account that is longer than any could be.
    pub(super) fn too_long() -> Self {
        Self::whole("is larger than any account: is a quote or a bracket not closed?")
    }

    /// Of a field that an account does not have.
    pub(super) fn unknown(field: &str) -> Self {
        if field == "password" {
            return Self::new(
                field,
                "is not taken: only hashes are imported, as password_hash. `argon2 SALT -id -m 15 -t 2 -p 1 -e` \
                 makes one, and `latchkey account add` makes an account from a password",
            );
        }
        Self::new(
            field,
            format!(
                "is not a field of an account, which has {}; --ignore {field} passes over it",
                FIELDS.join(", ")
            ),
        )
    }
}

/// One account of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// The line in which it begins.
    pub(super) line: u64,
    /// What it says, as far as that could be read.
    pub(super) account: ImportedAccount,
    /// What is wrong with it.
    pub(super) flaw: Option<FieldError>,
}

impl Record {
    /// Begun with nothing, and filled by `read` up to the first flaw.
    pub(super) fn new(line: u64, read: impl FnOnce(&mut ImportedAccount) -> Result<(), FieldError>) -> Self {
        let mut account = ImportedAccount { line, ..ImportedAccount::default() };
        let flaw = read(&mut account).err();
        Self { line, account, flaw }
    }
}

/// Sets a field to what JSON has for it.
pub(super) fn set_value(account: &mut ImportedAccount, field: &str, value: Value) -> Result<(), FieldError> {
    let flaw = |reason| Err(FieldError::new(field, reason));
    match (field, value) {
        (_, Value::Null) if FIELDS.contains(&field) => Ok(()),
        ("roles", Value::Array(roles)) => {
            for role in roles {
                let Value::String(role) = role else { return flaw("must be an array of strings") };
                account.roles.push(role);
            }
            Ok(())
        }
        ("roles", _) => flaw("must be an array of strings"),
        ("disabled", Value::Bool(disabled)) => {
            account.disabled = disabled;
            Ok(())
        }
        ("disabled", _) => flaw("must be true or false"),
        // Ids that are numbers elsewhere are text here.
        ("user_id", Value::Number(number)) => set_text(account, field, &number.to_string()),
        (_, Value::String(text)) => set_text(account, field, &text),
        (field, _) if FIELDS.contains(&field) => flaw("must be a string"),
        (field, _) => Err(FieldError::unknown(field)),
    }
}

/// Sets a field to what a cell of text has for it; an empty one says nothing.
pub(super) fn set_text(account: &mut ImportedAccount, field: &str, text: &str) -> Result<(), FieldError> {
    if !FIELDS.contains(&field) {
        return Err(FieldError::unknown(field));
    }
    if text.is_empty() {
        return Ok(());
    }
    match field {
        "user_id" => text.clone_into(&mut account.user_id),
        "username" => text.clone_into(&mut account.username),
        "password_hash" => text.clone_into(&mut account.password_hash),
        "roles" => account.roles.extend(text.split_whitespace().map(str::to_owned)),
        "disabled" => {
            account.disabled = match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "yes" | "1" => true,
                "false" | "f" | "no" | "0" => false,
                _ => return Err(FieldError::new(field, "must be true or false")),
            }
        }
        _ => {
            let time = time(text).ok_or_else(|| {
                FieldError::new(
                    field,
                    "must be a time from 1970 on, such as 2024-05-01T12:34:56Z or 2024-05-01 14:34:56+02:00",
                )
            })?;
            let place =
                if field == "created_at" { &mut account.created_at } else { &mut account.disabled_until };
            *place = Some(time);
        }
    }
    Ok(())
}

/// A time as RFC 3339 and its neighbours have it: `T` or a blank in the middle; `Z`, an offset such as `+02:00`,
/// `+0200` or `+02`, or nothing, which is UTC, at the end.
pub(super) fn time(text: &str) -> Option<prost_types::Timestamp> {
    let (local, offset) = match text.get(10..)?.find(['+', '-']) {
        Some(at) => {
            let (local, offset) = text.split_at(at + 10);
            (local, offset_seconds(offset)?)
        }
        None => (text.trim_end_matches(['Z', 'z']), 0),
    };
    let time = humantime::parse_rfc3339_weak(local).ok()?;
    let mut time = prost_types::Timestamp::from(time);
    time.seconds -= offset;
    (time.seconds >= 0).then_some(time)
}

fn offset_seconds(offset: &str) -> Option<i64> {
    let (sign, digits) = offset.split_at_checked(1)?;
    let digits = digits.replacen(':', "", 1);
    let plain = matches!(digits.len(), 2 | 4) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (hours, minutes) = plain.then(|| digits.split_at(2))?;
    let minutes = if minutes.is_empty() { 0 } else { minutes.parse().ok()? };
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_usual_spelling() {
        for text in [
            "2024-05-01T12:34:56Z",
            "2024-05-01 12:34:56",
            "2024-05-01T14:34:56+02:00",
            "2024-05-01 14:34:56+02",
            "2024-05-01T05:04:56-0730",
            "2024-05-01T12:34:56.000Z",
        ] {
            assert_eq!(time(text).map(|time| (time.seconds, time.nanos)), Some((1_714_566_896, 0)), "{text}");
        }
        assert_eq!(time("2024-05-01T12:34:56.789012+00:00").unwrap().nanos, 789_012_000);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2024-05-01",
            "1969-12-31T23:59:59Z",
            "2024-05-01T12:34:56+2",
            "2024-13-01T00:00:00Z",
            "ü".repeat(20).as_str(),
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn a_password_is_refused_with_the_way_out_and_never_shown() {
        let mut account = ImportedAccount::default();
        for flaw in [
            set_text(&mut account, "password", "hunter2").unwrap_err(),
            set_value(&mut account, "password", "hunter2".into()).unwrap_err(),
        ] {
            assert!(flaw.reason.contains("only hashes are imported") && !flaw.reason.contains("hunter2"));
        }
        assert!(
            set_text(&mut account, "rolls", "").unwrap_err().reason.contains("roles"),
            "a slip of the pen"
        );
    }
}
