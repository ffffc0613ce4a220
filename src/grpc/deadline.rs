//! Deadlines of calls: `grpc-timeout`, as the gRPC protocol over HTTP/2 defines it.

use std::time::{Duration, Instant};

use http::HeaderMap;

/// The header that says how long the client waits for the answer.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// When the answer to a request is of no use any more; among the extensions of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// How long a call may take: as long as its client waits, but no longer than `longest`.
pub(super) fn timeout(headers: &HeaderMap, longest: Duration) -> Duration {
    let asked = headers.get(GRPC_TIMEOUT).and_then(|value| parse(value.as_bytes()));
    asked.map_or(longest, |asked| asked.min(longest))
}

/// One to eight digits and a unit. `None` where it is something else: then it says nothing.
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

    const LONGEST: Duration = Duration::from_secs(10);

    fn of(value: &str) -> Duration {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, value.parse().unwrap());
        timeout(&headers, LONGEST)
    }

    #[test]
    fn the_shorter_of_the_two_counts() {
        assert_eq!(timeout(&HeaderMap::new(), LONGEST), LONGEST);
        for (value, expected) in [
            ("1S", Duration::from_secs(1)),
            ("0S", Duration::ZERO),
            ("500m", Duration::from_millis(500)),
            ("00000007m", Duration::from_millis(7)),
            ("99999999u", LONGEST),
            ("250u", Duration::from_micros(250)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("11S", LONGEST),
            ("99999999H", LONGEST),
            ("2M", LONGEST),
        ] {
            assert_eq!(of(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_no_timeout_says_nothing() {
        for value in ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "123456789n", "1SS", "x"] {
            assert_eq!(of(value), LONGEST, "{value:?}");
        }
    }
}
