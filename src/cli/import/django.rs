//! What Django's `dumpdata` writes: an array of `{"model": .., "pk": .., "fields": {..}}`, or with
//! `--format jsonl` the same without the array.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    account::{FieldError, Record, set_value},
    text::{Grammar, Step, SyntaxError, Text},
};
use crate::grpc::pb::ImportedAccount;

/// The groups that users refer to.
const GROUPS: &str = "auth.group";

/// A piece is an object of the array.
#[derive(Debug, Clone, Default)]
struct Objects {
    place: Place,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// What may come next between objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    /// Objects without an array around them.
    Bare,
    First,
    Comma,
    Object,
    Over,
}

impl Objects {
    fn between(&mut self, byte: u8) -> Step {
        self.place = match (self.place, byte) {
            (_, b' ' | b'\t' | b'\r' | b'\n') => return Step::Skip,
            (Place::Start, b'[') => Place::First,
            (Place::Start | Place::Bare, b'{') => return self.begin(Place::Bare),
            (Place::First | Place::Object, b'{') => return self.begin(Place::Comma),
            (Place::Comma, b',') => Place::Object,
            (Place::First | Place::Comma, b']') => Place::Over,
            (Place::Over, _) => return Step::Wrong("has something after the end of the dump"),
            (Place::Comma, _) => return Step::Wrong("should have `,` or `]` after an entry"),
            _ => return Step::Wrong("is not what Django's dumpdata writes, an array of objects"),
        };
        Step::Skip
    }

    fn begin(&mut self, after: Place) -> Step {
        (self.place, self.depth) = (after, 1);
        Step::Keep
    }

    fn within(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                // JSON has them escaped. Told here, because what follows would be taken inside out.
                b'\n' => return Step::Wrong("has a string that is not closed"),
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
        if self.depth == 0 { Step::Last } else { Step::Keep }
    }
}

impl Grammar for Objects {
    fn step(&mut self, byte: u8, begun: bool) -> Step {
        if begun { self.within(byte) } else { self.between(byte) }
    }

    fn end(&self, begun: bool) -> Result<(), &'static str> {
        match self.place {
            _ if begun => Err("begins an entry that is cut off"),
            Place::Bare | Place::Over => Ok(()),
            Place::Start => Err("is the end of a file with nothing in it"),
            Place::First | Place::Comma | Place::Object => Err("is where the dump is cut off"),
        }
    }
}

/// How a dump is to be read.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The model of the users, such as `auth.user`.
    pub(super) model: String,
    /// The field of it that is the username.
    pub(super) username_field: String,
    /// The roles of groups whose names are not to be roles, or cannot be; empty is none.
    pub(super) group_roles: HashMap<String, String>,
    /// Fields to pass over.
    pub(super) ignored: Vec<String>,
}

/// The users of a dump.
pub(super) struct Django {
    text: Text,
    objects: Objects,
    settings: Settings,
    /// The names of the groups, by their keys.
    groups: HashMap<String, String>,
    /// Entries of other models.
    pub(super) skipped: u64,
}

impl Django {
    pub(super) fn new(text: Text, settings: Settings) -> Self {
        let (objects, groups) = (Objects::default(), HashMap::new());
        Self { text, objects, settings, groups, skipped: 0 }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.text.offset()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        loop {
            let Some(piece) = self.text.next(&mut self.objects)? else { return Ok(None) };
            let line = piece.line;
            let Some(bytes) = piece.bytes else {
                return Ok(Some(Record::new(line, |_| Err(FieldError::too_long()))));
            };
            let mut entry = serde_json::from_slice(bytes).map_err(|error| SyntaxError {
                line: line + error.line().saturating_sub(1) as u64,
                reason: "is not JSON".to_owned(),
            })?;
            if self.is_user(&mut entry) {
                return Ok(Some(Record::new(line, |account| self.read(account, entry))));
            }
        }
    }

    /// Whether an entry is about a user, and so for the caller; or else it is done with.
    fn is_user(&mut self, entry: &mut Map<String, Value>) -> bool {
        let Some(Value::String(model)) = entry.get("model") else { return true };
        if model.eq_ignore_ascii_case(&self.settings.model) {
            return true;
        }
        let is_group = model.eq_ignore_ascii_case(GROUPS);
        let name = entry.get_mut("fields").and_then(|fields| fields.get_mut("name")).map(Value::take);
        match (name, entry.remove("pk").and_then(key)) {
            (Some(Value::String(name)), Some(pk)) if is_group => {
                self.groups.insert(pk, name);
            }
            _ => self.skipped += u64::from(!is_group),
        }
        false
    }

    fn read(&self, account: &mut ImportedAccount, mut entry: Map<String, Value>) -> Result<(), FieldError> {
        let pk = entry.remove("pk").filter(|pk| !pk.is_null());
        let (Some(Value::String(_)), Some(Value::Object(mut fields))) =
            (entry.remove("model"), entry.remove("fields"))
        else {
            return Err(FieldError::whole("is not an entry of a dump, which has model, pk and fields"));
        };
        fields.retain(|field, _| !self.settings.ignored.contains(field));
        let Some(Value::String(username)) = fields.remove(&self.settings.username_field) else {
            let reason = "is missing: --username-field names the one that users log in with";
            return Err(FieldError::new(&self.settings.username_field, reason));
        };
        account.username = username;
        // With --natural-primary a dump has no keys.
        if let Some(pk) = pk {
            account.user_id = key(pk).ok_or_else(|| FieldError::new("pk", "must be a number or a string"))?;
        }
        account.password_hash = match fields.remove("password") {
            // Django lets nobody in with it.
            Some(Value::String(hash)) if hash.is_empty() => "!".to_owned(),
            Some(Value::String(hash)) => hash,
            _ => return Err(FieldError::new("password", "is missing, or not a string")),
        };
        account.disabled = !flag(&mut fields, "is_active", true)?;
        for role in ["staff", "superuser"] {
            if flag(&mut fields, &format!("is_{role}"), false)? {
                account.roles.push(role.to_owned());
            }
        }
        if let Some(joined) = fields.remove("date_joined") {
            set_value(account, "created_at", joined)
                .map_err(|flaw| FieldError::new("date_joined", flaw.reason))?;
        }
        match fields.remove("groups") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Array(groups)) => self.add_groups(account, groups),
            Some(_) => Err(FieldError::new("groups", "must be an array")),
        }
    }

    /// The names of groups are roles. A user in a group without a name is refused: it would be there
    /// without its roles from now on, whatever is imported later.
    fn add_groups(&self, account: &mut ImportedAccount, groups: Vec<Value>) -> Result<(), FieldError> {
        for group in groups {
            let name = match group {
                // The natural key of a group is its name.
                Value::Array(mut natural) if natural.len() == 1 => natural.pop().and_then(key),
                pk => key(pk).and_then(|pk| self.groups.get(&pk).cloned()),
            };
            let name = name.ok_or_else(|| {
                FieldError::new(
                    "groups",
                    "names a group that does not stand before it in the dump: dump `auth.group auth.user` in this \
                     order, or with --natural-foreign; or pass over groups with --ignore groups",
                )
            })?;
            match self.settings.group_roles.get(&name) {
                Some(none) if none.is_empty() => {}
                Some(role) => account.roles.push(role.clone()),
                None => account.roles.push(name),
            }
        }
        Ok(())
    }
}

/// A primary key as text.
fn key(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn flag(fields: &mut Map<String, Value>, field: &str, default: bool) -> Result<bool, FieldError> {
    match fields.remove(field) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(FieldError::new(field, "must be true or false")),
    }
}
