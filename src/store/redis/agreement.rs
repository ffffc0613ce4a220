//! Decides which node is the primary of a shard, from what voters say: the Sentinels, or the masters of a cluster.
//!
//! After a failover the old primary may go on answering, because it was only cut off or stopped. A server that still
//! read from it would judge by sessions that have been displaced at the new one. So a node is used under two rules:
//!
//! 1. **Lease.** A node is used for [`LEASE`] after a majority of the voters has named it, counted from the moment at
//!    which they were asked. Then they have to name it again.
//! 2. **Wait.** A node without a lease is used only [`LEASE`] after a majority has named it.
//!
//! Two majorities have a voter in common, and a voter does not return to an earlier primary before a lease has ended. So
//! once one server has seen a majority for the new primary, no other gets another lease for the old one, and by rule 2
//! the leases that exist have ended before the new one is used. Only durations are compared, never the clocks of two
//! machines.
//!
//! The wait is not needed if the old primary itself names the new one, as in a resharding: it no longer serves the
//! shard. The new one also gets the rest of its lease, until the majority has heard of the change. This is only for an
//! old primary whose lease has not ended: the node that it names may have been replaced since, but not so soon.

use std::time::{Duration, Instant};

/// How long a node is used after a majority has named it.
pub(super) const LEASE: Duration = Duration::from_millis(600);

/// A shard whose lease ended this long ago is looked for as one that was never seen.
const FORGET_AFTER: Duration = Duration::from_secs(3);

/// Identifies a node.
pub(super) type NodeNumber = u32;

/// One voter says this.
#[derive(Debug, Clone)]
pub(super) struct Ballot {
    /// The node that the voter is, if it is one.
    pub(super) voter: Option<NodeNumber>,
    /// Whether the voter belongs to those of which a majority is needed.
    pub(super) counts: bool,
    /// The time just before it was asked.
    pub(super) asked_at: Instant,
    /// The primary of each shard.
    pub(super) primaries: Vec<Option<NodeNumber>>,
}

/// The primary of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) node: NodeNumber,
    /// It may be used from this time on.
    pub(super) from: Instant,
    /// It may be used before this time.
    pub(super) until: Instant,
}

impl Agreed {
    /// Returns whether the node may be used.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.from <= now && now < self.until
    }
}

/// The primaries of all shards.
#[derive(Debug)]
pub(super) struct Agreement {
    shards: Vec<Option<Agreed>>,
}

impl Agreement {
    /// Knows no primary yet.
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: vec![None; shards] }
    }

    pub(super) fn shards(&self) -> &[Option<Agreed>] {
        &self.shards
    }

    /// Counts the latest ballot of each voter that has answered. `needed` is the number of equal votes that is a
    /// majority, at least 1.
    pub(super) fn count(&mut self, ballots: &[Ballot], needed: usize, now: Instant) {
        for (shard, agreed) in self.shards.iter_mut().enumerate() {
            let vote = |ballot: &Ballot| ballot.primaries.get(shard).copied().flatten();
            *agreed = count_shard(*agreed, ballots, vote, needed.max(1), now);
        }
    }

    /// Forgets shards whose lease has ended long ago.
    pub(super) fn has_forgotten_all(&self, now: Instant) -> bool {
        self.shards.iter().all(|agreed| agreed.is_none_or(|agreed| agreed.until + FORGET_AFTER < now))
    }
}

fn count_shard(
    agreed: Option<Agreed>,
    ballots: &[Ballot],
    vote: impl Fn(&Ballot) -> Option<NodeNumber>,
    needed: usize,
    now: Instant,
) -> Option<Agreed> {
    // A shard without a lease may have changed its primary more than once meanwhile.
    let known = agreed.filter(|agreed| now < agreed.until);
    // The time of the latest ballot of this node that names `node` as the primary.
    let says = |voter: NodeNumber, node: NodeNumber| {
        let ballots =
            ballots.iter().filter(|ballot| ballot.voter == Some(voter) && vote(ballot) == Some(node));
        ballots.map(|ballot| ballot.asked_at).max()
    };
    let counted = |ballot: &Ballot| vote(ballot).filter(|_| ballot.counts);
    if let Some((node, confirmed_at)) = majority(ballots, counted, needed) {
        let until = confirmed_at + LEASE;
        return match known {
            Some(known) if known.node == node => Some(Agreed { until: until.max(known.until), ..known }),
            // An old majority must not replace what has been agreed since.
            _ if until <= now => agreed,
            _ => {
                let handed_over = known
                    .filter(|known| known.from <= now)
                    .is_some_and(|known| says(known.node, node).is_some_and(|at| at + LEASE > now));
                let from = if handed_over { now } else { now + LEASE };
                Some(Agreed { node, from, until })
            }
        };
    }
    // No majority: the primary may have handed the shard over, and with it the rest of the lease.
    let Some(known) = known.filter(|known| known.from <= now) else { return agreed };
    let successor = ballots
        .iter()
        .filter(|ballot| ballot.voter == Some(known.node) && ballot.asked_at + LEASE > now)
        .max_by_key(|ballot| ballot.asked_at)
        .and_then(vote)
        .filter(|node| *node != known.node);
    Some(successor.map_or(known, |node| Agreed { node, from: now, ..known }))
}

/// Returns the node that at least `needed` voters name, and when the last of the latest `needed` was asked.
fn majority(
    ballots: &[Ballot],
    vote: impl Fn(&Ballot) -> Option<NodeNumber>,
    needed: usize,
) -> Option<(NodeNumber, Instant)> {
    let mut candidates: Vec<_> = ballots.iter().filter_map(&vote).collect();
    candidates.sort_unstable();
    candidates.dedup();
    let elected = candidates.into_iter().filter_map(|node| {
        let mut times: Vec<_> = ballots
            .iter()
            .filter(|ballot| vote(ballot) == Some(node))
            .map(|ballot| ballot.asked_at)
            .collect();
        times.sort_unstable();
        let nth = times.len().checked_sub(needed)?;
        Some((node, times[nth]))
    });
    // Old ballots may name the previous primary.
    elected.max_by_key(|(_, confirmed_at)| *confirmed_at)
}

#[cfg(test)]
mod tests;
