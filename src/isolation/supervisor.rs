//! Background tasks that are started again when they panic.

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

/// When a task is started again.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// The first wait, which is doubled each time.
    first: Duration,
    /// The longest wait.
    longest: Duration,
    /// A task that has run for this long after a restart is healthy again, and its waits begin anew.
    steady: Duration,
}

const PACE: Pace = Pace {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(10),
    steady: Duration::from_secs(2),
};

static RESTARTS: AtomicU64 = AtomicU64::new(0);

/// Restarts of background tasks since the process began.
pub fn restarts() -> u64 {
    RESTARTS.load(Ordering::Relaxed)
}

/// Whether the tasks run that requests need. A clone is of the same tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskHealth(Arc<AtomicUsize>);

impl TaskHealth {
    /// Whether all of them run.
    pub fn is_good(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// Whether requests need a task.
#[derive(Debug, Clone)]
pub enum Importance {
    /// They do: while the task is down, this is not good.
    Essential(TaskHealth),
    /// They do not; what the task does is late until it runs again.
    Deferrable,
}

/// Runs `task` until it returns. When it panics, it is started again after a pause, which grows while it goes on
/// panicking.
pub async fn supervise(name: &'static str, importance: Importance, task: impl AsyncFnMut()) {
    supervise_at(PACE, name, importance, task).await;
}

async fn supervise_at(pace: Pace, name: &'static str, importance: Importance, mut task: impl AsyncFnMut()) {
    let mut backoff = pace.first;
    let mut down = None;
    loop {
        let begun = Instant::now();
        let outcome = {
            let mut running = pin!(task());
            let mut steady = pin!(sleep(pace.steady));
            poll_fn(|cx| {
                let polled = panics::poll(running.as_mut(), cx);
                if polled.is_pending() && down.is_some() && steady.as_mut().poll(cx).is_ready() {
                    down = None;
                }
                polled
            })
            .await
        };
        let Err(panic) = outcome else { return };
        if let Importance::Essential(health) = &importance {
            down.get_or_insert_with(|| Down::new(health));
        }
        if begun.elapsed() >= pace.steady {
            backoff = pace.first;
        }
        tracing::error!(
            task.name = name,
            error.message = %panic,
            "a background task panicked; starting it again after {backoff:?}"
        );
        sleep(backoff).await;
        backoff = (backoff * 2).min(pace.longest);
        RESTARTS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs `task`, which cannot be started again. False if it panics.
pub async fn run_once(name: &'static str, task: impl Future<Output = ()>) -> bool {
    let mut running = pin!(task);
    match panics::caught(running.as_mut()).await {
        Ok(()) => true,
        Err(panic) => {
            tracing::error!(task.name = name, error.message = %panic, "a task panicked that cannot be started again");
            false
        }
    }
}

/// A task that requests need does not run.
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

    const QUICK: Pace = Pace {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(8),
        steady: Duration::from_millis(100),
    };

    /// Panics so often, and then runs.
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
            assert!(begun.elapsed() < Duration::from_mins(1), "it never comes");
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_started_again_and_health_knows_while_it_is_down() {
        let (runs, before, health) = (Arc::new(AtomicUsize::new(0)), restarts(), TaskHealth::default());
        let essential = || Importance::Essential(health.clone());
        let task = tokio::spawn(supervise_at(QUICK, "test", essential(), failing!(3, runs)));
        until(|| !health.is_good()).await;
        until(|| health.is_good()).await;
        assert_eq!(runs.load(Ordering::Relaxed), 4);
        // Other tests restart tasks, too.
        assert!(restarts() - before >= 3);
        task.abort();

        let runs = Arc::new(AtomicUsize::new(0));
        let endless = tokio::spawn(supervise_at(QUICK, "test", essential(), failing!(usize::MAX, runs)));
        until(|| !health.is_good()).await;
        until(|| {
            assert!(!health.is_good(), "it panics again and again");
            runs.load(Ordering::Relaxed) >= 10
        })
        .await;
        endless.abort();
        let _ = endless.await;
        assert!(health.is_good(), "a task that has been ended is not missed");
    }

    #[tokio::test]
    async fn a_task_that_requests_do_not_need_is_started_again_too() {
        let runs = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(supervise_at(QUICK, "test", Importance::Deferrable, failing!(3, runs)));
        until(|| runs.load(Ordering::Relaxed) == 4).await;
        task.abort();
    }

    #[tokio::test]
    async fn a_task_that_returns_is_done_and_one_that_cannot_be_started_again_tells() {
        supervise("test", Importance::Deferrable, async || {}).await;
        assert!(run_once("test", async {}).await);
        assert!(!run_once("test", async { panic!("this is meant to happen") }).await);
    }
}
