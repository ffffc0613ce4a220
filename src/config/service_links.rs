//! Service links: what Kubernetes sets in the environment of every pod for each service of its namespace.
//!
//! For a service `latchkey-grpc` that is `LATCHKEY_GRPC_SERVICE_HOST`, `LATCHKEY_GRPC_PORT_50051_TCP` and so on, which
//! begin as our settings do. They are known by how they end and by what they say, so that a misspelt setting is still
//! an error.

use std::net::IpAddr;

/// The protocols of a port.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Whether a variable is a service link. `name` is what comes after the prefix that it shares with our settings.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    // The name of the service, as far as it is not ours, comes before.
    let ends_with =
        |what: &str| name == what || name.strip_suffix(what).is_some_and(|rest| rest.ends_with('_'));
    (ends_with("SERVICE_HOST") && is_address(value))
        || ((ends_with("SERVICE_PORT") || after(name, "SERVICE_PORT_").is_some()) && is_port(value))
        || after(name, "PORT_")
            .and_then(|rest| rest.split_once('_'))
            .is_some_and(|(port, rest)| is_port(port) && is_of_port(rest, value))
        || (ends_with("PORT") && is_url(value))
}

/// What is said of one port: `TCP`, `TCP_ADDR` and so on.
fn is_of_port(name: &str, value: &str) -> bool {
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

/// What comes after the last occurrence of a part of a name, where that begins a word.
fn after<'a>(name: &'a str, part: &str) -> Option<&'a str> {
    let at = name.rfind(part)?;
    let begins = at == 0 || name[..at].ends_with('_');
    Some(&name[at + part.len()..]).filter(|rest| begins && !rest.is_empty())
}

fn is_address(value: &str) -> bool {
    // A service without an address of its own has the word.
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
    fn whatever_kubernetes_says_of_a_service_is_a_link() {
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
    fn a_setting_that_is_misspelt_is_none() {
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
