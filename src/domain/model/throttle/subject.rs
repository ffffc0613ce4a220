//! The subjects of an attempt: which throttles count it, and by which rules.

use std::net::IpAddr;

use super::{ThrottleKey, ThrottleRule, key::WIDER};
use crate::domain::{types::UserId, username::Username};

/// Known clients may cause this fraction of the failures that lock an account, in addition to those of others.
const KNOWN_CLIENTS_SHARE: u32 = 10;

/// The subject of an attempt: the account and the client.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Subject<'a> {
    /// The username as typed.
    pub(in crate::domain) username: &'a Username,
    /// The account that was found.
    pub(in crate::domain) user_id: Option<&'a UserId>,
    /// Whether other names may find the same account.
    pub(in crate::domain) has_other_names: bool,
    /// The address of the client.
    pub(in crate::domain) address: Option<IpAddr>,
    /// Whether the client is a known client of the user.
    pub(in crate::domain) is_known: bool,
    /// Whether the user has any known clients.
    pub(in crate::domain) has_known_clients: bool,
}

/// The configured rules.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Rules {
    pub(in crate::domain) account: ThrottleRule,
    /// The rule for client addresses, if they count.
    pub(in crate::domain) address: Option<ThrottleRule>,
}

/// What a throttle means to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum CounterKind {
    /// The client address. It records attempts, and too many failures throttle further ones.
    Address,
    /// A wider network of the client. It records only failures, and too many of them throttle further attempts.
    Network,
    /// The account by the typed username, or a known client of it. It records attempts, and too many failures throttle
    /// further ones.
    Account,
    /// The account that was found. It records attempts, but throttling must not show: it would reveal which names
    /// belong to one account.
    Hidden,
    /// The account, when another counter decides. It records only failures and throttles nothing.
    FailuresOnly,
}

impl CounterKind {
    /// Whether an attempt is recorded before the password is checked.
    pub(in crate::domain) const fn records_attempts(self) -> bool {
        matches!(self, Self::Address | Self::Account | Self::Hidden)
    }

    pub(in crate::domain) const fn is_address(self) -> bool {
        matches!(self, Self::Address | Self::Network)
    }
}

/// A throttle that counts an attempt, with its rule.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Counter {
    pub(in crate::domain) key: ThrottleKey,
    pub(in crate::domain) rule: ThrottleRule,
    pub(in crate::domain) kind: CounterKind,
}

impl Rules {
    /// The rule for known clients of an account, if there is one.
    pub(in crate::domain) fn known_clients(&self) -> Option<ThrottleRule> {
        let ThrottleRule::Account { free, first_wait, longest_wait, lock_after } = self.account else {
            return None;
        };
        let own = lock_after / KNOWN_CLIENTS_SHARE;
        (own > 0).then(|| ThrottleRule::Account {
            free: free.min(own),
            first_wait,
            longest_wait,
            lock_after: own,
        })
    }

    /// How many failures on an account reserve the rest for its known clients. From then on the passwords of others are
    /// no longer checked, which does not show until the account is locked.
    pub(in crate::domain) fn left_to_known_clients(&self) -> u32 {
        let ThrottleRule::Account { lock_after, .. } = self.account else { return u32::MAX };
        lock_after - lock_after / KNOWN_CLIENTS_SHARE
    }

    /// The counters of a client address.
    pub(in crate::domain) fn of_address(&self, address: Option<IpAddr>) -> Vec<Counter> {
        let Some((rule, address)) = self.address.zip(address) else { return Vec::new() };
        let own = Counter { key: ThrottleKey::address(address), rule, kind: CounterKind::Address };
        let wider = WIDER.iter().filter_map(|(bits, times)| {
            let key = ThrottleKey::wider(address, *bits)?;
            Some(Counter { key, rule: rule.times(*times), kind: CounterKind::Network })
        });
        [own].into_iter().chain(wider).collect()
    }

    /// The counters of an account. With `known_clients`, known clients have a counter of their own.
    pub(in crate::domain) fn of_account(&self, subject: &Subject<'_>, known_clients: bool) -> Vec<Counter> {
        let (mut named, mut found) = (CounterKind::Account, CounterKind::Hidden);
        let mut counters = Vec::with_capacity(3);
        if let (true, Some(user_id), Some(rule)) = (known_clients, subject.user_id, self.known_clients()) {
            (named, found) = (CounterKind::FailuresOnly, CounterKind::FailuresOnly);
            counters.push(Counter {
                key: ThrottleKey::known_clients(user_id),
                rule,
                kind: CounterKind::Account,
            });
        }
        let rule = self.account;
        counters.push(Counter { key: ThrottleKey::account(subject.username), rule, kind: named });
        if subject.has_other_names {
            let key =
                subject.user_id.map_or_else(|| ThrottleKey::nobody(subject.username), ThrottleKey::user);
            counters.push(Counter { key, rule, kind: found });
        }
        counters
    }
}

impl ThrottleRule {
    fn times(self, times: u32) -> Self {
        match self {
            Self::Account { .. } => self,
            Self::Address { failures, window } => {
                Self::Address { failures: failures.saturating_mul(times), window }
            }
        }
    }
}
