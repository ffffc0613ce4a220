//! The fields of an account by their names in the protocol, with values as text or as JSON.

use serde_json::Value;

use crate::grpc::pb::ImportedAccount;

/// The fields that a file may have.
pub(super) const FIELDS: [&str; 7] =
    ["user_id", "username", "password_hash", "roles", "disabled", "disabled_until", "created_at"];

/// The reason why an account of a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Violation {
    /// The wrong field; empty if the record as a whole is wrong.
    pub(super) field: String,
    /// A predicate whose subject is the field: "must be a string".
    pub(super) reason: String,
}

impl Violation {
    pub(super) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self { field: field.to_owned(), reason: reason.into() }
    }

    /// A violation by the record as a whole.
    pub(super) fn record(reason: impl Into<String>) -> Self {
        Self::new("", reason)
    }

    /// The record is longer than any account can be.
    pub(super) fn too_long() -> Self {
        Self::record("is larger than any account: is a quote or a bracket not closed?")
    }

    /// An account has no such field.
    pub(super) fn unknown(field: &str) -> Self {
        if field == "password" {
            return Self::new(
                field,
                "cannot be imported: only hashes are imported, as password_hash. `argon2 SALT -id -m 15 -t 2 -p 1 -e` \
                 prints one, and `latchkey account add` adds an account with a password",
            );
        }
        Self::new(
            field,
            format!(
                "is not a field of an account: expected {}; --ignore {field} skips it",
                FIELDS.join(", ")
            ),
        )
    }
}

/// An account of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// The line in which the record begins.
    pub(super) line: u64,
    /// The fields before the first violation.
    pub(super) account: ImportedAccount,
    pub(super) violation: Option<Violation>,
}

impl Record {
    /// `set_fields` sets the fields up to the first violation.
    pub(super) fn new(
        line: u64,
        set_fields: impl FnOnce(&mut ImportedAccount) -> Result<(), Violation>,
    ) -> Self {
        let mut account = ImportedAccount { line, ..ImportedAccount::default() };
        let violation = set_fields(&mut account).err();
        Self { line, account, violation }
    }
}

/// Sets a field to a JSON value.
pub(super) fn set_value(account: &mut ImportedAccount, field: &str, value: Value) -> Result<(), Violation> {
    let violation = |reason| Err(Violation::new(field, reason));
    match (field, value) {
        (_, Value::Null) if FIELDS.contains(&field) => Ok(()),
        ("roles", Value::Array(roles)) => {
            for role in roles {
                let Value::String(role) = role else { return violation("must be an array of strings") };
                account.roles.push(role);
            }
            Ok(())
        }
        ("roles", _) => violation("must be an array of strings"),
        ("disabled", Value::Bool(disabled)) => {
            account.disabled = disabled;
            Ok(())
        }
        ("disabled", _) => violation("must be true or false"),
        // Other systems have numbers as ids.
        ("user_id", Value::Number(number)) => set_text(account, field, &number.to_string()),
        (_, Value::String(text)) => set_text(account, field, &text),
        (field, _) if FIELDS.contains(&field) => violation("must be a string"),
        (field, _) => Err(Violation::unknown(field)),
    }
}

/// Sets a field to the text of a cell. An empty cell leaves the field unset.
pub(super) fn set_text(account: &mut ImportedAccount, field: &str, text: &str) -> Result<(), Violation> {
    if !FIELDS.contains(&field) {
        return Err(Violation::unknown(field));
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
                _ => return Err(Violation::new(field, "must be true or false")),
            }
        }
        _ => {
            let time = time(text).ok_or_else(|| {
                Violation::new(
                    field,
                    "must be a time from 1970 on, such as 2024-05-01T12:34:56Z or 2024-05-01 14:34:56+02:00",
                )
            })?;
            match field {
                "created_at" => account.created_at = Some(time),
                _ => account.disabled_until = Some(time),
            }
        }
    }
    Ok(())
}

/// Parses RFC 3339 and variants of it: `T` or a space between date and time, and at the end `Z`, an offset such as `+02:00`,
/// `+0200` or `+02`, or nothing for UTC.
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
    let is_valid = matches!(digits.len(), 2 | 4) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (hours, minutes) = is_valid.then(|| digits.split_at(2))?;
    let minutes = if minutes.is_empty() { 0 } else { minutes.parse().ok()? };
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes * 60;
    Some(if sign == "-" { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_in_every_common_notation() {
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
    fn invalid_times_are_rejected() {
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
    fn a_password_is_rejected_with_a_remedy_and_not_printed() {
        let mut account = ImportedAccount::default();
        for violation in [
            set_text(&mut account, "password", "hunter2").unwrap_err(),
            set_value(&mut account, "password", "hunter2".into()).unwrap_err(),
        ] {
            assert!(
                violation.reason.contains("only hashes are imported")
                    && !violation.reason.contains("hunter2")
            );
        }
        assert!(
            set_text(&mut account, "rolls", "").unwrap_err().reason.contains("roles"),
            "a misspelt field"
        );
    }
}
