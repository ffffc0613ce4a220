//! The description of all paths, as an `OpenAPI` 3.1 document, from the descriptors and their comments.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
};

use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind as FieldKind, MessageDescriptor,
    MethodDescriptor,
};
use serde_json::{Map, Value, json};

use super::{
    oauth,
    routes::{self, Kind, Rule},
};
use crate::grpc::{
    methods::{self, Rule as AccessRule},
    pb,
};

const REFERENCE: &str = "#/components/schemas/";
/// Codes as the comments name them, with their statuses.
const CODES: [(&str, &str); 10] = [
    ("INVALID_ARGUMENT", "400"),
    ("FAILED_PRECONDITION", "400"),
    ("UNAUTHENTICATED", "401"),
    ("PERMISSION_DENIED", "403"),
    ("NOT_FOUND", "404"),
    ("ALREADY_EXISTS", "409"),
    ("RESOURCE_EXHAUSTED", "429"),
    ("INTERNAL", "500"),
    ("UNAVAILABLE", "503"),
    ("DEADLINE_EXCEEDED", "504"),
];
const STATUSES: [(&str, &str); 11] = [
    ("400", "The request is not valid, or not possible in the current state."),
    ("401", "The password, the token or the caller key is not good."),
    ("403", "The caller, the account or the page may not do this."),
    ("404", "There is no such thing."),
    ("409", "It exists already."),
    ("413", "The request is too large."),
    ("415", "The content type is not supported."),
    ("429", "There are too many attempts or requests: `retry-after` says when to try again."),
    ("500", "A bug, or damaged data. The log has an entry with the `x-request-id` of the response."),
    ("503", "A store cannot be reached: `retry-after` says when to try again."),
    ("504", "The call took too long."),
];
const INTRODUCTION: &str = "\
An authentication service in which the latest login wins.

Messages have the JSON form of Protocol Buffers. A request may use the name of a field in the protocol, too, such as \
`user_id`. Unknown fields are errors. Fields with their default value may be left out of a request, and are in every \
response.

Each method also has a path of Connect's unary protocol, which accepts and answers `application/proto` as well.

A rejected token is an answer with status 200. Any other status means that Latchkey could not answer, or would not serve \
this caller.";

/// Returns the document.
pub(super) fn document() -> Vec<u8> {
    let document = DescriptorPool::decode(pb::DESCRIPTORS).map_err(|error| error.to_string());
    let document = document.and_then(|pool| Document::new(&pool).build());
    document.and_then(|value| serde_json::to_vec(&value).map_err(|error| error.to_string())).unwrap_or_else(
        |message| {
            tracing::error!(error.message = message, "failed to describe the paths of JSON");
            Vec::new()
        },
    )
}

/// A document that is being built.
struct Document<'a> {
    pool: &'a DescriptorPool,
    comments: Comments,
    schemas: BTreeMap<String, Value>,
}

/// The comments of the protocol, by file and by path in it.
struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    fn new(files: impl Iterator<Item = FileDescriptor>) -> Self {
        let mut comments = HashMap::new();
        for file in files {
            let info = file.file_descriptor_proto().source_code_info.as_ref();
            for location in info.iter().flat_map(|info| &info.location) {
                let lines =
                    location.leading_comments().lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
                // Notes for a linter.
                let lines: Vec<_> = lines.filter(|line| !line.starts_with("buf:")).collect();
                let text = lines.join("\n").trim().to_owned();
                if !text.is_empty() {
                    comments.insert((file.name().to_owned(), location.path.clone()), text);
                }
            }
        }
        Self(comments)
    }

    fn of(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(&(file.name().to_owned(), path.to_vec())).map_or("", String::as_str)
    }
}

impl<'a> Document<'a> {
    fn new(pool: &'a DescriptorPool) -> Self {
        Self { pool, comments: Comments::new(pool.files()), schemas: BTreeMap::new() }
    }

    fn build(mut self) -> Result<Value, String> {
        let option = self.pool.get_extension_by_name("google.api.http").ok_or("no google.api.http")?;
        let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        let mut tags = Vec::new();
        for method in routes::methods(self.pool) {
            let service = method.parent_service();
            let tag = json!({
                "name": service.name(),
                "description": self.comments.of(&service.parent_file(), service.path()),
            });
            if !tags.contains(&tag) {
                tags.push(tag);
            }
            let name = format!("{}_{}", service.name(), method.name());
            for (number, rule) in routes::rules(&method, &option, 0)?.iter().enumerate() {
                let id = if number == 0 { name.clone() } else { format!("{name}_{}", number + 1) };
                let operation = self.operation(&method, &id, rule);
                let path = rule.text.replace("=**}", "}");
                paths.entry(path).or_default().insert(rule.verb.as_str().to_lowercase(), operation);
            }
            if !method.is_client_streaming() && !method.is_server_streaming() {
                let operation = self.connect(&method, &format!("{name}_Connect"));
                paths.entry(routes::path(&method)).or_default().insert("post".into(), operation);
            }
        }
        let mut paths: BTreeMap<_, Value> =
            paths.into_iter().map(|(path, operations)| (path, operations.into())).collect();
        paths.extend(oauth::paths().into_iter().map(|(path, operations)| (path.to_owned(), operations)));
        self.schemas.extend(oauth::schemas().map(|(name, schema)| (name.to_owned(), schema)));
        tags.push(json!({
            "name": "OAuth",
            "description": "For resource servers and clients that speak OAuth 2.0 only.",
        }));
        let codes: BTreeSet<_> = CODES.iter().map(|(code, _)| code.to_lowercase()).collect();
        let codes: Vec<_> =
            codes.into_iter().chain(["canceled", "unimplemented", "unknown"].map(Into::into)).collect();
        self.schemas.insert("Error".into(), error_schema(&codes));
        Ok(json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Latchkey",
                "version": env!("CARGO_PKG_VERSION"),
                "description": INTRODUCTION,
                "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": tags,
            "paths": paths,
            "components": {
                "schemas": self.schemas,
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "The token of a login, if it is not in the message.",
                    },
                    "callerKey": {
                        "type": "apiKey",
                        "in": "header",
                        "name": "x-latchkey-key",
                        "description": "The key of a caller, for methods that need a role.",
                    },
                    "clientBasic": {
                        "type": "http",
                        "scheme": "basic",
                        "description": "The key of a caller as the password.",
                    },
                },
            },
        }))
    }

    /// Describes an annotated path.
    fn operation(&mut self, method: &MethodDescriptor, id: &str, rule: &Rule) -> Value {
        let input = method.input();
        let in_path = |field: &FieldDescriptor| rule.text.contains(&format!("{{{}", field.name()));
        let mut parameters = Vec::new();
        for field in input.fields() {
            let place = match rule.kind {
                _ if in_path(&field) => "path",
                Kind::Query => "query",
                _ => continue,
            };
            let mut schema = self.field(&field);
            if place == "path" {
                schema["minLength"] = json!(1);
            }
            parameters.push(json!({
                "name": if place == "path" { field.name() } else { field.json_name() },
                "in": place,
                "required": place == "path",
                "description": self.comments.of(&field.parent_message().parent_file(), field.path()),
                "schema": schema,
            }));
        }
        let has_body = rule.kind == Kind::Body;
        let mut operation = self.common(method, id, has_body);
        operation["parameters"] = Value::Array(parameters);
        if rule.kind == Kind::Events {
            let output = method.output();
            let events: Vec<_> = output.fields().map(|field| format!("`{}`", field.json_name())).collect();
            for field in output.fields() {
                self.field(&field);
            }
            let description = format!(
                "Server-sent events. The name of an event is one of {}, and its data is that object in JSON.",
                events.join(" and ")
            );
            operation["responses"]["200"] = json!({
                "description": description,
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            });
        }
        operation
    }

    /// Describes the path of a method in Connect.
    fn connect(&mut self, method: &MethodDescriptor, id: &str) -> Value {
        self.common(method, id, true)
    }

    fn common(&mut self, method: &MethodDescriptor, id: &str, has_body: bool) -> Value {
        let service = method.parent_service();
        let comment = self.comments.of(&service.parent_file(), method.path()).to_owned();
        let of_service = self.comments.of(&service.parent_file(), service.path()).to_owned();
        let access = methods::rule(&routes::path(method));
        let statuses = statuses(&comment, &of_service, access, has_body);
        let mut responses = Map::new();
        let output = self.message(&method.output(), false);
        responses.insert(
            "200".into(),
            json!({
                "description": "The answer.",
                "content": {"application/json": {"schema": output}},
            }),
        );
        let error = json!({"application/json": {"schema": {"$ref": format!("{REFERENCE}Error")}}});
        for (status, description) in STATUSES.iter().filter(|(status, _)| statuses.contains(status)) {
            responses.insert((*status).into(), json!({"description": description, "content": error}));
        }
        let mut operation = json!({
            "operationId": id,
            "tags": [service.name()],
            "summary": summary(&comment),
            "description": comment,
            "security": security(method, access),
            "responses": responses,
        });
        if has_body {
            let schema = self.message(&method.input(), true);
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        operation
    }

    /// Returns a reference to the schema of a message.
    fn message(&mut self, message: &MessageDescriptor, is_request: bool) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => return json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => {
                return json!({"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"});
            }
            "google.protobuf.FieldMask" => return json!({"type": "string"}),
            _ => {}
        }
        let name = message.name().to_owned();
        let reference = json!({"$ref": format!("{REFERENCE}{name}")});
        // Inserted first, because a message may contain itself.
        if self.schemas.insert(name.clone(), Value::Null).is_some_and(|schema| {
            let is_known = !schema.is_null();
            if is_known {
                self.schemas.insert(name.clone(), schema);
            }
            is_known
        }) {
            return reference;
        }
        let file = message.parent_file();
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields() {
            let mut schema = self.field(&field);
            let mut description = self.comments.of(&file, field.path()).to_owned();
            if let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
                let names: Vec<_> = oneof.fields().map(|field| format!("`{}`", field.json_name())).collect();
                description = format!("{description} Only one of {} is set.", names.join(" and "));
            }
            schema["description"] = json!(description.trim());
            properties.insert(field.json_name().to_owned(), schema);
            if !field.supports_presence() && !is_request {
                required.push(field.json_name().to_owned());
            }
        }
        let mut schema = json!({
            "type": "object",
            "description": self.comments.of(&file, message.path()),
            "properties": properties,
        });
        if is_request {
            schema["additionalProperties"] = json!(false);
        }
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        self.schemas.insert(name, schema);
        reference
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let schema = match field.kind() {
            FieldKind::String => json!({"type": "string"}),
            FieldKind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            FieldKind::Bool => json!({"type": "boolean"}),
            FieldKind::Float | FieldKind::Double => json!({"type": "number"}),
            FieldKind::Int32 | FieldKind::Sint32 | FieldKind::Sfixed32 => {
                json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX})
            }
            FieldKind::Uint32 | FieldKind::Fixed32 => {
                json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
            }
            FieldKind::Int64 | FieldKind::Sint64 | FieldKind::Sfixed64 => {
                json!({"type": ["string", "integer"], "pattern": "^-?[0-9]{1,19}$"})
            }
            FieldKind::Uint64 | FieldKind::Fixed64 => {
                json!({"type": ["string", "integer"], "pattern": "^[0-9]{1,20}$"})
            }
            FieldKind::Enum(values) => self.enumeration(&values),
            FieldKind::Message(message) => self.message(&message, false),
        };
        if field.is_list() { json!({"type": "array", "items": schema}) } else { schema }
    }

    /// Returns a reference to the schema of an enumeration. Numbers are accepted too, but are not described.
    fn enumeration(&mut self, values: &EnumDescriptor) -> Value {
        let name = values.name().to_owned();
        if !self.schemas.contains_key(&name) {
            let file = values.parent_file();
            let mut description = self.comments.of(&file, values.path()).to_owned();
            description.push_str("\n\n");
            for value in values.values() {
                let comment = self.comments.of(&file, value.path()).replace('\n', " ");
                let _ = writeln!(description, "- `{}`: {comment}", value.name());
            }
            let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
            let schema = json!({"type": "string", "enum": names, "description": description});
            self.schemas.insert(name.clone(), schema);
        }
        json!({"$ref": format!("{REFERENCE}{name}")})
    }
}

/// The first sentence of a comment.
fn summary(comment: &str) -> String {
    let paragraph = comment.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    match paragraph.split_once(". ") {
        Some((sentence, _)) => sentence.to_owned(),
        None => paragraph.trim_end_matches('.').to_owned(),
    }
}

/// The statuses of errors that the comments of a method and of its service name, and those of HTTP.
fn statuses<'a>(
    comment: &str,
    of_service: &str,
    access: Option<AccessRule>,
    has_body: bool,
) -> BTreeSet<&'a str> {
    let named = CODES.iter().filter(|(code, _)| comment.contains(code) || of_service.contains(code));
    let mut statuses: BTreeSet<_> = named.map(|(_, status)| *status).collect();
    // A page of an origin that is not configured.
    statuses.insert("403");
    if access != Some(AccessRule::Open) {
        statuses.insert("401");
    }
    if has_body {
        statuses.extend(["413", "415"]);
    }
    statuses
}

/// Who may call a method: with a token if it is about one, and with a caller key if it needs a role.
fn security(method: &MethodDescriptor, access: Option<AccessRule>) -> Value {
    let has_token = method.input().get_field_by_name("token").is_some();
    match access {
        Some(AccessRule::Role(_)) => json!([{"callerKey": []}]),
        Some(AccessRule::Validator) => {
            json!([{}, {"token": []}, {"callerKey": []}, {"token": [], "callerKey": []}])
        }
        _ if has_token => json!([{}, {"token": []}]),
        _ => json!([]),
    }
}

fn error_schema(codes: &[String]) -> Value {
    json!({
        "type": "object",
        "description": "An error, in the form of Connect.",
        "properties": {
            "code": {"type": "string", "enum": codes},
            "message": {"type": "string", "description": "A sentence for developers."},
            "details": {
                "type": "array",
                "description": "What programs read: `google.rpc.ErrorInfo` with the reason, `google.rpc.BadRequest` with the wrong fields, `google.rpc.RetryInfo` with the delay.",
                "items": {
                    "type": "object",
                    "properties": {
                        "type": {"type": "string", "description": "The name of the message."},
                        "value": {"type": "string", "contentEncoding": "base64", "description": "The message in binary."},
                        "debug": {"type": "object", "description": "The message in JSON."},
                    },
                    "required": ["type", "value"],
                },
            },
        },
        "required": ["code"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_described_with_its_comment() {
        let document: Value = serde_json::from_slice(&document()).unwrap();
        let login = &document["paths"]["/v1/login"]["post"];
        assert_eq!(login["summary"], "Checks a password and opens a session");
        assert!(login["description"].as_str().unwrap().contains("SESSION_LIMIT"));
        let statuses: Vec<_> = login["responses"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(statuses, ["200", "400", "401", "403", "413", "415", "429", "500", "503", "504"]);
        assert_eq!(document["paths"]["/v1/accounts"]["get"]["security"], json!([{"callerKey": []}]));
        let find = document["paths"]["/v1/accounts:find"]["get"]["parameters"].as_array().unwrap();
        assert_eq!(find.iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["userId", "username"]);
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        for method in routes::methods(&pool) {
            let is_unary = !method.is_client_streaming() && !method.is_server_streaming();
            let operation = &document["paths"][routes::path(&method)]["post"];
            assert_eq!(operation["summary"].is_string(), is_unary, "{}", method.full_name());
        }
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            assert!(!schema["description"].as_str().unwrap().is_empty(), "{name}");
        }
    }
}
