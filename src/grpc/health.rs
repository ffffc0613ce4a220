//! `grpc.health.v1`: each service is SERVING while what it needs is there, and NOT_SERVING otherwise and while
//! draining.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthService, HealthServer},
    server::{HealthReporter, HealthService as Service},
};

use super::{COMPRESSION, MAX_REQUEST};
use crate::{
    domain::health::{Condition, Probes, SERVICES},
    isolation::supervisor::TaskHealth,
};

/// How often it is checked whether the background tasks run.
const TASKS_INTERVAL: Duration = Duration::from_millis(250);

/// Tells whether the services can serve.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    /// What the latest probes have found.
    probed: watch::Sender<Condition>,
    /// What is told: the same, unless a background task that requests need is down.
    condition: watch::Sender<Condition>,
    tasks: TaskHealth,
}

impl Health {
    /// Not serving yet. The library would begin with SERVING.
    pub async fn not_serving() -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
            probed: watch::Sender::new(Condition::down("not probed yet")),
            condition: watch::Sender::new(Condition::down("not probed yet")),
            tasks: TaskHealth::default(),
        };
        for (service, _) in SERVICES {
            health.set(service, false).await;
        }
        health
    }

    /// What the services need and lack, as it changes.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// The background tasks without which we cannot serve.
    pub fn tasks(&self) -> TaskHealth {
        self.tasks.clone()
    }

    pub(super) fn service(&self) -> HealthServer<impl HealthService + use<>> {
        HealthServer::new(Service::from_health_reporter(self.reporter.clone()))
            .max_decoding_message_size(MAX_REQUEST)
            .accept_compressed(COMPRESSION)
    }

    /// Probes the stores and reports changes. It never returns; abort it to drain.
    pub async fn watch(&self, probes: &Probes) {
        tokio::join!(probes.run(&self.probed), self.report(self.probed.subscribe()));
    }

    /// Reports NOT_SERVING from now on. [`super::drain`] ends the streams of those who watch.
    pub async fn drain(&self) {
        self.condition.send_replace(Condition::down("shutting down"));
        for (service, _) in SERVICES {
            self.set(service, false).await;
        }
    }

    async fn report(&self, mut probed: watch::Receiver<Condition>) {
        let mut before = Condition::down("");
        loop {
            // Also where nothing has changed: tasks stop without telling.
            let _ = timeout(TASKS_INTERVAL, probed.changed()).await;
            let condition = if self.tasks.is_good() {
                probed.borrow_and_update().clone()
            } else {
                Condition::down("a background task has panicked and is being started again")
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

/// Logs what has changed: a line for the services that serve again, and one for each cause why others do not.
fn log(before: &Condition, condition: &Condition) {
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
