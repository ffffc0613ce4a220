//! What can be wrong with the names that gateways are told.

use http::{HeaderName, header};

use crate::config::{ConfigError, Gateway};

/// Headers that have a meaning of their own, which a request or an answer would lose.
const TAKEN: [HeaderName; 11] = [
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

/// Refuses names that could not be sent, or not be told apart.
pub(super) fn check(gateway: &Gateway) -> Result<(), ConfigError> {
    let refuse = |sentence: String| Err(ConfigError(sentence));
    let cookie = gateway.cookie.as_str();
    // The names of cookies are tokens, as those of headers are, and have case (RFC 6265 section 4.1.1).
    if !cookie.is_empty() && HeaderName::from_bytes(cookie.as_bytes()).is_err() {
        return refuse(format!(
            "gateway.cookie: \"{}\" is not the name of a cookie: use letters, digits, - and _",
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
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !name.bytes().all(plain) || HeaderName::from_bytes(name.as_bytes()).is_err() {
            return refuse(format!(
                "gateway.{key}: \"{}\" must be lower-case letters, digits and -",
                name.escape_debug()
            ));
        }
        let forwarding = name.starts_with("x-forwarded-") || name.starts_with("grpc-");
        if forwarding
            || ["x-latchkey-reason", "x-latchkey-denial", "x-latchkey-key"].contains(&name.as_str())
            || TAKEN.iter().any(|taken| taken == name.as_str())
        {
            return refuse(format!("gateway.{key}: \"{name}\" has another meaning: choose another name"));
        }
        if let Some((other, _)) = headers[..at].iter().find(|(_, other)| other == name) {
            return refuse(format!(
                "gateway.{key} and gateway.{other} are both \"{name}\": give them two names"
            ));
        }
    }
    Ok(())
}
