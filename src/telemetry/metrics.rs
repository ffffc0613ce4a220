//! Exports the metrics over OTLP: what `/metrics` shows, under the same names.

use std::{iter, time::Duration};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, metadata::MetadataMap, transport::Channel};

use super::otlp;
use crate::{
    config::Otlp, domain::ports::Clock as _, isolation::log_limiter::LogLimiter, store::clock::SystemClock,
};

/// The last export waits no longer than this for the receiver.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

static NOT_EXPORTED: LogLimiter = LogLimiter::new("failed to export metrics", 1);

/// The export of metrics to `otlp.endpoint`.
pub struct MetricsExport {
    client: MetricsServiceClient<Channel>,
    headers: MetadataMap,
    resource: Resource,
    interval: Duration,
    timeout: Duration,
    /// Since when is counted.
    start: u64,
}

impl MetricsExport {
    /// Returns `None` if the settings want no export. Requires a runtime.
    pub fn new(settings: &Otlp) -> Result<Option<Self>, String> {
        if settings.endpoint.is_empty() || settings.metrics_interval.is_zero() {
            return Ok(None);
        }
        let attributes = otlp::resource(settings)?;
        let attributes = attributes.iter().map(|(key, value)| attribute(key, value)).collect();
        Ok(Some(Self {
            client: MetricsServiceClient::new(otlp::channel(settings)?),
            headers: otlp::headers(settings)?,
            resource: Resource { attributes, ..Resource::default() },
            interval: settings.metrics_interval,
            timeout: settings.timeout,
            start: now(),
        }))
    }

    /// Exports what `gather` returns in the OpenMetrics text format, at each interval and once more at the shutdown.
    pub async fn run(&self, gather: &(dyn Fn() -> String + Send + Sync), shutdown: &CancellationToken) {
        while shutdown.run_until_cancelled(sleep(self.interval)).await.is_some() {
            self.export(&gather(), self.timeout).await;
        }
        self.export(&gather(), self.timeout.min(LAST_TIMEOUT)).await;
    }

    async fn export(&self, text: &str, limit: Duration) {
        let scope = InstrumentationScope { name: "latchkey".to_owned(), ..InstrumentationScope::default() };
        let metrics = families(text, self.start, now());
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
        let resource = Some(self.resource.clone());
        let resource_metrics =
            vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
        let mut request = Request::new(ExportMetricsServiceRequest { resource_metrics });
        *request.metadata_mut() = self.headers.clone();
        let error = match timeout(limit, self.client.clone().export(request)).await {
            Ok(Ok(_)) => return,
            Ok(Err(status)) => status.to_string(),
            Err(_) => format!("no answer within {}", humantime::format_duration(limit)),
        };
        if NOT_EXPORTED.admits("collector") {
            tracing::warn!(error.message = error, "failed to export metrics to otlp.endpoint");
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    SystemClock.now().as_micros().saturating_mul(1000)
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Converts the text of [`prometheus_client`], whose labels contain nothing that is escaped.
fn families(text: &str, start: u64, now: u64) -> Vec<Metric> {
    let mut families = Vec::<Metric>::new();
    let mut description = "";
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            description = help.split_once(' ').map_or("", |(_, description)| description);
        } else if let Some(named) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = named.split_once(' ') else { continue };
            families.extend(family(name, kind, description));
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            if let (Some(family), Some((_, unit))) = (families.last_mut(), unit.split_once(' ')) {
                // The names of UCUM.
                family.unit = match unit {
                    "seconds" => "s".to_owned(),
                    "bytes" => "By".to_owned(),
                    other => other.to_owned(),
                };
            }
        } else if line.starts_with('#') {
            // The end.
        } else if let (Some(family), Some(sample)) = (families.last_mut(), Sample::parse(line)) {
            add(family, &sample, start, now);
        }
    }
    families
}

/// An empty family. Counters and infos keep the suffix that they have on `/metrics`.
fn family(name: &str, kind: &str, description: &str) -> Option<Metric> {
    let (suffix, data) = match kind {
        "counter" => {
            let sum = Sum { aggregation_temporality: CUMULATIVE, is_monotonic: true, ..Sum::default() };
            ("_total", Data::Sum(sum))
        }
        "histogram" => {
            ("", Data::Histogram(Histogram { aggregation_temporality: CUMULATIVE, ..Histogram::default() }))
        }
        "gauge" => ("", Data::Gauge(Gauge::default())),
        "info" => ("_info", Data::Gauge(Gauge::default())),
        _ => return None,
    };
    Some(Metric {
        name: format!("{name}{suffix}"),
        description: description.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

/// A line of the text.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: &'a str,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        let labels = labels.split_terminator(',').map(|label| {
            let (key, value) = label.split_once('=')?;
            Some((key, value.strip_prefix('"')?.strip_suffix('"')?))
        });
        Some(Self { name, labels: labels.collect::<Option<_>>()?, value })
    }

    /// The labels that are attributes.
    fn attributes(&self) -> Vec<KeyValue> {
        let labels = self.labels.iter().filter(|(key, _)| *key != "le");
        labels.map(|(key, value)| attribute(key, value)).collect()
    }

    fn number(&self) -> Option<number_data_point::Value> {
        let whole = self.value.parse().map(number_data_point::Value::AsInt);
        whole.or_else(|_| self.value.parse().map(number_data_point::Value::AsDouble)).ok()
    }
}

fn add(family: &mut Metric, sample: &Sample<'_>, start: u64, now: u64) {
    let point = |start| NumberDataPoint {
        attributes: sample.attributes(),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: sample.number(),
        ..NumberDataPoint::default()
    };
    match &mut family.data {
        Some(Data::Sum(sum)) => sum.data_points.push(point(start)),
        Some(Data::Gauge(gauge)) => gauge.data_points.push(point(0)),
        Some(Data::Histogram(histogram)) => {
            let points = &mut histogram.data_points;
            // The sum is the first line of a series, then come the count and the buckets in order.
            if sample.name.ends_with("_sum") {
                points.push(HistogramDataPoint {
                    attributes: sample.attributes(),
                    start_time_unix_nano: start,
                    time_unix_nano: now,
                    sum: sample.value.parse().ok(),
                    ..HistogramDataPoint::default()
                });
            }
            let (Some(point), Ok(count)) = (points.last_mut(), sample.value.parse::<u64>()) else { return };
            if sample.name.ends_with("_count") {
                point.count = count;
            }
            let Some((_, bound)) = sample.labels.iter().find(|(key, _)| *key == "le") else { return };
            if *bound != "+Inf" {
                point.explicit_bounds.extend(bound.parse::<f64>());
            }
            // The text has cumulative counts.
            let below: u64 = point.bucket_counts.iter().sum();
            point.bucket_counts.extend(iter::once(count.saturating_sub(below)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_converted_with_its_names_labels_and_units() {
        let text = "# HELP a_seconds The help.\n\
             # TYPE a_seconds histogram\n\
             # UNIT a_seconds seconds\n\
             a_seconds_sum{store=\"s\",operation=\"o\"} 1.5\n\
             a_seconds_count{store=\"s\",operation=\"o\"} 7\n\
             a_seconds_bucket{le=\"0.5\",store=\"s\",operation=\"o\"} 2\n\
             a_seconds_bucket{le=\"2.0\",store=\"s\",operation=\"o\"} 6\n\
             a_seconds_bucket{le=\"+Inf\",store=\"s\",operation=\"o\"} 7\n\
             # HELP b Count.\n\
             # TYPE b counter\n\
             b_total{result=\"hit\"} 3\n\
             b_total{result=\"miss\"} 4\n\
             # TYPE c gauge\n\
             c 0.25\n\
             # TYPE d info\n\
             d_info{version=\"1\"} 1\n\
             # EOF\n";
        let metrics = families(text, 10, 20);
        let names: Vec<_> = metrics.iter().map(|metric| &*metric.name).collect();
        assert_eq!(names, ["a_seconds", "b_total", "c", "d_info"]);
        assert_eq!((&*metrics[0].description, &*metrics[0].unit), ("The help.", "s"));
        let Some(Data::Histogram(histogram)) = &metrics[0].data else { panic!("{:?}", metrics[0]) };
        let [point] = &*histogram.data_points else { panic!("{histogram:?}") };
        assert_eq!((point.count, point.sum, &*point.explicit_bounds), (7, Some(1.5), &[0.5, 2.0][..]));
        assert_eq!(point.bucket_counts, [2, 4, 1]);
        assert_eq!(point.attributes, [attribute("store", "s"), attribute("operation", "o")]);
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (10, 20));
        let Some(Data::Sum(sum)) = &metrics[1].data else { panic!("{:?}", metrics[1]) };
        assert!(sum.is_monotonic && sum.data_points.len() == 2);
        assert_eq!(sum.data_points[1].value, Some(number_data_point::Value::AsInt(4)));
        assert_eq!(sum.data_points[1].attributes, [attribute("result", "miss")]);
        let Some(Data::Gauge(gauge)) = &metrics[2].data else { panic!("{:?}", metrics[2]) };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(0.25)));
        assert_eq!(metrics[1].unit, "");
    }
}
