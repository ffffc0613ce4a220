//! Keeps a failure from spreading: panics end the request or the run of a task that they occur in and nothing else,
//! background tasks are restarted, and what fails at every request does not flood the log.

pub mod log_limiter;
pub mod panics;
pub mod supervisor;
