//! Checks of the numbers of an RSA key, which the library does not make.

use super::material::{element, elements};

/// The shortest modulus, in bits (RFC 7518 section 3.3).
const MIN_BITS: usize = 2048;
/// The longest modulus that the library supports, in bits.
const MAX_BITS: usize = 8192;
/// The smallest public exponent (FIPS 186-5 section 5.4).
const MIN_EXPONENT: u64 = 65_537;

/// Checks the size and the exponent of an RSA private key in DER (PKCS#1 or PKCS#8). Other keys pass.
pub(super) fn check_strength(der: &[u8]) -> Result<(), String> {
    let Some((modulus, exponent)) = public_numbers(der) else { return Ok(()) };
    let bits = bits(modulus);
    if !(MIN_BITS..=MAX_BITS).contains(&bits) {
        return Err(format!("holds an RSA key of {bits} bits; {MIN_BITS} to {MAX_BITS} bits are required"));
    }
    let value =
        exponent.iter().try_fold(0_u64, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)));
    match value {
        Some(value) if value < MIN_EXPONENT => Err(format!(
            "holds an RSA key with the public exponent {value}; at least {MIN_EXPONENT} is required"
        )),
        _ => Ok(()),
    }
}

/// The modulus and the public exponent, without leading zeros.
fn public_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, body, _) = element(der)?;
    let parts = elements(body)?;
    match parts.as_slice() {
        // PKCS#8 contains PKCS#1.
        [(0x02, _), (0x30, _), (0x04, inner), ..] => public_numbers(inner),
        [(0x02, _), (0x02, modulus), (0x02, exponent), ..] => Some((trim(modulus), trim(exponent))),
        _ => None,
    }
}

fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn bits(number: &[u8]) -> usize {
    let unused = number.first().map_or(0, |first| first.leading_zeros() as usize);
    number.len() * 8 - unused
}
