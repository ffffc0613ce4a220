//! Metrics of admission control: resources in use, and requests and connections beyond the limits.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::admission::{Admission, Resource, Scope};

/// Collects the metrics of admission control at each scrape.
pub(super) struct AdmissionCollector(pub(super) Arc<Admission>);

impl fmt::Debug for AdmissionCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdmissionCollector")
    }
}

/// Whether a resource is used by requests and not by connections.
fn is_used_by_requests(resource: Resource) -> bool {
    !matches!(resource, Resource::GrpcConnections | Resource::HttpConnections)
}

impl AdmissionCollector {
    /// Encodes how often the limit of each resource was exceeded.
    fn encode_refused(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        filter: fn(Resource) -> bool,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for resource in Resource::ALL.into_iter().filter(|resource| filter(*resource)) {
            for scope in Scope::ALL {
                let labels = [("resource", resource.name()), ("scope", scope.name())];
                let count = ConstCounter::new(self.0.refused(resource, scope));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Collector for AdmissionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_refused(
            &mut encoder,
            "requests_shed",
            "Requests and streams rejected with OVERLOADED, by resource and by the limit that was reached: of all clients (total), of a client address (client) or of a connection",
            is_used_by_requests,
        )?;
        self.encode_refused(
            &mut encoder,
            "connections_refused",
            "Connections that were delayed by the limit of all clients (total) or closed by the limit of a client address (client)",
            |resource| !is_used_by_requests(resource),
        )?;
        let counters = [
            ("connections_evicted", "Idle connections closed to make room for new ones", self.0.evicted()),
            (
                "reset_floods",
                "Connections closed because the client reset too many streams",
                self.0.reset_floods(),
            ),
        ];
        for (name, help, count) in counters {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(family)?;
        }
        let gauges = [
            ("requests_in_flight", "Complete requests that are not answered yet", Resource::Requests),
            ("open_streams", "Open streaming calls, without health and reflection", Resource::Streams),
            (
                "open_exchanges",
                "Open HTTP exchanges on the gRPC port, from the request headers to the end of the response",
                Resource::Exchanges,
            ),
            ("grpc_connections", "Open connections to the gRPC port", Resource::GrpcConnections),
            ("http_connections", "Open connections to the HTTP port", Resource::HttpConnections),
            ("unfinished_body_bytes", "Bytes of incomplete request messages in memory", Resource::BodyBytes),
        ];
        for (name, help, resource) in gauges {
            let value = i64::try_from(self.0.used(resource)).unwrap_or(i64::MAX);
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(family)?;
        }
        Ok(())
    }
}
