//! Compiles `proto/` with a pure Rust compiler (no protoc to install).
//!
//! It emits the code of the server, which uses the messages of `latchkey-client`; the descriptor sets; and that
//! crate's own code, which is committed there so that users of the client need no compiler of the protocol.
//! `tests/suite/generated.rs` compares the two, and `make generate` renews what is committed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use protox::Compiler;

const PROTOCOL: [&str; 5] = [
    "latchkey/v1/account.proto",
    "latchkey/v1/auth.proto",
    "latchkey/v1/caller.proto",
    "latchkey/v1/reason.proto",
    "latchkey/v1/session.proto",
];

/// Messages that hold a password, a token or a key. `crates/latchkey-client/src/proto.rs` and `src/grpc/envoy.rs`
/// give them a Debug that does not show it.
const SECRET: [&str; 13] = [
    "latchkey.v1.LoginRequest",
    "latchkey.v1.LoginResponse",
    "latchkey.v1.ValidateRequest",
    "latchkey.v1.LogoutRequest",
    "latchkey.v1.WatchSessionRequest",
    "latchkey.v1.IssueSessionResponse",
    "latchkey.v1.ChangePasswordRequest",
    "latchkey.v1.CreateAccountRequest",
    "latchkey.v1.SetPasswordRequest",
    "latchkey.v1.ImportedAccount",
    "latchkey.v1.CreateCallerResponse",
    "envoy.config.core.v3.HeaderValue",
    "envoy.service.auth.v3.AttributeContext.HttpRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR: run this through cargo")?);

    let descriptors = Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOCOL)?
        .open_file("envoy/service/auth/v3/external_auth.proto")?
        .file_descriptor_set();
    // What `latchkey descriptor` prints, for gateways that make JSON of the messages and of the details of errors.
    let published = Compiler::new(["proto"])?
        .include_imports(true)
        .open_files(PROTOCOL)?
        .open_file("google/rpc/error_details.proto")?
        .encode_file_descriptor_set();
    fs::write(out.join("latchkey.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("latchkey.binpb"), published)?;

    let protocol = Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOCOL)?
        .file_descriptor_set();
    let client = out.join("client");
    fs::create_dir_all(&client)?;
    tonic_prost_build::configure()
        .build_server(false)
        .skip_debug(SECRET)
        .out_dir(client)
        .compile_fds(protocol.clone())?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".latchkey.v1", "::latchkey_client::proto")
        .codec_path("crate::grpc::codec::MessageCodec")
        .compile_fds(routed(protocol))?;

    let envoy = Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_file("envoy/service/auth/v3/external_auth.proto")?
        .file_descriptor_set();
    tonic_prost_build::configure()
        .skip_debug(SECRET)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .codec_path("crate::grpc::codec::MessageCodec")
        .compile_fds(envoy)?;
    Ok(())
}

/// The protocol without the methods that `src/grpc/validate` serves by hand. Comments go, too: they are found by the
/// index of a method, which changes.
fn routed(mut protocol: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut protocol.file {
        file.source_code_info = None;
        for service in &mut file.service {
            service.method.retain(|method| !["Validate", "ValidateStream"].contains(&method.name()));
        }
    }
    protocol
}
