//! A linearizability checker for the calls of the clients of one user.
//!
//! A history is linearizable if its calls have an order in which each takes effect between its start and its
//! answer, and in which one slot with room for one session gives exactly these answers. A call without an answer
//! may take effect at any time after its start, or never. The search is that of Wing and Gong with the memoization
//! of Lowe: a state that was reached with the same calls before is not searched again.

use std::collections::{BTreeMap, HashSet};

/// The number of states after which the search ends without a result.
const PATIENCE: usize = 100_000;

/// Identifies a login by its device, also if its answer was lost.
pub type Number = u8;

/// The state of a session or the reason of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    Live,
    Replaced {
        by: Number,
    },
    LoggedOut,
    Kicked,
    /// A reason without a cause in the history.
    Other,
}

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Login(Number),
    Validate(Number),
    Logout(Number),
    EndSessions,
}

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The answer to Login.
    Opened { generation: u64, displaced: Option<Number> },
    /// The answer to Validate, or for Logout the state before it: `Live` means that the logout ended the session.
    Stood(SessionState),
    /// The answer to `EndSessions`.
    Ended(u32),
}

/// A call as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub ask: Ask,
    /// The start, in any unit of one clock.
    pub begun: u64,
    /// The time and the answer. A call with `None` may have taken effect or not.
    pub answer: Option<(u64, Answer)>,
}

/// Why a history is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub enum Complaint {
    /// No order explains the answers. Holds the longest explained order and the calls that could follow.
    Unsound { explained: Vec<Call>, slot: Slot, unexplained: Vec<Call> },
    /// The search ended without a result.
    TooHard,
}

/// The model: one slot with room for one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Slot {
    live: Option<Number>,
    /// The ends of sessions that the history mentions.
    ended: BTreeMap<Number, SessionState>,
    /// The latest generation in an answer.
    generation: u64,
}

impl Slot {
    fn fate(&self, number: Number) -> Option<SessionState> {
        if self.live == Some(number) { Some(SessionState::Live) } else { self.ended.get(&number).copied() }
    }

    fn end(&mut self, fate: SessionState) -> Option<Number> {
        let live = self.live.take()?;
        self.ended.insert(live, fate);
        Some(live)
    }

    /// Applies a call and returns the next state if the slot gives the recorded answer.
    fn after(&self, call: &Call) -> Option<Self> {
        let mut next = self.clone();
        let answer = match call.ask {
            Ask::Login(number) => {
                let displaced = next.end(SessionState::Replaced { by: number });
                next.live = Some(number);
                if let Some((_, Answer::Opened { generation, .. })) = call.answer {
                    next.generation = generation;
                }
                // Generations order logins.
                let generation = next.generation;
                if call.answer.is_some() && generation <= self.generation {
                    return None;
                }
                Answer::Opened { generation, displaced }
            }
            Ask::Validate(number) => Answer::Stood(self.fate(number)?),
            Ask::Logout(number) => {
                let stood = self.fate(number)?;
                if stood == SessionState::Live {
                    next.end(SessionState::LoggedOut);
                }
                Answer::Stood(stood)
            }
            Ask::EndSessions => Answer::Ended(next.end(SessionState::Kicked).map_or(0, |_| 1)),
        };
        call.answer.is_none_or(|(_, given)| given == answer).then_some(next)
    }
}

/// Searches for an order that explains a history of at most 128 calls. Returns the number of visited states.
pub fn check(calls: &[Call]) -> Result<usize, Complaint> {
    check_within(PATIENCE, calls)
}

fn check_within(patience: usize, calls: &[Call]) -> Result<usize, Complaint> {
    assert!(calls.len() <= 128, "longer than the set of calls has bits");
    let mut calls = calls.to_vec();
    // The most likely order is tried first: by answer, and calls without one at the end, by start.
    calls.sort_by_key(|call| (call.answer.map_or(u64::MAX, |(at, _)| at), call.begun));
    let mut search = Search {
        calls: &calls,
        told: told(&calls),
        seen: HashSet::new(),
        furthest: (0, Slot::default()),
        patience,
        given_up: false,
    };
    if search.explain(0, &Slot::default()) {
        return Ok(search.seen.len());
    }
    if search.given_up {
        return Err(Complaint::TooHard);
    }
    let (done, slot) = search.furthest;
    let (explained, unexplained) = (0..calls.len()).partition::<Vec<_>, _>(|index| done & (1 << index) != 0);
    let named = |indices: Vec<usize>| indices.into_iter().map(|index| calls[index]).collect();
    Err(Complaint::Unsound { explained: named(explained), slot, unexplained: named(unexplained) })
}

/// Collects the ends of sessions in the answers. Other ends of the same sessions need no search.
fn told(calls: &[Call]) -> BTreeMap<Number, SessionState> {
    let ends = calls.iter().filter_map(|call| match (call.ask, call.answer?.1) {
        (Ask::Validate(number) | Ask::Logout(number), Answer::Stood(fate)) => Some((number, fate)),
        (Ask::Login(by), Answer::Opened { displaced, .. }) => {
            Some((displaced?, SessionState::Replaced { by }))
        }
        _ => None,
    });
    ends.filter(|(_, fate)| *fate != SessionState::Live).collect()
}

struct Search<'a> {
    calls: &'a [Call],
    told: BTreeMap<Number, SessionState>,
    /// The explained calls with the resulting state.
    seen: HashSet<(u128, Slot)>,
    furthest: (u128, Slot),
    patience: usize,
    given_up: bool,
}

impl Search<'_> {
    /// Whether there is an order for the calls that are not `done`.
    fn explain(&mut self, done: u128, slot: &Slot) -> bool {
        if done.count_ones() > self.furthest.0.count_ones() {
            self.furthest = (done, slot.clone());
        }
        let calls = self.calls;
        let left = || calls.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
        // A call that starts after the answer to another follows it.
        let Some(first_answer) = left().filter_map(|(_, call)| call.answer.map(|(at, _)| at)).min() else {
            return true;
        };
        let mut changes = Vec::new();
        for (index, call) in left().filter(|(_, call)| call.begun <= first_answer) {
            if call.answer.is_none()
                && left().any(|(other, earlier)| other < index && self.are_alike(call, earlier))
            {
                continue;
            }
            let Some(mut next) = slot.after(call) else { continue };
            next.ended.retain(|number, _| self.told.contains_key(number));
            let done = done | (1 << index);
            if next != *slot {
                if next.ended.iter().all(|end| self.told.get(end.0) == Some(end.1)) {
                    changes.push((done, next));
                }
            } else if call.answer.is_some() {
                // A call without effect on the state can be taken now without losing an order.
                return self.explain(done, slot);
            }
        }
        for (done, next) in changes {
            if self.seen.len() >= self.patience {
                self.given_up = true;
                return false;
            }
            if self.seen.insert((done, next.clone())) && self.explain(done, &next) {
                return true;
            }
        }
        false
    }

    /// Of two interchangeable calls without answers only the earlier one has to be tried.
    fn are_alike(&self, one: &Call, other: &Call) -> bool {
        let nobody_speaks_of = |number: Number| {
            let by = SessionState::Replaced { by: number };
            let asks = |call: &Call| matches!(call.ask, Ask::Validate(of) | Ask::Logout(of) if of == number);
            !self.told.contains_key(&number)
                && self.told.values().all(|fate| *fate != by)
                && !self.calls.iter().any(asks)
        };
        other.answer.is_none()
            && match (one.ask, other.ask) {
                (Ask::Login(one), Ask::Login(other)) => nobody_speaks_of(one) && nobody_speaks_of(other),
                (one, other) => one == other,
            }
    }
}

/// Tests of the checker, because the test that uses it accepts whatever it accepts.
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn call(begun: u64, answered: u64, ask: Ask, answer: Answer) -> Call {
        Call { ask, begun, answer: Some((answered, answer)) }
    }

    /// Makes a login whose generation is its number, counted from 1.
    fn login(begun: u64, answered: u64, number: Number, displaced: Option<Number>) -> Call {
        let opened = Answer::Opened { generation: u64::from(number) + 1, displaced };
        call(begun, answered, Ask::Login(number), opened)
    }

    fn validate(begun: u64, answered: u64, number: Number, fate: SessionState) -> Call {
        call(begun, answered, Ask::Validate(number), Answer::Stood(fate))
    }

    fn logout(begun: u64, answered: u64, number: Number, stood: SessionState) -> Call {
        call(begun, answered, Ask::Logout(number), Answer::Stood(stood))
    }

    fn kick(begun: u64, answered: u64, ended: u32) -> Call {
        call(begun, answered, Ask::EndSessions, Answer::Ended(ended))
    }

    fn unanswered(begun: u64, ask: Ask) -> Call {
        Call { ask, begun, answer: None }
    }

    fn accepts(calls: &[Call]) {
        assert_eq!(check(calls).err(), None);
    }

    fn refuses(calls: &[Call]) {
        assert!(matches!(check(calls), Err(Complaint::Unsound { .. })), "{:?}", check(calls));
    }

    const LIVE: SessionState = SessionState::Live;
    const BY_1: SessionState = SessionState::Replaced { by: 1 };

    #[test]
    fn a_session_that_lives_on_after_the_answer_to_the_next_login_is_refused() {
        let (first, second) = (login(0, 10, 0, None), login(20, 30, 1, Some(0)));
        refuses(&[first, second, validate(31, 40, 0, LIVE)]);
        accepts(&[first, second, validate(31, 40, 0, BY_1)]);
        // During the login both answers are possible, but not in the opposite order.
        accepts(&[first, second, validate(25, 40, 0, LIVE)]);
        accepts(&[first, second, validate(21, 22, 0, LIVE), validate(23, 24, 0, BY_1)]);
        refuses(&[first, second, validate(21, 22, 0, BY_1), validate(23, 24, 0, LIVE)]);
    }

    #[test]
    fn two_sessions_that_live_at_once_are_refused() {
        let logins = [login(0, 10, 0, None), login(20, 30, 1, Some(0))];
        refuses(&[&logins[..], &[validate(25, 50, 1, LIVE), validate(55, 60, 0, LIVE)]].concat());
        let apart = [login(0, 30, 0, None), login(0, 30, 1, None)];
        refuses(&apart);
    }

    #[test]
    fn a_session_that_revives_after_its_logout_is_refused() {
        let ended = [login(0, 10, 0, None), logout(20, 30, 0, LIVE)];
        refuses(&[&ended[..], &[validate(40, 50, 0, LIVE)]].concat());
        accepts(&[&ended[..], &[validate(40, 50, 0, SessionState::LoggedOut)]].concat());
        // A logout that claims to have ended the session does not explain it either.
        refuses(&[&ended[..], &[logout(40, 50, 0, LIVE)]].concat());
        accepts(&[&ended[..], &[logout(40, 50, 0, SessionState::LoggedOut)]].concat());
        // A login that claims to displace the session does not explain it either.
        refuses(&[&ended[..], &[login(40, 50, 1, Some(0))]].concat());
        accepts(&[&ended[..], &[login(40, 50, 1, None)]].concat());
    }

    #[test]
    fn a_session_that_revives_after_a_kick_is_refused() {
        let ended = [login(0, 10, 0, None), kick(20, 30, 1)];
        refuses(&[&ended[..], &[validate(40, 50, 0, LIVE)]].concat());
        accepts(&[&ended[..], &[validate(40, 50, 0, SessionState::Kicked)]].concat());
        refuses(&[&ended[..], &[kick(40, 50, 1)]].concat());
        accepts(&[&ended[..], &[kick(40, 50, 0)]].concat());
    }

    #[test]
    fn an_acknowledged_login_that_is_lost_is_refused() {
        let opened = login(0, 10, 0, None);
        refuses(&[opened, validate(20, 30, 0, SessionState::Other)]);
        refuses(&[opened, kick(20, 30, 0)]);
        refuses(&[opened, login(20, 30, 1, None)]);
        refuses(&[opened, validate(20, 30, 0, BY_1)]);
        refuses(&[opened, validate(20, 30, 0, SessionState::LoggedOut)]);
    }

    #[test]
    fn a_wrong_reason_is_refused() {
        let replaced = [login(0, 10, 0, None), login(20, 30, 1, Some(0))];
        for fate in [
            SessionState::LoggedOut,
            SessionState::Kicked,
            SessionState::Other,
            SessionState::Replaced { by: 2 },
        ] {
            refuses(&[&replaced[..], &[validate(40, 50, 0, fate)]].concat());
        }
        // A stale logout ends no session, and a stale token keeps its reason.
        let late = [logout(40, 50, 0, BY_1), kick(60, 70, 1)];
        accepts(&[&replaced[..], &late[..], &[validate(80, 90, 0, BY_1)]].concat());
        refuses(&[&replaced[..], &late[..], &[validate(80, 90, 0, SessionState::Kicked)]].concat());
        refuses(&[&replaced[..], &[logout(40, 50, 0, LIVE)]].concat());
    }

    #[test]
    fn a_generation_that_does_not_grow_is_refused() {
        let opened = |begun, answered, number, generation, displaced| {
            call(begun, answered, Ask::Login(number), Answer::Opened { generation, displaced })
        };
        refuses(&[opened(0, 10, 0, 7, None), opened(20, 30, 1, 7, Some(0))]);
        refuses(&[opened(0, 10, 0, 7, None), opened(20, 30, 1, 6, Some(0))]);
        refuses(&[opened(0, 10, 0, 7, None), kick(11, 12, 1), opened(20, 30, 1, 6, None)]);
        // Of concurrent logins the generation decides the order.
        accepts(&[opened(0, 30, 0, 7, Some(1)), opened(0, 30, 1, 6, None)]);
        refuses(&[opened(0, 30, 0, 7, None), opened(0, 30, 1, 6, Some(0))]);
    }

    #[test]
    fn a_login_without_an_answer_may_have_taken_effect_or_not() {
        let opened = login(0, 10, 0, None);
        let lost = unanswered(20, Ask::Login(1));
        accepts(&[opened, lost, validate(30, 40, 0, LIVE)]);
        accepts(&[opened, lost, validate(30, 40, 0, BY_1)]);
        // The effect may also come late.
        accepts(&[opened, lost, validate(30, 40, 0, LIVE), validate(50, 60, 0, BY_1)]);
        accepts(&[opened, lost, validate(30, 40, 0, LIVE), login(50, 60, 2, Some(1))]);
        // The effect comes only once and not before the start.
        refuses(&[opened, lost, validate(30, 40, 0, BY_1), validate(50, 60, 0, LIVE)]);
        refuses(&[opened, lost, validate(12, 15, 0, BY_1)]);
        refuses(&[opened, lost, login(30, 40, 2, Some(1)), login(50, 60, 3, Some(1))]);
    }

    #[test]
    fn a_logout_or_a_kick_without_an_answer_may_have_taken_effect_or_not() {
        let opened = login(0, 10, 0, None);
        for (ask, fate) in
            [(Ask::Logout(0), SessionState::LoggedOut), (Ask::EndSessions, SessionState::Kicked)]
        {
            let lost = unanswered(20, ask);
            accepts(&[opened, lost, validate(30, 40, 0, LIVE)]);
            accepts(&[opened, lost, validate(30, 40, 0, fate)]);
            accepts(&[opened, lost, validate(30, 40, 0, LIVE), validate(50, 60, 0, fate)]);
            refuses(&[opened, lost, validate(30, 40, 0, fate), validate(50, 60, 0, LIVE)]);
            refuses(&[opened, lost, validate(12, 15, 0, fate)]);
        }
        // A logout ends only its own session; a kick ends the one that is live by then.
        let next = login(30, 40, 1, Some(0));
        refuses(&[
            opened,
            unanswered(20, Ask::Logout(0)),
            next,
            validate(50, 60, 1, SessionState::LoggedOut),
        ]);
        accepts(&[opened, unanswered(20, Ask::EndSessions), next, validate(50, 60, 1, SessionState::Kicked)]);
    }

    #[test]
    fn a_search_that_takes_too_long_has_no_result() {
        let calls = [login(0, 10, 0, None), login(20, 30, 1, Some(0)), validate(40, 50, 0, BY_1)];
        assert_eq!(check_within(2, &calls), Ok(2));
        assert_eq!(check_within(1, &calls), Err(Complaint::TooHard));
    }

    /// One of the first logins of a history, what is done about it, how long before and after its effect the
    /// client waits, and what becomes of the answer: nothing, lost with or without effect.
    type Step = (u8, u8, u64, u64, u8);

    fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
        vec((0..5_u8, 0..10_u8, 0..25_u64, 0..25_u64, 0..10_u8), 1..=most)
    }

    /// Records the answers of a correct slot, with one effect in a hundred units of time.
    fn sound(steps: &[Step]) -> Vec<Call> {
        let (mut slot, mut logins, mut calls) = (Slot::default(), 0, Vec::new());
        for (at, (which, what, before, after, answer)) in (3..).map(|at| 100 * at).zip(steps) {
            let number = which % logins.max(1);
            let ask = match what {
                0..4 => Ask::Login(logins),
                4..7 => Ask::Validate(number),
                7..9 => Ask::Logout(number),
                _ => Ask::EndSessions,
            };
            let lost = Call { ask, begun: at - 10 * before, answer: None };
            let Some(next) = slot.after(&lost) else { continue };
            let given = match ask {
                Ask::Login(_) => Answer::Opened { generation: at, displaced: slot.live },
                Ask::Validate(number) | Ask::Logout(number) => Answer::Stood(slot.fate(number).unwrap()),
                Ask::EndSessions => Answer::Ended(u32::from(slot.live.is_some())),
            };
            logins += u8::from(matches!(ask, Ask::Login(_)));
            let answered = Call { answer: Some((at + 10 * after, given)), ..lost };
            calls.push(if *answer < 2 { lost } else { answered });
            if *answer != 0 {
                slot = next;
                if *answer > 1 && matches!(ask, Ask::Login(_)) {
                    slot.generation = at;
                }
            }
        }
        calls
    }

    /// Tries all orders.
    fn some_order_explains(left: &[Call], slot: &Slot) -> bool {
        if left.iter().all(|call| call.answer.is_none()) {
            return true;
        }
        (0..left.len()).any(|index| {
            let mut others = left.to_vec();
            let first = others.remove(index);
            let in_time = others.iter().all(|other| other.answer.is_none_or(|(at, _)| first.begun <= at));
            let next = slot.after(&first).filter(|_| in_time);
            next.is_some_and(|next| some_order_explains(&others, &next))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_answers_of_a_correct_slot_are_accepted(steps in steps(60)) {
            prop_assert_eq!(check(&sound(&steps)).err(), None);
        }

        #[test]
        fn a_history_with_one_wrong_answer_is_refused_unless_some_order_explains_it(
            steps in steps(6),
            broken in any::<prop::sample::Index>(),
            (fate, count) in (0..5_usize, 0..2_u32),
        ) {
            let mut calls = sound(&steps);
            let index = broken.index(calls.len().max(1));
            if let Some((_, answer)) = calls.get_mut(index).and_then(|call| call.answer.as_mut()) {
                let fates = [LIVE, SessionState::Replaced { by: 2 }, BY_1, SessionState::LoggedOut, SessionState::Kicked];
                match answer {
                    Answer::Stood(stood) => *stood = fates[fate],
                    Answer::Ended(ended) => *ended = count,
                    Answer::Opened { generation, displaced } => {
                        (*generation, *displaced) = (*generation - 100 * u64::from(count), Some(1));
                    }
                }
            }
            prop_assert_eq!(check(&calls).is_ok(), some_order_explains(&calls, &Slot::default()));
        }
    }
}
