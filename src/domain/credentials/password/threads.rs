//! The threads that hash.
//!
//! A hash takes as long as thousands of verdicts. So these threads give way to all others of the process, and a storm of
//! logins is felt less by those who are logged in. Where a core is to spare they have it to themselves all the same.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// By how much they are nicer than the others: a third of the share of an equal, where all want more than there is.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;
/// Nobody is nicer than that.
#[cfg(target_os = "linux")]
const NICEST: i32 = 19;

/// They end with this.
pub(super) struct Threads {
    jobs: mpsc::Sender<Job>,
}

/// The work was given up, because it panicked.
#[derive(Debug)]
pub(super) struct Cancelled;

impl Threads {
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let (jobs, coming) = mpsc::channel::<Job>();
        let coming = Arc::new(Mutex::new(coming));
        for number in 0..count {
            let coming = Arc::clone(&coming);
            thread::Builder::new().name(format!("hash-{number}")).spawn(move || {
                give_way();
                loop {
                    let job = coming.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // Whoever waits for it hears of it: what was to be sent is dropped.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Has work done as soon as a thread is free, in the order of asking. What nobody waits for any more is not begun;
    /// what has begun is finished.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Cancelled>> + Send + 'static {
        let (done, outcome) = oneshot::channel();
        let sent = self.jobs.send(Box::new(move || {
            if !done.is_closed() {
                // Fails where nobody wants to know any more.
                let _ = done.send(work());
            }
        }));
        async move {
            sent.map_err(|_| Cancelled)?;
            outcome.await.map_err(|_| Cancelled)
        }
    }
}

/// On Linux this is a matter of the thread, elsewhere one of the whole process.
fn give_way() {
    #[cfg(target_os = "linux")]
    // From where it begins: a server that was itself started with `nice` is nice already.
    if let Err(error) = rustix::process::getpriority_process(None)
        .and_then(|own| rustix::process::setpriority_process(None, (own + NICE).min(NICEST)))
    {
        tracing::warn!(error.message = %error, "passwords are hashed at the priority of everything else");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_and_costs_no_thread() {
        let threads = Threads::start(1).unwrap();
        assert!(threads.run(|| panic!("this is meant to happen")).await.is_err());
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_has_begun_is_finished_and_what_nobody_waits_for_is_not_begun() {
        let threads = Threads::start(1).unwrap();
        let (tell, begun) = oneshot::channel();
        let (go, goes) = mpsc::channel();
        let (done, finished) = oneshot::channel();
        let first = threads.run(move || {
            tell.send(()).unwrap();
            goes.recv().unwrap();
            done.send(()).unwrap();
        });
        begun.await.unwrap();
        drop((first, threads.run(|| panic!("this is not to be begun"))));
        let last = threads.run(|| 7);
        go.send(()).unwrap();
        finished.await.unwrap();
        assert_eq!(last.await.unwrap(), 7);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn those_who_hash_give_way_to_all_others() {
        let of_this_thread = || rustix::process::getpriority_process(None).unwrap();
        let threads = Threads::start(1).unwrap();
        let theirs = threads.run(of_this_thread).await.unwrap();
        assert_eq!(theirs, (of_this_thread() + NICE).min(NICEST));
    }
}
