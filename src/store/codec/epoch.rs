//! Encodes the epoch.

use bytes::Bytes;
use prost::Message;

use super::{CodecError, EventWire, notice, notice_wire, pack, unpack};
use crate::domain::{sessions::Epoch, types::Timestamp};

#[derive(Message)]
pub(super) struct EpochWire {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint64, tag = "2")]
    since_micros: u64,
    #[prost(string, tag = "3")]
    notice: String,
}

/// Encodes an epoch.
pub fn encode_epoch(epoch: &Epoch) -> Bytes {
    pack(&wire(epoch))
}

/// Decodes an epoch.
pub fn decode_epoch(bytes: &[u8]) -> Result<Epoch, CodecError> {
    epoch(&unpack(bytes)?)
}

/// Encodes the event that an epoch has begun.
pub fn encode_epoch_event(epoch: &Epoch) -> Bytes {
    pack(&EventWire { epoch: Some(wire(epoch)), ..EventWire::default() })
}

fn wire(epoch: &Epoch) -> EpochWire {
    EpochWire {
        number: epoch.number,
        since_micros: epoch.since.as_micros(),
        notice: notice_wire(epoch.notice.as_ref()).to_owned(),
    }
}

pub(super) fn epoch(wire: &EpochWire) -> Result<Epoch, CodecError> {
    Ok(Epoch {
        number: wire.number,
        since: Timestamp::from_micros(wire.since_micros),
        notice: notice(&wire.notice)?,
    })
}
