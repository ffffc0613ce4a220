//! Waits for replicas: `WAIT` blocks its connection until replicas have acknowledged everything that was written over
//! it before. So commits that were answered while one `WAIT` was under way share the next.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::SetOnce, task::yield_now};

use crate::domain::ports::StoreError;

type Confirmed = Result<u32, StoreError>;

/// The `WAIT` of one connection that has not been sent yet.
#[derive(Clone, Default)]
pub(super) struct SharedWait(Arc<Mutex<Option<Arc<SetOnce<Confirmed>>>>>);

impl SharedWait {
    /// Returns the number of replicas that have everything that was answered before the call. `send` sends `WAIT`; it
    /// is called by the first of the callers that share it.
    pub(super) async fn join<F>(&self, send: impl FnOnce() -> F) -> Confirmed
    where
        F: Future<Output = Confirmed> + Send + 'static,
    {
        let (confirmed, is_first) = {
            let mut next = self.lock();
            let is_first = next.is_none();
            (Arc::clone(next.get_or_insert_with(Arc::default)), is_first)
        };
        if is_first {
            let sending = send();
            let this = self.clone();
            // A task of its own, so that a caller that hangs up does not cancel the wait of the others.
            tokio::spawn(async move {
                // Lets all commits join that have been answered.
                yield_now().await;
                let Some(confirmed) = this.lock().take() else { return };
                let _ = confirmed.set(sending.await);
            });
        }
        confirmed.wait().await.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<SetOnce<Confirmed>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
