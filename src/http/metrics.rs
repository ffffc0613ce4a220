//! `/metrics` in the OpenMetrics text format 1.0.

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

use super::limits::AdmissionCollector;
use crate::{
    admission::Admission,
    domain::Engine,
    isolation::{panics, supervisor},
    telemetry,
};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Collects the metrics of the engine and of the process at each scrape.
struct EngineCollector(Arc<Engine>);

impl fmt::Debug for EngineCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineCollector")
    }
}

pub(super) fn registry(engine: &Arc<Engine>, admission: &Arc<Admission>) -> Arc<Registry> {
    let mut registry = Registry::with_prefix("latchkey");
    registry.register_collector(Box::new(EngineCollector(Arc::clone(engine))));
    registry.register_collector(Box::new(AdmissionCollector(Arc::clone(admission))));
    Arc::new(registry)
}

pub(super) fn scrape(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (counts, events) = (self.0.metrics(), self.0.events());
        let counters = [
            (
                "sessions_displaced",
                "Live sessions ended by a newer login because the slot was full",
                counts.displaced.get(),
            ),
            (
                "kick_wars",
                "Detected kick wars: clients that displaced each other in a loop and were throttled",
                counts.kick_wars.get(),
            ),
            ("store_rollbacks", "Acknowledged commits lost by the session store", counts.rollbacks.get()),
            (
                "webhook_deliveries",
                "Batches of events accepted by the receiver of the webhook",
                counts.webhook_deliveries.get(),
            ),
            (
                "webhook_failures",
                "Failed attempts to deliver a batch of events to the receiver of the webhook",
                counts.webhook_failures.get(),
            ),
            (
                "audit_entries_lost",
                "Audit entries that could not be written to audit.file",
                self.0.audit().lost(),
            ),
            ("log_lines_lost", "Log lines that could not be written", telemetry::lines_lost()),
            ("panics", "Panics in requests and background tasks", panics::count()),
            ("task_restarts", "Restarts of background tasks after a panic", supervisor::restarts()),
        ];
        for (name, help, count) in counters {
            encode_metric(&mut encoder, name, help, &ConstCounter::new(count))?;
        }
        let gauges = [
            ("session_watches", "Open WatchSession streams", events.watch_count()),
            (
                "feed_readers",
                "Open WatchSessions streams, plus one for the webhook on the replica that delivers it",
                events.reader_count(),
            ),
        ];
        for (name, help, count) in gauges {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            encode_metric(&mut encoder, name, help, &ConstGauge::new(count))?;
        }
        Ok(())
    }
}

fn encode_metric(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}
