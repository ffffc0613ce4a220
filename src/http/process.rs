//! Metrics of the process, with the names of the Prometheus client libraries. Linux only.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    #[cfg(not(target_os = "linux"))]
    fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
        Ok(())
    }

    /// Values that cannot be read are left out.
    #[cfg(target_os = "linux")]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let tick = |ticks: u64| linux::as_f64(ticks) / linux::as_f64(procfs::ticks_per_second());
            linux::counter(
                &mut encoder,
                "process_cpu",
                "User and system CPU time in seconds",
                tick(stat.utime + stat.stime),
            )?;
            if let Ok(boot) = procfs::boot_time_secs() {
                linux::gauge(
                    &mut encoder,
                    "process_start_time",
                    "Start of the process, in seconds since 1970",
                    Some(&linux::SECONDS),
                    linux::as_f64(boot) + tick(stat.starttime),
                )?;
            }
            let bytes = Some(&linux::BYTES);
            let gauges = [
                (
                    "process_resident_memory",
                    "Resident memory in bytes",
                    bytes,
                    linux::as_f64(stat.rss.saturating_mul(procfs::page_size())),
                ),
                ("process_virtual_memory", "Virtual memory in bytes", bytes, linux::as_f64(stat.vsize)),
                (
                    "process_threads",
                    "Threads of the process",
                    None,
                    linux::as_f64(stat.num_threads.unsigned_abs()),
                ),
            ];
            for (name, help, unit, value) in gauges {
                linux::gauge(&mut encoder, name, help, unit, value)?;
            }
        }
        if let Ok(open) = process.fd_count() {
            linux::gauge(
                &mut encoder,
                "process_open_fds",
                "Open file descriptors",
                None,
                linux::as_f64(open as u64),
            )?;
        }
        if let Ok(limits) = process.limits()
            && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            let help = "Maximum number of open file descriptors";
            linux::gauge(&mut encoder, "process_max_fds", help, None, linux::as_f64(most))?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;

    use prometheus_client::{
        encoding::{DescriptorEncoder, EncodeMetric as _},
        metrics::{counter::ConstCounter, gauge::ConstGauge},
        registry::Unit,
    };

    pub(super) const SECONDS: Unit = Unit::Seconds;
    pub(super) const BYTES: Unit = Unit::Bytes;

    #[expect(clippy::cast_precision_loss, reason = "a metric need not be exact beyond 2^53")]
    pub(super) const fn as_f64(value: u64) -> f64 {
        value as f64
    }

    pub(super) fn counter(
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        seconds: f64,
    ) -> fmt::Result {
        let metric = ConstCounter::new(seconds);
        metric.encode(encoder.encode_descriptor(name, help, Some(&SECONDS), metric.metric_type())?)
    }

    pub(super) fn gauge(
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: f64,
    ) -> fmt::Result {
        let metric = ConstGauge::new(value);
        metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
    }
}
