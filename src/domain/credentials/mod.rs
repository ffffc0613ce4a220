//! Credentials: passwords, and the tokens and signing keys that prove who a session belongs to.

pub mod guessable;
pub mod keyring;
pub mod password;
pub mod rotation;
pub mod token;
