//! A connection: what it uses, what its client uses, and when it was last of use.

use std::{
    net::IpAddr,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::{Admission, Resource, Scope, Usage};

/// A network that a connection counts towards.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) network: IpNet,
    pub(super) usage: Arc<Usage>,
    /// How many times as much as one client it may use.
    pub(super) times: usize,
}

/// A connection of a client.
pub struct Connection {
    admission: Arc<Admission>,
    address: IpAddr,
    usage: Usage,
    groups: Vec<Group>,
    /// When it last had a request, in seconds since the start.
    last_request: AtomicU64,
    has_asked: AtomicBool,
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
            has_asked: AtomicBool::new(false),
            exchanges: AtomicUsize::new(0),
            evicted: CancellationToken::new(),
            closing: CancellationToken::new(),
            admission,
            address,
        }
    }

    /// Takes this much of a resource, until it is given back.
    ///
    /// # Errors
    ///
    /// The limit that stands against it.
    pub fn take(&self, resource: Resource, amount: usize) -> Result<(), Scope> {
        self.try_take(resource, amount).inspect_err(|scope| self.count_refused(resource, *scope))
    }

    /// The same, where that is tried again and not to be counted each time.
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

    /// Gives back what was taken.
    pub fn give_back(&self, resource: Resource, amount: usize) {
        self.usage.subtract(resource, amount);
        self.groups.iter().for_each(|group| group.usage.subtract(resource, amount));
        self.admission.used.subtract(resource, amount);
    }

    pub(super) fn count_refused(&self, resource: Resource, scope: Scope) {
        self.admission.pressure.count(resource, scope, self.address);
    }

    /// Returns the amount of a resource that this connection uses.
    pub fn used(&self, resource: Resource) -> usize {
        self.usage.get(resource)
    }

    /// Notes that requests have come, and how many exchanges are open now.
    pub fn note_requests(&self, open: usize) {
        self.last_request.store(self.admission.seconds(), Ordering::Relaxed);
        self.has_asked.store(true, Ordering::Relaxed);
        self.note_open(open);
    }

    /// Notes how many exchanges are open now.
    pub fn note_open(&self, open: usize) {
        self.exchanges.store(open, Ordering::Relaxed);
    }

    /// For how many seconds nothing has been asked, and whether anything ever was; `None` while an exchange is open.
    pub(super) fn idle(&self) -> Option<(u64, bool)> {
        let idle = self.admission.seconds().saturating_sub(self.last_request.load(Ordering::Relaxed));
        let busy = self.exchanges.load(Ordering::Relaxed) + self.used(Resource::Streams);
        (busy == 0).then(|| (idle, self.has_asked.load(Ordering::Relaxed)))
    }

    pub(super) fn evict(&self) {
        self.evicted.cancel();
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.is_cancelled()
    }

    /// Waits until it has to make room for others.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Ends its streams.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Cancelled once the connection is about to be closed and its streams have to end.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Notes that it is closed because its client resets too many streams.
    pub fn note_reset_flood(&self) {
        self.admission.pressure.count_reset_flood();
        tracing::debug!(client.address = %self.address, "closing a connection: its client resets too many streams");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.admission.leave(&self.groups);
    }
}

/// What was taken of a resource, given back when it is dropped.
pub struct Permit<C: Deref<Target = Connection>> {
    connection: C,
    resource: Resource,
    amount: usize,
}

impl<C: Deref<Target = Connection>> Permit<C> {
    /// Takes one of a resource.
    ///
    /// # Errors
    ///
    /// The limit that stands against it.
    pub fn take(connection: C, resource: Resource) -> Result<Self, Scope> {
        connection.take(resource, 1)?;
        Ok(Self { connection, resource, amount: 1 })
    }

    /// The same, without counting that it was refused.
    pub(super) fn try_take(connection: C, resource: Resource) -> Result<Self, Scope> {
        connection.try_take(resource, 1)?;
        Ok(Self { connection, resource, amount: 1 })
    }

    /// None of a resource yet.
    pub const fn empty(connection: C, resource: Resource) -> Self {
        Self { connection, resource, amount: 0 }
    }

    /// Returns the amount that was taken.
    pub const fn amount(&self) -> usize {
        self.amount
    }

    /// Takes more or gives back, so that it is this much.
    ///
    /// # Errors
    ///
    /// The limit that stands against it; then it stays as it was.
    pub fn set(&mut self, amount: usize) -> Result<(), Scope> {
        if amount > self.amount {
            self.connection.take(self.resource, amount - self.amount)?;
        } else if amount < self.amount {
            self.connection.give_back(self.resource, self.amount - amount);
        }
        self.amount = amount;
        Ok(())
    }
}

impl<C: Deref<Target = Connection>> Drop for Permit<C> {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.connection.give_back(self.resource, self.amount);
        }
    }
}
