//! The generated services of `proto/`, and the generated messages of `latchkey-client`.

#![expect(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated"
)]

pub use latchkey_client::proto::*;

tonic::include_proto!("latchkey.v1");

/// The descriptor set of `proto/` with all imports.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/latchkey.bin"));

/// The descriptor set that `latchkey descriptor` prints: with error details and without the messages of Envoy. Its
/// options define the JSON mapping of the methods (`google.api.http`).
pub const PUBLISHED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/latchkey.binpb"));
