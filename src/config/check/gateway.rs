//! Checks the names of cookies and headers for gateways.

use http::{HeaderName, header};

use crate::config::{ConfigError, Gateway};

/// Headers with a meaning of their own, which cannot be used for identity.
const RESERVED: [HeaderName; 11] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::HOST,
    header::SET_COOKIE,
    header::TRANSFER_ENCODING,
    header::WWW_AUTHENTICATE,
];

/// Returns an error for a name that cannot be sent or is not unique.
pub(super) fn check(gateway: &Gateway) -> Result<(), ConfigError> {
    let invalid = |message: String| Err(ConfigError(message));
    let cookie = gateway.cookie.as_str();
    // Cookie names have the same syntax as header names, but are case-sensitive (RFC 6265 section 4.1.1).
    if !cookie.is_empty() && HeaderName::from_bytes(cookie.as_bytes()).is_err() {
        return invalid(format!(
            "gateway.cookie: \"{}\" is not a cookie name: use letters, digits, - and _",
            cookie.escape_debug()
        ));
    }
    let headers = [
        ("user_id_header", &gateway.user_id_header),
        ("username_header", &gateway.username_header),
        ("session_id_header", &gateway.session_id_header),
        ("slot_header", &gateway.slot_header),
        ("roles_header", &gateway.roles_header),
    ];
    for (at, (key, name)) in headers.iter().enumerate().filter(|(_, (_, name))| !name.is_empty()) {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !name.bytes().all(is_allowed) || HeaderName::from_bytes(name.as_bytes()).is_err() {
            return invalid(format!(
                "gateway.{key}: \"{}\" must be lower-case letters, digits and -",
                name.escape_debug()
            ));
        }
        let forwarding = name.starts_with("x-forwarded-") || name.starts_with("grpc-");
        if forwarding
            || ["x-latchkey-reason", "x-latchkey-denial", "x-latchkey-key"].contains(&name.as_str())
            || RESERVED.iter().any(|reserved| reserved == name.as_str())
        {
            return invalid(format!("gateway.{key}: \"{name}\" has another meaning: choose another name"));
        }
        if let Some((other, _)) = headers[..at].iter().find(|(_, other)| other == name) {
            return invalid(format!(
                "gateway.{key} and gateway.{other} are both \"{name}\": give them different names"
            ));
        }
    }
    Ok(())
}
