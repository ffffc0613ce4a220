//! The task that owns a link: it connects, checks the connections, and replaces them.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use super::{
    connect::{Fingerprint, RedisSettings, connect},
    connection::{Connection, Purpose, Shared, State, Use},
};

/// How often a link is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait before connecting again: from the first, doubled each time, to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Runs until nobody needs the link any more.
pub(super) async fn supervise(shared: Weak<Shared>, settings: RedisSettings) {
    let mut backoff = BACKOFF.0;
    let mut reported = String::new();
    loop {
        let Some(purpose) = shared.upgrade().map(|shared| shared.purpose) else { return };
        let connected = connect(&settings, purpose).await;
        let Some(strong) = shared.upgrade() else { return };
        match connected {
            Ok(live) => {
                tracing::info!(
                    redis.address = strong.address,
                    redis.purpose = purpose.name(),
                    "connected to Redis"
                );
                let password = live.fingerprint;
                strong.stuck.store(false, Ordering::Release);
                strong.state.store(Arc::new(State::Up(live)));
                // Fails where it has been set before, which is as well.
                let _ = strong.attempted.set(());
                drop(strong);
                watch(&shared, &settings, password).await;
                (backoff, reported) = (BACKOFF.0, String::new());
            }
            Err(cause) => {
                if cause != reported {
                    tracing::warn!(
                        error.message = cause,
                        redis.address = strong.address,
                        redis.purpose = purpose.name(),
                        "cannot connect to Redis; trying again until it works"
                    );
                    reported.clone_from(&cause);
                }
                strong.state.store(Arc::new(State::Down(cause)));
                let _ = strong.attempted.set(());
            }
        }
        // Also after a connection was lost: it may have been good for nothing from the beginning.
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Returns once the link is down, or nobody needs it any more.
async fn watch(shared: &Weak<Shared>, settings: &RedisSettings, mut password: Option<Fingerprint>) {
    loop {
        let Some(link) = shared.upgrade().map(Connection) else { return };
        if matches!(*link.state(), State::Down(_)) {
            return;
        }
        if link.0.stuck.load(Ordering::Acquire) {
            link.replace(settings).await;
            link.0.stuck.store(false, Ordering::Release);
            continue;
        }
        tokio::select! {
            () = link.0.trouble.notified() => {}
            () = tokio::time::sleep(CHECK_INTERVAL) => {
                link.check().await;
                let present = settings.fingerprint();
                if present.is_some() && present != password {
                    password = present;
                    link.authenticate(settings).await;
                }
            }
        }
    }
}

impl Connection {
    /// Gives up connections that no longer answer, or to a server that has been demoted: it still reads well,
    /// but what it reads grows old.
    async fn check(&self) {
        let state = self.state();
        let State::Up(live) = &*state else { return };
        let role = async {
            // The answer is judged on the way.
            if let Ok(answer) = self.ask(&state, Use::Read, &live.role.command()).await
                && let Err(cause) = live.role.must_be_master(answer)
            {
                self.0.give_up(&state, &cause);
            }
        };
        let writes = async {
            if self.0.purpose == Purpose::Requests {
                let _ = self.ask(&state, Use::Write, &redis::Cmd::ping()).await;
            }
        };
        tokio::join!(role, writes);
    }

    /// Replaces connections of which the one for writes no longer answers, without an interruption of reads.
    async fn replace(&self, settings: &RedisSettings) {
        let state = self.state();
        match connect(settings, self.0.purpose).await {
            Ok(live) => {
                tracing::debug!(redis.address = self.0.address, "replaced the connections to Redis");
                // Unless they have been given up meanwhile.
                self.0.state.compare_and_swap(&state, Arc::new(State::Up(live)));
            }
            // The reads may be as dead.
            Err(cause) => {
                tracing::debug!(error.message = cause, "cannot replace the connections to Redis");
                self.check().await;
            }
        }
    }

    /// Has the open connections go on with the new password: a server can end those with an old one.
    async fn authenticate(&self, settings: &RedisSettings) {
        let state = self.state();
        let refused = |cause: String| {
            tracing::warn!(
                error.message = cause,
                redis.address = self.0.address,
                "the new password in sessions.password_file is refused; going on with the open connections"
            );
        };
        let command = match settings.authenticate() {
            Ok(Some(command)) => command,
            Ok(None) => return,
            Err(cause) => return refused(cause),
        };
        for usage in [Use::Read, Use::Write] {
            if let Err(error) = self.authenticate_with(&state, usage, &command).await {
                return refused(error);
            }
        }
        tracing::info!(redis.address = self.0.address, "using the new password of Redis");
    }
}
