//! Where a request comes from: what the throttle counts by, and what the audit trail names.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

/// Where a request comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The id of the request, in the log and in the answer.
    pub request_id: String,
    /// The address of the client, where one is known: behind a proxy that does not tell, it is not.
    pub address: Option<IpAddr>,
    /// The other end of the connection: the client, or a proxy.
    pub peer: Option<SocketAddr>,
    /// The name of the service that called, where it has proved who it is.
    pub caller: Option<String>,
    /// When the client stops waiting for the answer, where it says so.
    pub deadline: Option<Instant>,
}

/// The address of one customer: the whole of it, or for IPv6 the /64, which one customer has all of.
pub fn customer(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    if address.is_ipv4() { address } else { network(address, 64) }
}

/// The network of this many bits that an address is in.
pub fn network(address: IpAddr, bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or_default();
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or_default();
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}
