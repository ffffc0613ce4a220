//! The rules as pure values and state machines: time is a parameter, and nothing here waits.

pub mod lease;
pub mod origin;
pub mod rejection;
pub mod sessions;
pub mod throttle;
pub mod types;
pub mod username;
