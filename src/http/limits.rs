//! Metrics of admission control: what is in use, and what was refused.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::admission::{Admission, Resource, Scope};

/// What admission control counts, read when it is asked for.
pub(super) struct Limits(pub(super) Arc<Admission>);

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limits")
    }
}

/// Whether requests, or else connections, count towards it.
fn is_of_requests(resource: Resource) -> bool {
    !matches!(resource, Resource::GrpcConnections | Resource::HttpConnections)
}

impl Limits {
    /// How often each resource was refused.
    fn refused(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        which: fn(Resource) -> bool,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for resource in Resource::ALL.into_iter().filter(|resource| which(*resource)) {
            for scope in Scope::ALL {
                let labels = [("resource", resource.name()), ("scope", scope.name())];
                let count = ConstCounter::new(self.0.refused(resource, scope));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Collector for Limits {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.refused(
            &mut encoder,
            "requests_shed",
            "Requests and streams that were refused because a limit was reached: of all clients (total), of one client address, or of one connection",
            is_of_requests,
        )?;
        self.refused(
            &mut encoder,
            "connections_refused",
            "Connections that had to wait (total) or were closed at once (client) because a limit was reached",
            |resource| !is_of_requests(resource),
        )?;
        let counters = [
            (
                "connections_evicted",
                "Idle connections that were closed to make room for others",
                self.0.evicted(),
            ),
            (
                "reset_floods",
                "Connections that were closed because their clients reset too many streams",
                self.0.reset_floods(),
            ),
        ];
        for (name, help, count) in counters {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(family)?;
        }
        let gauges = [
            ("requests_in_flight", "Requests that are complete and not answered", Resource::Requests),
            (
                "open_streams",
                "Streaming calls that are open, without those of health and reflection",
                Resource::Streams,
            ),
            (
                "open_exchanges",
                "Calls on the gRPC port that are open, in whatever state",
                Resource::Exchanges,
            ),
            ("grpc_connections", "Connections to the gRPC port", Resource::GrpcConnections),
            ("http_connections", "Connections to the HTTP port", Resource::HttpConnections),
            ("unfinished_body_bytes", "Bytes of request messages that are not complete", Resource::BodyBytes),
        ];
        for (name, help, resource) in gauges {
            let used = i64::try_from(self.0.used(resource)).unwrap_or(i64::MAX);
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(used).encode(family)?;
        }
        Ok(())
    }
}
