//! The PHC string format, as far as password hashes use it:
//! <https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md>.

use data_encoding::BASE64_NOPAD;

use super::{HASH_LEN, MAX_SALT, number};

/// The part after the name: `[v=version$]parameters$salt$hash`.
pub(super) struct Phc<'a> {
    pub(super) version: Option<u64>,
    /// `key=number,key=number`; passlib writes something else.
    pub(super) params: &'a str,
    salt: &'a str,
    hash: &'a str,
}

impl<'a> Phc<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (version, text) = match text.strip_prefix("v=") {
            Some(rest) => {
                let (version, rest) = rest.split_once('$')?;
                (Some(number(version)?), rest)
            }
            None => (None, text),
        };
        let mut parts = text.split('$');
        let (params, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        parts.next().is_none().then_some(Self { version, params, salt, hash })
    }

    /// The values of the parameters, in any order. The `optional` ones may be missing, and no others may occur.
    pub(super) fn numbers<const N: usize, const M: usize>(
        &self,
        names: [&str; N],
        optional: [&str; M],
    ) -> Option<([u64; N], [Option<u64>; M])> {
        let mut values = [None; N];
        let mut others = [None; M];
        for pair in self.params.split(',') {
            let (name, value) = pair.split_once('=')?;
            let target = match names.iter().position(|known| *known == name) {
                Some(at) => &mut values[at],
                None => &mut others[optional.iter().position(|known| *known == name)?],
            };
            if target.replace(number(value)?).is_some() {
                return None;
            }
        }
        let mut all = [0; N];
        for (to, from) in all.iter_mut().zip(values) {
            *to = from?;
        }
        Some((all, others))
    }

    /// The salt and the hash in the Base64 of the format: standard alphabet, no padding.
    pub(super) fn salt_and_hash(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let decode = |text: &str| BASE64_NOPAD.decode(text.as_bytes()).ok();
        bounded(decode(self.salt)?, decode(self.hash)?)
    }

    /// The salt and the hash in the Base64 of passlib: `.` in place of `+`, no padding.
    pub(super) fn passlib_salt_and_hash(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let decode = |text: &str| {
            let is_passlib = !text.contains('+');
            is_passlib.then(|| BASE64_NOPAD.decode(text.replace('.', "+").as_bytes()).ok())?
        };
        bounded(decode(self.salt)?, decode(self.hash)?)
    }
}

/// The salt and the hash, if their lengths are within the limits.
pub(super) fn bounded(salt: Vec<u8>, hash: Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
    (salt.len() <= MAX_SALT && HASH_LEN.contains(&hash.len())).then_some((salt, hash))
}
