//! See `latchkey_fuzz::validate`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| latchkey_fuzz::validate::run(data));

#[cfg(not(fuzzing))]
fn main() {
    latchkey_fuzz::explain();
}
