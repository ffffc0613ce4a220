//! The task that owns a connection: it connects, checks the health of the channels, and replaces them.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use super::{
    connect::Connector,
    connection::{Access, ConnectionKind, Inner, State, SupervisedConnection},
    settings::{FileVersion, RedisSettings},
};

const HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The delay before an attempt to reconnect doubles from the first value to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Runs until the last handle to the connection is dropped.
pub(super) async fn supervise(connection: Weak<Inner>, connector: Arc<Connector>) {
    {
        let Some(inner) = connection.upgrade() else { return };
        inner.permitted.wait().await;
    }
    let mut backoff = BACKOFF.0;
    let mut last_error = String::new();
    loop {
        if connection.strong_count() == 0 {
            return;
        }
        let connected = connector.connect().await;
        let Some(inner) = connection.upgrade() else { return };
        match connected {
            Ok(channels) => {
                tracing::info!(
                    redis.address = %inner.endpoint,
                    redis.purpose = inner.kind.name(),
                    "connected to Redis"
                );
                let password_version = channels.password_version;
                inner.replacement_due.store(false, Ordering::Release);
                inner.state.store(Arc::new(State::Connected(channels)));
                // An error means that an earlier attempt has set it.
                let _ = inner.first_attempt.set(());
                drop(inner);
                monitor(&connection, &connector, password_version).await;
                (backoff, last_error) = (BACKOFF.0, String::new());
            }
            Err(cause) => {
                if cause != last_error {
                    tracing::warn!(
                        error.message = cause,
                        redis.address = %inner.endpoint,
                        redis.purpose = inner.kind.name(),
                        "failed to connect to Redis; retrying"
                    );
                    last_error.clone_from(&cause);
                }
                inner.state.store(Arc::new(State::Disconnected(cause)));
                let _ = inner.first_attempt.set(());
            }
        }
        // The delay also follows a lost connection, because the server may close every new one at once.
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Returns once the connection is lost or the last handle to it is dropped.
async fn monitor(connection: &Weak<Inner>, connector: &Connector, mut password_version: Option<FileVersion>) {
    let settings = &*connector.settings;
    let mut tls_version = settings.tls.version();
    loop {
        let Some(connection) = connection.upgrade().map(SupervisedConnection) else { return };
        if matches!(*connection.state(), State::Disconnected(_)) {
            return;
        }
        if connection.0.replacement_due.load(Ordering::Acquire) {
            connection.replace_channels(connector).await;
            connection.0.replacement_due.store(false, Ordering::Release);
            continue;
        }
        tokio::select! {
            () = connection.0.wake_supervisor.notified() => {}
            () = tokio::time::sleep(HEALTH_CHECK_INTERVAL) => {
                connection.check_health().await;
                let current = settings.password_version();
                if current.is_some() && current != password_version {
                    password_version = current;
                    connection.reauthenticate(settings).await;
                }
                let current = settings.tls.version();
                if current != tls_version {
                    tls_version = current;
                    connection.replace_channels(connector).await;
                }
            }
        }
    }
}

impl SupervisedConnection {
    /// Disconnects if the server no longer responds or has been demoted: a replica answers reads with stale data.
    async fn check_health(&self) {
        let state = self.state();
        let State::Connected(channels) = &*state else { return };
        let role = async {
            // `send` handles errors and time-outs.
            if let Ok(response) = self.send(&state, Access::Read, &channels.role_check.command()).await
                && let Err(cause) = channels.role_check.require_primary(response)
            {
                self.0.disconnect(&state, &cause);
            }
        };
        let writes = async {
            if self.0.kind == ConnectionKind::Requests {
                let _ = self.send(&state, Access::Write, &redis::Cmd::ping()).await;
            }
        };
        tokio::join!(role, writes);
    }

    /// Replaces the channels when the write channel no longer responds. Reads go on over the old one until then.
    async fn replace_channels(&self, connector: &Connector) {
        let state = self.state();
        match connector.connect().await {
            Ok(channels) => {
                tracing::debug!(redis.address = %self.0.endpoint, "replaced the connections to Redis");
                // Does nothing if the connection was lost meanwhile.
                self.0.state.compare_and_swap(&state, Arc::new(State::Connected(channels)));
            }
            Err(cause) => {
                tracing::debug!(error.message = cause, "failed to replace the connections to Redis");
                // The read channel may no longer respond either.
                self.check_health().await;
            }
        }
    }

    /// Authenticates the open channels with the new password, because a server can close those of the old one.
    async fn reauthenticate(&self, settings: &RedisSettings) {
        let state = self.state();
        let failed = |cause: String| {
            tracing::warn!(
                error.message = cause,
                redis.address = %self.0.endpoint,
                "failed to authenticate with the new password in sessions.password_file; open connections keep \
                 the previous one"
            );
        };
        let command = match settings.auth_command() {
            Ok(Some(command)) => command,
            Ok(None) => return,
            Err(cause) => return failed(cause),
        };
        for access in [Access::Read, Access::Write] {
            if let Err(cause) = self.send_auth(&state, access, &command).await {
                return failed(cause);
            }
        }
        tracing::info!(redis.address = %self.0.endpoint, "authenticated with the new Redis password");
    }
}
