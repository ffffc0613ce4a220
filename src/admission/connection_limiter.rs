//! Limits the connections of a port, and evicts idle ones when there are too many.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use super::{Admission, Connection, Permit, Resource, Scope};

/// A connection without a request for this many seconds may be evicted.
const IDLE_SECS: u64 = 30;
/// A connection that has never had a request may be evicted after this many seconds.
const SILENT_SECS: u64 = 3;
/// The number of connections evicted at once, because finding them scans all.
const EVICTION_BATCH: usize = 16;
/// The interval of attempts to evict connections.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Admits the connections of a port.
pub struct ConnectionLimiter {
    admission: Arc<Admission>,
    resource: Resource,
    open: Mutex<Vec<Weak<Connection>>>,
}

/// A connection that was admitted.
pub struct Admitted {
    /// The connection with its usage.
    pub connection: Arc<Connection>,
    _permit: Permit<Arc<Connection>>,
}

impl ConnectionLimiter {
    /// The limiter of a port, whose connections count as `resource`.
    #[must_use]
    pub const fn new(admission: Arc<Admission>, resource: Resource) -> Self {
        Self { admission, resource, open: Mutex::new(Vec::new()) }
    }

    /// Admits a connection from this address once there is room. Returns `None` if its client has too many connections.
    pub async fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let connection = self.admission.connection(address);
        let mut is_counted = false;
        loop {
            let permit = Permit::try_take(Arc::clone(&connection), self.resource);
            if let Err(scope) = &permit
                && !std::mem::replace(&mut is_counted, true)
            {
                connection.count_denied(self.resource, *scope);
            }
            match permit {
                Ok(permit) => {
                    self.track(&connection);
                    return Some(Admitted { connection, _permit: permit });
                }
                Err(Scope::Client | Scope::Connection) => return None,
                Err(Scope::Total) => {
                    self.evict_idle();
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    fn track(&self, connection: &Arc<Connection>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Closed connections are removed only when the list is full, so the cost per connection is constant.
        if open.len() == open.capacity() {
            open.retain(|connection| connection.strong_count() > 0);
        }
        open.push(Arc::downgrade(connection));
    }

    /// Evicts the connections that have been idle for longest.
    fn evict_idle(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| connection.strong_count() > 0);
        let open: Vec<_> = open.iter().filter_map(Weak::upgrade).collect();
        let evicted = open.iter().filter(|connection| connection.is_evicted()).count();
        let mut idle: Vec<_> = open
            .into_iter()
            .filter(|connection| !connection.is_evicted())
            .filter_map(|connection| {
                let (seconds, had_request) = connection.idle()?;
                let min_idle = if had_request { IDLE_SECS } else { SILENT_SECS };
                // Connections that never had a request go first.
                (seconds >= min_idle).then_some(((!had_request, seconds), connection))
            })
            .collect();
        idle.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        for (_, connection) in idle.iter().take(EVICTION_BATCH.saturating_sub(evicted)) {
            connection.evict();
            self.admission.report.count_evicted();
        }
    }
}
