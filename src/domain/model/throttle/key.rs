//! The keys of throttles.

use std::net::IpAddr;

use crate::domain::{
    origin::{customer, network},
    types::UserId,
    username::Username,
};

/// Prefix lengths of wider IPv6 networks, and how many times the failures of an address each may have. These are the
/// networks of one customer at some providers, and of one site.
pub(super) const WIDER: [(u32, u32); 2] = [(56, 4), (48, 16)];

/// The key of a throttle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ThrottleKey(String);

// Every key contains a space, so none is equal to a user id.
impl ThrottleKey {
    /// A username, whether or not an account has it: throttling must not reveal that. The name is hashed because people
    /// type their password there by mistake.
    pub fn account(username: &Username) -> Self {
        Self(format!("throttle account {}", username.hash()))
    }

    /// The account that was found, by whatever name.
    pub fn user(user_id: &UserId) -> Self {
        Self(format!("throttle user {user_id}"))
    }

    /// Replaces [`user`](Self::user) if no account was found.
    pub fn nobody(username: &Username) -> Self {
        Self(format!("throttle nobody {}", username.hash()))
    }

    /// The known clients of an account: those from networks that the user has recently logged in from.
    pub fn known_clients(user_id: &UserId) -> Self {
        Self(format!("throttle known {user_id}"))
    }

    /// A client address: the whole IPv4 address, or the /64 of an IPv6 address, which identifies one customer.
    pub fn address(address: IpAddr) -> Self {
        let network = match customer(address) {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
        };
        Self(format!("throttle address {network}"))
    }

    /// A wider network of an IPv6 address; `None` for IPv4.
    pub fn wider(address: IpAddr, bits: u32) -> Option<Self> {
        let network = network(address, bits);
        (!network.is_ipv4()).then(|| Self(format!("throttle address {network}/{bits}")))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
