//! Encodes client marks; 0 stands for an unknown client.

use std::num::NonZeroU64;

use crate::domain::sessions::ClientMark;

pub(super) fn client_wire(client: Option<ClientMark>) -> u64 {
    client.map_or(0, |client| client.0.get())
}

pub(super) fn client(wire: u64) -> Option<ClientMark> {
    NonZeroU64::new(wire).map(ClientMark)
}
