//! Addresses and settings of the connection to Latchkey.

use std::{error::Error, fmt, time::Duration};

use tonic::transport::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A client cannot be configured with the given address or caller key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address, which is returned here, is not `host:port` or `http://host:port`.
    InvalidAddress(String),
    /// The caller key contains something other than visible ASCII characters.
    InvalidCallerKey,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidAddress(address) => write!(
                f,
                "{address:?} is not a valid address: use 127.0.0.1:50051 or http://latchkey:50051, or for TLS \
                 pass a tonic Endpoint with a ClientTlsConfig to Client::with_endpoint"
            ),
            Self::InvalidCallerKey => {
                f.write_str("the caller key is invalid: it may contain visible ASCII characters only")
            }
        }
    }
}

impl Error for ConnectError {}

/// Parses an address with an optional `http` scheme.
///
/// Other schemes are errors: `https` would otherwise connect in plaintext.
pub(super) fn parse_endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    let invalid = || ConnectError::InvalidAddress(address.to_owned());
    let address = address.trim();
    let authority = address.strip_prefix("http://").unwrap_or(address);
    if authority.is_empty() || authority.contains("//") || authority.starts_with("unix:") {
        return Err(invalid());
    }
    Endpoint::from_shared(format!("http://{authority}")).map_err(|_| invalid())
}

/// Sets a connect timeout and a keepalive.
///
/// The keepalive detects a peer that has disappeared without closing the connection. Without it, requests would be sent
/// over the dead connection until TCP gives up.
pub(super) fn with_keep_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_http_are_accepted() {
        for address in ["127.0.0.1:50051", "http://latchkey:50051", "[::1]:50051", " localhost:1 "] {
            assert!(parse_endpoint(address).is_ok(), "{address}");
        }
    }

    #[test]
    fn invalid_addresses_and_other_schemes_are_rejected() {
        for address in ["", "http://", "https://latchkey:50051", "unix:///tmp/x", "a b"] {
            let error = parse_endpoint(address).unwrap_err();
            assert_eq!(error, ConnectError::InvalidAddress(address.into()));
            assert!(error.to_string().contains("127.0.0.1:50051"), "{error}");
        }
    }
}
