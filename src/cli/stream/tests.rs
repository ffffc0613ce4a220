//! Tests of the conditions under which a stream is opened again.

use std::{collections::VecDeque, vec};

use futures_util::stream;
use tonic::Code;
use tonic_types::ErrorDetails;

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_retry_delay_of_the_server_is_kept_with_jitter() {
    for delay in [seconds(1), seconds(60), seconds(3600)] {
        for failures in [0, 1, 100, u32::MAX] {
            assert_eq!(backoff(failures, Some(delay), 0.0), delay);
            let latest = backoff(failures, Some(delay), 1.0);
            assert!(latest > delay && latest <= delay * 5 / 4, "{latest:?}");
        }
    }
    assert!(backoff(0, Some(Duration::ZERO), 0.0) >= MIN_BACKOFF, "a delay of zero is raised to the minimum");
    assert!(backoff(0, Some(Duration::MAX), 0.9) >= seconds(u64::MAX), "nothing overflows");
}

#[test]
fn the_backoff_grows_up_to_a_maximum_and_is_never_zero() {
    let mut last = Duration::ZERO;
    for failures in 0..40 {
        let (shortest, longest) = (backoff(failures, None, 0.0), backoff(failures, None, 1.0));
        assert!(shortest >= MIN_BACKOFF / 2 && longest <= MAX_BACKOFF, "{shortest:?} {longest:?}");
        assert!(shortest < longest, "there is no jitter");
        assert!(longest >= last, "after {failures} failures {longest:?}, before {last:?}");
        last = longest;
    }
    assert_eq!(last, MAX_BACKOFF);
    assert_eq!(backoff(u32::MAX, None, 1.0), MAX_BACKOFF);
}

/// Streams that are opened in this order: each fails to open, or has some numbers and breaks. 0 is the last message.
struct Script {
    streams: VecDeque<Result<Vec<Result<u32, Status>>, Status>>,
    handled: Vec<u32>,
    opened: Vec<Instant>,
}

impl Script {
    fn new(streams: impl IntoIterator<Item = Result<Vec<Result<u32, Status>>, Status>>) -> Self {
        Self { streams: streams.into_iter().collect(), handled: Vec::new(), opened: Vec::new() }
    }
}

impl StreamReader for Script {
    type Message = u32;
    type Messages = stream::Iter<vec::IntoIter<Result<u32, Status>>>;

    async fn open(&mut self) -> Result<Self::Messages, Status> {
        self.opened.push(Instant::now());
        self.streams
            .pop_front()
            .unwrap_or_else(|| Err(server_error(Code::NotFound, "END_OF_SCRIPT")))
            .map(stream::iter)
    }

    fn handle(&mut self, message: u32) -> ControlFlow<Result<(), CommandError>> {
        self.handled.push(message);
        if message == 0 { ControlFlow::Break(Ok(())) } else { ControlFlow::Continue(()) }
    }
}

/// A status with an error reason of the server.
fn server_error(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, reason, ErrorDetails::with_error_info(reason, "latchkey", []))
}

fn retry_state(retry_for: Duration) -> RetryState {
    RetryState::new(&Retry { retry_for }, |_| ())
}

async fn read_script(script: &mut Script, retry_for: Duration) -> Result<(), CommandError> {
    read_with_retries(script, retry_state(retry_for)).await
}

#[tokio::test]
async fn a_stream_that_breaks_is_opened_again_until_its_last_message() {
    let retry_delay = Duration::from_millis(400);
    let mut stopping = ErrorDetails::with_error_info("SHUTTING_DOWN", "latchkey", []);
    stopping.set_retry_info(Some(retry_delay));
    let mut script = Script::new([
        Ok(vec![Ok(1), Ok(2), Err(Status::with_error_details(Code::Unavailable, "stopping", stopping))]),
        Err(Status::unknown("the connection broke")),
        Ok(vec![Ok(3)]),
        Ok(vec![Ok(4), Ok(0), Ok(5)]),
    ]);
    assert!(read_script(&mut script, seconds(60)).await.is_ok());
    assert_eq!(script.handled, [1, 2, 3, 4, 0], "nothing after the end");
    let waits: Vec<_> = script.opened.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] >= retry_delay, "the retry delay of the server is not kept: {waits:?}");
    assert!(waits[1..].iter().all(|wait| *wait >= MIN_BACKOFF / 2), "it retries too soon: {waits:?}");
}

#[tokio::test]
async fn a_permanent_error_is_not_retried() {
    for (status, exit_code) in [
        // No server has ever answered.
        (Status::unavailable("connection refused"), 3),
        (Status::unimplemented("an older server"), 1),
        (server_error(Code::PermissionDenied, "CALLER_NOT_ALLOWED"), 1),
    ] {
        let mut script = Script::new([Err(status), Ok(vec![Ok(0)])]);
        let failure = read_script(&mut script, seconds(60)).await.unwrap_err();
        assert_eq!(failure.exit_code(), exit_code);
        assert_eq!(script.opened.len(), 1);
    }
    // The same holds after the stream was open.
    let mut script = Script::new([
        Ok(vec![Ok(1), Err(server_error(Code::InvalidArgument, "INVALID_REQUEST"))]),
        Ok(vec![Ok(0)]),
    ]);
    assert_eq!(read_script(&mut script, seconds(60)).await.unwrap_err().exit_code(), 2);
    assert_eq!(script.opened.len(), 1);
}

#[tokio::test]
async fn an_outage_is_retried_for_a_limited_time() {
    let outage = || Err(server_error(Code::Unavailable, "STORE_UNAVAILABLE"));
    let mut script = Script::new([outage(), Ok(vec![Ok(0)])]);
    assert!(read_script(&mut script, seconds(60)).await.is_ok());

    let mut script = Script::new([Ok(vec![Ok(1)]), outage(), outage(), outage(), outage(), outage()]);
    let failure = read_script(&mut script, Duration::from_millis(500)).await.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert!(script.opened.len() < 6, "it tried for too long");
}

#[test]
fn the_backoff_grows_while_streams_do_not_last() {
    let mut state = retry_state(seconds(3600));
    let status = Status::unavailable("the connection broke");
    let mut lose = |lasted| {
        state.connected();
        state.backoff_after(&status, lasted).unwrap()
    };
    let backoffs: Vec<_> = (0..8).map(|_| lose(Duration::ZERO)).collect();
    assert!(backoffs[7] >= MAX_BACKOFF / 2, "{backoffs:?}");
    assert!(lose(seconds(60)) <= MIN_BACKOFF, "a stream that lasted resets the backoff");
}
