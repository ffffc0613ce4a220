//! The requests of a connection, run by the task of the connection.
//!
//! In a task of its own each request would be woken, run, and wake the connection by itself, which then writes one
//! answer to the socket and sleeps: a system call an answer, and most of the time goes there. Here the requests
//! that have come together are all polled before the connection is, and their answers leave together.
//!
//! So the requests of one connection share a core, as the bytes that they travel in do anyway. Nothing that takes
//! long may happen in one of them: hashing has threads of its own, and the stores have tasks. A panic in one is
//! caught, so that it does not end the connection and all others on it.

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

/// Where a connection leaves the requests that have begun.
#[derive(Clone, Default)]
pub(crate) struct SpawnQueue(Arc<Mutex<Vec<Request>>>);

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

/// A connection, and its requests.
pub(crate) struct InlineExecutor<C> {
    connection: Pin<Box<C>>,
    begun: SpawnQueue,
    running: FuturesUnordered<Request>,
    /// How it is accounted for, and how many requests were open after the last turn.
    account: Arc<Connection>,
    open: usize,
    counted: Permit<Arc<Connection>>,
}

impl<C> InlineExecutor<C> {
    /// A connection that leaves its requests in `begun`.
    pub(crate) fn new(connection: C, begun: SpawnQueue, account: &Arc<Connection>) -> Self {
        Self {
            connection: Box::pin(connection),
            begun,
            running: FuturesUnordered::new(),
            account: Arc::clone(account),
            open: 0,
            counted: Permit::empty(Arc::clone(account), Resource::Exchanges),
        }
    }

    pub(crate) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    /// Accounts for the requests that are open after a turn: most were answered in it, and cost nothing here. Those
    /// that exceed a limit are dropped, the newest first, which resets their streams.
    fn account(&mut self, has_begun: bool, cx: &Context<'_>) {
        let open = self.running.len();
        if has_begun {
            self.account.note_requests(open);
        } else if open != self.open {
            self.account.note_open(open);
        }
        self.open = open;
        if self.counted.set(open).is_err() {
            let excess = open - self.counted.amount();
            // It holds the newest first.
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
        this.running.extend(this.begun.lock().drain(..));
        let has_begun = this.running.len() > before;
        // An answer wakes the connection, so there is another turn.
        loop {
            match panics::catch(|| this.running.poll_next_unpin(cx)) {
                Ok(Poll::Ready(Some(()))) => {}
                Ok(_) => break,
                // Not in the service, which catches its own: in what reads and writes for it. The stream is reset, and
                // the set has let go of the request.
                Err(panic) => tracing::error!(error.message = %panic, "a request panicked and was reset"),
            }
        }
        this.account(has_begun, cx);
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
    async fn one_that_panics_while_it_is_read_or_written_ends_no_other() {
        let begun = SpawnQueue::default();
        let (done, answered) = oneshot::channel();
        begun.execute(async { panic!("this is meant to happen") });
        begun.execute(async move { done.send(()).unwrap() });
        let account = Admission::new(&[], Vec::new()).connection([127, 0, 0, 1].into());
        let mut serving = InlineExecutor::new(pending::<()>(), begun, &account);
        poll_fn(|cx| {
            assert!(Pin::new(&mut serving).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        answered.await.unwrap();
        assert!(serving.running.is_empty());
    }
}
