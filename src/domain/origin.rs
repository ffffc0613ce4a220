//! Where a request comes from: what the throttle counts by, and what the audit trail names.

use std::net::IpAddr;

/// Where a request comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The id of the request, in the log and in the answer.
    pub request_id: String,
    /// The address of the client, where one is known: behind a proxy that does not tell, it is not.
    pub address: Option<IpAddr>,
    /// The name of the service that called, where it has proved who it is.
    pub caller: Option<String>,
}
