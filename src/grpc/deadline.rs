//! Deadlines of calls: the header `grpc-timeout` of the gRPC protocol over HTTP/2.

use std::time::{Duration, Instant};

use http::HeaderMap;

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The deadline of a request, in its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// Returns the timeout of a call: `grpc-timeout`, but at most `max`.
pub(super) fn timeout(headers: &HeaderMap, max: Duration) -> Duration {
    headers
        .get(GRPC_TIMEOUT)
        .and_then(|value| parse(value.as_bytes()))
        .map_or(max, |timeout| timeout.min(max))
}

/// Parses one to eight digits and a unit. Other values are ignored.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(10);

    fn of(value: &str) -> Duration {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, value.parse().unwrap());
        timeout(&headers, MAX)
    }

    #[test]
    fn the_shorter_timeout_counts() {
        assert_eq!(timeout(&HeaderMap::new(), MAX), MAX);
        for (value, expected) in [
            ("1S", Duration::from_secs(1)),
            ("0S", Duration::ZERO),
            ("500m", Duration::from_millis(500)),
            ("00000007m", Duration::from_millis(7)),
            ("99999999u", MAX),
            ("250u", Duration::from_micros(250)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("11S", MAX),
            ("99999999H", MAX),
            ("2M", MAX),
        ] {
            assert_eq!(of(value), expected, "{value}");
        }
    }

    #[test]
    fn a_malformed_timeout_is_ignored() {
        for value in ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "123456789n", "1SS", "x"] {
            assert_eq!(of(value), MAX, "{value:?}");
        }
    }
}
