//! Bearer tokens in HTTP requests ([RFC 6750]): how a token is found, and how a request is denied.
//!
//! The gateways of Latchkey and the [`Guard`](crate::Guard) share this code, so that they answer alike. Use it for a
//! server that neither covers.
//!
//! ```
//! use latchkey_client::bearer::{Credentials, Denial, Kind, NO_TOKEN, TOKEN_REQUIRED};
//!
//! let authorization: [&[u8]; 1] = [b"Bearer eyJ0eXAi"];
//! let cookies = None::<(&str, [&[u8]; 0])>;
//! assert_eq!(Credentials::find(authorization, cookies), Credentials::Token("eyJ0eXAi"));
//!
//! let denial = Denial {
//!     kind: Kind::NoToken,
//!     reason: TOKEN_REQUIRED,
//!     message: NO_TOKEN,
//!     terminal: false,
//!     at: None,
//!     by_device: None,
//! };
//! assert!(!denial.is_forbidden(), "the status is 401");
//! assert_eq!(denial.challenge().as_deref(), Some(r#"Bearer realm="latchkey""#));
//! ```
//!
//! [RFC 6750]: https://www.rfc-editor.org/rfc/rfc6750

mod credentials;
mod denial;

pub use self::{
    credentials::{Candidates, Credentials, bearer},
    denial::{
        Denial, Kind, MALFORMED, NO_TOKEN, ROLE_REQUIRED, SLOT_REQUIRED, TOKEN_REQUIRED, needs_role,
        needs_slot,
    },
};
