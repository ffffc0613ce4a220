//! The output of Django's `dumpdata`: an array of `{"model": .., "pk": .., "fields": {..}}`, or with `--format jsonl` the
//! same objects without the array.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    account::{Record, Violation, set_value},
    objects::{self, ObjectSplitter, flag},
    record_reader::{RecordReader, SyntaxError},
};
use crate::grpc::pb::ImportedAccount;

/// The model of the groups that users refer to.
const GROUP_MODEL: &str = "auth.group";

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
            let mut entry = objects::parse(line, bytes)?;
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
