//! What `kc.sh export` of Keycloak writes: a realm with its users, or only the name of the realm and users. A password has
//! its algorithm in `credentialData` and its salt and hash in `secretData`, each JSON in a string.

use std::collections::HashMap;

use data_encoding::{BASE64, BASE64_NOPAD};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    account::{Record, Violation},
    objects::{self, ObjectSplitter, flag, text},
    record_reader::{RecordReader, Splitter, Step, SyntaxError},
};
use crate::grpc::pb::ImportedAccount;

/// The field of an export with the users.
const USERS: &[u8] = b"users";
/// Realm roles that every realm has, and that have a meaning only in Keycloak. There is also `default-roles-REALM`.
const BUILT_IN_ROLES: [&str; 2] = ["offline_access", "uma_authorization"];

/// Finds the users in an export.
#[derive(Debug, Clone, Default)]
struct UserSplitter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The latest string of the outermost object.
    string: Vec<u8>,
    /// The array of the users, in which the file is, or was.
    users: Option<ObjectSplitter>,
}

impl UserSplitter {
    fn outside(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    return Step::Skip;
                }
                b'\n' => return Step::Error("has a string that is not closed"),
                _ => {}
            }
            if self.depth == 1 && self.string.len() <= USERS.len() {
                self.string.push(byte);
            }
            return Step::Skip;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'[' if self.depth == 0 => {
                return Step::Error(
                    "begins an array of realms: export one of them with `kc.sh export --realm NAME --file FILE`",
                );
            }
            b'{' if self.depth == 0 && self.users.is_none() => self.depth = 1,
            _ if self.depth == 0 => return Step::Error("is not the export of a realm of Keycloak"),
            b'"' => {
                self.in_string = true;
                self.string.clear();
            }
            b'[' if self.depth == 1 && self.string == USERS => {
                self.users = Some(ObjectSplitter::in_array());
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        Step::Skip
    }
}

impl Splitter for UserSplitter {
    fn step(&mut self, byte: u8, in_record: bool) -> Step {
        match &mut self.users {
            Some(users) if !users.has_ended() => users.step(byte, in_record),
            _ => self.outside(byte),
        }
    }

    fn end(&self, in_record: bool) -> Result<(), &'static str> {
        match &self.users {
            Some(users) if !users.has_ended() => users.end(in_record),
            Some(_) if self.depth == 0 => Ok(()),
            None if self.depth == 0 => Err(
                "is the end of an export without users: make one with `kc.sh export --realm NAME --file FILE`",
            ),
            _ => Err("is where the file is cut off"),
        }
    }
}

/// The names in an export.
pub(super) struct Settings {
    /// The field of a user with the username.
    pub(super) username_field: String,
    /// The roles of realm roles whose names are not used as roles; an empty role gives none.
    pub(super) roles: HashMap<String, String>,
}

/// Reads the users of an export.
pub(super) struct Keycloak {
    reader: RecordReader,
    splitter: UserSplitter,
    settings: Settings,
    /// The number of service accounts, which belong to clients and have no password.
    pub(super) skipped: u64,
}

/// The content of `credentialData`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialData {
    algorithm: String,
    hash_iterations: u64,
    #[serde(default)]
    additional_parameters: HashMap<String, Vec<String>>,
}

/// The content of `secretData`.
#[derive(Deserialize)]
struct SecretData {
    value: String,
    salt: String,
}

impl Keycloak {
    pub(super) fn new(reader: RecordReader, settings: Settings) -> Self {
        Self { reader, splitter: UserSplitter::default(), settings, skipped: 0 }
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
            let user = objects::parse(line, bytes)?;
            if user.get("serviceAccountClientId").is_some_and(Value::is_string) {
                self.skipped += 1;
                continue;
            }
            return Ok(Some(Record::new(line, |account| set_fields(account, user, &self.settings))));
        }
    }
}

fn set_fields(
    account: &mut ImportedAccount,
    mut user: Map<String, Value>,
    settings: &Settings,
) -> Result<(), Violation> {
    let field = &settings.username_field;
    let Some(username) = text(&mut user, field)? else {
        // The usual name tells which user lacks the other one.
        account.username = text(&mut user, "username").ok().flatten().unwrap_or_default();
        return Err(Violation::new(field, "is missing: users log in with it"));
    };
    account.username = username;
    account.user_id = text(&mut user, "id")?.unwrap_or_default();
    // Keycloak takes a user without the field for disabled.
    account.disabled = !flag(&mut user, "enabled", false)?;
    account.created_at = match user.remove("createdTimestamp") {
        None | Some(Value::Null) => None,
        Some(time) => Some(milliseconds(&time).ok_or_else(|| {
            Violation::new("createdTimestamp", "must be a number of milliseconds since 1970")
        })?),
    };
    match user.remove("realmRoles") {
        None | Some(Value::Null) => {}
        Some(Value::Array(roles)) => {
            for role in roles {
                let Value::String(role) = role else {
                    return Err(Violation::new("realmRoles", "must be an array of strings"));
                };
                add_role(account, role, &settings.roles);
            }
        }
        Some(_) => return Err(Violation::new("realmRoles", "must be an array of strings")),
    }
    account.password_hash = password_hash(user.remove("credentials"))?;
    Ok(())
}

fn milliseconds(time: &Value) -> Option<prost_types::Timestamp> {
    let time = time.as_u64()?;
    let nanos = i32::try_from(time % 1000 * 1_000_000).ok()?;
    Some(prost_types::Timestamp { seconds: i64::try_from(time / 1000).ok()?, nanos })
}

fn add_role(account: &mut ImportedAccount, role: String, renamed: &HashMap<String, String>) {
    match renamed.get(&role) {
        Some(role) if role.is_empty() => {}
        Some(role) => account.roles.push(role.clone()),
        None if BUILT_IN_ROLES.contains(&role.as_str()) || role.starts_with("default-roles-") => {}
        None => account.roles.push(role),
    }
}

fn password_hash(credentials: Option<Value>) -> Result<String, Violation> {
    let violation = |reason: &str| Violation::new("credentials", reason);
    let credentials = match credentials {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(credentials)) => credentials,
        Some(_) => return Err(violation("must be an array")),
    };
    let Some(password) = credentials.into_iter().find(|credential| credential["type"] == "password") else {
        return Err(violation(
            "has no password: the user logs in by other means. `latchkey account add` adds an account with a password",
        ));
    };
    let part = |name: &str| password[name].as_str().unwrap_or_default();
    let data: CredentialData = serde_json::from_str(part("credentialData"))
        .map_err(|_| violation("has a password without an algorithm in credentialData"))?;
    let secret: SecretData = serde_json::from_str(part("secretData")).map_err(|_| {
        violation("has a password without a hash in secretData: export it with `kc.sh export`")
    })?;
    let decoded = |text: &str| {
        BASE64.decode(text.as_bytes()).map_err(|_| violation("has a salt or a hash that is not Base64"))
    };
    let (salt, hash) = (decoded(&secret.salt)?, decoded(&secret.value)?);
    let (length, iterations) = (hash.len(), data.hash_iterations);
    let (salt, hash) = (BASE64_NOPAD.encode(&salt), BASE64_NOPAD.encode(&hash));
    let more = |name: &str| {
        let value = data.additional_parameters.get(name).and_then(|values| values.first());
        value.map(String::as_str).ok_or_else(|| violation(&format!("has an Argon2 hash without its {name}")))
    };
    match data.algorithm.as_str() {
        algorithm @ ("pbkdf2" | "pbkdf2-sha256" | "pbkdf2-sha512") => {
            Ok(format!("${algorithm}$i={iterations},l={length}${salt}${hash}"))
        }
        "argon2" => {
            let version = match more("version")? {
                "1.0" => 16,
                "1.3" => 19,
                _ => return Err(violation("has an Argon2 hash of an unknown version")),
            };
            let (kind, memory, lanes) = (more("type")?, more("memory")?, more("parallelism")?);
            Ok(format!("$argon2{kind}$v={version}$m={memory},t={iterations},p={lanes}${salt}${hash}"))
        }
        algorithm => Err(violation(&format!(
            "has a password hashed with {algorithm}, which is not supported: expected pbkdf2, pbkdf2-sha256, \
             pbkdf2-sha512 or argon2"
        ))),
    }
}
