//! The connection to Latchkey.

use std::{error::Error, fmt, time::Duration};

use tonic::transport::Endpoint;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a connection is tried, and how long that may take: a peer that has vanished without a word is otherwise
/// asked again and again.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// What was given to connect with is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not one.
    Address(String),
    /// The caller key is not one.
    Key,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(
                f,
                "{address:?} is not an address such as 127.0.0.1:50051 or http://latchkey:50051; for TLS give Client::with_endpoint an Endpoint with a ClientTlsConfig"
            ),
            Self::Key => f.write_str("the caller key is not of visible ASCII"),
        }
    }
}

impl Error for ConnectError {}

/// Where Latchkey is, in plaintext unless the endpoint has TLS. An address without a scheme has `http`.
pub(super) fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    let bad = || ConnectError::Address(address.to_owned());
    let address = address.trim();
    // What has TLS is an `Endpoint` with a `ClientTlsConfig`; here it would be left out without a word.
    let authority = address.strip_prefix("http://").unwrap_or(address);
    if authority.is_empty() || authority.contains("//") || authority.starts_with("unix:") {
        return Err(bad());
    }
    Endpoint::from_shared(format!("http://{authority}")).map_err(|_| bad())
}

/// The endpoint with what finds out soon that Latchkey is gone, and soon that it is back.
pub(super) fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused_and_tls_is_not_left_out() {
        for address in ["127.0.0.1:50051", "http://latchkey:50051", "[::1]:50051", " localhost:1 "] {
            assert!(endpoint(address).is_ok(), "{address}");
        }
        for address in ["", "http://", "https://latchkey:50051", "unix:///tmp/x", "a b"] {
            assert!(endpoint(address).is_err(), "{address}");
        }
    }
}
