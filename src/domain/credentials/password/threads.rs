//! The hashing threads.
//!
//! A hash takes as long as thousands of verdicts, so these threads run at a lower priority than all others of the
//! process. Login bursts then raise the latency of verdicts less. An idle core is still used fully.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The niceness of the hashing threads relative to the process: about a third of the share of an equal thread on a busy
/// core.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;
/// The highest niceness.
#[cfg(target_os = "linux")]
const MAX_NICE: i32 = 19;

/// A fixed number of threads, which end when this is dropped.
pub(super) struct Threads {
    jobs: mpsc::Sender<Job>,
}

/// The work panicked.
#[derive(Debug)]
pub(super) struct HashPanicked;

impl Threads {
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..count {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("hash-{number}")).spawn(move || {
                lower_priority();
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // A panic drops the sender of the result, which tells the waiting request.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Runs work on a free thread, in the order of the calls. Work is not begun if the returned future was dropped;
    /// once begun, it is finished.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, HashPanicked>> + Send + 'static {
        let (done, outcome) = oneshot::channel();
        let sent = self.jobs.send(Box::new(move || {
            if !done.is_closed() {
                // Fails if the future was dropped meanwhile.
                let _ = done.send(work());
            }
        }));
        async move {
            sent.map_err(|_| HashPanicked)?;
            outcome.await.map_err(|_| HashPanicked)
        }
    }
}

/// Lowers the priority of this thread. Only Linux has a priority for each thread.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    // Relative to the current niceness, because the server may have been started with `nice`.
    if let Err(error) = rustix::process::getpriority_process(None)
        .and_then(|own| rustix::process::setpriority_process(None, (own + NICE).min(MAX_NICE)))
    {
        tracing::warn!(error.message = %error, "failed to lower the priority of a hashing thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_reported_and_ends_no_thread() {
        let threads = Threads::start(1).unwrap();
        assert!(threads.run(|| panic!("expected in this test")).await.is_err());
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn begun_work_is_finished_and_abandoned_work_is_not_begun() {
        let threads = Threads::start(1).unwrap();
        let (notify, begun) = oneshot::channel();
        let (go, goes) = mpsc::channel();
        let (done, finished) = oneshot::channel();
        let first = threads.run(move || {
            notify.send(()).unwrap();
            goes.recv().unwrap();
            done.send(()).unwrap();
        });
        begun.await.unwrap();
        drop((first, threads.run(|| panic!("this must not be begun"))));
        let last = threads.run(|| 7);
        go.send(()).unwrap();
        finished.await.unwrap();
        assert_eq!(last.await.unwrap(), 7);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn hashing_threads_have_a_lower_priority() {
        let of_this_thread = || rustix::process::getpriority_process(None).unwrap();
        let threads = Threads::start(1).unwrap();
        let niceness = threads.run(of_this_thread).await.unwrap();
        assert_eq!(niceness, (of_this_thread() + NICE).min(MAX_NICE));
    }
}
