//! Bearer tokens as RFC 6750 has them: where a request's token is found, and how a request is turned away over HTTP.
//!
//! The gateways (`gateway`) and the Rust client (`client`) both stand on it, so that a service behind Envoy and one
//! with a guard of its own answer the same. It names nothing else of this crate.

mod credentials;
mod denial;

pub use self::{
    credentials::{Candidates, Credentials, bearer},
    denial::{
        Denial, Kind, MALFORMED, NO_TOKEN, ROLE_REQUIRED, SLOT_REQUIRED, TOKEN_REQUIRED, needs_role,
        needs_slot,
    },
};
