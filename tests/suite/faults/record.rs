//! The calls of one user, and what is wrong with the answers to them.

use std::{collections::BTreeSet, time::Duration};

use latchkey::grpc::pb::RejectionReason;

/// The number of a login among those of its user, in the order in which they began.
pub(super) type Number = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Login,
    Logout,
    Validate {
        /// The `max_staleness` of the request.
        staleness: Duration,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// A login has opened a session.
    Opened { generation: u64 },
    /// The session is live, or was until this logout.
    Live,
    /// The session is not live.
    Rejected(RejectionReason),
    /// There was no verdict, but this status.
    Failed(String),
}

/// A call about the session of one login. All times are those since the start of the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) login: Number,
    pub(super) request: Request,
    pub(super) begun: Duration,
    pub(super) ended: Duration,
    pub(super) answer: Answer,
}

impl Call {
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.answer, Answer::Failed(_))
    }

    /// The generation of the session that a login has opened.
    fn generation(&self) -> Option<u64> {
        match self.answer {
            Answer::Opened { generation } => Some(generation),
            _ => None,
        }
    }
}

/// What an outage must not do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Verdicts that no order of the calls explains.
    pub(super) wrong: Vec<String>,
    /// Acknowledged logins whose session nobody has ended and is not known any more.
    pub(super) lost_logins: BTreeSet<Number>,
    /// Acknowledged logouts whose session is live again.
    pub(super) lost_logouts: BTreeSet<Number>,
}

/// Checks the calls of one user, whose logins and logouts (`writes`) were made one after the other.
///
/// `tolerated` are the reasons that the failure itself explains, such as those of a wrong clock.
pub(super) fn check(writes: &[Call], reads: &[&[Call]], tolerated: &[RejectionReason]) -> Findings {
    let mut findings = Findings::default();
    let logins: Vec<&Call> = writes.iter().filter(|call| call.request == Request::Login).collect();
    let logouts: Vec<&Call> = writes.iter().filter(|call| call.request == Request::Logout).collect();
    let is_tolerated =
        |call: &Call| matches!(call.answer, Answer::Rejected(reason) if tolerated.contains(&reason));
    let generation =
        |number| logins.iter().find(|call| call.login == number).and_then(|call| call.generation());

    let acknowledged: Vec<u64> = logins.iter().filter_map(|call| call.generation()).collect();
    if acknowledged.windows(2).any(|pair| pair[0] >= pair[1]) {
        findings.wrong.push(format!("the generation of a later login is not larger: {acknowledged:?}"));
    }

    let verdicts = || reads.iter().copied().flatten().chain(logouts.iter().copied());
    // A rejection is final.
    let rejected = |number: Number, before: Duration| {
        verdicts().any(|call| {
            call.login == number
                && call.ended < before
                && matches!(call.answer, Answer::Rejected(_))
                && !is_tolerated(call)
        })
    };
    for call in verdicts() {
        let of_session = generation(call.login);
        match call.answer {
            Answer::Live => {
                let Request::Validate { staleness } = call.request else { continue };
                // What ended before this time must show.
                let Some(known) = call.begun.checked_sub(staleness) else { continue };
                let displaced = logins.iter().find(|other| {
                    other.login != call.login && other.ended < known && other.generation() > of_session
                });
                let logged_out = logouts.iter().any(|logout| {
                    let acknowledged = !logout.has_failed() && !is_tolerated(logout);
                    logout.login == call.login && logout.ended < known && acknowledged
                });
                if logged_out {
                    findings.lost_logouts.insert(call.login);
                }
                let complaint = if let Some(other) = displaced {
                    format!("live after login {} was acknowledged at {:?}", other.login, other.ended)
                } else if logged_out {
                    "live after its logout was acknowledged".to_owned()
                } else if rejected(call.login, known) {
                    "live after it was rejected".to_owned()
                } else {
                    continue;
                };
                findings.wrong.push(format!("{complaint}: {call:?}"));
            }
            Answer::Rejected(reason) if !tolerated.contains(&reason) => {
                let is_replaced = logins.iter().any(|other| {
                    let may_be_later = other.has_failed() || other.generation() > of_session;
                    other.login != call.login && other.begun <= call.ended && may_be_later
                });
                let is_logged_out =
                    logouts.iter().any(|logout| logout.login == call.login && logout.begun <= call.ended);
                match reason {
                    RejectionReason::Replaced if !is_replaced => {
                        findings.wrong.push(format!("replaced by nobody: {call:?}"));
                    }
                    RejectionReason::LoggedOut if !is_logged_out => {
                        findings.wrong.push(format!("logged out by nobody: {call:?}"));
                    }
                    RejectionReason::Replaced | RejectionReason::LoggedOut => {}
                    RejectionReason::UnknownSession => {
                        if !(is_replaced || is_logged_out && call.request != Request::Logout) {
                            findings.lost_logins.insert(call.login);
                        }
                    }
                    _ => findings.wrong.push(format!("a reason that nothing explains: {call:?}")),
                }
            }
            _ => {}
        }
    }
    findings
}

/// Returns the longest time without an answer: from the first call that failed to the end of the next that did not.
/// The calls were made one after the other.
pub(super) fn outage(calls: &[Call], since: Duration) -> Duration {
    let (mut longest, mut start) = (Duration::ZERO, None);
    for call in calls.iter().filter(|call| call.ended >= since) {
        if call.has_failed() {
            start.get_or_insert(call.begun.max(since));
        }
        if let Some(start) = start {
            longest = longest.max(call.ended.saturating_sub(start));
        }
        if !call.has_failed() {
            start = None;
        }
    }
    longest
}

mod the_check {
    use super::*;

    const STRICT: Request = Request::Validate { staleness: Duration::ZERO };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn call(login: Number, request: Request, begun: u64, answer: Answer) -> Call {
        Call { login, request, begun: at(begun), ended: at(begun + 10), answer }
    }

    fn login(number: Number, begun: u64) -> Call {
        call(number, Request::Login, begun, Answer::Opened { generation: begun })
    }

    fn logout(number: Number, begun: u64) -> Call {
        call(number, Request::Logout, begun, Answer::Live)
    }

    fn lost(number: Number, request: Request, begun: u64) -> Call {
        call(number, request, begun, Answer::Failed("UNAVAILABLE".to_owned()))
    }

    fn rejected(number: Number, begun: u64, reason: RejectionReason) -> Call {
        call(number, STRICT, begun, Answer::Rejected(reason))
    }

    fn live(number: Number, begun: u64) -> Call {
        call(number, STRICT, begun, Answer::Live)
    }

    fn found(writes: &[Call], reads: &[Call]) -> (usize, usize, usize) {
        let findings = check(writes, &[reads], &[]);
        (findings.wrong.len(), findings.lost_logins.len(), findings.lost_logouts.len())
    }

    #[test]
    fn right_verdicts_are_accepted() {
        let writes = [login(0, 0), login(1, 20), logout(1, 40), lost(2, Request::Login, 60)];
        let reads = [
            live(0, 12),
            // The second login is under way.
            live(0, 25),
            rejected(0, 25, RejectionReason::Replaced),
            rejected(0, 35, RejectionReason::Replaced),
            live(1, 45),
            rejected(1, 55, RejectionReason::LoggedOut),
            // A login without an answer may have replaced it first.
            rejected(1, 65, RejectionReason::Replaced),
            rejected(1, 75, RejectionReason::UnknownSession),
        ];
        assert_eq!(found(&writes, &reads), (0, 0, 0));
    }

    #[test]
    fn sessions_that_have_ended_and_are_live_are_found() {
        let writes = [login(0, 0), login(1, 20)];
        assert_eq!(found(&writes, &[live(0, 31)]), (1, 0, 0));
        assert_eq!(found(&[login(0, 0), logout(0, 20)], &[live(0, 31)]), (1, 0, 1));
        let reads = [rejected(0, 25, RejectionReason::Replaced), live(0, 36)];
        assert_eq!(found(&[login(0, 0), lost(1, Request::Login, 20)], &reads), (1, 0, 0));
    }

    #[test]
    fn a_cached_verdict_may_be_as_old_as_the_caller_allows() {
        let writes = [login(0, 0), login(1, 20)];
        let cached = |begun| call(0, Request::Validate { staleness: at(50) }, begun, Answer::Live);
        assert_eq!(found(&writes, &[cached(79)]), (0, 0, 0));
        assert_eq!(found(&writes, &[cached(81)]), (1, 0, 0));
    }

    #[test]
    fn rejections_without_a_cause_are_found() {
        let writes = [login(0, 0)];
        assert_eq!(found(&writes, &[rejected(0, 20, RejectionReason::Replaced)]), (1, 0, 0));
        assert_eq!(found(&writes, &[rejected(0, 20, RejectionReason::LoggedOut)]), (1, 0, 0));
        assert_eq!(found(&writes, &[rejected(0, 20, RejectionReason::IdleTimeout)]), (1, 0, 0));
        assert_eq!(found(&writes, &[rejected(0, 20, RejectionReason::UnknownSession)]), (0, 1, 0));
        let idle = rejected(0, 20, RejectionReason::IdleTimeout);
        let findings = check(&writes, &[&[idle, live(0, 40)]], &[RejectionReason::IdleTimeout]);
        assert_eq!(findings, Findings::default());
    }

    #[test]
    fn a_generation_that_does_not_grow_is_found() {
        let second = call(1, Request::Login, 20, Answer::Opened { generation: 0 });
        assert_eq!(found(&[login(0, 0), second], &[]).0, 1);
    }

    #[test]
    fn an_outage_lasts_until_the_next_answer() {
        let calls = [live(0, 0), lost(0, STRICT, 20), lost(0, STRICT, 40), live(0, 60), lost(0, STRICT, 80)];
        assert_eq!(outage(&calls, at(0)), at(50));
        assert_eq!(outage(&calls, at(45)), at(25));
        assert_eq!(outage(&calls, at(75)), at(10));
        assert_eq!(outage(&calls[..1], at(0)), at(0));
    }
}
