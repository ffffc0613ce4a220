//! `grpc.health.v1`: each service is SERVING while its dependencies are available, and NOT_SERVING otherwise and during
//! the drain.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthService, HealthServer},
    server::{HealthReporter, HealthService as Service},
};

use super::codec::{COMPRESSION, MAX_REQUEST};
use crate::{
    domain::health::{HealthReport, Probes, SERVICES},
    isolation::supervisor::TaskHealth,
};

/// Interval of the checks whether the background tasks run.
const TASK_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Reports the health of the services.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    /// The result of the latest probes.
    probed: watch::Sender<HealthReport>,
    /// The reported condition: the result of the probes, or down while a background task that requests need is down.
    condition: watch::Sender<HealthReport>,
    tasks: TaskHealth,
}

impl Health {
    /// Creates the health with all services NOT_SERVING. The library would begin with SERVING.
    pub async fn not_serving() -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
            probed: watch::Sender::new(HealthReport::down("not probed yet")),
            condition: watch::Sender::new(HealthReport::down("not probed yet")),
            tasks: TaskHealth::default(),
        };
        for (service, _) in SERVICES {
            health.set(service, false).await;
        }
        health
    }

    /// Returns a receiver of the reported condition.
    pub fn condition(&self) -> watch::Receiver<HealthReport> {
        self.condition.subscribe()
    }

    /// Returns the health of the background tasks that requests need.
    pub fn tasks(&self) -> TaskHealth {
        self.tasks.clone()
    }

    pub(super) fn service(&self) -> HealthServer<impl HealthService + use<>> {
        HealthServer::new(Service::from_health_reporter(self.reporter.clone()))
            .max_decoding_message_size(MAX_REQUEST)
            .accept_compressed(COMPRESSION)
    }

    /// Probes the stores and reports changes. Never returns; abort it before the drain.
    pub async fn watch(&self, probes: &Probes) {
        tokio::join!(probes.run(&self.probed), self.report(self.probed.subscribe()));
    }

    /// Reports NOT_SERVING from now on. The streams of watchers end with their connections.
    pub async fn drain(&self) {
        self.condition.send_replace(HealthReport::down("shutting down"));
        for (service, _) in SERVICES {
            self.set(service, false).await;
        }
    }

    async fn report(&self, mut probed: watch::Receiver<HealthReport>) {
        let mut before = HealthReport::down("");
        loop {
            // Also without a new probe result, because a task that stops sends no notification.
            let _ = timeout(TASK_CHECK_INTERVAL, probed.changed()).await;
            let condition = if self.tasks.is_good() {
                probed.borrow_and_update().clone()
            } else {
                HealthReport::down("a background task has panicked and is restarting")
            };
            if condition == before {
                continue;
            }
            self.condition.send_replace(condition.clone());
            log(&before, &condition);
            for (service, needs) in SERVICES {
                let serving = condition.cause(needs).is_none();
                if serving != before.cause(needs).is_none() {
                    self.set(service, serving).await;
                }
            }
            before = condition;
        }
    }

    async fn set(&self, service: &str, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status(service, status).await;
    }
}

/// Logs changes: one line for the services that serve again, and one line for each cause of an outage.
fn log(before: &HealthReport, condition: &HealthReport) {
    let mut changes: Vec<(Option<&str>, Vec<&str>)> = Vec::new();
    for (service, needs) in SERVICES {
        let cause = condition.cause(needs);
        if cause.is_none() == before.cause(needs).is_none() {
            continue;
        }
        let name = if service.is_empty() { "the server as a whole" } else { service };
        match changes.iter_mut().find(|(same, _)| *same == cause) {
            Some((_, services)) => services.push(name),
            None => changes.push((cause, vec![name])),
        }
    }
    for (cause, services) in changes {
        let services = services.join(", ");
        match cause {
            None => tracing::info!(health.services = services, "serving"),
            Some(cause) => {
                tracing::warn!(health.services = services, error.message = cause, "not serving");
            }
        }
    }
}
