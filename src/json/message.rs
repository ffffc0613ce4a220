//! Messages in JSON, by the JSON mapping of Protocol Buffers.
//!
//! Errors name the field and say what would be right. They never show a value, which may be a password.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde::Deserializer;
use serde_json::{Map, Value, error::Category};
use serde_path_to_error::{Path, Segment};
use tonic::Status;

use super::unique;
use crate::grpc::status;

/// Fields that have their default value are in the JSON too, except those that are unset: readers need not know the
/// defaults.
const OPTIONS: SerializeOptions = SerializeOptions::new().skip_default_fields(false);
/// How `prost-reflect` begins the error about an unknown field.
const UNKNOWN_FIELD: &str = "unrecognized field name '";

/// Decodes a message from JSON.
pub(super) fn from_json(descriptor: &MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Status> {
    // A body may be left out if every field has its default.
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    unique::check(descriptor, &mut serde_json::Deserializer::from_slice(json))?;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let message = decode(descriptor, &mut deserializer)?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(message)
}

/// Decodes a message from the texts of fields, such as those in a query.
pub(super) fn from_texts<'a>(
    descriptor: &MessageDescriptor,
    texts: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<DynamicMessage, Status> {
    let mut fields = Map::new();
    for (path, text) in texts {
        insert(descriptor, &mut fields, path, path, text)?;
    }
    let fields = Value::Object(fields);
    unique::check(descriptor, &fields)?;
    decode(descriptor, fields)
}

/// Encodes a message as JSON.
pub(super) fn to_json(descriptor: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(descriptor.clone(), message);
    let message = message.map_err(|error| Status::internal(error.to_string()))?;
    encode(&message)
}

/// Encodes a decoded message as JSON.
pub(super) fn encode(message: &DynamicMessage) -> Result<Vec<u8>, Status> {
    let mut json = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &OPTIONS)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(json)
}

fn decode<'de, D>(descriptor: &MessageDescriptor, deserializer: D) -> Result<DynamicMessage, Status>
where
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
    DynamicMessage::deserialize(descriptor.clone(), tracked)
        .map_err(|error| explain(descriptor, &track.path(), &error))
}

fn not_json(error: &serde_json::Error) -> Status {
    status::invalid_message("", format!("the body is not valid JSON: {error}"))
}

fn explain(descriptor: &MessageDescriptor, path: &Path, error: &serde_json::Error) -> Status {
    // The texts about syntax are fixed; those about data show the data.
    if error.classify() != Category::Data {
        return not_json(error);
    }
    let text = error.to_string();
    let unknown = text.strip_prefix(UNKNOWN_FIELD).and_then(|rest| rest.split_once('\''));
    let field = if path.iter().next().is_none() { String::new() } else { path.to_string() };
    if let Some((name, _)) = unknown {
        let field = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
        return status::invalid_message(&field, "is not a field of the message: see /openapi.json");
    }
    status::invalid_message(&field, expected(descriptor, path))
}

/// Says what a value must be.
fn expected(descriptor: &MessageDescriptor, path: &Path) -> String {
    let mut kind = Kind::Message(descriptor.clone());
    let mut is_list = false;
    for segment in path {
        match (segment, &kind) {
            (Segment::Map { key }, Kind::Message(message)) => {
                let Some(field) = field(message, key) else { break };
                (kind, is_list) = (field.kind(), field.is_list());
            }
            (Segment::Seq { .. }, _) => is_list = false,
            _ => break,
        }
    }
    if is_list {
        return "must be a list".into();
    }
    match kind {
        Kind::String => "must be a string".into(),
        Kind::Bytes => "must be a string in base64".into(),
        Kind::Bool => "must be true or false".into(),
        Kind::Float | Kind::Double => "must be a number".into(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "must be a whole number of 32 bits".into(),
        Kind::Uint32 | Kind::Fixed32 => "must be a whole number of 32 bits, not negative".into(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            "must be a whole number of 64 bits, as a string or a number".into()
        }
        Kind::Uint64 | Kind::Fixed64 => {
            "must be a whole number of 64 bits, not negative, as a string or a number".into()
        }
        Kind::Enum(values) => {
            let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
            format!("must be one of {}, or its number", names.join(", "))
        }
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => "must be a time such as \"2026-01-31T12:00:00Z\"".into(),
            "google.protobuf.Duration" => "must be a duration such as \"1.5s\"".into(),
            "google.protobuf.FieldMask" => {
                "must be names of fields, separated by commas, such as \"roles,disabledUntil\"".into()
            }
            _ if path.iter().next().is_none() => "the body must be an object".into(),
            _ => "must be an object".into(),
        },
    }
}

/// Finds a field by one of its names.
pub(super) fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

/// Inserts a text as the value of the field with a path such as `a.b`. `whole` is the path to show.
fn insert(
    message: &MessageDescriptor,
    fields: &mut Map<String, Value>,
    path: &str,
    whole: &str,
    text: &str,
) -> Result<(), Status> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let unknown = || status::invalid_message(whole, "is not a parameter of this path: see /openapi.json");
    let field = field(message, name).ok_or_else(unknown)?;
    let key = field.json_name().to_owned();
    if let Some(rest) = rest {
        let Kind::Message(inner) = field.kind() else { return Err(unknown()) };
        let entry = fields.entry(key).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(entry) = entry else { return Err(unknown()) };
        return insert(&inner, entry, rest, whole, text);
    }
    let value = match (field.kind(), text) {
        (Kind::Bool, "true") => Value::Bool(true),
        (Kind::Bool, "false") => Value::Bool(false),
        (Kind::Enum(_), number) if number.parse::<i32>().is_ok() => {
            number.parse::<i32>().map(Value::from).unwrap_or_default()
        }
        _ => Value::String(text.to_owned()),
    };
    if field.is_list() {
        let entry = fields.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = entry {
            values.push(value);
        }
    } else if fields.insert(key, value).is_some() {
        return Err(status::invalid_message(whole, "is given twice"));
    }
    Ok(())
}

/// Adds the fields of a path to a message from the body, which must not contradict them.
pub(super) fn merge(message: &mut DynamicMessage, fields: &DynamicMessage) -> Result<(), Status> {
    for (field, value) in fields.fields() {
        let name = field.json_name();
        if message.has_field(&field) && *message.get_field(&field) != *value {
            return Err(status::invalid_message(
                name,
                "is another one in the path: leave it out of the body",
            ));
        }
        let others =
            field.containing_oneof().into_iter().flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
        for other in others.filter(|other| *other != field) {
            if message.has_field(&other) {
                let description = format!("cannot be combined with {name}, which is in the path");
                return Err(status::invalid_message(other.json_name(), description));
            }
        }
        message.set_field(&field, value.clone());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_reflect::DescriptorPool;
    use serde_json::json;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::grpc::pb;

    fn descriptor(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(pb::PUBLISHED).unwrap();
        pool.get_message_by_name(&format!("latchkey.v1.{name}")).unwrap()
    }

    fn violation(name: &str, json: &str) -> (String, String) {
        let status = from_json(&descriptor(name), json.as_bytes()).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "INVALID_REQUEST");
        (details.bad_request().unwrap().field_violations[0].field.clone(), status.message().to_owned())
    }

    #[test]
    fn errors_name_the_field_and_what_is_right() {
        for (name, json, field, words) in [
            ("LoginRequest", r#"{"pasword": "hunter2"}"#, "pasword", "is not a field"),
            ("LoginRequest", r#"{"password": 7}"#, "password", "must be a string"),
            ("LoginRequest", r#"{"password": ["hunter2"]}"#, "password", "must be a string"),
            ("LoginRequest", r#"{"takeover": "hunter2"}"#, "takeover", "must be true or false"),
            ("LoginRequest", r#"["hunter2"]"#, "", "must be an object"),
            ("LoginRequest", "null", "", "must be an object"),
            ("LoginRequest", r#"{"username": "a"} x"#, "", "not valid JSON"),
            ("LoginRequest", r#"{"username": "#, "", "not valid JSON"),
            ("ValidateRequest", r#"{"maxStaleness": "hunter2"}"#, "maxStaleness", "such as \"1.5s\""),
            ("LogoutRequest", r#"{"scope": "hunter2"}"#, "scope", "LOGOUT_SCOPE_ALL"),
            ("UpdateAccountRequest", r#"{"roles": "hunter2"}"#, "roles", "must be a list"),
            ("UpdateAccountRequest", r#"{"roles": [7]}"#, "roles[0]", "must be a string"),
            ("UpdateAccountRequest", r#"{"disabledUntil": "hunter2"}"#, "disabledUntil", "2026-01-31T"),
            ("UpdateAccountRequest", r#"{"updateMask": 7}"#, "updateMask", "separated by commas"),
            ("ListAccountsRequest", r#"{"pageSize": 1.5}"#, "pageSize", "32 bits"),
            ("ImportAccountsRequest", r#"{"accounts": [{"line": "x"}]}"#, "accounts[0].line", "64 bits"),
            (
                "ImportAccountsRequest",
                r#"{"accounts": [{"lines": 1}]}"#,
                "accounts[0].lines",
                "is not a field",
            ),
            ("LoginRequest", r#"{"password": "a", "password": "hunter2"}"#, "password", "is given twice"),
            ("LoginRequest", r#"{"password": null, "password": "hunter2"}"#, "password", "is given twice"),
            ("LoginRequest", r#"{"pasword": "hunter2", "pasword": 7}"#, "pasword", "is given twice"),
            (
                "ChangePasswordRequest",
                r#"{"newPassword": "hunter2", "token": "x", "new_password": "hunter2"}"#,
                "new_password",
                "is given twice",
            ),
            (
                "ImportAccountsRequest",
                r#"{"accounts": [{"line": 1}, {"line": 2, "line": 2}]}"#,
                "accounts[1].line",
                "is given twice",
            ),
            ("GetAccountRequest", r#"{"user_id": "a", "username": "b"}"#, "username", "combined with userId"),
        ] {
            let (of, message) = violation(name, json);
            assert_eq!(of, field, "{json}: {message}");
            assert!(message.contains(words), "{json}: {message}");
            assert!(!message.contains("hunter2"), "{json}: {message}");
        }
    }

    #[test]
    fn both_names_of_a_field_and_all_forms_of_values_are_read() {
        let same = |name, first: &str, second: &str| {
            let descriptor = descriptor(name);
            let read = |json: &str| from_json(&descriptor, json.as_bytes()).unwrap().encode_to_vec();
            assert_eq!(read(first), read(second), "{first} {second}");
        };
        same("ValidateRequest", r#"{"max_staleness": "0.250s"}"#, r#"{"maxStaleness": "0.25s"}"#);
        same("LogoutRequest", r#"{"scope": 3}"#, r#"{"scope": "LOGOUT_SCOPE_ALL"}"#);
        same("LoginRequest", r#"{"username": null}"#, "");
        same("GetAccountRequest", r#"{"userId": null, "username": "a"}"#, r#"{"username": "a"}"#);
        same("ListAccountsRequest", r#"{"pageSize": "7"}"#, r#"{"page_size": 7}"#);
        let line = r#"{"accounts": [{"line": "18446744073709551615"}]}"#;
        same("ImportAccountsRequest", line, r#"{"accounts": [{"line": 18446744073709551615}]}"#);
    }

    #[test]
    fn messages_are_written_with_their_defaults_and_without_unset_fields() {
        let message = pb::ImportAccountsResponse { added: u64::MAX, ..Default::default() };
        let json = to_json(&descriptor("ImportAccountsResponse"), message.encode_to_vec().into()).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        let expected =
            json!({"added": "18446744073709551615", "present": "0", "refused": "0", "refusals": []});
        assert_eq!(json, expected);
        let message = pb::LogoutResponse::default();
        let json = to_json(&descriptor("LogoutResponse"), message.encode_to_vec().into()).unwrap();
        assert_eq!(json, br#"{"ended":0}"#);
    }

    #[test]
    fn texts_become_fields() {
        let list = descriptor("ListAccountsRequest");
        let message = from_texts(&list, [("page_size", "7"), ("pageToken", "x")]).unwrap();
        let expected = pb::ListAccountsRequest { page_size: 7, page_token: "x".into() };
        assert_eq!(message.encode_to_vec(), expected.encode_to_vec());
        for texts in [&[("page", "7")][..], &[("page_size", "x")], &[("page_size", "1"), ("pageSize", "2")]] {
            assert!(from_texts(&list, texts.iter().copied()).is_err(), "{texts:?}");
        }
        let get = descriptor("GetAccountRequest");
        assert!(from_texts(&get, [("user_id", "7"), ("username", "x")]).is_err());
        let update = descriptor("UpdateAccountRequest");
        let message = from_texts(
            &update,
            [("roles", "a"), ("roles", "b"), ("disabled", "true"), ("update_mask", "roles")],
        );
        let message = pb::UpdateAccountRequest::decode(&*message.unwrap().encode_to_vec()).unwrap();
        assert_eq!((message.roles, message.disabled), (vec!["a".to_owned(), "b".to_owned()], Some(true)));
    }

    #[test]
    fn a_body_does_not_contradict_the_path() {
        let unlock = descriptor("UnlockAccountRequest");
        let path = from_texts(&unlock, [("user_id", "7")]).unwrap();
        for (body, field) in [
            ("{}", None),
            (r#"{"userId": "7"}"#, None),
            (r#"{"userId": "8"}"#, Some("userId")),
            (r#"{"username": "a"}"#, Some("username")),
        ] {
            let mut message = from_json(&unlock, body.as_bytes()).unwrap();
            let merged = merge(&mut message, &path);
            assert_eq!(
                merged.err().map(|status| status.message().split(' ').next().unwrap().to_owned()).as_deref(),
                field,
                "{body}"
            );
        }
    }
}
