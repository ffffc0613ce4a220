//! Telling the clients of a user apart: for known clients and for kick wars.

use std::{net::IpAddr, num::NonZeroU64};

use aws_lc_rs::digest;

use super::UserSessions;
use crate::domain::{
    origin::customer,
    rejection::Reason,
    types::{Device, UserId},
};

/// A hash of the network that a user has logged in from. The same network has another mark for each user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientMark(pub NonZeroU64);

impl ClientMark {
    /// The mark of the user's clients at this IPv4 address, or in the /64 of this IPv6 address.
    pub fn of(user_id: &UserId, address: IpAddr) -> Self {
        let text = format!("{user_id} {}", customer(address));
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_ref()[..8]);
        Self(NonZeroU64::new(u64::from_be_bytes(first)).unwrap_or(NonZeroU64::MIN))
    }
}

/// Identifies a client in a kick war: its network and its device name.
pub(super) type Client<'a> = (Option<ClientMark>, &'a Device);

impl UserSessions {
    /// Whether the user has recently logged in from this network. A session that was ended because it might not be the
    /// user's own does not count.
    pub fn is_known_client(&self, client: ClientMark) -> bool {
        self.known_clients().any(|known| known == client)
    }

    /// Whether the user has any known client.
    pub fn has_known_clients(&self) -> bool {
        self.known_clients().next().is_some()
    }

    fn known_clients(&self) -> impl Iterator<Item = ClientMark> {
        let live = self.sessions.iter().filter_map(|session| session.client);
        let ended = self.tombstones.iter().filter(|tombstone| {
            let fenced = self.fence.as_ref().is_some_and(|fence| fence.covers(tombstone.generation));
            let is_ordinary_end = matches!(
                tombstone.reason,
                Reason::Replaced
                    | Reason::Evicted
                    | Reason::LoggedOut
                    | Reason::IdleTimeout
                    | Reason::Expired
            );
            is_ordinary_end && !fenced
        });
        live.chain(ended.filter_map(|tombstone| tombstone.client))
    }
}
