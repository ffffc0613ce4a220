//! Pure values and state machines. Time is a parameter, and nothing here waits or does I/O.

pub mod lease;
pub mod origin;
pub mod rejection;
pub mod sessions;
pub mod throttle;
pub mod types;
pub mod username;
