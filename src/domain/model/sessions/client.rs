//! The clients of a user, told apart as far as can be.

use std::{net::IpAddr, num::NonZeroU64};

use aws_lc_rs::digest;

use super::UserSessions;
use crate::domain::{
    origin::customer,
    rejection::Reason,
    types::{Device, UserId},
};

/// From which network a user has logged in: a hash, another one for each user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientMark(pub NonZeroU64);

impl ClientMark {
    /// The mark of a user's clients at this address, or for IPv6 in its /64.
    pub fn of(user_id: &UserId, address: IpAddr) -> Self {
        let text = format!("{user_id} {}", customer(address));
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_ref()[..8]);
        Self(NonZeroU64::new(u64::from_be_bytes(first)).unwrap_or(NonZeroU64::MIN))
    }
}

/// What tells two clients apart where they log each other out: the network and what the client calls itself.
pub(super) type Client<'a> = (Option<ClientMark>, &'a Device);

impl UserSessions {
    /// Whether the user has logged in from there of late, and nobody has ended that on the grounds that it was not
    /// the user.
    pub fn knows(&self, client: ClientMark) -> bool {
        self.clients().any(|known| known == client)
    }

    /// Whether there is any client that is known.
    pub fn knows_any(&self) -> bool {
        self.clients().next().is_some()
    }

    fn clients(&self) -> impl Iterator<Item = ClientMark> {
        let live = self.sessions.iter().filter_map(|session| session.client);
        let ended = self.tombstones.iter().filter(|grave| {
            let fenced = self.fence.as_ref().is_some_and(|fence| fence.covers(grave.generation));
            let by_itself = matches!(
                grave.reason,
                Reason::Replaced
                    | Reason::Evicted
                    | Reason::LoggedOut
                    | Reason::IdleTimeout
                    | Reason::Expired
            );
            by_itself && !fenced
        });
        live.chain(ended.filter_map(|grave| grave.client))
    }
}
