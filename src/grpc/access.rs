//! Who may call what: by full method path, default deny.

use aws_lc_rs::{constant_time, digest};
use http::HeaderMap;
use tonic::Status;

use super::status;

/// The metadata in which a caller sends its key.
pub const KEY_HEADER: &str = "x-latchkey-key";

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Everybody who can reach the port.
    Open,
    /// Services that ask for verdicts: everybody, too, until they have keys of their own.
    Validator,
    /// Callers with the role `admin`.
    Admin,
}

/// The rule of a method; what has none is not served.
pub fn rule(path: &str) -> Option<Rule> {
    Some(match path {
        "/latchkey.v1.AuthService/Login"
        | "/latchkey.v1.AuthService/Logout"
        | "/latchkey.v1.AuthService/ChangePassword"
        | "/latchkey.v1.AuthService/GetJwks"
        | "/grpc.health.v1.Health/Check"
        | "/grpc.health.v1.Health/Watch"
        | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => Rule::Open,
        "/latchkey.v1.AuthService/Validate" => Rule::Validator,
        "/latchkey.v1.AccountService/CreateAccount"
        | "/latchkey.v1.AccountService/GetAccount"
        | "/latchkey.v1.AccountService/ListAccounts"
        | "/latchkey.v1.AccountService/UpdateAccount"
        | "/latchkey.v1.AccountService/SetPassword"
        | "/latchkey.v1.AccountService/UnlockAccount"
        | "/latchkey.v1.AccountService/DeleteAccount"
        | "/latchkey.v1.AccountService/ImportAccounts" => Rule::Admin,
        _ => return None,
    })
}

/// Whether the answer of a method is a stream, which may stay open for long.
pub(super) fn is_streaming(path: &str) -> bool {
    matches!(
        path,
        "/grpc.health.v1.Health/Watch" | "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    )
}

/// Knows the callers.
#[derive(Clone)]
pub struct Access {
    /// Keys are kept as hashes: random as they are, a plain hash is enough.
    admin: [u8; 32],
}

impl Access {
    /// Access with one key, of the role `admin`.
    pub fn new(admin_key: &[u8]) -> Self {
        Self { admin: fingerprint(admin_key.trim_ascii()) }
    }

    /// Whether a caller with these headers may call the method at `path`.
    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Status> {
        match rule(path) {
            None => Err(Status::unimplemented("there is no such method")),
            Some(Rule::Open | Rule::Validator) => Ok(()),
            Some(Rule::Admin) => self.check_admin(headers),
        }
    }

    fn check_admin(&self, headers: &HeaderMap) -> Result<(), Status> {
        let mut keys = headers.get_all(KEY_HEADER).iter();
        match (keys.next(), keys.next()) {
            (Some(key), None) if self.is_admin(key.as_bytes()) => Ok(()),
            (Some(_), _) => {
                Err(status::caller_unauthenticated("the caller key in `x-latchkey-key` is not known"))
            }
            (None, _) => Err(status::caller_unauthenticated(
                "this method needs a caller key: send the contents of the admin key file in the metadata `x-latchkey-key`",
            )),
        }
    }

    fn is_admin(&self, key: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&fingerprint(key), &self.admin).is_ok()
    }
}

fn fingerprint(key: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
    bytes
}

#[cfg(test)]
mod tests;
