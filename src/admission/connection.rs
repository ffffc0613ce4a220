//! The usage of a connection and of its client, and the time of its last request.

use std::{
    net::IpAddr,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::{Admission, Resource, Scope, Usage};

/// A network that a connection counts towards.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) network: IpNet,
    pub(super) usage: Arc<Usage>,
    /// Its limit as a multiple of that of one client.
    pub(super) times: usize,
}

/// A connection of a client.
pub struct Connection {
    admission: Arc<Admission>,
    address: IpAddr,
    usage: Usage,
    groups: Vec<Group>,
    /// The time of the last request, in seconds since the start.
    last_request: AtomicU64,
    had_request: AtomicBool,
    /// The time of the last received bytes, in seconds since the start.
    last_received: AtomicU64,
    exchanges: AtomicUsize,
    evicted: CancellationToken,
    closing: CancellationToken,
}

impl Connection {
    pub(super) fn new(admission: Arc<Admission>, address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            usage: Usage::default(),
            groups: admission.join(address),
            last_request: AtomicU64::new(admission.seconds()),
            had_request: AtomicBool::new(false),
            last_received: AtomicU64::new(admission.seconds()),
            exchanges: AtomicUsize::new(0),
            evicted: CancellationToken::new(),
            closing: CancellationToken::new(),
            admission,
            address,
        }
    }

    /// Takes this much of a resource until it is released.
    ///
    /// # Errors
    ///
    /// The scope of the limit that is reached.
    pub fn take(&self, resource: Resource, amount: usize) -> Result<(), Scope> {
        self.try_take(resource, amount).inspect_err(|scope| self.count_denied(resource, *scope))
    }

    /// [`Self::take`] without counting a denial, for a caller that tries again.
    fn try_take(&self, resource: Resource, amount: usize) -> Result<(), Scope> {
        let limit = self.admission.limit(resource);
        if !self.usage.add(resource, amount, limit.connection) {
            return Err(Scope::Connection);
        }
        for (taken, group) in self.groups.iter().enumerate() {
            if !group.usage.add(resource, amount, limit.client.saturating_mul(group.times)) {
                self.usage.subtract(resource, amount);
                self.groups[..taken].iter().for_each(|group| group.usage.subtract(resource, amount));
                return Err(Scope::Client);
            }
        }
        if !self.admission.used.add(resource, amount, limit.total) {
            self.usage.subtract(resource, amount);
            self.groups.iter().for_each(|group| group.usage.subtract(resource, amount));
            return Err(Scope::Total);
        }
        Ok(())
    }

    /// Releases what was taken.
    pub fn release(&self, resource: Resource, amount: usize) {
        self.usage.subtract(resource, amount);
        self.groups.iter().for_each(|group| group.usage.subtract(resource, amount));
        self.admission.used.subtract(resource, amount);
    }

    pub(super) fn count_denied(&self, resource: Resource, scope: Scope) {
        self.admission.report.count(resource, scope, self.address);
    }

    /// Returns the amount of a resource that this connection uses.
    pub fn used(&self, resource: Resource) -> usize {
        self.usage.get(resource)
    }

    /// Records that requests have arrived, and the number of open exchanges.
    pub fn note_requests(&self, open: usize) {
        self.note_arrival();
        self.note_open(open);
    }

    /// Records that requests have arrived.
    pub fn note_arrival(&self) {
        self.last_request.store(self.admission.seconds(), Ordering::Relaxed);
        self.had_request.store(true, Ordering::Relaxed);
    }

    /// Records that bytes have been received.
    pub fn note_received(&self) {
        self.last_received.store(self.admission.seconds(), Ordering::Relaxed);
    }

    /// Returns the time since bytes were last received, to the second.
    pub fn silence(&self) -> Duration {
        let last = self.last_received.load(Ordering::Relaxed);
        Duration::from_secs(self.admission.seconds().saturating_sub(last))
    }

    /// Records the number of open exchanges.
    pub fn note_open(&self, open: usize) {
        self.exchanges.store(open, Ordering::Relaxed);
    }

    /// Returns the seconds since the last request, and whether there ever was one; `None` while an exchange is open.
    pub(super) fn idle(&self) -> Option<(u64, bool)> {
        let idle = self.admission.seconds().saturating_sub(self.last_request.load(Ordering::Relaxed));
        let busy = self.exchanges.load(Ordering::Relaxed) + self.used(Resource::Streams);
        (busy == 0).then(|| (idle, self.had_request.load(Ordering::Relaxed)))
    }

    pub(super) fn evict(&self) {
        self.evicted.cancel();
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Waits until the connection is evicted.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Ends the streams of the connection.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Cancelled when the connection is about to be closed and its streams have to end.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Records that the connection is closed because its client resets too many streams.
    pub fn note_reset_flood(&self) {
        self.admission.report.count_reset_flood();
        tracing::debug!(client.address = %self.address, "closing a connection: its client resets too many streams");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.admission.leave(&self.groups);
    }
}

/// An amount of a resource, which is released on drop.
pub struct Permit<C: Deref<Target = Connection>> {
    connection: C,
    resource: Resource,
    amount: usize,
}

impl<C: Deref<Target = Connection>> Permit<C> {
    /// Takes one unit of a resource.
    ///
    /// # Errors
    ///
    /// The scope of the limit that is reached.
    pub fn take(connection: C, resource: Resource) -> Result<Self, Scope> {
        connection.take(resource, 1)?;
        Ok(Self { connection, resource, amount: 1 })
    }

    /// [`Self::take`] without counting a denial.
    pub(super) fn try_take(connection: C, resource: Resource) -> Result<Self, Scope> {
        connection.try_take(resource, 1)?;
        Ok(Self { connection, resource, amount: 1 })
    }

    /// A permit for nothing yet.
    pub const fn empty(connection: C, resource: Resource) -> Self {
        Self { connection, resource, amount: 0 }
    }

    /// Returns the amount that was taken.
    pub const fn amount(&self) -> usize {
        self.amount
    }

    /// Takes or releases the difference to this amount.
    ///
    /// # Errors
    ///
    /// The scope of the limit that is reached. The amount then stays as it was.
    pub fn set(&mut self, amount: usize) -> Result<(), Scope> {
        if amount > self.amount {
            self.connection.take(self.resource, amount - self.amount)?;
        } else if amount < self.amount {
            self.connection.release(self.resource, self.amount - amount);
        }
        self.amount = amount;
        Ok(())
    }
}

impl<C: Deref<Target = Connection>> Drop for Permit<C> {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.connection.release(self.resource, self.amount);
        }
    }
}
