//! Starts the background tasks under supervision.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{record_audit_summaries, settle_debts, tls::CertificateReload};
use crate::{
    admission::Admission,
    domain::{Engine, health::Probes},
    grpc::health::Health,
    isolation::{
        log_limiter,
        supervisor::{self, Importance, supervise},
    },
};

const LOG_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Requests that tasks which read files at intervals read them now.
#[derive(Clone)]
pub(super) struct Reload(watch::Sender<()>);

/// Receives the requests of [`Reload`].
#[derive(Clone)]
pub(super) struct ReloadRequests(watch::Receiver<()>);

impl Reload {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(super) fn request(&self) {
        self.0.send_replace(());
    }

    pub(super) fn requests(&self) -> ReloadRequests {
        ReloadRequests(self.0.subscribe())
    }
}

impl ReloadRequests {
    /// Waits for a request. Returns false if there can be none any more.
    pub(super) async fn requested(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Waits for a request, at most `interval`. Returns whether there was one.
    pub(super) async fn requested_within(&mut self, interval: Duration) -> bool {
        tokio::select! {
            () = sleep(interval) => false,
            Ok(()) = self.0.changed() => true,
        }
    }
}

/// Starts the background tasks. Dropping the set aborts them.
pub(super) fn start(
    engine: &Arc<Engine>,
    health: &Health,
    probes: Probes,
    admission: &Arc<Admission>,
    certificates: Option<CertificateReload>,
    reload: &Reload,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let essential = || Importance::Essential(health.tasks());
    let watched = health.clone();
    let mut restarted = false;
    let probing = async move || {
        if restarted {
            // The state from before the panic may be outdated.
            watched.drain().await;
        }
        restarted = true;
        watched.watch(&probes).await;
    };
    tasks.spawn(supervise("health probes", essential(), probing));
    let own = Arc::clone(engine);
    let following = async move || own.follow_session_events().await;
    tasks.spawn(supervise("session events", essential(), following));

    let own = Arc::clone(engine);
    let settling = async move || settle_debts(Arc::clone(&own)).await;
    tasks.spawn(supervise("debt settlement", Importance::Deferrable, settling));
    let own = Arc::clone(engine);
    let reading = async move || own.callers().run().await;
    tasks.spawn(supervise("callers", Importance::Deferrable, reading));
    let own = Arc::clone(engine);
    let summarizing = async move || record_audit_summaries(Arc::clone(&own)).await;
    tasks.spawn(supervise("audit summaries", Importance::Deferrable, summarizing));
    let own = Arc::clone(engine);
    let rotating = async move || own.tokens().rotate_keys().await;
    tasks.spawn(supervise("key rotation", Importance::Deferrable, rotating));
    let (own, mut requests) = (Arc::clone(engine), reload.requests());
    let reloading = async move || {
        while requests.requested().await {
            own.tokens().reload_keys();
        }
    };
    tasks.spawn(supervise("key reload", Importance::Deferrable, reloading));
    if let Some(mut certificates) = certificates {
        certificates.check_validity();
        let mut requests = reload.requests();
        let reloading = async move || certificates.run(&mut requests).await;
        tasks.spawn(supervise("certificate reload", Importance::Deferrable, reloading));
    }
    let own = Arc::clone(admission);
    let reporting = async move || own.watch().await;
    tasks.spawn(supervise("admission report", Importance::Deferrable, reporting));
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

/// Runs the task that serves a port. It cannot be restarted, because its socket is closed with it: if it ends before
/// `shutdown`, `failed` is cancelled and the server stops.
pub(super) async fn serve_port(
    name: &'static str,
    serving: impl Future<Output = ()>,
    shutdown: CancellationToken,
    failed: CancellationToken,
) {
    if !supervisor::run_once(name, serving).await || !shutdown.is_cancelled() {
        tracing::error!(task.name = name, "a port has closed unexpectedly; stopping the server");
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
        assert!(!failed.is_cancelled(), "a port closes at shutdown");
    }
}
