//! The output of Django's `dumpdata`: an array of `{"model": .., "pk": .., "fields": {..}}`, or with `--format jsonl` the
//! same objects without the array.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    account::{Record, Violation, set_value},
    record_reader::{RecordReader, Splitter, Step, SyntaxError},
};
use crate::grpc::pb::ImportedAccount;

/// The model of the groups that users refer to.
const GROUP_MODEL: &str = "auth.group";

/// Splits a dump into the objects of its array.
#[derive(Debug, Clone, Default)]
struct ObjectSplitter {
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
    /// Another object, in a dump without an array.
    BareObject,
    /// The first object of the array, or its end.
    FirstObject,
    CommaOrEnd,
    Object,
    Nothing,
}

impl ObjectSplitter {
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
            (Expected::Nothing, _) => return Step::Error("has something after the end of the dump"),
            (Expected::CommaOrEnd, _) => return Step::Error("should have `,` or `]` after an entry"),
            _ => return Step::Error("is not what Django's dumpdata writes, an array of objects"),
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
                Err("is where the dump is cut off")
            }
        }
    }
}

/// The names in a dump.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The model of the users, such as `auth.user`.
    pub(super) model: String,
    /// The field of that model with the username.
    pub(super) username_field: String,
    /// The roles of groups whose names are not used as roles; an empty role gives none.
    pub(super) group_roles: HashMap<String, String>,
    /// Fields to skip.
    pub(super) ignored: Vec<String>,
}

/// Reads the users of a dump.
pub(super) struct Django {
    reader: RecordReader,
    splitter: ObjectSplitter,
    settings: Settings,
    /// The names of the groups by primary key.
    groups: HashMap<String, String>,
    /// The number of entries of other models.
    pub(super) skipped: u64,
}

impl Django {
    pub(super) fn new(reader: RecordReader, settings: Settings) -> Self {
        let (splitter, groups) = (ObjectSplitter::default(), HashMap::new());
        Self { reader, splitter, settings, groups, skipped: 0 }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.reader.offset()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        loop {
            let Some(object) = self.reader.next(&mut self.splitter)? else { return Ok(None) };
            let line = object.line;
            let Some(bytes) = object.bytes else {
                return Ok(Some(Record::new(line, |_| Err(Violation::too_long()))));
            };
            let mut entry = serde_json::from_slice(bytes).map_err(|error| SyntaxError {
                line: line + error.line().saturating_sub(1) as u64,
                reason: "is not JSON".to_owned(),
            })?;
            if self.is_user(&mut entry) {
                return Ok(Some(Record::new(line, |account| self.set_fields(account, entry))));
            }
        }
    }

    /// Returns whether the entry is a user, or not an entry of a dump at all. Remembers it if it is a group, and counts it
    /// otherwise.
    fn is_user(&mut self, entry: &mut Map<String, Value>) -> bool {
        let Some(Value::String(model)) = entry.get("model") else { return true };
        if model.eq_ignore_ascii_case(&self.settings.model) {
            return true;
        }
        let is_group = model.eq_ignore_ascii_case(GROUP_MODEL);
        let name = entry.get_mut("fields").and_then(|fields| fields.get_mut("name")).map(Value::take);
        match (name, entry.remove("pk").and_then(key)) {
            (Some(Value::String(name)), Some(pk)) if is_group => {
                self.groups.insert(pk, name);
            }
            _ => self.skipped += u64::from(!is_group),
        }
        false
    }

    fn set_fields(
        &self,
        account: &mut ImportedAccount,
        mut entry: Map<String, Value>,
    ) -> Result<(), Violation> {
        let pk = entry.remove("pk").filter(|pk| !pk.is_null());
        let (Some(Value::String(_)), Some(Value::Object(mut fields))) =
            (entry.remove("model"), entry.remove("fields"))
        else {
            return Err(Violation::record("is not an entry of a dump, which has model, pk and fields"));
        };
        fields.retain(|field, _| !self.settings.ignored.contains(field));
        let Some(Value::String(username)) = fields.remove(&self.settings.username_field) else {
            let reason = "is missing: name the field that users log in with by --username-field";
            return Err(Violation::new(&self.settings.username_field, reason));
        };
        account.username = username;
        // A dump with --natural-primary has no primary keys.
        if let Some(pk) = pk {
            account.user_id = key(pk).ok_or_else(|| Violation::new("pk", "must be a number or a string"))?;
        }
        account.password_hash = match fields.remove("password") {
            // Django lets nobody log in with an empty hash.
            Some(Value::String(hash)) if hash.is_empty() => "!".to_owned(),
            Some(Value::String(hash)) => hash,
            _ => return Err(Violation::new("password", "is missing, or not a string")),
        };
        account.disabled = !flag(&mut fields, "is_active", true)?;
        for role in ["staff", "superuser"] {
            if flag(&mut fields, &format!("is_{role}"), false)? {
                account.roles.push(role.to_owned());
            }
        }
        if let Some(joined) = fields.remove("date_joined") {
            set_value(account, "created_at", joined)
                .map_err(|violation| Violation::new("date_joined", violation.reason))?;
        }
        match fields.remove("groups") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Array(groups)) => self.add_groups(account, groups),
            Some(_) => Err(Violation::new("groups", "must be an array")),
        }
    }

    /// Adds the names of groups as roles. A user in an unknown group is refused, because an account that exists is not
    /// changed by a later import, so it would stay without the role.
    fn add_groups(&self, account: &mut ImportedAccount, groups: Vec<Value>) -> Result<(), Violation> {
        for group in groups {
            let name = match group {
                // The natural key of a group is its name.
                Value::Array(mut natural) if natural.len() == 1 => natural.pop().and_then(key),
                pk => key(pk).and_then(|pk| self.groups.get(&pk).cloned()),
            };
            let name = name.ok_or_else(|| {
                Violation::new(
                    "groups",
                    "names a group that the dump does not have before the user: dump `auth.group auth.user` in this \
                     order, or with --natural-foreign; or skip groups with --ignore groups",
                )
            })?;
            match self.settings.group_roles.get(&name) {
                Some(role) if role.is_empty() => {}
                Some(role) => account.roles.push(role.clone()),
                None => account.roles.push(name),
            }
        }
        Ok(())
    }
}

/// Returns a primary key as text.
fn key(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn flag(fields: &mut Map<String, Value>, field: &str, default: bool) -> Result<bool, Violation> {
    match fields.remove(field) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(Violation::new(field, "must be true or false")),
    }
}
