//! A receiver of traces and metrics that speaks OTLP over gRPC.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{Metric, metric::Data, number_data_point},
    trace::v1::Span,
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Server};

/// How long a span may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub name: String,
    pub kind: i32,
    pub trace_id: String,
    pub span_id: String,
    pub parent_id: String,
    pub state: String,
    pub is_error: bool,
    pub attributes: BTreeMap<String, String>,
}

impl Received {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

#[derive(Default)]
struct State {
    spans: Vec<Received>,
    /// The latest values, by the names and labels of the Prometheus format.
    metrics: BTreeMap<String, f64>,
    resources: Vec<BTreeMap<String, String>>,
    metadata: Option<MetadataMap>,
    /// Everything that arrived, encoded.
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<State>>);

pub struct Collector {
    pub address: SocketAddr,
    receiver: Receiver,
    serving: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Collector {
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, receiver) = (listener.local_addr().unwrap(), Receiver::default());
        let server = Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()));
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, receiver, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the spans so far.
    pub fn spans(&self) -> Vec<Received> {
        self.receiver.0.lock().unwrap().spans.clone()
    }

    /// Returns the latest metrics.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        self.receiver.0.lock().unwrap().metrics.clone()
    }

    /// Waits until a metric has this value.
    pub async fn metric(&self, series: &str, value: f64) {
        let begun = Instant::now();
        while self.metrics().get(series).is_none_or(|found| (found - value).abs() > f64::EPSILON) {
            assert!(begun.elapsed() < PATIENCE, "{series} is not {value}: {:#?}", self.metrics());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn resources(&self) -> Vec<BTreeMap<String, String>> {
        self.receiver.0.lock().unwrap().resources.clone()
    }

    /// Returns the metadata of the latest request.
    pub fn metadata(&self) -> MetadataMap {
        self.receiver.0.lock().unwrap().metadata.clone().unwrap()
    }

    /// Returns everything that arrived, encoded.
    pub fn bytes(&self) -> Vec<u8> {
        self.receiver.0.lock().unwrap().bytes.clone()
    }

    /// Waits for a span.
    pub async fn span(&self, is_wanted: impl Fn(&Received) -> bool) -> Received {
        let begun = Instant::now();
        loop {
            if let Some(span) = self.spans().into_iter().find(|span| is_wanted(span)) {
                return span;
            }
            assert!(begun.elapsed() < PATIENCE, "the span does not arrive: {:#?}", self.spans());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for a span of this name in this trace.
    pub async fn named(&self, trace_id: &str, name: &str) -> Received {
        self.span(|span| span.trace_id == trace_id && span.name == name).await
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let mut state = self.0.lock().unwrap();
        state.metadata = Some(metadata);
        state.bytes.extend(message.encode_to_vec());
        for resource in message.resource_spans {
            state.resources.push(attributes(resource.resource.unwrap_or_default().attributes));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            state.spans.extend(spans.map(received));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.metrics.clear();
        for resource in request.into_inner().resource_metrics {
            state.resources.push(attributes(resource.resource.unwrap_or_default().attributes));
            let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            state.metrics.extend(metrics.flat_map(series));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// The samples of a metric in the Prometheus format.
fn series(metric: Metric) -> Vec<(String, f64)> {
    let name = metric.name;
    let labelled = |suffix: &str, bound: Option<String>, pairs: &[KeyValue]| {
        let mut labels: Vec<_> = bound.map(|bound| format!("le=\"{bound}\"")).into_iter().collect();
        // In their order, not sorted.
        for pair in pairs {
            labels.push(format!("{}=\"{}\"", pair.key, attributes(vec![pair.clone()])[&pair.key]));
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        format!("{name}{suffix}{labels}")
    };
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let number = |value| match value {
        Some(number_data_point::Value::AsInt(whole)) => whole as f64,
        Some(number_data_point::Value::AsDouble(number)) => number,
        None => panic!("{name} has no value"),
    };
    let points = match metric.data.unwrap() {
        Data::Gauge(gauge) => gauge.data_points,
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{name}");
            sum.data_points
        }
        Data::Histogram(histogram) => {
            assert_eq!(histogram.aggregation_temporality, 2, "{name}");
            let mut samples = Vec::new();
            for point in histogram.data_points {
                let pairs = &point.attributes;
                #[expect(clippy::cast_precision_loss, reason = "counts are small")]
                let count = |count: u64| count as f64;
                samples.push((labelled("_sum", None, pairs), point.sum.unwrap()));
                samples.push((labelled("_count", None, pairs), count(point.count)));
                let bounds = point.explicit_bounds.iter().map(|bound| match bound.fract() {
                    0.0 => format!("{bound:.1}"),
                    _ => bound.to_string(),
                });
                let mut below = 0;
                for (bound, more) in bounds.chain(["+Inf".to_owned()]).zip(point.bucket_counts) {
                    below += more;
                    samples.push((labelled("_bucket", Some(bound), pairs), count(below)));
                }
            }
            return samples;
        }
        other => panic!("{name}: {other:?}"),
    };
    points.into_iter().map(|point| (labelled("", None, &point.attributes), number(point.value))).collect()
}

fn received(span: Span) -> Received {
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    Received {
        name: span.name,
        kind: span.kind,
        trace_id: HEXLOWER.encode(&span.trace_id),
        span_id: HEXLOWER.encode(&span.span_id),
        parent_id: HEXLOWER.encode(&span.parent_span_id),
        state: span.trace_state,
        is_error: span.status.is_some_and(|status| status.code == 2),
        attributes: attributes(span.attributes),
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |pair: KeyValue| {
        let value = match pair.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key, value)
    };
    pairs.into_iter().map(text).collect()
}
