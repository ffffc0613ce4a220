//! Streams that outlive their connections.
//!
//! A stream that breaks says nothing about what it tells of: it is opened again, not at once but when the
//! server asks for it, and where the server does not say, after pauses that grow.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{Failure, client, output};

/// How long to wait before a stream is opened again, at first and at most, where the server does not say.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How much patience to have.
#[derive(Args)]
pub(super) struct Retry {
    /// Go on trying for this long where the server does not answer any more; then exit with 3.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    retry_for: Duration,
}

/// What is read from a stream, over all the streams that it takes.
pub(super) trait Feed {
    type Message;
    type Messages: Stream<Item = Result<Self::Message, Status>> + Unpin;

    /// Opens the stream where the last one broke. The server has to say something at once.
    async fn open(&mut self) -> Result<Self::Messages, Status>;

    /// Takes a message, which can be the last.
    fn take(&mut self, message: Self::Message) -> ControlFlow<Result<(), Failure>>;

    /// What it means that the server will not give the stream.
    fn refused(&mut self, status: Status) -> Failure {
        client::failed_after_retries(status)
    }
}

/// Reads to the end, or until somebody presses Ctrl-C, which is no failure.
pub(super) async fn follow(feed: &mut impl Feed, retry: &Retry) -> Result<(), Failure> {
    tokio::select! {
        outcome = read(feed, Contact::new(retry, output::note)) => outcome,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| Failure::Refused(format!("cannot listen for signals: {error}")))
        }
    }
}

async fn read(feed: &mut impl Feed, mut contact: Contact) -> Result<(), Failure> {
    loop {
        let opened = Instant::now();
        let status = match read_one(feed, &mut contact).await {
            Ok(outcome) => return outcome,
            Err(status) => status,
        };
        match contact.lost(&status, opened.elapsed()) {
            Some(pause) => tokio::time::sleep(pause).await,
            // Nobody has ever answered: whoever typed this may have the wrong address.
            None if contact.never => return Err(never(feed, status)),
            None => return Err(feed.refused(status)),
        }
    }
}

fn never(feed: &mut impl Feed, status: Status) -> Failure {
    if client::is_transient(&status) { client::failed(status) } else { feed.refused(status) }
}

/// Reads from one stream, until it tells the end or breaks.
async fn read_one<F: Feed>(feed: &mut F, contact: &mut Contact) -> Result<Result<(), Failure>, Status> {
    let late = |_| Status::deadline_exceeded("nothing came in time");
    let ended = || Status::unavailable("the stream ended early");
    let begin = async {
        let mut messages = feed.open().await?;
        let first = messages.next().await.ok_or_else(ended)??;
        Ok::<_, Status>((messages, first))
    };
    let (mut messages, mut message) = timeout(client::TIMEOUT, begin).await.map_err(late)??;
    contact.answered();
    loop {
        if let ControlFlow::Break(outcome) = feed.take(message) {
            return Ok(outcome);
        }
        message = messages.next().await.ok_or_else(ended)??;
    }
}

/// How it stands with the server.
struct Contact {
    retry_for: Duration,
    /// Tells whoever waits.
    remark: fn(&str),
    /// It has not answered yet.
    never: bool,
    /// Since when it has not answered.
    since: Option<Instant>,
    /// How many streams in a row came to nothing.
    failures: u32,
}

impl Contact {
    const fn new(retry: &Retry, remark: fn(&str)) -> Self {
        Self { retry_for: retry.retry_for, remark, never: true, since: None, failures: 0 }
    }

    fn answered(&mut self) {
        self.never = false;
        if self.since.take().is_some() {
            (self.remark)("the server answers again");
        }
    }

    /// A stream that had been open for so long broke: how long to wait before the next, if it is worth it.
    fn lost(&mut self, status: &Status, lasted: Duration) -> Option<Duration> {
        // From where nobody has ever answered, nothing will come. A server that says why is another matter.
        let hopeless = self.never && client::info(status).is_none();
        if hopeless || !client::is_transient(status) {
            return None;
        }
        // What breaks as soon as it is open is not to be opened all the time.
        if lasted > PAUSES.1 {
            self.failures = 0;
        }
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let pause = pause(self.failures, asked, rand::random_range(0.0..1.0));
        self.failures = self.failures.saturating_add(1);
        let since = *self.since.get_or_insert_with(|| {
            (self.remark)(&format!("the server does not answer ({}): trying again", status.message()));
            Instant::now()
        });
        (since.elapsed().saturating_add(pause) <= self.retry_for).then_some(pause)
    }
}

/// How long to wait after so many failures: never less than the server asks for. A part is left to `chance`,
/// from 0 to 1, so that all who have lost the same server do not come back at the same moment.
fn pause(failures: u32, asked: Option<Duration>, chance: f64) -> Duration {
    if let Some(asked) = asked {
        let asked = asked.max(PAUSES.0);
        return asked.saturating_add((asked / 4).mul_f64(chance));
    }
    let whole = PAUSES.0.saturating_mul(2_u32.saturating_pow(failures)).min(PAUSES.1);
    whole / 2 + (whole / 2).mul_f64(chance)
}

#[cfg(test)]
mod tests;
