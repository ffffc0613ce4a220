//! Threads that run SQLite, each with a queue.
//!
//! SQLite blocks its thread while it waits for the disk, so it does not run on the threads of the runtime. Waking a
//! thread costs more than a read, so a thread takes all requests that have arrived at once.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::isolation::panics;

/// Handles a batch of requests. Requests that it leaves unanswered fail.
type Handler<R> = Arc<dyn Fn(&mut Vec<R>) + Send + Sync>;

/// A handle to a thread with a queue. The thread ends when the handle is dropped.
pub(super) struct Worker<R> {
    name: &'static str,
    queue: usize,
    max_batch: usize,
    handler: Handler<R>,
    requests: Mutex<mpsc::Sender<R>>,
}

/// A request that was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotQueued {
    Full,
    /// The thread does not exist and cannot be started.
    NoThread,
}

impl<R: Send + 'static> Worker<R> {
    /// `queue` is the most requests that wait, `max_batch` the most that are handled together.
    pub(super) fn new(
        name: &'static str,
        queue: usize,
        max_batch: usize,
        handler: impl Fn(&mut Vec<R>) + Send + Sync + 'static,
    ) -> Self {
        // Without a receiver: the first request starts the thread.
        let requests = Mutex::new(mpsc::channel(1).0);
        Self { name, queue, max_batch, handler: Arc::new(handler), requests }
    }

    /// Queues a request. Starts the thread if it does not run.
    pub(super) fn send(&self, request: R) -> Result<(), NotQueued> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let request = match requests.try_send(request) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => return Err(NotQueued::Full),
            Err(TrySendError::Closed(request)) => request,
        };
        *requests = self.start().map_err(|error| {
            tracing::error!(thread.name = self.name, error.message = %error, "failed to start a thread");
            NotQueued::NoThread
        })?;
        requests.try_send(request).map_err(|_| NotQueued::NoThread)
    }

    fn start(&self) -> io::Result<mpsc::Sender<R>> {
        let (requests, mut queue) = mpsc::channel(self.queue);
        let (name, max_batch, handler) = (self.name, self.max_batch, Arc::clone(&self.handler));
        thread::Builder::new().name(name.into()).spawn(move || {
            let mut batch = Vec::new();
            while queue.blocking_recv_many(&mut batch, max_batch) > 0 {
                if let Err(panic) = panics::catch(|| handler(&mut batch)) {
                    tracing::error!(thread.name = name, error.message = %panic, "a thread of the embedded store panicked");
                }
                batch.clear();
            }
        })?;
        Ok(requests)
    }
}
