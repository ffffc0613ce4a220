//! Handled calls of the gRPC port, by method and code.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{BUCKETS, Histogram, Snapshot, ThreadCounters, bucket_of, histogram::nanos};

/// The names of the status codes of gRPC, by number, as in the metrics of other gRPC servers.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

const CANCELED: usize = 1;
const UNKNOWN: usize = 2;
const INTERNAL: usize = 13;

/// Codes with which the server could not answer, or did not in time.
const SERVER_ERRORS: [usize; 6] = [UNKNOWN, 4, 8, INTERNAL, 14, 15];

/// The label of a service or method that the server does not have.
const OTHER: &str = "unknown";

/// Whether the server could not answer a call with this code, or not in time.
pub fn is_server_error(code: i32) -> bool {
    usize::try_from(code).is_ok_and(|code| SERVER_ERRORS.contains(&code))
}

/// Counts handled calls.
pub struct RpcMetrics {
    /// The last one is for calls of methods that the server does not have.
    methods: Vec<MethodMetrics>,
    indices: HashMap<&'static str, usize>,
    /// The method of the calls in `at_once`.
    hot: usize,
    /// The calls that were answered at once with OK: one counter for each bucket, and the sum of their durations.
    at_once: ThreadCounters<{ BUCKETS + 1 }>,
}

/// The calls of a method.
#[derive(Debug)]
pub struct MethodMetrics {
    /// The full name of the service.
    pub service: &'static str,
    /// The name of the method.
    pub method: &'static str,
    handled: [AtomicU64; CODES.len()],
    seconds: Histogram,
}

impl RpcMetrics {
    /// Creates the counters of methods by their paths. Calls that are answered at once are of the method `hot`.
    pub fn new(paths: &[&'static str], hot: &'static str) -> Self {
        let indices: HashMap<_, _> = paths.iter().enumerate().map(|(index, path)| (*path, index)).collect();
        let named = paths.iter().filter_map(|path| path.strip_prefix('/')?.split_once('/'));
        let methods = named.chain([(OTHER, OTHER)]).map(|(service, method)| MethodMetrics {
            service,
            method,
            handled: Default::default(),
            seconds: Histogram::default(),
        });
        let methods: Vec<_> = methods.collect();
        let hot = indices.get(hot).copied().unwrap_or(methods.len() - 1);
        Self { methods, hot, indices, at_once: ThreadCounters::default() }
    }

    /// Begins to measure a call of the method with this path.
    pub fn begin(self: &Arc<Self>, path: &str) -> CallMeter {
        self.begin_method(self.index(path))
    }

    /// Begins to measure a call of the hot method, without looking for its path.
    pub fn begin_hot(self: &Arc<Self>) -> CallMeter {
        self.begin_method(self.hot)
    }

    fn begin_method(self: &Arc<Self>, method: usize) -> CallMeter {
        CallMeter { metrics: Arc::clone(self), method, started: Instant::now(), is_handled: false }
    }

    /// Counts a call that was answered before it was measured.
    pub fn count(&self, path: &str, code: i32) {
        self.handled(self.index(path), index_of(code), Duration::ZERO);
    }

    /// Counts calls that were answered at once with OK.
    pub fn answered_at_once(&self, calls: u64, took: Duration) {
        self.at_once.add(bucket_of(took), calls);
        self.at_once.add(BUCKETS, nanos(took).wrapping_mul(calls));
    }

    /// Counts a call that panicked while it was answered at once.
    pub fn panicked_at_once(&self) {
        self.handled(self.hot, INTERNAL, Duration::ZERO);
    }

    fn index(&self, path: &str) -> usize {
        self.indices.get(path).copied().unwrap_or(self.methods.len() - 1)
    }

    fn handled(&self, method: usize, code: usize, took: Duration) {
        let method = &self.methods[method];
        method.handled[code].fetch_add(1, Ordering::Relaxed);
        method.seconds.observe(took);
    }

    /// All methods.
    pub fn methods(&self) -> &[MethodMetrics] {
        &self.methods
    }

    /// Returns the number of calls of a method for each code, in the order of [`CODES`].
    pub fn by_code(&self, method: &MethodMetrics) -> [u64; CODES.len()] {
        let mut counts = method.handled.each_ref().map(|count| count.load(Ordering::Relaxed));
        if self.is_hot(method) {
            counts[0] += self.at_once_snapshot().count();
        }
        counts
    }

    /// The durations of the calls of a method.
    pub fn seconds(&self, method: &MethodMetrics) -> Snapshot {
        let mut snapshot = method.seconds.snapshot();
        if self.is_hot(method) {
            let at_once = self.at_once_snapshot();
            snapshot.sum += at_once.sum;
            snapshot.buckets.iter_mut().zip(at_once.buckets).for_each(|(sum, count)| *sum += count);
        }
        snapshot
    }

    /// Returns the number of calls of a method that the server could not answer, or not in time.
    pub fn server_errors(&self, path: &str) -> u64 {
        let counts = self.by_code(&self.methods[self.index(path)]);
        SERVER_ERRORS.iter().map(|code| counts[*code]).sum()
    }

    fn is_hot(&self, method: &MethodMetrics) -> bool {
        std::ptr::eq(method, &raw const self.methods[self.hot])
    }

    fn at_once_snapshot(&self) -> Snapshot {
        Snapshot {
            buckets: std::array::from_fn(|index| self.at_once.get(index)),
            sum: self.at_once.get(BUCKETS),
        }
    }
}

impl fmt::Debug for RpcMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcMetrics").finish_non_exhaustive()
    }
}

/// Measures a call. A call whose meter is dropped before it was handled counts as canceled, or after a panic as failed.
#[derive(Debug)]
pub struct CallMeter {
    metrics: Arc<RpcMetrics>,
    method: usize,
    started: Instant,
    is_handled: bool,
}

impl CallMeter {
    /// Counts the call with this code.
    pub fn handled(mut self, code: i32) {
        self.count(index_of(code));
    }

    fn count(&mut self, code: usize) {
        self.is_handled = true;
        self.metrics.handled(self.method, code, self.started.elapsed());
    }
}

impl Drop for CallMeter {
    fn drop(&mut self) {
        if !self.is_handled {
            self.count(if thread::panicking() { INTERNAL } else { CANCELED });
        }
    }
}

/// The index of a code; that of UNKNOWN if gRPC does not have it.
fn index_of(code: i32) -> usize {
    usize::try_from(code).ok().filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_once_whatever_happens_to_it() {
        let metrics = Arc::new(RpcMetrics::new(&["/a.B/C", "/a.B/Hot"], "/a.B/Hot"));
        metrics.begin("/a.B/C").handled(0);
        metrics.begin("/a.B/C").handled(99);
        drop(metrics.begin("/a.B/C"));
        metrics.begin("/a.B/Other").handled(12);
        metrics.answered_at_once(3, Duration::from_micros(7));
        metrics.begin("/a.B/Hot").handled(14);
        metrics.begin_hot().handled(0);
        let found: Vec<_> = metrics
            .methods()
            .iter()
            .flat_map(|method| {
                let counts = metrics.by_code(method).into_iter().zip(CODES);
                let counts = counts.filter(|(count, _)| *count > 0);
                counts.map(|(count, code)| (method.service, method.method, code, count))
            })
            .collect();
        let expected = [
            ("a.B", "C", "OK", 1),
            ("a.B", "C", "Canceled", 1),
            ("a.B", "C", "Unknown", 1),
            ("a.B", "Hot", "OK", 4),
            ("a.B", "Hot", "Unavailable", 1),
            ("unknown", "unknown", "Unimplemented", 1),
        ];
        assert_eq!(found, expected);
        for method in metrics.methods() {
            assert_eq!(metrics.seconds(method).count(), metrics.by_code(method).iter().sum::<u64>());
        }
        assert_eq!((metrics.server_errors("/a.B/Hot"), metrics.server_errors("/a.B/C")), (1, 1));
    }
}
