//! Limits on audit entries that clients without credentials can cause.
//!
//! The first refused requests of a window have entries of their own. The others are counted, and a summary reports
//! them, so that a flood of refused requests does not flood the trail.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;

use super::{Action, Audit, Entry, Outcome};
use crate::domain::{origin::Origin, types::Timestamp};

/// The window in which entries are counted.
const WINDOW: Duration = Duration::from_mins(1);
/// Entries about one client in a window. Further ones are only counted.
const MAX_PER_CLIENT: u32 = 20;
/// Entries about users of unknown addresses in a window. They may be many users.
const MAX_OF_UNKNOWN: u32 = 200;
/// Entries about all clients in a window.
const MAX_TOTAL: u32 = 600;
/// Clients that are counted separately. Those beyond count as one.
const MAX_CLIENTS: usize = 4096;
/// Clients with a summary of their own. The others share one.
const MAX_SUMMARIES: usize = 20;

/// An audit trail that limits refused requests, so that a flood of them does not flood the trail. A clone is the same
/// trail.
#[derive(Clone)]
pub struct LimitedAudit {
    trail: Arc<dyn Audit>,
    window: Arc<Mutex<Window>>,
}

/// Entries of one kind share their limits: an action, and whether the caller has authenticated. So a flood of unknown
/// callers does not hide the requests of a known one.
type Kind = (Action, bool);

/// The counts of the current window.
#[derive(Default)]
struct Window {
    started_at: Timestamp,
    totals: HashMap<Kind, u32>,
    clients: HashMap<(Kind, Option<IpNet>), Count>,
}

#[derive(Default)]
struct Count {
    recorded: u32,
    suppressed: u64,
    /// The outcome of the latest suppressed entry.
    outcome: Option<Outcome>,
}

impl LimitedAudit {
    /// Creates an audit trail whose entries go to `trail`.
    pub fn new(trail: Arc<dyn Audit>) -> Self {
        Self { trail, window: Arc::default() }
    }

    /// Records an entry, or counts it if there are too many of its kind. Never waits.
    pub fn record(&self, entry: Entry) {
        if is_limited(&entry) {
            let (summaries, admitted) = {
                let mut window = self.window();
                (window.end_if_over(entry.at), window.admit(&entry))
            };
            self.record_all(summaries);
            if !admitted {
                return;
            }
        }
        self.trail.record(entry);
    }

    fn record_all(&self, entries: Vec<Entry>) {
        for entry in entries {
            self.trail.record(entry);
        }
    }

    /// The number of entries that were lost because they could not be written.
    pub fn lost(&self) -> u64 {
        self.trail.lost()
    }

    /// Records summaries of suppressed entries once their window is over.
    pub fn record_summaries(&self, now: Timestamp) {
        let summaries = self.window().end_if_over(now);
        self.record_all(summaries);
    }

    /// Records summaries of suppressed entries at shutdown.
    pub fn close(&self, now: Timestamp) {
        let summaries = self.window().end(now);
        self.record_all(summaries);
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a client without credentials can cause such an entry.
fn is_limited(entry: &Entry) -> bool {
    let is_open =
        matches!(entry.action, Action::Login | Action::Logout | Action::ChangePassword | Action::Call);
    is_open && entry.outcome != Outcome::Done
}

impl Window {
    /// Counts an entry. Returns whether it is within the limits.
    fn admit(&mut self, entry: &Entry) -> bool {
        let kind = (entry.action, entry.origin.caller.is_some());
        let mut client = (kind, entry.origin.address.and_then(network));
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            client.1 = None;
        }
        let count = self.clients.entry(client).or_default();
        // Calls are made by services, of which few are refused; users are many.
        let is_of_user = entry.action != Action::Call;
        let limit = if client.1.is_none() && is_of_user { MAX_OF_UNKNOWN } else { MAX_PER_CLIENT };
        let total = self.totals.entry(kind).or_default();
        if count.recorded < limit && *total < MAX_TOTAL {
            count.recorded += 1;
            *total += 1;
            return true;
        }
        count.suppressed += 1;
        count.outcome = Some(entry.outcome);
        false
    }

    /// Starts a new window if this one is over. Returns the summaries of this one.
    fn end_if_over(&mut self, now: Timestamp) -> Vec<Entry> {
        if now.since(self.started_at) < WINDOW && now >= self.started_at {
            return Vec::new();
        }
        self.end(now)
    }

    fn end(&mut self, now: Timestamp) -> Vec<Entry> {
        let ended = std::mem::replace(self, Self { started_at: now, ..Self::default() });
        let mut by_kind: HashMap<Kind, Vec<(Option<IpNet>, Outcome, u64)>> = HashMap::new();
        for ((kind, client), count) in ended.clients {
            if let Some(outcome) = count.outcome {
                by_kind.entry(kind).or_default().push((client, outcome, count.suppressed));
            }
        }
        let mut summaries = Vec::new();
        for ((action, _), mut counts) in by_kind {
            counts.sort_by_key(|(client, _, suppressed)| (client.is_none(), Reverse(*suppressed)));
            let rest = counts.split_off(counts.len().min(MAX_SUMMARIES));
            summaries.extend(counts.into_iter().map(|(client, outcome, count)| {
                let origin = Origin { address: client.map(|client| client.addr()), ..Origin::default() };
                let from = client.map_or(String::new(), |client| format!(" from {client}"));
                Entry::new(now, action, outcome, &origin)
                    .detail(format!("{count} more{from} were refused, and have no entries"))
            }));
            if let Some((_, outcome, _)) = rest.first() {
                let (clients, count) = (rest.len(), rest.iter().map(|(_, _, count)| count).sum::<u64>());
                let summary = Entry::new(now, action, *outcome, &Origin::default());
                summaries.push(summary.detail(format!(
                    "{count} more from {clients} other clients were refused, and have no entries"
                )));
            }
        }
        summaries
    }
}

/// The network of a client: an IPv4 address or an IPv6 /64.
fn network(address: IpAddr) -> Option<IpNet> {
    let length = if address.is_ipv4() { 32 } else { 64 };
    IpNet::new(address, length).ok().map(|network| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Entry>>);

    impl Audit for Kept {
        fn record(&self, entry: Entry) {
            self.0.lock().unwrap().push(entry);
        }
    }

    struct Trail {
        kept: Arc<Kept>,
        limited: LimitedAudit,
    }

    const REFUSED: Outcome = Outcome::Refused("X");

    impl Trail {
        fn new() -> Self {
            let kept = Arc::new(Kept::default());
            Self { limited: LimitedAudit::new(Arc::clone(&kept) as Arc<dyn Audit>), kept }
        }

        fn record(&self, second: u64, action: Action, outcome: Outcome, address: &str) {
            let origin = Origin { address: address.parse().ok(), ..Origin::default() };
            self.limited.record(Entry::new(at(second), action, outcome, &origin));
        }

        fn take(&self) -> Vec<Entry> {
            std::mem::take(&mut *self.kept.0.lock().unwrap())
        }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + second)
    }

    fn details(entries: &[Entry]) -> Vec<&str> {
        entries.iter().filter_map(|entry| entry.detail.as_deref()).collect()
    }

    #[test]
    fn a_flood_becomes_a_few_entries_and_a_summary() {
        let trail = Trail::new();
        for _ in 0..4000 {
            trail.record(0, Action::Login, REFUSED, "192.0.2.1");
        }
        assert_eq!(trail.take().len(), 20);
        trail.limited.record_summaries(at(59));
        assert!(trail.take().is_empty());
        trail.limited.record_summaries(at(60));
        let summaries = trail.take();
        assert_eq!(details(&summaries), ["3980 more from 192.0.2.1/32 were refused, and have no entries"]);
        assert_eq!((summaries[0].action, summaries[0].outcome), (Action::Login, REFUSED));
        trail.record(61, Action::Login, REFUSED, "192.0.2.1");
        assert_eq!(trail.take().len(), 1, "the next window has entries again");
        trail.limited.record_summaries(at(121));
        assert!(trail.take().is_empty(), "nothing was suppressed");
        trail.record(122, Action::Login, REFUSED, "192.0.2.1");
        trail.record(0, Action::Login, REFUSED, "192.0.2.1");
        assert_eq!(trail.take().len(), 2, "a clock that steps back starts a new window");
    }

    #[test]
    fn a_flood_hides_no_other_client_no_other_action_and_nothing_that_was_done() {
        let trail = Trail::new();
        for _ in 0..100 {
            trail.record(0, Action::Login, REFUSED, "192.0.2.1");
        }
        trail.take();
        trail.record(0, Action::Login, REFUSED, "192.0.2.2");
        trail.record(0, Action::Logout, REFUSED, "192.0.2.1");
        for action in [Action::Login, Action::ImportAccount] {
            for _ in 0..100 {
                trail.record(0, action, Outcome::Done, "192.0.2.1");
            }
        }
        for _ in 0..100 {
            trail.record(0, Action::ImportAccount, REFUSED, "192.0.2.1");
        }
        assert_eq!(trail.take().len(), 302);
    }

    #[test]
    fn many_clients_share_a_limit_and_few_summaries() {
        let trail = Trail::new();
        for number in 0..10_000 {
            for host in 1..4 {
                let address = format!("2001:db8:{number:x}::{host}");
                trail.record(0, Action::Logout, Outcome::Failed("X"), &address);
            }
        }
        assert_eq!(trail.take().len(), 600);
        assert_eq!(trail.limited.window().clients.len(), MAX_CLIENTS + 1);
        trail.limited.close(at(1));
        let summaries = trail.take();
        assert_eq!(summaries.len(), 21);
        let numbers = details(&summaries).into_iter().map(|detail| detail.split(' ').next().unwrap());
        assert_eq!(numbers.map(|number| number.parse::<u64>().unwrap()).sum::<u64>(), 30_000 - 600);
    }
}
