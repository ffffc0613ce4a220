//! The inline executor: runs the requests of a connection in the task of the connection.
//!
//! With one task per request, each response would wake the connection on its own and cost a system call, which takes
//! most of the time. Here all requests that have arrived together are polled before the connection, and their responses
//! are written together.
//!
//! So the requests of a connection share a core. None of them may block for long: hashing has its own threads, and
//! stores have their own tasks. A panic of a request is caught, so that it does not end the connection and its other
//! requests.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hyper::rt::Executor;

use crate::{
    admission::{Connection, Permit, Resource},
    isolation::panics,
};

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The queue of new requests between a connection and its executor.
#[derive(Clone, Default)]
pub struct SpawnQueue(Arc<Mutex<Vec<Request>>>);

impl SpawnQueue {
    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for SpawnQueue {
    fn execute(&self, request: F) {
        self.lock().push(Box::pin(request));
    }
}

/// A connection with its requests.
pub struct InlineExecutor<C> {
    connection: Pin<Box<C>>,
    new_requests: SpawnQueue,
    running: FuturesUnordered<Request>,
    usage: Arc<Connection>,
    /// Number of requests that were open after the previous poll.
    open: usize,
    permit: Permit<Arc<Connection>>,
}

impl<C> InlineExecutor<C> {
    /// Creates an executor for a connection that spawns its requests into `new_requests`.
    pub fn new(connection: C, new_requests: SpawnQueue, usage: &Arc<Connection>) -> Self {
        Self {
            connection: Box::pin(connection),
            new_requests,
            running: FuturesUnordered::new(),
            usage: Arc::clone(usage),
            open: 0,
            permit: Permit::empty(Arc::clone(usage), Resource::Exchanges),
        }
    }

    pub(crate) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    /// Counts the requests that are open after a poll. Most are answered within the poll and cost nothing here.
    /// Requests beyond the limit are dropped, the newest first, which resets their streams.
    fn count_open(&mut self, has_new: bool, cx: &Context<'_>) {
        let open = self.running.len();
        if has_new {
            self.usage.note_requests(open);
        } else if open != self.open {
            self.usage.note_open(open);
        }
        self.open = open;
        if self.permit.set(open).is_err() {
            let excess = open - self.permit.amount();
            // The set iterates from the newest to the oldest.
            let kept: Vec<_> = std::mem::take(&mut self.running).into_iter().skip(excess).collect();
            self.running.extend(kept.into_iter().rev());
            self.open = self.running.len();
            cx.waker().wake_by_ref();
        }
    }
}

impl<C: Future> Future for InlineExecutor<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(ended) = this.connection.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        let before = this.running.len();
        this.running.extend(this.new_requests.lock().drain(..));
        let has_new = this.running.len() > before;
        // A response wakes the connection, so this is polled again.
        loop {
            match panics::catch(|| this.running.poll_next_unpin(cx)) {
                Ok(Poll::Ready(Some(()))) => {}
                Ok(_) => break,
                // The service catches its own panics, so this one is in the library or in a body. The set has dropped
                // the request, which resets its stream.
                Err(panic) => tracing::error!(error.message = %panic, "a request panicked and was reset"),
            }
        }
        this.count_open(has_new, cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::sync::oneshot;

    use super::*;
    use crate::admission::Admission;

    #[tokio::test]
    async fn a_request_that_panics_outside_of_the_service_ends_no_other() {
        let begun = SpawnQueue::default();
        let (done, answered) = oneshot::channel();
        begun.execute(async { panic!("this is meant to happen") });
        begun.execute(async move { done.send(()).unwrap() });
        let usage = Admission::new(&[], Vec::new()).connection([127, 0, 0, 1].into());
        let mut serving = InlineExecutor::new(pending::<()>(), begun, &usage);
        poll_fn(|cx| {
            assert!(Pin::new(&mut serving).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        answered.await.unwrap();
        assert!(serving.running.is_empty());
    }
}
