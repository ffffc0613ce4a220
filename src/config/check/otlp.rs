//! Checks the settings of the export over OTLP.

use std::time::Duration;

use humantime::format_duration;
use url::Url;

use crate::config::{ConfigError, Otlp};

pub(super) fn check(otlp: &Otlp) -> Result<(), ConfigError> {
    let invalid = |message: &str| Err(ConfigError(message.to_owned()));
    if !(0.0..=1.0).contains(&otlp.sample_ratio) {
        return Err(ConfigError(format!(
            "otlp.sample_ratio must be 0 to 1, not {}: 0.01 is one request in a hundred",
            otlp.sample_ratio
        )));
    }
    if !(Duration::from_millis(100)..=Duration::from_mins(1)).contains(&otlp.timeout) {
        return Err(ConfigError(format!(
            "otlp.timeout must be 100ms to 1m, not {}",
            format_duration(otlp.timeout)
        )));
    }
    if !otlp.metrics_interval.is_zero()
        && !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&otlp.metrics_interval)
    {
        return Err(ConfigError(format!(
            "otlp.metrics_interval must be 1s to 1h, or 0s for no export, not {}",
            format_duration(otlp.metrics_interval)
        )));
    }
    otlp.attributes()?;
    if otlp.endpoint.is_empty() {
        return Ok(());
    }
    // The value is not quoted, because it may contain a secret.
    let url = Url::parse(&otlp.endpoint).ok();
    let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) else {
        return invalid(
            "otlp.endpoint (or OTEL_EXPORTER_OTLP_ENDPOINT) is not a URL such as http://collector:4317",
        );
    };
    if !url.username().is_empty() || url.password().is_some() {
        return invalid(
            "otlp.endpoint must contain no user and password: put credentials into otlp.headers_file",
        );
    }
    if !otlp.ca_file.is_empty() && url.scheme() != "https" {
        return invalid("otlp.ca_file needs TLS: begin otlp.endpoint with https://");
    }
    Ok(())
}
