//! Background tasks: session events, write-behind of uses, debts, the webhook.

mod debts;
pub mod session_events;
pub mod webhook;
pub mod write_behind;
