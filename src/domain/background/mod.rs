//! What the rules do beside answering requests.

pub mod session_events;
pub mod webhook;
pub mod write_behind;
