//! Compiles `proto/` with a pure Rust compiler (no protoc to install) and emits descriptor sets.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use protox::Compiler;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let ours = [
        "latchkey/v1/account.proto",
        "latchkey/v1/auth.proto",
        "latchkey/v1/caller.proto",
        "latchkey/v1/reason.proto",
        "latchkey/v1/session.proto",
    ];
    let descriptors = Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(ours)?
        .open_file("envoy/service/auth/v3/external_auth.proto")?
        .file_descriptor_set();
    // What `latchkey descriptor` prints: with the details that errors have, for whoever makes JSON of them.
    let published = Compiler::new(["proto"])?
        .include_imports(true)
        .open_files(ours)?
        .open_file("google/rpc/error_details.proto")?
        .encode_file_descriptor_set();

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR: run this through cargo")?);
    fs::write(out.join("latchkey.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("latchkey.binpb"), published)?;

    // What holds a password or a token gets a Debug that does not show it: see src/grpc/pb.rs
    // and src/grpc/envoy.rs.
    let secret = [
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
    tonic_prost_build::configure()
        .skip_debug(secret)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .codec_path("crate::grpc::codec::OurCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
