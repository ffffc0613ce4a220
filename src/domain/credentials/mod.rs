//! What proves who somebody is: passwords, and the tokens that sessions are presented by.

pub mod guessable;
pub mod keyring;
pub mod password;
pub mod rotation;
pub mod token;
