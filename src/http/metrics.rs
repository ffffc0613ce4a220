//! `/metrics` in the OpenMetrics text format 1.0. docs/operations.md lists all of them.

use std::{fmt, sync::Arc};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::{limits::AdmissionCollector, process::ProcessCollector};
use crate::{
    admission::Admission,
    domain::{
        Engine,
        metrics::{LoginOutcome, Surface},
        rejection::Reason,
        types::Timestamp,
    },
    isolation::{panics, supervisor},
    metrics::{
        Snapshot,
        rpc::{CODES, RpcMetrics},
        store::{CacheResult, Operation, StoreMetrics},
    },
    telemetry,
};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The methods that answer with a verdict, and the surface of each.
const VERDICT_METHODS: [(Surface, &str); 2] = [
    (Surface::Grpc, "/latchkey.v1.AuthService/Validate"),
    (Surface::ExtAuthz, "/envoy.service.auth.v3.Authorization/Check"),
];

/// What the metrics are collected from, besides the engine.
pub struct Sources {
    /// Admission control.
    pub admission: Arc<Admission>,
    /// The calls of the gRPC port.
    pub rpc: Arc<RpcMetrics>,
    /// The requests to the stores.
    pub store: Arc<StoreMetrics>,
}

/// Collects the metrics of the engine at each scrape.
struct EngineCollector {
    engine: Arc<Engine>,
    rpc: Arc<RpcMetrics>,
    start: Timestamp,
}

/// Collects the handled calls at each scrape.
struct RpcCollector(Arc<RpcMetrics>);

/// Collects the requests to the stores at each scrape.
#[derive(Debug)]
struct StoreCollector(Arc<StoreMetrics>);

impl fmt::Debug for EngineCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineCollector")
    }
}

impl fmt::Debug for RpcCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RpcCollector")
    }
}

/// Creates the registry of all metrics.
pub fn registry(engine: &Arc<Engine>, sources: Sources) -> Arc<Registry> {
    let Sources { admission, rpc, store } = sources;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(RpcCollector(Arc::clone(&rpc))));
    registry.register_collector(Box::new(ProcessCollector));
    let latchkey = registry.sub_registry_with_prefix("latchkey");
    let (engine, start) = (Arc::clone(engine), engine.now());
    latchkey.register_collector(Box::new(EngineCollector { engine, rpc, start }));
    latchkey.register_collector(Box::new(StoreCollector(store)));
    latchkey.register_collector(Box::new(AdmissionCollector(admission)));
    Arc::new(registry)
}

/// Returns all metrics in the OpenMetrics text format.
pub fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry).map(|()| text)
}

pub(super) fn scrape(registry: &Registry) -> Response {
    match text(registry) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Collector for RpcCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(rpc) = self;
        let mut family = encoder.encode_descriptor(
            "grpc_server_handled",
            "Calls that were handled, by method and status code; a stream counts when it ends",
            None,
            MetricType::Counter,
        )?;
        for method in rpc.methods() {
            for (code, count) in CODES.iter().zip(rpc.by_code(method)) {
                let labels =
                    [("grpc_service", method.service), ("grpc_method", method.method), ("grpc_code", code)];
                encode_counter(&mut family, &labels, count)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "grpc_server_handling",
            "Time from the headers of a call to its response, or to the end of its stream, in seconds",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for method in rpc.methods() {
            let labels = [("grpc_service", method.service), ("grpc_method", method.method)];
            encode_histogram(&mut family.encode_family(&labels)?, &rpc.seconds(method))?;
        }
        Ok(())
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(store) = self;
        let sessions = Operation::SESSIONS.map(|operation| ("sessions", operation));
        let accounts = Operation::ACCOUNTS.map(|operation| ("accounts", operation));
        let operations = || sessions.iter().chain(&accounts).copied();
        let labels = |store, operation: Operation| [("store", store), ("operation", operation.name())];
        let mut family = encoder.encode_descriptor(
            "store_requests",
            "Duration of requests to a store in seconds, without those that wait for events",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (name, operation) in operations().filter(|(_, operation)| !operation.waits()) {
            let labels = labels(name, operation);
            let mut encoder = family.encode_family(&labels)?;
            encode_histogram(&mut encoder, &store.seconds(operation).snapshot())?;
        }
        let mut family = encoder.encode_descriptor(
            "store_errors",
            "Requests to a store that failed: it did not answer, or returned invalid data",
            None,
            MetricType::Counter,
        )?;
        for (name, operation) in operations() {
            encode_counter(&mut family, &labels(name, operation), store.errors(operation))?;
        }
        let mut family = encoder.encode_descriptor(
            "cache_requests",
            "Look-ups of a user's sessions in the near-cache: hit, miss, or bypass if the request allows no staleness or there is no near-cache",
            None,
            MetricType::Counter,
        )?;
        for result in CacheResult::ALL {
            encode_counter(&mut family, &[("result", result.name())], store.cached(result))?;
        }
        Ok(())
    }
}

impl EngineCollector {
    /// Encodes what has a label.
    fn encode_families(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.engine.metrics();
        let mut family = encoder.encode_descriptor(
            "verdicts",
            "Verdicts on tokens: live, or the reason of the rejection",
            None,
            MetricType::Counter,
        )?;
        for surface in Surface::ALL {
            for reason in [None].into_iter().chain(Reason::ALL.map(Some)) {
                let verdict = reason.map_or_else(|| "live".to_owned(), label);
                let labels = [("surface", surface.name()), ("verdict", &verdict)];
                encode_counter(&mut family, &labels, counts.verdicts.get(surface, reason))?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "verdict_errors",
            "Requests for a verdict that the server could not answer, or not in time",
            None,
            MetricType::Counter,
        )?;
        for surface in Surface::ALL {
            let method = VERDICT_METHODS.iter().find(|(of, _)| *of == surface);
            let of_calls = method.map_or(0, |(_, path)| self.rpc.server_errors(path));
            // Calls in JSON are calls of the same method.
            let elsewhere =
                if surface == Surface::Grpc { counts.verdict_errors.get(Surface::Json) } else { 0 };
            let errors = of_calls.saturating_sub(elsewhere) + counts.verdict_errors.get(surface);
            encode_counter(&mut family, &[("surface", surface.name())], errors)?;
        }
        let mut family = encoder.encode_descriptor(
            "logins",
            "Logins by outcome, without requests that are invalid or were abandoned",
            None,
            MetricType::Counter,
        )?;
        for outcome in LoginOutcome::ALL {
            encode_counter(&mut family, &[("outcome", outcome.name())], counts.logins.get(outcome))?;
        }
        let mut family = encoder.encode_descriptor(
            "sessions_ended",
            "Sessions that this server has ended; a timeout counts when it is recorded, and the end of all sessions of all users not at all",
            None,
            MetricType::Counter,
        )?;
        for reason in Reason::ALL {
            let ended = self.engine.sessions().ended().get(reason);
            encode_counter(&mut family, &[("reason", &label(reason))], ended)?;
        }
        Ok(())
    }

    fn encode_passwords(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let hasher = self.engine.passwords().hasher();
        let mut histogram = encoder.encode_descriptor(
            "password_hash",
            "Duration of password hashes in seconds, without the time in the queue",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        encode_histogram(&mut histogram, &hasher.durations().snapshot())?;
        encode_gauge(
            encoder,
            "password_queue_length",
            "Passwords that wait for a hashing thread",
            hasher.waiting(),
        )
    }

    /// The time since the event log was read to its end, or since the start of the server if it never was.
    fn event_lag(&self) -> f64 {
        let as_of = self.engine.events().as_of().max(self.start);
        self.engine.now().since(as_of).as_secs_f64()
    }
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (counts, events) = (self.engine.metrics(), self.engine.events());
        self.encode_families(&mut encoder)?;
        self.encode_passwords(&mut encoder)?;
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
                self.engine.audit().lost(),
            ),
            ("log_lines_lost", "Log lines that could not be written", telemetry::lines_lost()),
            ("trace_spans_lost", "Spans that could not be exported", telemetry::spans_lost()),
            ("panics", "Panics in requests and background tasks", panics::count()),
            ("task_restarts", "Restarts of background tasks after a panic", supervisor::restarts()),
        ];
        for (name, help, count) in counters {
            let metric = ConstCounter::new(count);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        encode_gauge(&mut encoder, "session_watches", "Open WatchSession streams", events.watch_count())?;
        encode_gauge(
            &mut encoder,
            "feed_readers",
            "Open WatchSessions streams, plus one for the webhook on the replica that delivers it",
            events.reader_count(),
        )?;
        let lag = ConstGauge::new(self.event_lag());
        lag.encode(encoder.encode_descriptor(
            "event_lag",
            "Time since the event log was last read to its end, in seconds; up to 2 while there are no events",
            Some(&Unit::Seconds),
            lag.metric_type(),
        )?)?;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", option_env!("BUILD_COMMIT").unwrap_or("unknown")),
        ];
        let help = "The version of the server";
        encoder.encode_descriptor("build", help, None, MetricType::Info)?.encode_info(&labels)
    }
}

/// The value of a label for a reason.
fn label(reason: Reason) -> String {
    reason.name().to_ascii_lowercase()
}

fn encode_counter(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, count: u64) -> fmt::Result {
    ConstCounter::new(count).encode(family.encode_family(labels)?)
}

fn encode_gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn encode_histogram(encoder: &mut MetricEncoder<'_>, contents: &Snapshot) -> fmt::Result {
    encoder.encode_histogram::<NoLabelSet>(contents.seconds(), contents.count(), &contents.bounded(), None)
}
