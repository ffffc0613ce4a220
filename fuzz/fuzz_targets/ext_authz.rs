//! See `latchkey_fuzz::ext_authz`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| latchkey_fuzz::ext_authz::run(data));

#[cfg(not(fuzzing))]
fn main() {
    latchkey_fuzz::explain();
}
