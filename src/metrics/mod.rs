//! Counters and histograms that any module may increment. `http/metrics.rs` exports them.
//!
//! All label values come from closed enumerations, and each is a field or an index: to count takes no look-up of a
//! label, no lock and no allocation. Everything exists from the start with the value 0, so that `rate()` sees the first
//! increment. What every Validate counts is kept for each thread ([`ThreadCounters`]), everything else in one atomic.

mod histogram;
pub mod rpc;
pub mod store;
mod thread_counters;

pub use self::{
    histogram::{BUCKETS, Histogram, Snapshot, bucket_of},
    thread_counters::ThreadCounters,
};
