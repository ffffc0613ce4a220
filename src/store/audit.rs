//! Writes the audit trail to the log and to a file. docs/audit.md describes the entries.

mod file;

use std::{
    borrow::Cow,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;

pub use self::file::AuditFile;
use crate::domain::{
    audit::{Action, Audit, Entry, Outcome},
    types::Timestamp,
};

/// Writes the audit trail to the log, under the target `audit`, and to a file, as configured.
#[derive(Default)]
pub struct AuditTrail {
    /// Whether entries go to the log.
    pub log: bool,
    /// Whether the entries of imported accounts go to the log, too.
    pub log_imports: bool,
    /// The file that entries go to.
    pub file: Option<AuditFile>,
}

impl AuditTrail {
    /// Waits until all entries are in the file, but not longer than `time_limit`.
    pub fn flush(&self, time_limit: Duration) {
        if let Some(file) = &self.file {
            let unwritten = file.flush(time_limit);
            if unwritten > 0 {
                tracing::error!(
                    audit.lost = unwritten,
                    "lost audit entries: they could not be written to audit.file before the shutdown"
                );
            }
        }
    }
}

impl Audit for AuditTrail {
    fn record(&self, entry: Entry) {
        let line = Line::of(&entry);
        // The log has an entry with their numbers.
        let is_one_of_many =
            entry.action == Action::ImportAccount && !matches!(entry.outcome, Outcome::Failed(_));
        if self.log && (self.log_imports || !is_one_of_many) {
            line.log();
        }
        if let Some(file) = &self.file {
            file.write(&line);
        }
    }

    fn lost(&self) -> u64 {
        self.file.as_ref().map_or(0, AuditFile::lost)
    }
}

/// The written form of an entry. Unknown fields are left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    action: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
}

impl<'a> Line<'a> {
    fn of(entry: &'a Entry) -> Self {
        let (outcome, reason) = match entry.outcome {
            Outcome::Done => ("done", None),
            Outcome::Refused(reason) => ("refused", Some(reason)),
            Outcome::Failed(reason) => ("failed", Some(reason)),
        };
        let text = |text: &'a Option<String>| text.as_deref().map(escape);
        Self {
            time: format_time(entry.at),
            action: entry.action.name(),
            outcome,
            reason,
            request_id: Some(entry.origin.request_id.as_str()).filter(|id| !id.is_empty()).map(escape),
            address: entry.origin.address.map(|address| address.to_string()),
            caller: text(&entry.origin.caller),
            user_id: entry.user_id.as_ref().map(|user_id| escape(user_id.as_str())),
            username: text(&entry.username),
            session_id: entry.session_id.map(|id| id.to_string()),
            slot: text(&entry.slot),
            device: text(&entry.device),
            ended: entry.ended,
            detail: text(&entry.detail),
        }
    }

    fn log(&self) {
        tracing::event!(
            target: "audit",
            tracing::Level::INFO,
            audit.action = self.action,
            audit.outcome = self.outcome,
            audit.reason = self.reason,
            request.id = self.request_id.as_deref(),
            client.address = self.address.as_deref(),
            caller.name = self.caller.as_deref(),
            user.id = self.user_id.as_deref(),
            user.name = self.username.as_deref(),
            session.id = self.session_id.as_deref(),
            session.slot = self.slot.as_deref(),
            session.device = self.device.as_deref(),
            sessions.ended = self.ended,
            audit.detail = self.detail.as_deref(),
            "audit"
        );
    }
}

/// Escapes characters that a terminal, a pager or a line parser interprets: control characters, line separators and
/// changes of the writing direction become `\u{..}`.
fn escape(text: &str) -> Cow<'_, str> {
    let is_unsafe = |char: char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if is_unsafe(char) { escaped.extend(char.escape_unicode()) } else { escaped.push(char) }
    }
    Cow::Owned(escaped)
}

/// Formats a time as RFC 3339 in UTC with microseconds.
fn format_time(at: Timestamp) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(at.as_micros())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{origin::Origin, types::UserId};

    fn json(entry: &Entry) -> serde_json::Value {
        serde_json::to_value(Line::of(entry)).unwrap()
    }

    fn entry() -> Entry {
        let origin = Origin {
            request_id: "abc".into(),
            address: Some("198.51.100.1".parse().unwrap()),
            caller: Some("web".into()),
            ..Origin::default()
        };
        Entry::new(Timestamp::from_secs(1_800_000_000), Action::Login, Outcome::Done, &origin)
    }

    #[test]
    fn a_line_has_the_known_fields_of_an_entry() {
        let entry = entry().user(&UserId::parse("u1").unwrap()).named("Jürgen").ended(2);
        let expected = serde_json::json!({
            "time": "2027-01-15T08:00:00.000000Z", "action": "login", "outcome": "done", "request_id": "abc",
            "address": "198.51.100.1", "caller": "web", "user_id": "u1", "username": "Jürgen", "ended": 2
        });
        assert_eq!(json(&entry), expected);
        let refused = Entry { outcome: Outcome::Refused("THROTTLED"), ..entry };
        assert_eq!(
            (&json(&refused)["outcome"], &json(&refused)["reason"]),
            (&"refused".into(), &"THROTTLED".into())
        );
    }

    #[test]
    fn control_characters_in_names_are_escaped() {
        let entry = entry().named("a\nb\u{1b}[31m\u{85}\u{202e}\u{2028}c\u{7f}").detail("plain");
        let line = serde_json::to_string(&Line::of(&entry)).unwrap();
        assert!(
            !line.chars().any(|char| char.is_control() || ('\u{2028}'..='\u{202e}').contains(&char)),
            "{line}"
        );
        assert_eq!(json(&entry)["username"], r"a\u{a}b\u{1b}[31m\u{85}\u{202e}\u{2028}c\u{7f}");
        assert_eq!(escape("Ærøskøbing 東京"), "Ærøskøbing 東京");
    }
}
