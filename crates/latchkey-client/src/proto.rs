//! The messages and the generated clients of the protocol `latchkey.v1`.
//!
//! They serve calls that [`Client`](crate::Client) has no method for. `Debug` does not print passwords, tokens and
//! keys.

#![expect(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::doc_lazy_continuation,
    reason = "generated"
)]

use std::fmt;

include!("generated/latchkey.v1.rs");

/// The metadata key of the caller key.
pub const KEY_HEADER: &str = "x-latchkey-key";

/// The `domain` of every `google.rpc.ErrorInfo` that Latchkey and its guards send.
pub const ERROR_DOMAIN: &str = "latchkey";

/// Implements `Debug` with the fields after the semicolon redacted.
macro_rules! redacted {
    ($message:ident: $($shown:ident),*; $($secret:ident),+) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($secret), &format_args!("[redacted]")))+
                    .finish()
            }
        }
    };
}

redacted!(LoginRequest: username, slot, device, idempotency_key, takeover; password);
redacted!(LoginResponse: session, displaced; token);
redacted!(ValidateRequest: peek, max_staleness; token);
redacted!(LogoutRequest: scope; token);
redacted!(WatchSessionRequest: ; token);
redacted!(IssueSessionResponse: session, displaced; token);
redacted!(ChangePasswordRequest: ; token, current_password, new_password);
redacted!(CreateAccountRequest: username, roles; password);
redacted!(SetPasswordRequest: user_id; password);
redacted!(ImportedAccount: line, user_id, username, roles, disabled, disabled_until, created_at; password_hash);
redacted!(CreateCallerResponse: caller; key);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts_passwords_tokens_and_keys() {
        let secret = || "hunter2".to_owned();
        let outputs = [
            format!("{:?}", LoginRequest { password: secret(), ..Default::default() }),
            format!("{:?}", LoginResponse { token: secret(), ..Default::default() }),
            format!("{:?}", ValidateRequest { token: secret(), ..Default::default() }),
            format!("{:?}", LogoutRequest { token: secret(), ..Default::default() }),
            format!("{:?}", WatchSessionRequest { token: secret() }),
            format!("{:?}", IssueSessionResponse { token: secret(), ..Default::default() }),
            format!(
                "{:?}",
                ChangePasswordRequest { token: secret(), current_password: secret(), new_password: secret() }
            ),
            format!("{:?}", CreateAccountRequest { password: secret(), ..Default::default() }),
            format!("{:?}", SetPasswordRequest { password: secret(), ..Default::default() }),
            format!("{:?}", ImportedAccount { password_hash: secret(), ..Default::default() }),
            format!("{:?}", CreateCallerResponse { key: secret(), ..Default::default() }),
        ];
        for output in outputs {
            assert!(!output.contains("hunter2") && output.contains("[redacted]"), "{output}");
        }
    }
}
