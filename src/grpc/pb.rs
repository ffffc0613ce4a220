//! The generated services of `proto/`, and the messages of `latchkey-client` that they use.

#![expect(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated"
)]

pub use latchkey_client::proto::*;

tonic::include_proto!("latchkey.v1");

/// The descriptor set of `proto/`, with everything it imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/latchkey.bin"));

/// The descriptor set without Envoy's messages and with those of error details, as `latchkey descriptor` prints it:
/// its options say how the methods are called with JSON over HTTP (`google.api.http`).
pub const PUBLISHED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/latchkey.binpb"));
