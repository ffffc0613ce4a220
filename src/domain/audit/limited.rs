//! What anybody can cause without credentials, in the audit trail: each refusal by itself while they are few, and how
//! many there were when they are not, so that a flood of refusals does not flood the trail.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipnet::IpNet;

use super::{Action, Audit, Entry, Outcome};
use crate::domain::{origin::Origin, types::Timestamp};

/// How long is counted before there are entries again.
const WINDOW: Duration = Duration::from_mins(1);
/// Entries about one client in a window; what comes after them is counted.
const OF_A_CLIENT: u32 = 20;
/// The same about users whose address is not known, who may be many.
const OF_UNKNOWN: u32 = 200;
/// Entries about all clients in a window.
const OF_ALL: u32 = 600;
/// Clients that are told apart; those beyond them count as one.
const CLIENTS: usize = 4096;
/// Counts that are told by client; those of the others are told as one.
const COUNTS: usize = 20;

/// An audit trail that floods of refusals do not flood. A clone is the same trail.
#[derive(Clone)]
pub struct LimitedAudit {
    trail: Arc<dyn Audit>,
    refusals: Arc<Mutex<Refusals>>,
}

/// What is limited by itself: an action, and whether the caller has proved who it is. So a flood of unknown callers does
/// not hide what a known one tries.
type Kind = (Action, bool);

#[derive(Default)]
struct Refusals {
    since: Timestamp,
    of_all: HashMap<Kind, u32>,
    of_clients: HashMap<(Kind, Option<IpNet>), Count>,
}

#[derive(Default)]
struct Count {
    entries: u32,
    held_back: u64,
    outcome: Option<Outcome>,
}

impl LimitedAudit {
    /// Entries go to `trail`.
    pub fn new(trail: Arc<dyn Audit>) -> Self {
        Self { trail, refusals: Arc::default() }
    }

    /// Keeps an entry, or counts it where there are too many of its kind. Never waits.
    pub fn record(&self, entry: Entry) {
        if is_limited(&entry) {
            let (before, told) = {
                let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                (refusals.turn(entry.at), refusals.admit(&entry))
            };
            self.record_all(before);
            if !told {
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

    /// Entries that were lost so far, because they could not be written.
    pub fn lost(&self) -> u64 {
        self.trail.lost()
    }

    /// Records how many refusals have no entry of their own, once their minute is over.
    pub fn tell_held_back(&self, now: Timestamp) {
        let entries = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).turn(now);
        self.record_all(entries);
    }

    /// Records the same now, because there will be no more.
    pub fn close(&self, now: Timestamp) {
        let entries = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).begin_anew(now);
        self.record_all(entries);
    }
}

/// Whether somebody without credentials can cause such an entry.
fn is_limited(entry: &Entry) -> bool {
    let open = matches!(entry.action, Action::Login | Action::Logout | Action::ChangePassword | Action::Call);
    open && entry.outcome != Outcome::Done
}

impl Refusals {
    /// Whether this one becomes an entry.
    fn admit(&mut self, entry: &Entry) -> bool {
        let kind = (entry.action, entry.origin.caller.is_some());
        let mut client = (kind, entry.origin.address.and_then(network));
        if self.of_clients.len() >= CLIENTS && !self.of_clients.contains_key(&client) {
            client.1 = None;
        }
        let count = self.of_clients.entry(client).or_default();
        // Callers are services, of which few are refused; users are many.
        let of_users = entry.action != Action::Call;
        let most = if client.1.is_none() && of_users { OF_UNKNOWN } else { OF_A_CLIENT };
        let of_all = self.of_all.entry(kind).or_default();
        if count.entries < most && *of_all < OF_ALL {
            count.entries += 1;
            *of_all += 1;
            return true;
        }
        count.held_back += 1;
        count.outcome = Some(entry.outcome);
        false
    }

    /// Begins anew once the window is over: the entries that tell how many were held back.
    fn turn(&mut self, now: Timestamp) -> Vec<Entry> {
        if now.since(self.since) < WINDOW && now >= self.since {
            return Vec::new();
        }
        self.begin_anew(now)
    }

    fn begin_anew(&mut self, now: Timestamp) -> Vec<Entry> {
        let over = std::mem::replace(self, Self { since: now, ..Self::default() });
        let mut by_kind: HashMap<Kind, Vec<(Option<IpNet>, Outcome, u64)>> = HashMap::new();
        for ((kind, client), count) in over.of_clients {
            if let Some(outcome) = count.outcome {
                by_kind.entry(kind).or_default().push((client, outcome, count.held_back));
            }
        }
        let mut entries = Vec::new();
        for ((action, _), mut counts) in by_kind {
            counts.sort_by_key(|(client, _, held_back)| (client.is_none(), Reverse(*held_back)));
            let rest = counts.split_off(counts.len().min(COUNTS));
            let told = counts.into_iter().map(|(client, outcome, count)| {
                let origin = Origin { address: client.map(|client| client.addr()), ..Origin::default() };
                let whose = client.map_or(String::new(), |client| format!(" from {client}"));
                Entry::new(now, action, outcome, &origin)
                    .detail(format!("{count} more{whose} were refused, and have no entries"))
            });
            entries.extend(told);
            if let Some((_, outcome, _)) = rest.first() {
                let (clients, count) = (rest.len(), rest.iter().map(|(_, _, count)| count).sum::<u64>());
                let entry = Entry::new(now, action, *outcome, &Origin::default());
                entries.push(entry.detail(format!(
                    "{count} more from {clients} other clients were refused, and have no entries"
                )));
            }
        }
        entries
    }
}

/// A client: an IPv4 address or an IPv6 /64.
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

        fn taken(&self) -> Vec<Entry> {
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
    fn a_flood_becomes_a_few_entries_and_a_count() {
        let trail = Trail::new();
        for _ in 0..4000 {
            trail.record(0, Action::Login, REFUSED, "192.0.2.1");
        }
        assert_eq!(trail.taken().len(), 20);
        trail.limited.tell_held_back(at(59));
        assert!(trail.taken().is_empty());
        trail.limited.tell_held_back(at(60));
        let told = trail.taken();
        assert_eq!(details(&told), ["3980 more from 192.0.2.1/32 were refused, and have no entries"]);
        assert_eq!((told[0].action, told[0].outcome), (Action::Login, REFUSED));
        trail.record(61, Action::Login, REFUSED, "192.0.2.1");
        assert_eq!(trail.taken().len(), 1, "the next minute has entries again");
        trail.limited.tell_held_back(at(121));
        assert!(trail.taken().is_empty(), "there is nothing to add");
        trail.record(122, Action::Login, REFUSED, "192.0.2.1");
        trail.record(0, Action::Login, REFUSED, "192.0.2.1");
        assert_eq!(trail.taken().len(), 2, "a clock that steps back begins a new minute");
    }

    #[test]
    fn one_client_hides_no_other_and_no_other_action_and_nothing_that_was_done() {
        let trail = Trail::new();
        for _ in 0..100 {
            trail.record(0, Action::Login, REFUSED, "192.0.2.1");
        }
        trail.taken();
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
        assert_eq!(trail.taken().len(), 302);
    }

    #[test]
    fn many_clients_together_are_limited_too_and_their_counts_are_few() {
        let trail = Trail::new();
        for number in 0..10_000 {
            for host in 1..4 {
                let address = format!("2001:db8:{number:x}::{host}");
                trail.record(0, Action::Logout, Outcome::Failed("X"), &address);
            }
        }
        assert_eq!(trail.taken().len(), 600);
        assert_eq!(trail.limited.refusals.lock().unwrap().of_clients.len(), CLIENTS + 1);
        trail.limited.close(at(1));
        let told = trail.taken();
        assert_eq!(told.len(), 21);
        let numbers = details(&told).into_iter().map(|detail| detail.split(' ').next().unwrap());
        assert_eq!(numbers.map(|number| number.parse::<u64>().unwrap()).sum::<u64>(), 30_000 - 600);
    }
}
