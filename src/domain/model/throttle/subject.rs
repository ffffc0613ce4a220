//! Whose attempt it is, and by what it counts.

use std::net::IpAddr;

use super::{Rule, ThrottleKey, key::WIDER};
use crate::domain::{types::UserId, username::Username};

/// Clients that are known may fail so many times in place of others: one in so many.
const OF_KNOWN_CLIENTS: u32 = 10;

/// Whose password is tried, by whom.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Subject<'a> {
    /// What was typed.
    pub(in crate::domain) username: &'a Username,
    /// The account that was found.
    pub(in crate::domain) user_id: Option<&'a UserId>,
    /// Others names than this may have found the same account.
    pub(in crate::domain) has_other_names: bool,
    /// Where the client is.
    pub(in crate::domain) address: Option<IpAddr>,
    /// The user has logged in from there of late.
    pub(in crate::domain) is_known: bool,
    /// The user has logged in of late, from wherever.
    pub(in crate::domain) has_known_clients: bool,
}

/// By what rules.
#[derive(Debug, Clone, Copy)]
pub(in crate::domain) struct Rules {
    pub(in crate::domain) account: Rule,
    /// Where clients' addresses count.
    pub(in crate::domain) address: Option<Rule>,
}

/// What a register means to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::domain) enum Part {
    /// Its address: if it has failed too often, the attempt is refused.
    Address,
    /// A wider network: the same, but only failures are written down.
    Network,
    /// The account as it was named, or a known client of it: the same as for an address.
    Account,
    /// The account as it was found. A refusal must not show, or it would tell whose names these are.
    Hidden,
    /// The account, where others decide: its failures are counted.
    Aside,
}

impl Part {
    /// Whether an attempt is written down before it is made.
    pub(in crate::domain) const fn is_begun(self) -> bool {
        matches!(self, Self::Address | Self::Account | Self::Hidden)
    }

    pub(in crate::domain) const fn is_of_address(self) -> bool {
        matches!(self, Self::Address | Self::Network)
    }
}

/// A register by which an attempt counts.
#[derive(Debug, Clone)]
pub(in crate::domain) struct Counter {
    pub(in crate::domain) key: ThrottleKey,
    pub(in crate::domain) rule: Rule,
    pub(in crate::domain) part: Part,
}

impl Rules {
    /// The rule for clients from where the user has logged in of late, if there is one.
    pub(in crate::domain) fn known_clients(&self) -> Option<Rule> {
        let Rule::Account { free, first_wait, longest_wait, stop } = self.account else { return None };
        let own = stop / OF_KNOWN_CLIENTS;
        (own > 0).then(|| Rule::Account { free: free.min(own), first_wait, longest_wait, stop: own })
    }

    /// How many failures of an account leave none but those of its known clients: from then on the passwords of others
    /// are no longer checked, although nothing shows until the account is locked.
    pub(in crate::domain) fn left_to_known_clients(&self) -> u32 {
        let Rule::Account { stop, .. } = self.account else { return u32::MAX };
        stop - stop / OF_KNOWN_CLIENTS
    }

    /// By what an attempt of this address counts.
    pub(in crate::domain) fn of_address(&self, address: Option<IpAddr>) -> Vec<Counter> {
        let Some((rule, address)) = self.address.zip(address) else { return Vec::new() };
        let own = Counter { key: ThrottleKey::address(address), rule, part: Part::Address };
        let wider = WIDER.iter().filter_map(|(bits, times)| {
            let key = ThrottleKey::wider(address, *bits)?;
            Some(Counter { key, rule: rule.times(*times), part: Part::Network })
        });
        [own].into_iter().chain(wider).collect()
    }

    /// By what an attempt on this account counts. With `known_clients`, those have a count of their own.
    pub(in crate::domain) fn of_account(&self, subject: &Subject<'_>, known_clients: bool) -> Vec<Counter> {
        let (mut named, mut found) = (Part::Account, Part::Hidden);
        let mut counters = Vec::with_capacity(3);
        if let (true, Some(user_id), Some(rule)) = (known_clients, subject.user_id, self.known_clients()) {
            (named, found) = (Part::Aside, Part::Aside);
            counters.push(Counter { key: ThrottleKey::known_clients(user_id), rule, part: Part::Account });
        }
        let rule = self.account;
        counters.push(Counter { key: ThrottleKey::account(subject.username), rule, part: named });
        if subject.has_other_names {
            let key =
                subject.user_id.map_or_else(|| ThrottleKey::nobody(subject.username), ThrottleKey::user);
            counters.push(Counter { key, rule, part: found });
        }
        counters
    }
}

impl Rule {
    fn times(self, times: u32) -> Self {
        match self {
            Self::Account { .. } => self,
            Self::Address { failures, window } => {
                Self::Address { failures: failures.saturating_mul(times), window }
            }
        }
    }
}
