//! gRPC server reflection in both versions. The Python library, ghz, Postman and older grpcurl use `v1alpha` only.

use tonic::service::RoutesBuilder;
use tonic_reflection::{
    pb::{v1, v1alpha},
    server::{Builder, Error},
};

use super::{
    codec::{COMPRESSION, MAX_REQUEST},
    pb,
};

pub(super) fn add_to(services: &mut RoutesBuilder) -> Result<(), String> {
    let failed = |error: Error| format!("failed to build the reflection service: {error}");
    let v1 = files().build_v1().map_err(failed)?;
    let v1alpha = files().build_v1alpha().map_err(failed)?;
    services
        .add_service(v1.max_decoding_message_size(MAX_REQUEST).accept_compressed(COMPRESSION))
        .add_service(v1alpha.max_decoding_message_size(MAX_REQUEST).accept_compressed(COMPRESSION));
    Ok(())
}

fn files() -> Builder<'static> {
    Builder::configure()
        .include_reflection_service(false)
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Lets grpcurl decode error details.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET)
}
