//! Who waits for a turn, and whose turn is next. Pure: time is a parameter.
//!
//! Networks are served in turn (start-time fair queueing), so that one of them cannot starve the others. As long as
//! nobody waits for long, the oldest is served first; under overload the newest, because the oldest are about to
//! give up, and serving them all a moment too late would be of use to nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Orders requests by their arrival.
pub(super) type Id = u64;

/// The network that a request comes from; `None` for the work of the server itself.
pub(super) type Lane = Option<IpAddr>;

/// Those who wait, each with what tells it that its turn has come.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    requests: BTreeMap<Id, Request<T>>,
    lanes: HashMap<Lane, Members>,
    /// By how often the lane was served, then by its oldest request.
    by_oldest: BTreeSet<(u64, Id, Lane)>,
    /// By how often the lane was served, then by its newest request.
    by_newest: BTreeSet<(u64, Id, Lane)>,
    deadlines: BTreeSet<(Instant, Id)>,
    /// Where the lane that was served last stood: a lane that comes begins there.
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

    /// Whose turn it is. `patience` is the longest that anybody should have to wait.
    pub(super) fn next(&mut self, now: Instant, patience: Duration) -> Option<(Id, T)> {
        let oldest = self.requests.values().next()?;
        let overload = now.saturating_duration_since(oldest.since) > patience;
        let least = self.by_oldest.first()?.0;
        let (_, id, lane) = if overload {
            // Of the lanes that were served the least, the one with the newest request.
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

    /// One whose deadline is before this moment.
    pub(super) fn overdue(&self, moment: Instant) -> Option<Id> {
        self.deadlines.first().filter(|(deadline, _)| *deadline < moment).map(|(_, id)| *id)
    }

    /// Who has to go where there is room for no more: the oldest of the lane with the most requests, which is that
    /// of the newcomer where no other has more.
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

    /// Requests as pairs of the lane and the milliseconds after the start at which they come.
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
    fn the_oldest_is_first_and_under_overload_the_newest() {
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
    fn of_many_networks_with_one_request_each_the_newest_is_first_under_overload() {
        let (mut queue, start) = waiting(&[(1, 0), (2, 10), (3, 20), (4, 30)]);
        assert_eq!(served(&mut queue, start + PATIENCE * 2), [3, 2, 1, 0]);
    }

    #[test]
    fn networks_are_served_in_turn_however_many_requests_one_has() {
        let (mut queue, start) = waiting(&[(1, 0), (1, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 0)]);
        assert_eq!(served(&mut queue, start), [0, 4, 6, 1, 5, 2, 3]);
        // One that was served often waits for one that comes.
        let (mut queue, start) = waiting(&[(1, 0), (1, 0), (1, 0), (1, 0)]);
        assert_eq!(queue.next(start, PATIENCE), Some((0, ())));
        assert_eq!(queue.next(start, PATIENCE), Some((1, ())));
        queue.push(9, lane(2), start, None, ());
        queue.push(10, lane(2), start, None, ());
        assert_eq!(served(&mut queue, start), [9, 2, 10, 3]);
    }

    #[test]
    fn where_there_is_no_room_the_oldest_of_those_with_the_most_has_to_go() {
        let (queue, _) = waiting(&[(1, 0), (2, 0), (2, 0), (3, 0), (3, 0)]);
        assert_eq!(queue.victim(lane(1)), Some(1), "others have more");
        assert_eq!(queue.victim(lane(3)), Some(3), "nobody has more");
        assert_eq!(queue.victim(lane(4)), Some(1));
        let (queue, _) = waiting(&[(1, 0), (2, 0), (3, 0)]);
        assert_eq!(queue.victim(lane(4)), Some(0), "all have one");
        assert_eq!(queue.victim(lane(3)), Some(2), "its own");
        assert_eq!(waiting(&[]).0.victim(lane(1)), None);
    }

    #[test]
    fn whose_deadline_has_passed_is_found_first() {
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
