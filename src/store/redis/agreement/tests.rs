//! Simulations of voters and of servers that ask them.

use proptest::{collection::vec, prelude::*};

use super::*;

/// Times are in milliseconds from the start of a simulation, which ends here.
const END: u64 = 12_000;
const LEASE_MS: u64 = 600;
const _: () = assert!(LEASE.as_millis() == 600);
const VOTERS: usize = 5;
const NEVER: u64 = u64::MAX / 2;

/// The history of a shard. It begins with node 0.
#[derive(Debug, Clone)]
struct World {
    voters: usize,
    /// Voters with the number of a node are that node.
    are_nodes: bool,
    /// The third primary is the first again.
    returns: bool,
    changes: Vec<Change>,
}

/// Another node becomes the primary.
#[derive(Debug, Clone)]
struct Change {
    at: u64,
    /// How long after the change each voter names the new primary.
    heard_after: Vec<u64>,
}

/// A server asks each voter again and again.
#[derive(Debug, Clone)]
struct Server {
    asks: Vec<Vec<Ask>>,
    /// The pauses between counts.
    counts: Vec<u64>,
}

/// The time to the next question, from question to vote, and from vote to answer, and whether the answer is lost.
type Ask = (u64, u64, u64, bool);

/// The server uses a node in this time.
#[derive(Debug, Clone, Copy)]
struct Use {
    node: NodeNumber,
    from: u64,
    until: u64,
}

impl World {
    fn heard_at(&self, change: usize, voter: usize) -> u64 {
        self.changes[change].at + self.changes[change].heard_after[voter]
    }

    /// The number of changes that a voter knows of at a time. It forgets none.
    fn known_by(&self, voter: usize, time: u64) -> usize {
        let known = (0..self.changes.len()).rev().find(|change| self.heard_at(*change, voter) <= time);
        known.map_or(0, |change| change + 1)
    }

    fn node_after(&self, changes: usize) -> NodeNumber {
        NodeNumber::try_from(if self.returns { changes % 2 } else { changes }).unwrap()
    }

    fn needed(&self) -> usize {
        self.voters / 2 + 1
    }

    /// Returns when a majority names the new primary.
    fn majority_at(&self, change: usize) -> u64 {
        let mut times: Vec<_> = (0..self.voters).map(|voter| self.heard_at(change, voter)).collect();
        times.sort_unstable();
        times[self.needed() - 1]
    }

    /// When a node no longer serves the shard, because it names another primary itself. A node that is not a voter
    /// may go on for ever.
    fn serves_until(&self, node: NodeNumber) -> u64 {
        let node = node as usize;
        if !self.are_nodes || node >= self.changes.len() {
            return NEVER;
        }
        (node..self.changes.len()).map(|change| self.heard_at(change, node)).min().unwrap()
    }
}

impl Server {
    fn uses(&self, world: &World) -> Vec<Use> {
        let start = Instant::now();
        let instant = |time: u64| start + Duration::from_millis(time);
        let millis = |instant: Instant| u64::try_from((instant - start).as_millis()).unwrap();
        // (time, voter, when it was asked, what it knew)
        let mut answers = Vec::new();
        for voter in 0..world.voters {
            let mut now = 0;
            for (pause, there, back, lost) in self.asks[voter].iter().cycle() {
                let asked_at = now + pause;
                now = asked_at + there + back;
                if asked_at >= END {
                    break;
                }
                if !lost {
                    answers.push((now, voter, asked_at, world.known_by(voter, asked_at + there)));
                }
            }
        }
        answers.sort_unstable();

        let mut answers = answers.into_iter().peekable();
        let mut ballots: Vec<Option<Ballot>> = vec![None; world.voters];
        let mut agreement = Agreement::new(1);
        let mut uses: Vec<Use> = Vec::new();
        let mut now = 0;
        for pause in self.counts.iter().cycle() {
            while let Some((_, voter, asked_at, known)) = answers.next_if(|answer| answer.0 <= now) {
                ballots[voter] = Some(Ballot {
                    voter: world.are_nodes.then(|| NodeNumber::try_from(voter).unwrap()),
                    counts: true,
                    asked_at: instant(asked_at),
                    primaries: vec![Some(world.node_after(known))],
                });
            }
            let latest: Vec<_> = ballots.iter().flatten().cloned().collect();
            agreement.count(&latest, world.needed(), instant(now));
            let next = now + pause;
            if let Some(agreed) = agreement.shards()[0] {
                let (from, until) = (millis(agreed.from).max(now), millis(agreed.until).min(next));
                if from < until {
                    uses.push(Use { node: agreed.node, from, until });
                }
            }
            now = next;
            if now >= END {
                break;
            }
        }
        uses
    }
}

/// Returns two servers that use different nodes at the same time, both of which serve.
fn conflict(world: &World, servers: &[Server]) -> Option<(Use, Use)> {
    let mut uses: Vec<_> = servers.iter().flat_map(|server| server.uses(world)).collect();
    for used in &mut uses {
        used.until = used.until.min(world.serves_until(used.node));
    }
    uses.retain(|used| used.from < used.until);
    uses.sort_unstable_by_key(|used| used.from);
    let mut pairs = uses.iter().enumerate().flat_map(|(index, one)| {
        let later = uses[index + 1..].iter().take_while(|other| other.from < one.until);
        later.map(|other| (*one, *other))
    });
    pairs.find(|(one, other)| one.node != other.node)
}

/// Mostly short, at times as long as a partition or a stopped process.
fn delay() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![6 => 0..80_u64, 3 => 0..700_u64, 1 => 0..4000_u64]
}

fn server() -> impl Strategy<Value = Server> {
    let ask = (1..150_u64, delay(), delay(), prop::bool::weighted(0.1));
    let asks = vec(vec(ask, 1..10), VOTERS);
    let counts = vec(prop_oneof![8 => 1..120_u64, 1 => 1..2500_u64], 1..12);
    (asks, counts).prop_map(|(asks, counts)| Server { asks, counts })
}

/// Worlds in which a change follows a majority's news of the one before after `gaps`.
fn world(gaps: std::ops::Range<u64>, changes: usize) -> impl Strategy<Value = World> {
    let heard = prop_oneof![8 => 0..600_u64, 2 => 0..4000_u64, 1 => Just(NEVER)];
    let change = (gaps, vec(heard, VOTERS));
    let changes = vec(change, 1..=changes);
    (prop::sample::select(vec![3, VOTERS]), 1000..2500_u64, changes).prop_map(|(voters, start, changes)| {
        let mut world = World { voters, are_nodes: false, returns: false, changes: Vec::new() };
        let mut earliest = start;
        for (gap, heard_after) in changes {
            world.changes.push(Change { at: earliest + gap, heard_after });
            // What a majority never hears does not happen.
            earliest = world.majority_at(world.changes.len() - 1);
            if earliest >= NEVER {
                world.changes.pop();
                break;
            }
        }
        world
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn servers_never_use_different_primaries_after_failovers(
        mut world in world(0..3000, 3),
        servers in vec(server(), 2..=3),
        wait_for_majority in any::<bool>(),
    ) {
        if !wait_for_majority {
            // Several changes may be under way at once.
            for change in 1..world.changes.len() {
                world.changes[change].at = world.changes[change - 1].at + 50;
            }
        }
        prop_assert_eq!(conflict(&world, &servers).map(|uses| format!("{uses:?}")), None);
    }

    #[test]
    fn servers_never_use_different_primaries_after_handing_over(
        mut world in world(LEASE_MS..3000, 3),
        servers in vec(server(), 2..=3),
        handed_over in vec(any::<bool>(), 3),
    ) {
        world.are_nodes = true;
        for (node, (change, handed_over)) in world.changes.iter_mut().zip(handed_over).enumerate() {
            if handed_over && node < world.voters {
                change.heard_after[node] = 0;
                change.heard_after[(node + 1).min(world.voters - 1)] = 0;
            }
        }
        prop_assert_eq!(conflict(&world, &servers).map(|uses| format!("{uses:?}")), None);
    }

    #[test]
    fn a_primary_may_return_after_a_failover(
        mut world in world(LEASE_MS..3000, 3),
        servers in vec(server(), 2..=3),
    ) {
        world.returns = true;
        prop_assert_eq!(conflict(&world, &servers).map(|uses| format!("{uses:?}")), None);
    }

    #[test]
    fn a_primary_is_usable_two_leases_after_a_majority_has_named_it(
        mut world in world(0..2000, 2),
        (asks, counts) in (vec(vec((1..101_u64, 0..50_u64, 0..50_u64, Just(false)), 1..10), VOTERS), vec(1..101_u64, 1..10)),
        silent in vec(any::<bool>(), VOTERS),
        are_nodes in any::<bool>(),
    ) {
        world.are_nodes = are_nodes;
        let mut server = Server { asks, counts };
        let mut spare = world.voters - world.needed();
        for (voter, is_silent) in silent.into_iter().take(world.voters).enumerate() {
            if is_silent && spare > 0 {
                spare -= 1;
                server.asks[voter] = vec![(NEVER, 0, 0, true)];
            } else {
                world.changes.iter_mut().for_each(|change| change.heard_after[voter] %= 1500);
            }
        }
        let heard = (0..world.changes.len()).flat_map(|change| {
            let asked = (0..world.voters).filter(|voter| server.asks[*voter][0].0 < NEVER);
            asked.map(|voter| world.heard_at(change, voter)).collect::<Vec<_>>()
        });
        let due = heard.max().unwrap_or_default() + 2 * LEASE_MS;
        prop_assume!(due < END);
        let node = world.node_after(world.changes.len());
        let mut covered = due;
        for used in server.uses(&world) {
            if used.node == node && used.from <= covered {
                covered = covered.max(used.until);
            }
        }
        prop_assert!(covered >= END, "unusable from {} to the next count, after {}", covered, due);
    }
}
