//! Encodes the values that health probes write.

use bytes::Bytes;
use prost::Message;

use super::{CodecError, pack, unpack};
use crate::domain::{health::ProbeMark, types::Timestamp};

#[derive(Message)]
struct ProbeWire {
    #[prost(uint64, tag = "1")]
    written_micros: u64,
}

/// Encodes the value of a probe.
pub fn encode_probe(mark: &ProbeMark) -> Bytes {
    pack(&ProbeWire { written_micros: mark.written_at.as_micros() })
}

/// Decodes the value of a probe.
pub fn decode_probe(bytes: &[u8]) -> Result<ProbeMark, CodecError> {
    let wire: ProbeWire = unpack(bytes)?;
    Ok(ProbeMark { written_at: Timestamp::from_micros(wire.written_micros) })
}
