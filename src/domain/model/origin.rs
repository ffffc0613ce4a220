//! Where a request comes from: the login limiter counts by it, and the audit trail records it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

/// The origin of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The request id, as logged and returned.
    pub request_id: String,
    /// The client address, if it is known. Behind a proxy that does not report it, it is not.
    pub address: Option<IpAddr>,
    /// The other end of the connection: the client or a proxy.
    pub peer: Option<SocketAddr>,
    /// The name of the calling service, if it has authenticated.
    pub caller: Option<String>,
    /// When the client stops waiting for the answer, if it says so.
    pub deadline: Option<Instant>,
}

/// The part of an address that identifies one customer: the whole IPv4 address, or the /64 of an IPv6 address.
pub fn customer(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    if address.is_ipv4() { address } else { network(address, 64) }
}

/// The network of an address with a prefix of this length.
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
