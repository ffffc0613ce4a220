//! The description of the endpoints, which have no descriptors.

use serde_json::{Map, Value, json};

use super::{INTROSPECT, REVOKE};

const REFERENCE: &str = "#/components/schemas/";
const ERRORS: [(&str, &str); 8] = [
    ("400", "A parameter is missing, repeated or not valid."),
    ("401", "The client credential is missing or not known."),
    ("403", "The caller, or the page, may not do this."),
    ("413", "The request is too large."),
    ("415", "The content type is not supported."),
    ("500", "A bug, or damaged data. The log has an entry with the `x-request-id` of the response."),
    ("503", "There is no answer at the moment: `retry-after` says when to try again."),
    ("405", "The path is for POST."),
];
const TOKEN_HINT: &str = "Ignored: there is one type of token.";

/// Returns the operations by path. The metadata is left out: it exists only if `token.issuer` is a URL.
pub(in crate::json) fn paths() -> Vec<(&'static str, Value)> {
    let introspection = json!({
        "operationId": "OAuth_Introspect",
        "summary": "Validates a token for an OAuth 2.0 resource server",
        "description": "Token introspection (RFC 7662). The verdict is that of Validate, and a use of the session unless `latchkey_peek` is true. The parameters that begin with `latchkey_` may be in the query, too. No other status than 200 says anything about the token.",
        "requestBody": body(&json!({
            "token": {"type": "string", "minLength": 1, "description": "The token."},
            "token_type_hint": {"type": "string", "description": TOKEN_HINT},
            "latchkey_peek": {"type": "string", "enum": ["true", "false"], "description": "Whether the request is not a use of the session."},
            "latchkey_max_staleness": {"type": "string", "pattern": "^[0-9]{1,6}(ms|s)$", "description": "The maximum staleness of the verdict, such as 250ms."},
        })),
        "responses": responses("OAuthIntrospection"),
    });
    let revocation = json!({
        "operationId": "OAuth_Revoke",
        "summary": "Ends the session of a token for an OAuth 2.0 client",
        "description": "Token revocation (RFC 7009): Logout of exactly this session. A token that is not good is answered with 200, too.",
        "requestBody": body(&json!({
            "token": {"type": "string", "minLength": 1, "description": "The token."},
            "token_type_hint": {"type": "string", "description": TOKEN_HINT},
        })),
        "responses": responses("OAuthRevocation"),
    });
    [(INTROSPECT, introspection), (REVOKE, revocation)]
        .map(|(path, mut operation)| {
            operation["tags"] = json!(["OAuth"]);
            operation["security"] = json!([{}, {"clientBasic": []}, {"callerKey": []}]);
            (path, json!({"post": operation}))
        })
        .into()
}

fn body(properties: &Value) -> Value {
    let schema = json!({"type": "object", "properties": properties, "required": ["token"]});
    json!({"required": true, "content": {"application/x-www-form-urlencoded": {"schema": schema}}})
}

fn responses(schema: &str) -> Value {
    let content =
        |schema: &str| json!({"application/json": {"schema": {"$ref": format!("{REFERENCE}{schema}")}}});
    let mut responses = Map::new();
    responses.insert("200".into(), json!({"description": "The answer.", "content": content(schema)}));
    for (status, description) in ERRORS {
        let error = json!({"description": description, "content": content("OAuthError")});
        responses.insert(status.into(), error);
    }
    responses.into()
}

/// Returns the schemas by name.
pub(in crate::json) fn schemas() -> [(&'static str, Value); 3] {
    let (text, number, flag) =
        (json!({"type": "string"}), json!({"type": "integer"}), json!({"type": "boolean"}));
    let mut introspection = json!({
        "active": flag, "token_type": text, "iss": text, "aud": text, "sub": text, "username": text, "jti": text,
        "iat": number, "nbf": number, "exp": number, "scope": text, "latchkey_session_id": text,
        "latchkey_slot": text, "latchkey_device": text, "latchkey_idle_expires_at": number,
        "latchkey_roles": {"type": "array", "items": text},
    });
    let mut revocation = json!({ "latchkey_ended": {"type": "integer", "minimum": 0} });
    for schema in [&mut introspection, &mut revocation] {
        schema["latchkey_reason"] = json!({"type": "string", "description": "The reason of the rejection."});
        schema["latchkey_message"] = json!({"type": "string", "description": "A sentence for the user."});
        schema["latchkey_terminal"] =
            json!({"type": "boolean", "description": "Whether the client must not log in again by itself."});
        schema["latchkey_at"] = json!({"type": "integer", "description": "When the session ended."});
        schema["latchkey_by_device"] =
            json!({"type": "string", "description": "The device of the login that displaced the session."});
    }
    let object = |description: &str, properties: Value, required: &str| {
        json!({
            "type": "object",
            "description": description,
            "properties": properties,
            "required": [required],
        })
    };
    let error = json!({"error": text, "error_description": text, "latchkey_reason": text});
    [
        ("OAuthIntrospection", object("A verdict. Times are seconds since 1970.", introspection, "active")),
        (
            "OAuthRevocation",
            object("How many sessions ended, or why none did.", revocation, "latchkey_ended"),
        ),
        ("OAuthError", object("An error, in the form of OAuth 2.0.", error, "error")),
    ]
}
