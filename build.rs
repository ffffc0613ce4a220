//! Compiles `proto/` with a pure Rust compiler (no protoc to install).
//!
//! It emits the code of the server, which uses the messages of `latchkey-client`; the descriptor sets; and that
//! crate's own code, which is committed there so that users of the client need no compiler of the protocol.
//! `tests/suite/generated.rs` compares the two, and `make generate` renews what is committed.
//!
//! It also finds the commit and its date, for `latchkey --version` and `latchkey_build_info`.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

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
    version()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR: run this through cargo")?);

    // Encoded by the compiler: the types of the library would drop the options of `google.api.http`.
    let descriptors = Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOCOL)?
        .open_file("envoy/service/auth/v3/external_auth.proto")?
        .encode_file_descriptor_set();
    // What `latchkey descriptor` prints, for gateways that make JSON of the messages and of the details of errors.
    let published = Compiler::new(["proto"])?
        .include_imports(true)
        .open_files(PROTOCOL)?
        .open_file("google/rpc/error_details.proto")?
        .encode_file_descriptor_set();
    fs::write(out.join("latchkey.bin"), descriptors)?;
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

/// Sets `BUILD_VERSION`, such as `0.1.0 (7fe8c0d63b29 2026-11-29)`, and `BUILD_COMMIT`, which is `unknown` where
/// there is none.
///
/// Builds without git, such as those of an archive or an image, get the commit from the variable `BUILD_COMMIT`, and its
/// date from `BUILD_COMMIT_SECONDS` or `SOURCE_DATE_EPOCH`, of which the latter makes Cargo compile some C libraries
/// again. The date is never that of the build, so that the same sources make the same program. A debug build does not look
/// at git, because it would compile the whole crate again after every commit.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script the version and the profile in variables"
)]
fn version() -> Result<(), Box<dyn Error>> {
    let version = env::var("CARGO_PKG_VERSION")?;
    let debug = env::var("PROFILE")? == "debug";
    let (git_commit, git_seconds) = if debug { None } else { git_commit() }.unzip();
    let commit = variable("BUILD_COMMIT").map(|commit| commit.chars().take(12).collect()).or(git_commit);
    if let Some(commit) = &commit
        && !commit.chars().all(|c| c.is_ascii_alphanumeric())
    {
        return Err(format!("BUILD_COMMIT must be the hash of a commit, and is {commit:?}").into());
    }
    let date =
        match variable("BUILD_COMMIT_SECONDS").or_else(|| variable("SOURCE_DATE_EPOCH")).or(git_seconds) {
            Some(seconds) => {
                let Ok(seconds) = seconds.parse() else {
                    return Err(format!(
                    "BUILD_COMMIT_SECONDS or SOURCE_DATE_EPOCH must be seconds since 1970, and is {seconds:?}"
                )
                .into());
                };
                let time =
                    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
                time.split('T').next().map(str::to_owned)
            }
            None => None,
        };
    let details: Vec<_> =
        [commit.clone(), date, debug.then(|| "debug build".into())].into_iter().flatten().collect();
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(" ")) };
    println!("cargo:rustc-env=BUILD_VERSION={version}{details}");
    println!("cargo:rustc-env=BUILD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "builds without git get the commit from the environment")]
fn variable(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the commit of the work tree and its time in seconds since 1970. A folder without `.git` of its own has none,
/// even if it is in the work tree of another project.
fn git_commit() -> Option<(String, String)> {
    if !Path::new(".git").exists() {
        return None;
    }
    // In a linked work tree `.git` is a file, and the branch is in the directory of the main one.
    let head = PathBuf::from(git(&["rev-parse", "--git-path", "HEAD"])?);
    println!("cargo:rerun-if-changed={}", head.display());
    if let Some(branch) = git(&["symbolic-ref", "--quiet", "HEAD"]) {
        for file in [branch.as_str(), "packed-refs"] {
            let file = PathBuf::from(git(&["rev-parse", "--git-path", file])?);
            // A file that is missing would count as changed in every build.
            if file.exists() {
                println!("cargo:rerun-if-changed={}", file.display());
                break;
            }
        }
    }
    let commit = git(&["log", "--max-count=1", "--format=%H %ct"])?;
    let (hash, seconds) = commit.split_once(' ')?;
    Some((hash.chars().take(12).collect(), seconds.to_owned()))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
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
