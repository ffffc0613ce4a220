//! The committed generated code equals what `build.rs` generates from `proto/`.

#[test]
fn the_committed_client_code_is_generated_from_the_protocol() {
    let committed = include_str!("../../crates/latchkey-client/src/generated/latchkey.v1.rs");
    let generated = include_str!(concat!(env!("OUT_DIR"), "/client/latchkey.v1.rs"));
    assert!(committed == generated, "run `make generate` and commit what it changes");
}
