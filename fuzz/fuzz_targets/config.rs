//! See `latchkey_fuzz::config`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| latchkey_fuzz::config::run(data));

#[cfg(not(fuzzing))]
fn main() {
    latchkey_fuzz::explain();
}
