//! Restarts background tasks that panic.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::panics;

/// The delays of restarts.
#[derive(Debug, Clone, Copy)]
struct BackoffPolicy {
    /// The first backoff, which is doubled each time.
    first: Duration,
    max: Duration,
    /// A task that has run for this long after a restart is healthy again, and its backoff is reset.
    healthy_after: Duration,
}

const BACKOFF: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(100),
    max: Duration::from_secs(10),
    healthy_after: Duration::from_secs(2),
};

static RESTARTS: AtomicU64 = AtomicU64::new(0);

/// The number of restarts of background tasks since the start of the process.
pub fn restarts() -> u64 {
    RESTARTS.load(Ordering::Relaxed)
}

/// The health of the tasks that requests need. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct TaskHealth(Arc<AtomicUsize>);

impl TaskHealth {
    /// Returns whether all of the tasks run.
    pub fn is_good(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Whether requests need a task.
#[derive(Debug, Clone)]
pub enum Importance {
    /// Requests need the task: while it is down, the health is not good.
    Essential(TaskHealth),
    /// Requests do not need the task, whose work is late until it runs again.
    Deferrable,
}

/// Runs `task` until it returns. If it panics, it is restarted after a backoff that grows while it keeps panicking.
pub async fn supervise(name: &'static str, importance: Importance, task: impl AsyncFnMut()) {
    supervise_with(BACKOFF, name, importance, task).await;
}

async fn supervise_with(
    policy: BackoffPolicy,
    name: &'static str,
    importance: Importance,
    mut task: impl AsyncFnMut(),
) {
    let mut backoff = policy.first;
    let mut down = None;
    loop {
        let begun = Instant::now();
        let result = {
            let mut running = pin!(task());
            let mut healthy = pin!(sleep(policy.healthy_after));
            poll_fn(|cx| {
                let polled = panics::poll(running.as_mut(), cx);
                if polled.is_pending() && down.is_some() && healthy.as_mut().poll(cx).is_ready() {
                    down = None;
                }
                polled
            })
            .await
        };
        let Err(panic) = result else { return };
        if let Importance::Essential(health) = &importance {
            down.get_or_insert_with(|| Down::new(health));
        }
        if begun.elapsed() >= policy.healthy_after {
            backoff = policy.first;
        }
        tracing::error!(
            task.name = name,
            error.message = %panic,
            "a background task panicked; restarting it after {backoff:?}"
        );
        sleep(backoff).await;
        backoff = (backoff * 2).min(policy.max);
        RESTARTS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `task`, which cannot be restarted. Returns false if it panics.
pub async fn run_once(name: &'static str, task: impl Future<Output = ()>) -> bool {
    let mut running = pin!(task);
    match panics::caught(running.as_mut()).await {
        Ok(()) => true,
        Err(panic) => {
            tracing::error!(task.name = name, error.message = %panic, "a task panicked that cannot be restarted");
            false
        }
    }
}

/// Marks an essential task as down until it is dropped.
struct Down(TaskHealth);

impl Down {
    fn new(health: &TaskHealth) -> Self {
        health.0.fetch_add(1, Ordering::Relaxed);
        Self(health.clone())
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const QUICK: BackoffPolicy = BackoffPolicy {
        first: Duration::from_millis(1),
        max: Duration::from_millis(8),
        healthy_after: Duration::from_millis(100),
    };

    /// A task that panics this many times, and then runs.
    macro_rules! failing {
        ($times:expr, $runs:expr) => {{
            let runs = Arc::clone(&$runs);
            async move || {
                if runs.fetch_add(1, Ordering::Relaxed) < $times {
                    panic!("this is meant to happen");
                }
                pending::<()>().await;
            }
        }};
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_mins(1), "the condition is never met");
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_restarted_and_health_is_bad_meanwhile() {
        let (runs, before, health) = (Arc::new(AtomicUsize::new(0)), restarts(), TaskHealth::default());
        let essential = || Importance::Essential(health.clone());
        let task = tokio::spawn(supervise_with(QUICK, "test", essential(), failing!(3, runs)));
        until(|| !health.is_good()).await;
        until(|| health.is_good()).await;
        assert_eq!(runs.load(Ordering::Relaxed), 4);
        // Other tests may restart tasks at the same time.
        assert!(restarts() - before >= 3);
        task.abort();

        let runs = Arc::new(AtomicUsize::new(0));
        let endless = tokio::spawn(supervise_with(QUICK, "test", essential(), failing!(usize::MAX, runs)));
        until(|| !health.is_good()).await;
        until(|| {
            assert!(!health.is_good(), "it panics again and again");
            runs.load(Ordering::Relaxed) >= 10
        })
        .await;
        endless.abort();
        let _ = endless.await;
        assert!(health.is_good(), "an aborted task does not count as down");
    }

    #[tokio::test]
    async fn a_deferrable_task_is_restarted() {
        let runs = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(supervise_with(QUICK, "test", Importance::Deferrable, failing!(3, runs)));
        until(|| runs.load(Ordering::Relaxed) == 4).await;
        task.abort();
    }

    #[tokio::test]
    async fn a_task_that_returns_is_not_restarted() {
        supervise("test", Importance::Deferrable, async || {}).await;
        assert!(run_once("test", async {}).await);
        assert!(!run_once("test", async { panic!("this is meant to happen") }).await);
    }
}
