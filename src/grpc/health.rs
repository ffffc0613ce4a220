//! `grpc.health.v1`: SERVING while the stores answer, NOT_SERVING otherwise and while draining.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthService, HealthServer},
    server::{HealthReporter, HealthService as Service},
};

use crate::{domain::Engine, isolation::supervisor::TaskHealth};

/// How often the stores are asked.
const INTERVAL: Duration = Duration::from_millis(250);

/// The services whose health is told, besides the server as a whole.
const SERVICES: [&str; 5] = [
    "",
    "latchkey.v1.AuthService",
    "latchkey.v1.SessionService",
    "latchkey.v1.AccountService",
    "latchkey.v1.CallerService",
];

/// Knows whether we can serve.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    ready: watch::Sender<bool>,
    tasks: TaskHealth,
}

impl Health {
    /// Not serving yet. The library would begin with SERVING.
    pub async fn not_serving() -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
            ready: watch::Sender::new(false),
            tasks: TaskHealth::default(),
        };
        health.set(false).await;
        health
    }

    /// Whether we can serve, as it changes.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The background tasks without which we cannot serve.
    pub fn tasks(&self) -> TaskHealth {
        self.tasks.clone()
    }

    pub(super) fn service(&self) -> HealthServer<impl HealthService + use<>> {
        HealthServer::new(Service::from_health_reporter(self.reporter.clone()))
    }

    /// Asks the stores again and again, and tells. Ends never; abort it to drain.
    pub async fn watch(&self, engine: Arc<Engine>) {
        loop {
            let (sessions, accounts) = tokio::join!(engine.sessions.ping(), engine.accounts.ping());
            self.report(sessions.is_ok() && accounts.is_ok() && self.tasks.is_good()).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Says NOT_SERVING, from now on. [`super::drain`] ends the streams of those who watch.
    pub async fn drain(&self) {
        self.ready.send_replace(false);
        self.set(false).await;
    }

    async fn report(&self, ready: bool) {
        let changed = self.ready.send_if_modified(|current| std::mem::replace(current, ready) != ready);
        if !changed {
            return;
        }
        tracing::info!(health.ready = ready, "{}", if ready { "serving" } else { "not serving" });
        self.set(ready).await;
    }

    async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
