//! Encodes the delivery state of a webhook: the cursor and the lease.

use bytes::Bytes;
use prost::Message;

use super::{CodecError, pack, unpack};
use crate::domain::{
    lease::{Delivery, Lease},
    ports::Cursor,
    types::Timestamp,
};

#[derive(Message)]
struct DeliveryWire {
    #[prost(string, optional, tag = "1")]
    cursor: Option<String>,
    #[prost(message, optional, tag = "2")]
    lease: Option<LeaseWire>,
    #[prost(uint64, tag = "3")]
    changed_micros: u64,
}

#[derive(Message)]
struct LeaseWire {
    #[prost(fixed64, tag = "1")]
    holder: u64,
    #[prost(uint64, tag = "2")]
    until_micros: u64,
}

/// Encodes the delivery state of a webhook.
pub fn encode_delivery(state: &Delivery) -> Bytes {
    let lease = |lease: &Lease| LeaseWire { holder: lease.holder, until_micros: lease.until.as_micros() };
    pack(&DeliveryWire {
        cursor: state.cursor.as_ref().map(|cursor| cursor.0.clone()),
        lease: state.lease.as_ref().map(lease),
        changed_micros: state.changed_at.as_micros(),
    })
}

/// Decodes the delivery state of a webhook.
pub fn decode_delivery(bytes: &[u8]) -> Result<Delivery, CodecError> {
    let wire: DeliveryWire = unpack(bytes)?;
    let lease =
        |wire: LeaseWire| Lease { holder: wire.holder, until: Timestamp::from_micros(wire.until_micros) };
    Ok(Delivery {
        cursor: wire.cursor.map(Cursor),
        lease: wire.lease.map(lease),
        changed_at: Timestamp::from_micros(wire.changed_micros),
    })
}
