//! Requests over a stream, many of them under way.
//!
//! As many as may be sent go out together, and as many answers as have come are looked at together: what a request
//! costs the load must be less than what it costs the server.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};

use super::{
    connection::{CallError, Connection, succeeded},
    load::Run,
    query::{Query, first_message},
    tally::Tally,
};

/// Requests that follow each other in the list of all, and have gone out together.
struct Batch {
    /// The next one that has no answer, in the list of all.
    next: usize,
    left: usize,
    /// From when their latency counts.
    begun: Instant,
}

/// A stream.
struct Stream {
    requests: SendStream<Bytes>,
    answers: RecvStream,
    /// The beginning of an answer.
    rest: BytesMut,
    /// What has no answer yet, in the order in which the answers come.
    under_way: VecDeque<Batch>,
    count: usize,
}

impl Run {
    /// Keeps a stream busy until the time is over.
    pub(super) async fn converse(
        self: Arc<Self>,
        connection: usize,
        mut line: Connection,
        tally: Arc<Tally>,
    ) {
        let (requests, answers) = match line.open().await {
            Ok(stream) => stream,
            Err(CallError::Retired) => return,
            Err(CallError::Broken(complaint) | CallError::Refused(complaint)) => {
                return tally.wrong(complaint);
            }
        };
        let rest = BytesMut::new();
        let mut stream = Stream { requests, answers, rest, under_way: VecDeque::new(), count: 0 };
        let complaint = match self.keep_busy(connection, &mut stream, &tally).await {
            Ok(()) => return,
            Err(CallError::Broken(complaint) | CallError::Refused(complaint)) => complaint,
            Err(CallError::Retired) => "the server ended the connection".into(),
        };
        tally.wrongs((stream.count as u64).max(1), complaint);
    }

    async fn keep_busy(
        &self,
        connection: usize,
        stream: &mut Stream,
        tally: &Tally,
    ) -> Result<(), CallError> {
        let mut over = false;
        while !over || stream.count > 0 {
            let room = self.load.concurrency - stream.count;
            tokio::select! {
                // What may be sent goes first, so that the server has something to do meanwhile.
                biased;
                batches = self.batches(connection, room), if room > 0 && !over => match batches {
                    Some(batches) => stream.send(batches, &self.load.asks)?,
                    None => over = true,
                },
                part = stream.answers.data() => match part {
                    Some(part) => stream.take(part?, &self.load.asks, tally)?,
                    None => return Err(stream.ended().await),
                },
            }
        }
        stream.requests.send_data(Bytes::new(), true)?;
        match stream.answers.data().await {
            Some(part) => {
                part?;
                Err(CallError::Refused("the server answers what it was not asked".into()))
            }
            None => succeeded(&stream.answers.trailers().await?.unwrap_or_default()),
        }
    }

    /// Waits until something is to be sent, and that is at most so much. Nothing after the end.
    async fn batches(&self, connection: usize, room: usize) -> Option<Vec<Batch>> {
        let now = Instant::now();
        if now >= self.until {
            return None;
        }
        let Some(pace) = &self.pace else {
            let next = self.next.fetch_add(room, Ordering::Relaxed);
            return Some(vec![Batch { next, left: room, begun: now }]);
        };
        let due: Vec<_> = pace.turns(connection, room).await?.collect();
        let first = self.next.fetch_add(due.len(), Ordering::Relaxed);
        Some(due.into_iter().zip(first..).map(|(begun, next)| Batch { next, left: 1, begun }).collect())
    }
}

impl Stream {
    fn send(&mut self, batches: Vec<Batch>, asks: &[Query]) -> Result<(), CallError> {
        let numbers = || batches.iter().flat_map(|batch| batch.next..batch.next + batch.left);
        let messages = || numbers().map(|number| &asks[number % asks.len()].message);
        let mut bytes = BytesMut::with_capacity(messages().map(Bytes::len).sum());
        messages().for_each(|message| bytes.extend_from_slice(message));
        self.count += numbers().count();
        self.under_way.extend(batches);
        Ok(self.requests.send_data(bytes.freeze(), false)?)
    }

    /// DirectoryReads at the answers that have come.
    fn take(&mut self, part: Bytes, asks: &[Query], tally: &Tally) -> Result<(), CallError> {
        let now = Instant::now();
        self.answers.flow_control().release_capacity(part.len())?;
        let joined = if self.rest.is_empty() {
            part
        } else {
            self.rest.extend_from_slice(&part);
            self.rest.split().freeze()
        };
        let mut left = &*joined;
        let mut counts = tally.counts();
        while let Some((message, after)) = first_message(left).map_err(CallError::Refused)? {
            let Some(batch) = self.under_way.front_mut() else {
                return Err(CallError::Refused("the server answers what it was not asked".into()));
            };
            match asks[batch.next % asks.len()].check_message(message) {
                Ok(()) => counts.right(now.saturating_duration_since(batch.begun)),
                Err(complaint) => counts.wrongs(1, complaint),
            }
            batch.next += 1;
            batch.left -= 1;
            if batch.left == 0 {
                self.under_way.pop_front();
            }
            self.count -= 1;
            left = after;
        }
        self.rest.extend_from_slice(left);
        Ok(())
    }

    /// Why the server has ended the stream before we did.
    async fn ended(&mut self) -> CallError {
        let end = match self.answers.trailers().await {
            Ok(end) => end.unwrap_or_default(),
            Err(error) => return error.into(),
        };
        match succeeded(&end) {
            Ok(()) => CallError::Refused("the server ended the stream".into()),
            Err(trouble) => trouble,
        }
    }
}
