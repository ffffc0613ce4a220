//! What runs beside the ports on every server, supervised.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{keep_callers, settle_debts, tls};
use crate::{
    admission::Admission,
    config::Config,
    domain::{Engine, health::Probes},
    grpc::health::Health,
    isolation::{
        log_limiter,
        supervisor::{self, Importance, supervise},
    },
};

/// How often it is looked whether repeated log lines are to be reported.
const LOG_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Asks those who read files again at intervals to do so now.
#[derive(Clone)]
pub(super) struct Reload(watch::Sender<()>);

/// One who reads files again.
#[derive(Clone)]
pub(super) struct ReloadRequests(watch::Receiver<()>);

impl Reload {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    /// Has everybody read now.
    pub(super) fn request(&self) {
        self.0.send_replace(());
    }

    pub(super) fn requests(&self) -> ReloadRequests {
        ReloadRequests(self.0.subscribe())
    }
}

impl ReloadRequests {
    /// Waits until somebody asks. False once nobody can.
    pub(super) async fn requested(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Returns when it is time to read again: true if somebody has asked for it.
    pub(super) async fn due(&mut self, interval: Duration) -> bool {
        tokio::select! {
            () = sleep(interval) => false,
            Ok(()) = self.0.changed() => true,
        }
    }
}

/// Starts everything that runs beside the ports. Dropping it ends it.
pub(super) fn start(
    engine: &Arc<Engine>,
    health: &Health,
    probes: Probes,
    admission: &Arc<Admission>,
    config: &Config,
    encryption: Option<tls::Encryption>,
    reload: &Reload,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let watched = health.clone();
    let mut restarted = false;
    let watching = async move || {
        if restarted {
            // What was known before it panicked may not be true any more.
            watched.drain().await;
        }
        restarted = true;
        watched.watch(&probes).await;
    };
    let essential = || Importance::Essential(health.tasks());
    tasks.spawn(supervise("health", essential(), watching));
    let own = Arc::clone(engine);
    let telling = async move || own.follow_session_events().await;
    tasks.spawn(supervise("event log", essential(), telling));
    let own = Arc::clone(engine);
    tasks.spawn(supervise("debts", Importance::Deferrable, async move || {
        settle_debts(Arc::clone(&own)).await;
    }));
    let own = Arc::clone(engine);
    tasks.spawn(supervise("callers", Importance::Deferrable, async move || {
        keep_callers(Arc::clone(&own)).await;
    }));

    let own = Arc::clone(engine);
    let keys = async move || own.tokens().rotate_keys().await;
    tasks.spawn(supervise("signing keys", Importance::Deferrable, keys));
    let (own, mut requests) = (Arc::clone(engine), reload.requests());
    let early = async move || {
        while requests.requested().await {
            own.tokens().reload_keys();
        }
    };
    tasks.spawn(supervise("reload of signing keys", Importance::Deferrable, early));
    if let Some(mut encryption) = encryption {
        tls::look_at_dates(config, &encryption, &**engine.clock());
        let (clock, settings, mut requests) = (Arc::clone(engine.clock()), config.clone(), reload.requests());
        let certificates =
            async move || tls::reload(&mut encryption, &settings, &*clock, &mut requests).await;
        tasks.spawn(supervise("certificates", Importance::Deferrable, certificates));
    }
    let own = Arc::clone(admission);
    let watching = async move || own.watch().await;
    tasks.spawn(supervise("admission report", Importance::Deferrable, watching));
    tasks.spawn(supervise("log report", Importance::Deferrable, report_log_lines));
    tasks
}

async fn report_log_lines() {
    let mut ticks = interval(LOG_REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        log_limiter::report();
    }
}

/// Runs what serves a port. It cannot be started again, because its socket goes with it: where it ends before
/// `shutdown`, `failed` says so, and the whole server is to stop and be started again.
pub(super) async fn serve_port(
    name: &'static str,
    serving: impl Future<Output = ()>,
    shutdown: CancellationToken,
    failed: CancellationToken,
) {
    if !supervisor::run_once(name, serving).await || !shutdown.is_cancelled() {
        tracing::error!(task.name = name, "a port is closed that should be open; the server stops");
        failed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_closes_by_itself_stops_the_server() {
        let (shutdown, failed) = (CancellationToken::new(), CancellationToken::new());
        let panics = async { panic!("this is meant to happen") };
        serve_port("port", panics, shutdown.clone(), failed.clone()).await;
        assert!(failed.is_cancelled());

        let failed = CancellationToken::new();
        serve_port("port", async {}, shutdown.clone(), failed.clone()).await;
        assert!(failed.is_cancelled());

        let failed = CancellationToken::new();
        shutdown.cancel();
        serve_port("port", async {}, shutdown, failed.clone()).await;
        assert!(!failed.is_cancelled(), "at the end it is meant to close");
    }
}
