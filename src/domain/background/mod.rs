//! What the rules do beside answering requests.

mod debts;
pub mod session_events;
pub mod webhook;
pub mod write_behind;
