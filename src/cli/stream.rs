//! Streams that survive their connections.
//!
//! A stream that breaks is opened again: after the delay that the server asks for, or after an exponential backoff with jitter.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{CommandError, client, output};

const MIN_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The limits of retries while the server does not answer.
#[derive(Args)]
pub(super) struct Retry {
    /// How long to retry while the server does not answer
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    retry_for: Duration,
}

/// The state of a reader, over all the streams that it takes.
pub(super) trait StreamReader {
    type Message;
    type Messages: Stream<Item = Result<Self::Message, Status>> + Unpin;

    /// Opens a stream that goes on where the last one broke. The server sends a message at once.
    async fn open(&mut self) -> Result<Self::Messages, Status>;

    /// Handles a message. Breaks if it is the last one.
    fn handle(&mut self, message: Self::Message) -> ControlFlow<Result<(), CommandError>>;

    /// The error of the command after the status of a stream that is not opened again.
    fn error(&mut self, status: Status) -> CommandError {
        client::command_error_after_retries(status)
    }
}

/// The end of one stream.
enum StreamEnd {
    /// The reader has handled its last message.
    Finished(Result<(), CommandError>),
    Broken(Status),
}

/// Reads to the end, or until Ctrl-C, which is no error.
pub(super) async fn read_all(reader: &mut impl StreamReader, retry: &Retry) -> Result<(), CommandError> {
    tokio::select! {
        result = read_with_retries(reader, RetryState::new(retry, output::note)) => result,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| CommandError::Failed(format!("cannot listen for signals: {error}")))
        }
    }
}

async fn read_with_retries(
    reader: &mut impl StreamReader,
    mut state: RetryState,
) -> Result<(), CommandError> {
    loop {
        let opened_at = Instant::now();
        let status = match read_stream(reader, &mut state).await {
            StreamEnd::Finished(result) => return result,
            StreamEnd::Broken(status) => status,
        };
        match state.backoff_after(&status, opened_at.elapsed()) {
            Some(backoff) => tokio::time::sleep(backoff).await,
            // The address may be wrong, so the message suggests what to check.
            None if state.never_connected && client::is_transient(&status) => {
                return Err(client::command_error(status));
            }
            None => return Err(reader.error(status)),
        }
    }
}

async fn read_stream<R: StreamReader>(reader: &mut R, state: &mut RetryState) -> StreamEnd {
    let open = async {
        let mut messages = reader.open().await?;
        let first = next(&mut messages).await?;
        Ok::<_, Status>((messages, first))
    };
    let opened = timeout(client::CALL_TIMEOUT, open).await;
    let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no message came in time")));
    let (mut messages, mut message) = match opened {
        Ok(opened) => opened,
        Err(status) => return StreamEnd::Broken(status),
    };
    state.connected();
    loop {
        if let ControlFlow::Break(result) = reader.handle(message) {
            return StreamEnd::Finished(result);
        }
        message = match next(&mut messages).await {
            Ok(message) => message,
            Err(status) => return StreamEnd::Broken(status),
        };
    }
}

async fn next<M>(messages: &mut (impl Stream<Item = Result<M, Status>> + Unpin)) -> Result<M, Status> {
    messages.next().await.unwrap_or_else(|| Err(Status::unavailable("the stream ended early")))
}

/// Decides whether and when to retry.
struct RetryState {
    retry_for: Duration,
    /// Prints a line for whoever waits.
    note: fn(&str),
    never_connected: bool,
    /// The beginning of the current outage.
    lost_at: Option<Instant>,
    /// The number of streams in a row that did not last.
    failures: u32,
}

impl RetryState {
    const fn new(retry: &Retry, note: fn(&str)) -> Self {
        Self { retry_for: retry.retry_for, note, never_connected: true, lost_at: None, failures: 0 }
    }

    fn connected(&mut self) {
        self.never_connected = false;
        if self.lost_at.take().is_some() {
            (self.note)("the server answers again");
        }
    }

    /// Returns how long to wait after a stream that `lasted` for some time and ended with `status`, or `None` if a retry
    /// cannot help.
    fn backoff_after(&mut self, status: &Status, lasted: Duration) -> Option<Duration> {
        // Where no server has ever answered, the address is probably wrong.
        let is_no_server = self.never_connected && client::info(status).is_none();
        if is_no_server || !client::is_transient(status) {
            return None;
        }
        // A stream that breaks soon after it was opened does not reset the backoff.
        if lasted > MAX_BACKOFF {
            self.failures = 0;
        }
        let retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let backoff = backoff(self.failures, retry_delay, rand::random_range(0.0..1.0));
        self.failures = self.failures.saturating_add(1);
        let lost_at = *self.lost_at.get_or_insert_with(|| {
            (self.note)(&format!("the server does not answer ({}): trying again", status.message()));
            Instant::now()
        });
        (lost_at.elapsed().saturating_add(backoff) <= self.retry_for).then_some(backoff)
    }
}

/// The backoff after this many failures, which is never shorter than the delay that the server asks for. `jitter` is between 0
/// and 1; it keeps clients that lost the same server from coming back at the same moment.
fn backoff(failures: u32, retry_delay: Option<Duration>, jitter: f64) -> Duration {
    if let Some(delay) = retry_delay {
        let delay = delay.max(MIN_BACKOFF);
        return delay.saturating_add((delay / 4).mul_f64(jitter));
    }
    let longest = MIN_BACKOFF.saturating_mul(2_u32.saturating_pow(failures)).min(MAX_BACKOFF);
    longest / 2 + (longest / 2).mul_f64(jitter)
}

#[cfg(test)]
mod tests;
