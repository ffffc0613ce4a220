//! The connections of one port: so many at a time. When there are too many, idle ones make room.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use super::{Admission, Connection, Permit, Resource, Scope};

/// A connection that has asked nothing for so many seconds makes room for others.
const IDLE: u64 = 30;
/// The same for one that has never asked anything.
const SILENT: u64 = 3;
/// How many make room at once: finding them takes a look at all.
const BATCH: usize = 16;
/// How often to look again for connections that can make room.
const PAUSE: Duration = Duration::from_millis(50);

/// Admits the connections of a port.
pub struct ConnectionLimiter {
    admission: Arc<Admission>,
    resource: Resource,
    open: Mutex<Vec<Weak<Connection>>>,
}

/// A connection that was admitted.
pub struct Admitted {
    /// The connection that is accounted for.
    pub connection: Arc<Connection>,
    _permit: Permit<Arc<Connection>>,
}

impl ConnectionLimiter {
    /// A port whose connections are this resource.
    #[must_use]
    pub const fn new(admission: Arc<Admission>, resource: Resource) -> Self {
        Self { admission, resource, open: Mutex::new(Vec::new()) }
    }

    /// Admits a connection from this address, once there is room. `None` where its client has too many.
    pub async fn admit(&self, address: IpAddr) -> Option<Admitted> {
        let connection = self.admission.connection(address);
        let mut waits = false;
        loop {
            let taken = Permit::try_take(Arc::clone(&connection), self.resource);
            if let Err(scope) = &taken
                && !std::mem::replace(&mut waits, true)
            {
                connection.count_refused(self.resource, *scope);
            }
            match taken {
                Ok(permit) => {
                    self.remember(&connection);
                    return Some(Admitted { connection, _permit: permit });
                }
                Err(Scope::Client | Scope::Connection) => return None,
                Err(Scope::Total) => {
                    self.make_room();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn remember(&self, connection: &Arc<Connection>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Now and then those that have gone are removed, so that each costs little.
        if open.len() == open.capacity() {
            open.retain(|connection| connection.strong_count() > 0);
        }
        open.push(Arc::downgrade(connection));
    }

    /// Closes those that have been idle for longest.
    fn make_room(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| connection.strong_count() > 0);
        let open: Vec<_> = open.iter().filter_map(Weak::upgrade).collect();
        let leaving = open.iter().filter(|connection| connection.is_evicted()).count();
        let mut idle: Vec<_> = open
            .into_iter()
            .filter(|connection| !connection.is_evicted())
            .filter_map(|connection| {
                let (seconds, has_asked) = connection.idle()?;
                let least = if has_asked { IDLE } else { SILENT };
                // Those that never asked go first.
                (seconds >= least).then_some(((!has_asked, seconds), connection))
            })
            .collect();
        idle.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        for (_, connection) in idle.iter().take(BATCH.saturating_sub(leaving)) {
            connection.evict();
            self.admission.pressure.count_evicted();
        }
    }
}
