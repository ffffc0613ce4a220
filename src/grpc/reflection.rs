//! gRPC server reflection, in both versions: the Python library, ghz, Postman and older grpcurl ask for `v1alpha` only.

use tonic::service::RoutesBuilder;
use tonic_reflection::{
    pb::{v1, v1alpha},
    server::{Builder, Error},
};

use super::{COMPRESSION, MAX_REQUEST, pb};

/// Adds both services, which describe the same files.
pub(super) fn add_to(services: &mut RoutesBuilder) -> Result<(), String> {
    let cannot_serve = |error: Error| format!("failed to build the reflection service: {error}");
    let v1 = files().build_v1().map_err(cannot_serve)?;
    let v1alpha = files().build_v1alpha().map_err(cannot_serve)?;
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
        // So that grpcurl can show the details of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET)
}
