//! The end of a connection that the server closes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admission::{Connection, Resource};

/// Time for a client to read its responses once none of its requests is in progress.
const LINGER: Duration = Duration::from_secs(1);
/// Interval of the checks whether requests are in progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Time for a connection that is being established while the server stops. Its client may have sent requests.
const ESTABLISH_GRACE: Duration = Duration::from_millis(500);

/// Waits until a connection that is not established must end: it is evicted, or the server stops and the client has had
/// time to finish.
pub(super) async fn too_late(connection: &Connection, shutdown: &CancellationToken) {
    let stopped = async {
        shutdown.cancelled().await;
        tokio::time::sleep(ESTABLISH_GRACE).await;
    };
    tokio::select! {
        () = stopped => {}
        () = connection.evicted() => {}
    }
}

/// Waits until a connection must end: it reaches `age`, is evicted, or the server stops.
pub(super) async fn retired(age: Duration, connection: &Connection, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = connection.evicted() => {}
        () = tokio::time::sleep(age) => {}
    }
}

/// Waits until none of the connection's requests is in progress and its client has had time to read the responses. A
/// client that does not read delays the end for no longer.
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
