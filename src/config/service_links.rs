//! Service links: the environment variables that Kubernetes sets in every pod for each service of its namespace.
//!
//! For a service `latchkey-grpc` these are `LATCHKEY_GRPC_SERVICE_HOST`, `LATCHKEY_GRPC_PORT_50051_TCP` and so on, with the
//! prefix of the configuration. They are recognised by their suffix and their value, so that a misspelt key is still an error.

use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Returns whether a variable is a service link. `name` is the part after the prefix `LATCHKEY_`.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    // The rest of the service name comes before the suffix.
    let ends_with =
        |suffix: &str| name == suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('_'));
    (ends_with("SERVICE_HOST") && is_address(value))
        || ((ends_with("SERVICE_PORT") || after(name, "SERVICE_PORT_").is_some()) && is_port(value))
        || after(name, "PORT_")
            .and_then(|rest| rest.split_once('_'))
            .is_some_and(|(port, rest)| is_port(port) && is_port_variable(rest, value))
        || (ends_with("PORT") && is_url(value))
}

/// Checks the part after the port number: `TCP`, `TCP_ADDR` and so on.
fn is_port_variable(name: &str, value: &str) -> bool {
    let (protocol, part) = name.split_once('_').unwrap_or((name, ""));
    PROTOCOLS.contains(&protocol)
        && match part {
            "" => is_url(value),
            "ADDR" => is_address(value),
            "PORT" => is_port(value),
            "PROTO" => PROTOCOLS.contains(&value.to_ascii_uppercase().as_str()),
            _ => false,
        }
}

/// The text after the last occurrence of `part`, if `part` begins a word.
fn after<'a>(name: &'a str, part: &str) -> Option<&'a str> {
    let at = name.rfind(part)?;
    let begins = at == 0 || name[..at].ends_with('_');
    Some(&name[at + part.len()..]).filter(|rest| begins && !rest.is_empty())
}

fn is_address(value: &str) -> bool {
    // A headless service has the value `None`.
    value.parse::<IpAddr>().is_ok() || value == "None"
}

fn is_port(value: &str) -> bool {
    value.parse::<u16>().is_ok()
}

/// `tcp://10.0.0.1:50051`
fn is_url(value: &str) -> bool {
    value.split_once("://").is_some_and(|(protocol, rest)| {
        PROTOCOLS.contains(&protocol.to_ascii_uppercase().as_str()) && rest.contains(':')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_of_a_service_is_a_link() {
        for service in ["", "GRPC_", "REDIS_MASTER_", "PORT_80_TCP_", "SERVICE_PORT_", "_X_"] {
            for (name, value) in [
                ("SERVICE_HOST", "10.0.0.1"),
                ("SERVICE_HOST", "fd00::1"),
                ("SERVICE_PORT", "50051"),
                ("SERVICE_PORT_GRPC", "50051"),
                ("SERVICE_PORT_HTTP_METRICS", "8081"),
                ("PORT", "tcp://10.0.0.1:50051"),
                ("PORT", "udp://[fd00::1]:53"),
                ("PORT_50051_TCP", "tcp://10.0.0.1:50051"),
                ("PORT_50051_TCP_ADDR", "10.0.0.1"),
                ("PORT_50051_TCP_PORT", "50051"),
                ("PORT_50051_TCP_PROTO", "tcp"),
                ("PORT_53_UDP", "udp://10.0.0.1:53"),
                ("PORT_53_UDP_PROTO", "udp"),
                ("PORT_9_SCTP_PROTO", "sctp"),
            ] {
                assert!(is_service_link(&format!("{service}{name}"), value), "{service}{name}={value}");
            }
        }
    }

    #[test]
    fn a_misspelt_key_is_not_a_link() {
        for (name, value) in [
            ("PORT", "50051"),
            ("LISTEN_PORT", "50051"),
            ("LISTEN__PORT", "50051"),
            ("SUPPORT", "tcp://10.0.0.1:1"),
            ("SERVICE_HOST", "latchkey.example.com:50051"),
            ("SERVICE_PORT", "grpc"),
            ("PORT_50051_TCP", "true"),
            ("PORT_X_TCP_ADDR", "10.0.0.1"),
            ("PORT_50051_TCP_NAME", "x"),
            ("SESSIONS__URL_", "redis://10.0.0.1"),
            ("SESSION_IDLE_TIMEOUT", "1h"),
        ] {
            assert!(!is_service_link(name, value), "{name}={value}");
        }
    }
}
