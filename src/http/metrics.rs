//! Metrics, in the OpenMetrics text format 1.0 that Prometheus scrapes.

use std::{fmt, sync::Arc};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::limits::Limits;
use crate::{
    admission::Admission,
    domain::Engine,
    isolation::{panics, supervisor},
    telemetry,
};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the engine counts, read when it is asked for.
struct Engines(Arc<Engine>);

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engines")
    }
}

/// Everything that can be scraped.
pub(super) fn registry(engine: &Arc<Engine>, admission: &Arc<Admission>) -> Arc<Registry> {
    let mut registry = Registry::with_prefix("latchkey");
    registry.register_collector(Box::new(Engines(Arc::clone(engine))));
    registry.register_collector(Box::new(Limits(Arc::clone(admission))));
    Arc::new(registry)
}

/// What is counted now.
pub(super) fn scrape(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Collector for Engines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (counts, events) = (self.0.metrics(), self.0.events());
        let counters = [
            ("sessions_displaced", "Live sessions that had to go for another login", counts.displaced.get()),
            (
                "kick_wars",
                "Times that clients were held off from a slot because they kept logging each other out",
                counts.kick_wars.get(),
            ),
            (
                "store_rollbacks",
                "Logins that the session store has lost after they were acknowledged",
                counts.rollbacks.get(),
            ),
            (
                "webhook_deliveries",
                "Batches that the receiver of the webhook has taken",
                counts.webhook_deliveries.get(),
            ),
            (
                "webhook_failures",
                "Attempts to hand the receiver of the webhook a batch that failed",
                counts.webhook_failures.get(),
            ),
            (
                "audit_entries_lost",
                "Entries of the audit trail that could not be written to audit.file",
                self.0.audit().lost(),
            ),
            ("log_lines_lost", "Log lines that could not be written", telemetry::lines_lost()),
            ("panics", "Panics, in requests and elsewhere", panics::count()),
            (
                "task_restarts",
                "Background tasks that were started again after a panic",
                supervisor::restarts(),
            ),
        ];
        for (name, help, count) in counters {
            tell(&mut encoder, name, help, &ConstCounter::new(count))?;
        }
        let gauges = [
            ("session_watches", "WatchSession streams that are open", events.waiting()),
            ("feed_readers", "WatchSessions streams that are open, and the webhook", events.readers()),
        ];
        for (name, help, count) in gauges {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            tell(&mut encoder, name, help, &ConstGauge::new(count))?;
        }
        Ok(())
    }
}

fn tell(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}
