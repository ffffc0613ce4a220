//! Exports spans over OTLP.
//!
//! A span that ends goes into a bounded queue, without waiting. A task sends the spans in batches. Spans that do not fit
//! into the queue or that the collector does not accept are lost, counted and reported in the log.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{Context, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::otlp;
use crate::{
    config::Otlp,
    isolation::{
        log_limiter::LogLimiter,
        supervisor::{Importance, supervise},
    },
    trace::{self, Sampling},
};

/// Spans that wait for the task.
const QUEUE: usize = 4096;
/// Spans of one batch.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const DELAY: Duration = Duration::from_secs(1);

static EXPORT: OnceLock<Export> = OnceLock::new();
static NOT_EXPORTED: LogLimiter = LogLimiter::new("failed to export spans", 1);

/// The export of this process.
struct Export {
    lost: Arc<AtomicU64>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    /// Ends tracing when it is dropped.
    _provider: SdkTracerProvider,
}

/// The number of spans that were lost since the start of the process.
pub fn spans_lost() -> u64 {
    EXPORT.get().map_or(0, |export| export.lost.load(Ordering::Relaxed))
}

/// Waits until all spans are exported, at most this long.
pub async fn flush_spans(limit: Duration) {
    let Some(export) = EXPORT.get() else { return };
    let flush = async {
        let (sender, done) = oneshot::channel();
        if export.flushes.send(sender).await.is_ok() {
            let _ = done.await;
        }
    };
    if timeout(limit, flush).await.is_err() {
        tracing::warn!("failed to export the last spans before the shutdown");
    }
}

/// Starts the export. Returns the tracer that makes spans.
pub(super) fn start(settings: &Otlp) -> Result<SdkTracer, String> {
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(otlp::channel(settings)?)
        .with_metadata(otlp::headers(settings)?)
        .with_timeout(settings.timeout)
        .build()
        .map_err(|error| format!("otlp: {error}"))?;
    let attributes = otlp::resource(settings)?.into_iter().map(|(key, value)| KeyValue::new(key, value));
    let resource = Resource::builder_empty().with_attributes(attributes).build();
    exporter.set_resource(&resource);

    let lost = Arc::<AtomicU64>::default();
    let (spans, queue) = mpsc::channel(QUEUE);
    let (flushes, flush_requests) = mpsc::channel(1);
    let task =
        Arc::new(Mutex::new(Task { exporter, queue, flushes: flush_requests, lost: Arc::clone(&lost) }));
    let timeout = settings.timeout;
    let exporting = async move || task.lock().await.run(timeout).await;
    tokio::spawn(supervise("trace export", Importance::Deferrable, exporting));

    let provider = SdkTracerProvider::builder()
        .with_span_processor(QueueProcessor { spans, lost: Arc::clone(&lost) })
        // `trace` decides before there is a span.
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("latchkey");
    let _ = EXPORT.set(Export { lost, flushes, _provider: provider });
    trace::start(Sampling::new(settings.sample_ratio, settings.follow_parent));
    Ok(tracer)
}

/// Puts spans that have ended into the queue.
#[derive(Debug)]
struct QueueProcessor {
    spans: mpsc::Sender<SpanData>,
    lost: Arc<AtomicU64>,
}

impl SpanProcessor for QueueProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            if NOT_EXPORTED.admits("queue") {
                tracing::warn!(
                    otlp.spans_lost = self.lost.load(Ordering::Relaxed),
                    "spans were lost: there are more than can be exported; lower otlp.sample_ratio"
                );
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends the spans of the queue to the collector.
struct Task {
    exporter: SpanExporter,
    queue: mpsc::Receiver<SpanData>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    lost: Arc<AtomicU64>,
}

impl Task {
    /// Never returns.
    async fn run(&mut self, limit: Duration) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut is_failing = false;
        loop {
            let flush = tokio::select! {
                biased;
                _ = self.queue.recv_many(&mut batch, BATCH) => self.fill(&mut batch).await,
                Some(flush) = self.flushes.recv() => Some(flush),
            };
            loop {
                if flush.is_some() {
                    while let (true, Ok(span)) = (batch.len() < BATCH, self.queue.try_recv()) {
                        batch.push(span);
                    }
                }
                if batch.is_empty() {
                    break;
                }
                self.export(&mut batch, limit, &mut is_failing).await;
                if flush.is_none() {
                    break;
                }
            }
            if let Some(flush) = flush {
                let _ = flush.send(());
            }
        }
    }

    /// Waits for further spans of a batch. Returns the request to flush that has ended the wait.
    async fn fill(&mut self, batch: &mut Vec<SpanData>) -> Option<oneshot::Sender<()>> {
        let delay = sleep(DELAY);
        tokio::pin!(delay);
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                biased;
                Some(flush) = self.flushes.recv() => return Some(flush),
                () = &mut delay => return None,
                _ = self.queue.recv_many(batch, room) => {}
            }
        }
        None
    }

    async fn export(&self, batch: &mut Vec<SpanData>, limit: Duration, is_failing: &mut bool) {
        let spans = std::mem::replace(batch, Vec::with_capacity(BATCH));
        let count = spans.len() as u64;
        let exported = match timeout(limit, self.exporter.export(spans)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {}", humantime::format_duration(limit))),
        };
        if let Err(error) = exported {
            self.lost.fetch_add(count, Ordering::Relaxed);
            *is_failing = true;
            if NOT_EXPORTED.admits("collector") {
                tracing::warn!(
                    error.message = error,
                    otlp.spans_lost = self.lost.load(Ordering::Relaxed),
                    "failed to export spans to otlp.endpoint; they are lost"
                );
            }
        } else if std::mem::take(is_failing) {
            tracing::info!(otlp.spans_lost = self.lost.load(Ordering::Relaxed), "exporting spans again");
        }
    }
}
