//! Limits the effect of errors: a panic ends one request or one run of a task, background tasks are restarted, and an outage
//! does not flood the log.
//!
//! The requests of a connection share its task, so panics are caught at the request ([`panics`]): the dispatcher answers INTERNAL
//! under the request's id, and the body of a stream ends with it. Background tasks run under a [`supervisor`], which restarts one
//! that panics, with a backoff. While a task is down that requests need (the connection to Redis, the writer of the embedded
//! store, the reader of the event log, health itself), the server is NOT_SERVING. A task that serves a port cannot be restarted,
//! because its socket goes with it; then the server stops with exit code 3.

pub mod log_limiter;
pub mod panics;
pub mod supervisor;
