//! Encodes throttles.

use bytes::Bytes;
use prost::Message;

use super::{CodecError, pack, unpack};
use crate::domain::{
    throttle::{Attempt, Throttle},
    types::Timestamp,
};

#[derive(Message)]
struct ThrottleWire {
    #[prost(uint32, tag = "1")]
    failures: u32,
    #[prost(uint64, tag = "2")]
    since_micros: u64,
    #[prost(message, repeated, tag = "3")]
    attempts: Vec<AttemptWire>,
    #[prost(uint64, tag = "4")]
    changed_micros: u64,
}

#[derive(Message)]
struct AttemptWire {
    #[prost(fixed64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    until_micros: u64,
}

/// Encodes a throttle.
pub fn encode_throttle(state: &Throttle) -> Bytes {
    let attempt = |attempt: &Attempt| AttemptWire { id: attempt.id, until_micros: attempt.until.as_micros() };
    pack(&ThrottleWire {
        failures: state.failures,
        since_micros: state.since.as_micros(),
        attempts: state.attempts.iter().map(attempt).collect(),
        changed_micros: state.changed_at.as_micros(),
    })
}

/// Decodes a throttle.
pub fn decode_throttle(bytes: &[u8]) -> Result<Throttle, CodecError> {
    let wire: ThrottleWire = unpack(bytes)?;
    let attempt =
        |wire: &AttemptWire| Attempt { id: wire.id, until: Timestamp::from_micros(wire.until_micros) };
    Ok(Throttle {
        failures: wire.failures,
        since: Timestamp::from_micros(wire.since_micros),
        attempts: wire.attempts.iter().map(attempt).collect(),
        changed_at: Timestamp::from_micros(wire.changed_micros),
    })
}
