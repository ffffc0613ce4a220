//! The numbers of an RSA key, which the library does not look at.

use super::material::{element, elements};

/// The shortest modulus, in bits (RFC 7518 section 3.3).
const MIN_BITS: usize = 2048;
/// The longest that the library verifies with, in bits.
const MAX_BITS: usize = 8192;
/// The smallest public exponent (FIPS 186-5 section 5.4).
const MIN_EXPONENT: u64 = 65_537;

/// What is wrong with an RSA private key in DER, PKCS#1 or PKCS#8, if anything is.
pub(super) fn weakness(der: &[u8]) -> Option<String> {
    let (modulus, exponent) = public_numbers(der)?;
    let bits = bits(modulus);
    if !(MIN_BITS..=MAX_BITS).contains(&bits) {
        return Some(format!("holds an RSA key of {bits} bits; it takes {MIN_BITS} to {MAX_BITS}"));
    }
    let value =
        exponent.iter().try_fold(0_u64, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)));
    match value {
        Some(value) if value < MIN_EXPONENT => Some(format!(
            "holds an RSA key with the public exponent {value}; it takes at least {MIN_EXPONENT}"
        )),
        _ => None,
    }
}

/// Modulus and public exponent, without leading zeros.
fn public_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, body, _) = element(der)?;
    let parts = elements(body)?;
    match parts.as_slice() {
        // PKCS#8 has PKCS#1 in it.
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
