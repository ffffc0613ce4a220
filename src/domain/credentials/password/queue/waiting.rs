//! The waiting requests and the order of their turns. Time is a parameter.
//!
//! Networks are served by start-time fair queueing, so that none of them can starve the others. The oldest request is
//! served first. Under overload the newest is: the oldest are about to be abandoned, and serving them first would
//! answer everybody a moment too late.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Orders requests by arrival.
pub(super) type Id = u64;

/// The network of a request; `None` for work of the server itself.
pub(super) type Lane = Option<IpAddr>;

/// The waiting requests, each with the sender that grants its turn.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    requests: BTreeMap<Id, Request<T>>,
    lanes: HashMap<Lane, Members>,
    /// Orders the lanes by how often they were served, then by their oldest request.
    by_oldest: BTreeSet<(u64, Id, Lane)>,
    /// Orders the lanes by how often they were served, then by their newest request.
    by_newest: BTreeSet<(u64, Id, Lane)>,
    deadlines: BTreeSet<(Instant, Id)>,
    /// The count of the lane that was served last, with which a new lane starts.
    served: u64,
}

#[derive(Debug)]
struct Request<T> {
    lane: Lane,
    since: Instant,
    deadline: Option<Instant>,
    notify: T,
}

#[derive(Debug)]
struct Members {
    ids: BTreeSet<Id>,
    served: u64,
}

impl Members {
    fn ends(&self) -> Option<(Id, Id)> {
        Some((*self.ids.first()?, *self.ids.last()?))
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            requests: BTreeMap::new(),
            lanes: HashMap::new(),
            by_oldest: BTreeSet::new(),
            by_newest: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            served: 0,
        }
    }
}

impl<T> Waiting<T> {
    pub(super) fn push(&mut self, id: Id, lane: Lane, now: Instant, deadline: Option<Instant>, notify: T) {
        let served = self.served;
        self.change(lane, |lanes| {
            let members = lanes.entry(lane).or_insert_with(|| Members { ids: BTreeSet::new(), served });
            members.ids.insert(id);
        });
        self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
        self.requests.insert(id, Request { lane, since: now, deadline, notify });
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let request = self.requests.remove(&id)?;
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.change(request.lane, |lanes| {
            if let Some(members) = lanes.get_mut(&request.lane) {
                members.ids.remove(&id);
            }
        });
        Some(request.notify)
    }

    pub(super) fn contains(&self, id: Id) -> bool {
        self.requests.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Takes the request that has the next turn. `patience` is the wait after which overload begins.
    pub(super) fn next(&mut self, now: Instant, patience: Duration) -> Option<(Id, T)> {
        let oldest = self.requests.values().next()?;
        let overload = now.saturating_duration_since(oldest.since) > patience;
        let least = self.by_oldest.first()?.0;
        let (_, id, lane) = if overload {
            // The newest request of the lanes that were served least.
            *self.by_newest.range(..(least + 1, 0, None)).next_back()?
        } else {
            *self.by_oldest.first()?
        };
        self.served = least;
        self.change(lane, |lanes| {
            if let Some(members) = lanes.get_mut(&lane) {
                members.served += 1;
            }
        });
        self.remove(id).map(|notify| (id, notify))
    }

    /// A request whose deadline is before this moment.
    pub(super) fn overdue(&self, moment: Instant) -> Option<Id> {
        self.deadlines.first().filter(|(deadline, _)| *deadline < moment).map(|(_, id)| *id)
    }

    /// The request that loses its place for a newcomer: the oldest one of the lane with the most requests, which is the
    /// lane of the newcomer unless another one has more.
    pub(super) fn victim(&self, newcomer: Lane) -> Option<Id> {
        let own = self.lanes.get(&newcomer);
        let longest = self
            .lanes
            .values()
            .max_by_key(|members| (members.ids.len(), members.ids.first().map(|id| std::cmp::Reverse(*id))));
        let own = own.filter(|own| longest.is_some_and(|longest| own.ids.len() >= longest.ids.len()));
        own.or(longest)?.ids.first().copied()
    }

    fn change(&mut self, lane: Lane, change: impl FnOnce(&mut HashMap<Lane, Members>)) {
        let ends = |lanes: &HashMap<Lane, Members>| {
            lanes.get(&lane).and_then(|members| Some((members.served, members.ends()?)))
        };
        if let Some((served, (oldest, newest))) = ends(&self.lanes) {
            self.by_oldest.remove(&(served, oldest, lane));
            self.by_newest.remove(&(served, newest, lane));
        }
        change(&mut self.lanes);
        match ends(&self.lanes) {
            Some((served, (oldest, newest))) => {
                self.by_oldest.insert((served, oldest, lane));
                self.by_newest.insert((served, newest, lane));
            }
            None => drop(self.lanes.remove(&lane)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn lane(number: u8) -> Lane {
        (number > 0).then(|| IpAddr::from([198, 51, 100, number]))
    }

    /// Queues requests, given as the lane and the arrival in milliseconds after the start.
    fn waiting(requests: &[(u8, u64)]) -> (Waiting<()>, Instant) {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        for (id, (number, millis)) in requests.iter().enumerate() {
            let now = start + Duration::from_millis(*millis);
            waiting.push(id as Id, lane(*number), now, None, ());
        }
        (waiting, start)
    }

    fn served(waiting: &mut Waiting<()>, now: Instant) -> Vec<Id> {
        std::iter::from_fn(|| waiting.next(now, PATIENCE)).map(|(id, ())| id).collect()
    }

    #[test]
    fn the_oldest_request_is_first_and_under_overload_the_newest() {
        let (mut queue, start) = waiting(&[(1, 0), (1, 10), (1, 20)]);
        assert_eq!(served(&mut queue, start + PATIENCE), [0, 1, 2]);
        let (mut queue, start) = waiting(&[(1, 0), (1, 10), (1, 20)]);
        assert_eq!(served(&mut queue, start + PATIENCE * 2), [2, 1, 0]);
        assert_eq!(
            (queue.len(), queue.lanes.len(), queue.by_oldest.len(), queue.by_newest.len()),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn under_overload_the_newest_of_many_networks_is_first() {
        let (mut queue, start) = waiting(&[(1, 0), (2, 10), (3, 20), (4, 30)]);
        assert_eq!(served(&mut queue, start + PATIENCE * 2), [3, 2, 1, 0]);
    }

    #[test]
    fn networks_take_turns_regardless_of_their_requests() {
        let (mut queue, start) = waiting(&[(1, 0), (1, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 0)]);
        assert_eq!(served(&mut queue, start), [0, 4, 6, 1, 5, 2, 3]);
        // A lane that was served often waits for a new one.
        let (mut queue, start) = waiting(&[(1, 0), (1, 0), (1, 0), (1, 0)]);
        assert_eq!(queue.next(start, PATIENCE), Some((0, ())));
        assert_eq!(queue.next(start, PATIENCE), Some((1, ())));
        queue.push(9, lane(2), start, None, ());
        queue.push(10, lane(2), start, None, ());
        assert_eq!(served(&mut queue, start), [9, 2, 10, 3]);
    }

    #[test]
    fn the_oldest_request_of_the_largest_lane_loses_its_place() {
        let (queue, _) = waiting(&[(1, 0), (2, 0), (2, 0), (3, 0), (3, 0)]);
        assert_eq!(queue.victim(lane(1)), Some(1), "other lanes have more");
        assert_eq!(queue.victim(lane(3)), Some(3), "no lane has more");
        assert_eq!(queue.victim(lane(4)), Some(1));
        let (queue, _) = waiting(&[(1, 0), (2, 0), (3, 0)]);
        assert_eq!(queue.victim(lane(4)), Some(0), "all lanes have one");
        assert_eq!(queue.victim(lane(3)), Some(2), "the own lane");
        assert_eq!(waiting(&[]).0.victim(lane(1)), None);
    }

    #[test]
    fn the_earliest_deadline_is_overdue_first() {
        let (mut queue, start) = (Waiting::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        queue.push(1, lane(1), start, Some(at(3)), ());
        queue.push(2, lane(2), start, Some(at(2)), ());
        queue.push(3, lane(1), start, None, ());
        assert_eq!(queue.overdue(at(2)), None);
        assert_eq!(queue.overdue(at(4)), Some(2));
        assert!(queue.remove(2).is_some() && queue.remove(2).is_none());
        assert_eq!(queue.overdue(at(4)), Some(1));
        queue.remove(1);
        assert_eq!(queue.overdue(at(4)), None);
        assert_eq!((queue.len(), queue.contains(3)), (1, true));
    }
}
