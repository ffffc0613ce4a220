//! When a stream is opened again, and when it is not.

use std::{collections::VecDeque, vec};

use futures_util::stream;
use tonic::Code;
use tonic_types::ErrorDetails;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_server_is_asked_no_earlier_than_it_wants_and_not_by_all_at_once() {
    for asked in [seconds(1), seconds(60), seconds(3600)] {
        for failures in [0, 1, 100, u32::MAX] {
            assert_eq!(pause(failures, Some(asked), 0.0), asked);
            let latest = pause(failures, Some(asked), 1.0);
            assert!(latest > asked && latest <= asked * 5 / 4, "{latest:?}");
        }
    }
    assert!(pause(0, Some(Duration::ZERO), 0.0) >= PAUSES.0, "a server that asks for nothing is not stormed");
    assert!(pause(0, Some(Duration::MAX), 0.9) >= seconds(u64::MAX), "nothing overflows");
}

#[test]
fn pauses_grow_up_to_a_bound_and_are_never_nothing() {
    let mut last = Duration::ZERO;
    for failures in 0..40 {
        let (shortest, longest) = (pause(failures, None, 0.0), pause(failures, None, 1.0));
        assert!(shortest >= PAUSES.0 / 2 && longest <= PAUSES.1, "{shortest:?} {longest:?}");
        assert!(shortest < longest, "chance decides nothing");
        assert!(longest >= last, "after {failures} failures {longest:?}, before {last:?}");
        last = longest;
    }
    assert_eq!(last, PAUSES.1);
    assert_eq!(pause(u32::MAX, None, 1.0), PAUSES.1);
}

/// Streams that come in this order: each refused, or a few numbers and how it breaks. 0 is the end.
struct Script {
    streams: VecDeque<Result<Vec<Result<u32, Status>>, Status>>,
    taken: Vec<u32>,
    opened: Vec<Instant>,
}

impl Script {
    fn new(streams: impl IntoIterator<Item = Result<Vec<Result<u32, Status>>, Status>>) -> Self {
        Self { streams: streams.into_iter().collect(), taken: Vec::new(), opened: Vec::new() }
    }
}

impl Feed for Script {
    type Message = u32;
    type Messages = stream::Iter<vec::IntoIter<Result<u32, Status>>>;

    async fn open(&mut self) -> Result<Self::Messages, Status> {
        self.opened.push(Instant::now());
        self.streams
            .pop_front()
            .unwrap_or_else(|| Err(told(Code::NotFound, "END_OF_SCRIPT")))
            .map(stream::iter)
    }

    fn take(&mut self, message: u32) -> ControlFlow<Result<(), Failure>> {
        self.taken.push(message);
        if message == 0 { ControlFlow::Break(Ok(())) } else { ControlFlow::Continue(()) }
    }
}

/// A status that the server itself sends.
fn told(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, reason, ErrorDetails::with_error_info(reason, "latchkey", []))
}

fn contact(retry_for: Duration) -> Contact {
    Contact::new(&Retry { retry_for }, |_| ())
}

async fn read_all(script: &mut Script, retry_for: Duration) -> Result<(), Failure> {
    read(script, contact(retry_for)).await
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_until_it_tells_the_end() {
    let asked = Duration::from_millis(400);
    let mut stopping = ErrorDetails::with_error_info("SHUTTING_DOWN", "latchkey", []);
    stopping.set_retry_info(Some(asked));
    let mut script = Script::new([
        Ok(vec![Ok(1), Ok(2), Err(Status::with_error_details(Code::Unavailable, "stopping", stopping))]),
        Err(Status::unknown("the connection broke")),
        Ok(vec![Ok(3)]),
        Ok(vec![Ok(4), Ok(0), Ok(5)]),
    ]);
    assert!(read_all(&mut script, seconds(60)).await.is_ok());
    assert_eq!(script.taken, [1, 2, 3, 4, 0], "nothing after the end");
    let waits: Vec<_> = script.opened.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] >= asked, "it comes back when the server asks for it: {waits:?}");
    assert!(waits[1..].iter().all(|wait| *wait >= PAUSES.0 / 2), "it does not storm the server: {waits:?}");
}

#[tokio::test]
async fn what_does_not_get_better_by_waiting_ends_at_once() {
    for (status, unavailable) in [
        // Nobody has ever answered.
        (Status::unavailable("connection refused"), true),
        (Status::unimplemented("an older server"), false),
        (told(Code::PermissionDenied, "CALLER_NOT_ALLOWED"), false),
    ] {
        let mut script = Script::new([Err(status), Ok(vec![Ok(0)])]);
        let failure = read_all(&mut script, seconds(60)).await.unwrap_err();
        assert_eq!(matches!(failure, Failure::Unavailable(_)), unavailable);
        assert_eq!(script.opened.len(), 1);
    }
    // After it had been open, too.
    let mut script =
        Script::new([Ok(vec![Ok(1), Err(told(Code::InvalidArgument, "INVALID_REQUEST"))]), Ok(vec![Ok(0)])]);
    assert!(matches!(read_all(&mut script, seconds(60)).await, Err(Failure::Usage(_))));
    assert_eq!(script.opened.len(), 1);
}

#[tokio::test]
async fn a_server_that_says_why_is_waited_for_but_not_for_ever() {
    let away = || Err(told(Code::Unavailable, "STORE_UNAVAILABLE"));
    let mut script = Script::new([away(), Ok(vec![Ok(0)])]);
    assert!(read_all(&mut script, seconds(60)).await.is_ok());

    let mut script = Script::new([Ok(vec![Ok(1)]), away(), away(), away(), away(), away()]);
    let failure = read_all(&mut script, Duration::from_millis(500)).await;
    assert!(matches!(failure, Err(Failure::Unavailable(_))));
    assert!(script.opened.len() < 6, "it tried for too long");
}

#[test]
fn a_stream_that_breaks_as_soon_as_it_is_open_is_opened_less_and_less_often() {
    let mut contact = contact(seconds(3600));
    let status = Status::unavailable("the connection broke");
    let mut lose = |lasted| {
        contact.answered();
        contact.lost(&status, lasted).unwrap()
    };
    let pauses: Vec<_> = (0..8).map(|_| lose(Duration::ZERO)).collect();
    assert!(pauses[7] >= PAUSES.1 / 2, "{pauses:?}");
    assert!(lose(seconds(60)) <= PAUSES.0, "one that lasted begins anew");
}
