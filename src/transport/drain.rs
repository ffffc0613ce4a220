//! The end of a connection that the server closes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admission::{Connection, Resource};

/// How long a client may take to read what was sent to it, once none of its requests is worked on.
const LINGER: Duration = Duration::from_secs(1);
/// Interval of the checks whether requests are worked on.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Waits until a connection must end: it is `age` old, has to make room for others, or the server stops.
pub(super) async fn retired(age: Duration, connection: &Connection, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = connection.evicted() => {}
        () = tokio::time::sleep(age) => {}
    }
}

/// Waits until none of the connection's requests is worked on and its client has had time to read the answers. A client
/// that is silent or does not read delays nothing for longer.
pub(super) async fn idle(connection: &Connection) {
    let mut lingered = Duration::ZERO;
    while lingered < LINGER {
        tokio::time::sleep(CHECK_INTERVAL).await;
        lingered = match connection.used(Resource::Requests) {
            0 => lingered + CHECK_INTERVAL,
            _ => Duration::ZERO,
        };
    }
}
