//! Users of Auth0 with their password hashes: the export that its support makes on request, with an object on each line, or a
//! file for its bulk import, which is an array. The exports that everybody can make have no hashes.

use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use serde_json::{Map, Value};

use super::{
    account::{Record, Violation, set_text},
    objects::{self, ObjectSplitter, flag, text},
    record_reader::{RecordReader, SyntaxError},
};
use crate::grpc::pb::ImportedAccount;

/// The provider in the ids of users with a password: `auth0|5dea9f9c82dd7c0e76e4ec93`.
const PROVIDER: &str = "auth0|";

/// Reads the users of a file.
pub(super) struct Auth0 {
    reader: RecordReader,
    splitter: ObjectSplitter,
    /// The field with the username, if it is not the usual one.
    username_field: Option<String>,
}

impl Auth0 {
    pub(super) fn new(reader: RecordReader, username_field: Option<String>) -> Self {
        Self { reader, splitter: ObjectSplitter::default(), username_field }
    }

    pub(super) const fn offset(&self) -> u64 {
        self.reader.offset()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>, SyntaxError> {
        let Some(object) = self.reader.next(&mut self.splitter)? else { return Ok(None) };
        let line = object.line;
        let Some(bytes) = object.bytes else {
            return Ok(Some(Record::new(line, |_| Err(Violation::too_long()))));
        };
        let user = objects::parse(line, bytes)?;
        let field = self.username_field.as_deref();
        Ok(Some(Record::new(line, |account| set_fields(account, user, field))))
    }
}

fn set_fields(
    account: &mut ImportedAccount,
    mut user: Map<String, Value>,
    username_field: Option<&str>,
) -> Result<(), Violation> {
    let (username, email) = (text(&mut user, "username")?, email(&mut user)?);
    let (field, name) = match username_field {
        Some("username") => ("username", username.clone()),
        Some("email") => ("email", email.clone()),
        Some(field) => (field, text(&mut user, field)?),
        None => ("username", username.clone().or_else(|| email.clone())),
    };
    let Some(name) = name else {
        // The other name tells which user lacks this one.
        account.username = username.or(email).unwrap_or_default();
        return Err(Violation::new(field, "is missing: users log in with it"));
    };
    account.username = name;
    account.user_id = user_id(&mut user)?;
    account.disabled = flag(&mut user, "blocked", false)?;
    if let Some(created) = text(&mut user, "created_at")? {
        set_text(account, "created_at", &created)?;
    }
    account.password_hash = password_hash(&mut user)?;
    Ok(())
}

/// The email address, which can also be one of the `identifiers`.
fn email(user: &mut Map<String, Value>) -> Result<Option<String>, Violation> {
    let email = text(user, "email")?;
    let identifiers = user.remove("identifiers");
    Ok(email.or_else(|| {
        let identifiers = identifiers.as_ref().and_then(Value::as_array)?;
        let identifier = identifiers.iter().find(|identifier| identifier["type"] == "email")?;
        identifier["value"].as_str().map(str::to_owned)
    }))
}

/// The id as services know it. Files have it without the provider, except those that list profiles.
fn user_id(user: &mut Map<String, Value>) -> Result<String, Violation> {
    let object_id = user.remove("_id").and_then(|id| id["$oid"].as_str().map(str::to_owned));
    let id = match (text(user, "user_id")?, text(user, "alt_id")?) {
        (Some(id), _) | (None, Some(id)) => Some(id),
        (None, None) => object_id,
    };
    Ok(match id {
        Some(id) if id.contains('|') => id,
        Some(id) => format!("{PROVIDER}{id}"),
        None => String::new(),
    })
}

fn password_hash(user: &mut Map<String, Value>) -> Result<String, Violation> {
    for field in ["passwordHash", "password_hash"] {
        if let Some(hash) = text(user, field)? {
            return Ok(hash);
        }
    }
    match user.remove("custom_password_hash") {
        None | Some(Value::Null) => Err(Violation::new(
            "passwordHash",
            "is missing: Auth0 exports hashes only on request to its support. A user of a social connection has none",
        )),
        Some(custom) => custom_hash(&custom),
    }
}

/// Returns a hash that Auth0 got from another system.
fn custom_hash(custom: &Value) -> Result<String, Violation> {
    const FIELD: &str = "custom_password_hash";
    let violation = |reason: &str| Violation::new(FIELD, reason);
    let algorithm = custom["algorithm"].as_str().unwrap_or_default();
    let encoding = custom["password"]["encoding"].as_str().unwrap_or("utf8");
    if !["utf8", "ascii"].contains(&encoding) {
        return Err(violation(&format!(
            "hashes passwords in {encoding}, which is not supported: expected utf8"
        )));
    }
    match algorithm {
        // The value has all parameters.
        "argon2" | "bcrypt" | "pbkdf2" => {
            custom["hash"]["value"].as_str().map(str::to_owned).ok_or_else(|| violation("has no hash.value"))
        }
        "scrypt" => scrypt(custom).ok_or_else(|| {
            violation("needs hash, salt, cost, blockSize and parallelization for scrypt, in base64 or hex")
        }),
        algorithm => Err(violation(&format!(
            "uses {algorithm:?}, which is not supported: expected argon2, bcrypt, pbkdf2 or scrypt"
        ))),
    }
}

fn scrypt(custom: &Value) -> Option<String> {
    let number = |name: &str, default: u64| match &custom[name] {
        Value::Null => Some(default),
        value => value.as_u64(),
    };
    // The defaults are those of Node.js, which Auth0 names.
    let (n, r, p) = (number("cost", 16384)?, number("blockSize", 8)?, number("parallelization", 1)?);
    let decoded = |name: &str| {
        let value = custom[name]["value"].as_str()?;
        let bytes = match custom[name]["encoding"].as_str().unwrap_or("utf8") {
            "base64" => {
                BASE64.decode(value.as_bytes()).ok().or_else(|| BASE64_NOPAD.decode(value.as_bytes()).ok())?
            }
            "hex" => HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok()?,
            "utf8" if name == "salt" => value.as_bytes().to_vec(),
            _ => return None,
        };
        Some(BASE64_NOPAD.encode(&bytes))
    };
    let (salt, hash) = (decoded("salt")?, decoded("hash")?);
    n.is_power_of_two().then(|| format!("$scrypt$ln={},r={r},p={p}${salt}${hash}", n.ilog2()))
}
