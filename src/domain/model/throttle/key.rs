//! What failures are counted by.

use std::net::IpAddr;

use crate::domain::{
    origin::{customer, network},
    types::UserId,
    username::Username,
};

/// Wider networks of IPv6, and how many times as many failures each may have as an address: what one customer has of
/// some providers, and what one site has.
pub(super) const WIDER: [(u32, u32); 2] = [(56, 4), (48, 16)];

/// What failures are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ThrottleKey(String);

// A user id holds no space, so these are nobody's.
impl ThrottleKey {
    /// By username, whether there is such an account or not: what is refused must not tell. Hashed,
    /// because people type their password there by mistake.
    pub fn account(username: &Username) -> Self {
        Self(format!("throttle account {}", username.hash()))
    }

    /// By the account that was found, under whatever name.
    pub fn user(user_id: &UserId) -> Self {
        Self(format!("throttle user {user_id}"))
    }

    /// In place of [`user`](Self::user) where no account was found.
    pub fn nobody(username: &Username) -> Self {
        Self(format!("throttle nobody {}", username.hash()))
    }

    /// By the account, for clients from where its user has logged in of late.
    pub fn known_clients(user_id: &UserId) -> Self {
        Self(format!("throttle known {user_id}"))
    }

    /// By the address of the client: the whole of it, or for IPv6 the /64, which one customer has all
    /// of.
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

    /// By a wider network of a client with an IPv6 address; `None` for one of IPv4.
    pub fn wider(address: IpAddr, bits: u32) -> Option<Self> {
        let network = network(address, bits);
        (!network.is_ipv4()).then(|| Self(format!("throttle address {network}/{bits}")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
