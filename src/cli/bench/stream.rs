//! Requests over a stream, with many of them in flight.
//!
//! Requests are sent in batches, and all answers that have arrived are checked at once: a request must cost the load less than
//! the server.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};

use super::{
    connection::{CallError, Connection, check_status},
    counts::SharedCounts,
    load::LoadRun,
    query::{Query, first_message},
};

/// Consecutive queries that were sent together.
struct Batch {
    /// The number of the next query without an answer.
    next: usize,
    remaining: usize,
    /// The time from which latency counts.
    begun: Instant,
}

struct Stream {
    requests: SendStream<Bytes>,
    answers: RecvStream,
    /// The beginning of an incomplete answer.
    partial: BytesMut,
    /// The batches without an answer, in the order of the answers.
    in_flight: VecDeque<Batch>,
    in_flight_queries: usize,
}

impl LoadRun {
    /// Keeps a stream busy until the time is over.
    pub(super) async fn stream_worker(
        self: Arc<Self>,
        connection_number: usize,
        mut connection: Connection,
        counts: Arc<SharedCounts>,
    ) {
        let (requests, answers) = match connection.open().await {
            Ok(stream) => stream,
            Err(CallError::NotProcessed) => return,
            Err(CallError::ConnectionLost(reason) | CallError::Failed(reason)) => {
                return counts.wrong(reason);
            }
        };
        let mut stream = Stream {
            requests,
            answers,
            partial: BytesMut::new(),
            in_flight: VecDeque::new(),
            in_flight_queries: 0,
        };
        let reason = match self.exchange(connection_number, &mut stream, &counts).await {
            Ok(()) => return,
            Err(CallError::ConnectionLost(reason) | CallError::Failed(reason)) => reason,
            Err(CallError::NotProcessed) => "the server ended the connection".into(),
        };
        counts.wrongs((stream.in_flight_queries as u64).max(1), reason);
    }

    async fn exchange(
        &self,
        connection: usize,
        stream: &mut Stream,
        counts: &SharedCounts,
    ) -> Result<(), CallError> {
        let mut ended = false;
        while !ended || stream.in_flight_queries > 0 {
            let room = self.load.concurrency - stream.in_flight_queries;
            tokio::select! {
                // Sending comes first, so that the server is busy meanwhile.
                biased;
                batches = self.batches(connection, room), if room > 0 && !ended => match batches {
                    Some(batches) => stream.send(batches, &self.load.queries)?,
                    None => ended = true,
                },
                part = stream.answers.data() => match part {
                    Some(part) => stream.receive(part?, &self.load.queries, counts)?,
                    None => return Err(stream.error().await),
                },
            }
        }
        stream.requests.send_data(Bytes::new(), true)?;
        match stream.answers.data().await {
            Some(part) => {
                part?;
                Err(CallError::Failed("the server sent an answer without a request".into()))
            }
            None => check_status(&stream.answers.trailers().await?.unwrap_or_default()),
        }
    }

    /// Waits until up to `max` requests are to be sent. Returns `None` after the end.
    async fn batches(&self, connection: usize, max: usize) -> Option<Vec<Batch>> {
        let now = Instant::now();
        if now >= self.until {
            return None;
        }
        let Some(schedule) = &self.schedule else {
            let next = self.next.fetch_add(max, Ordering::Relaxed);
            return Some(vec![Batch { next, remaining: max, begun: now }]);
        };
        let due: Vec<_> = schedule.next_batch(connection, max).await?.collect();
        let first = self.next.fetch_add(due.len(), Ordering::Relaxed);
        Some(due.into_iter().zip(first..).map(|(begun, next)| Batch { next, remaining: 1, begun }).collect())
    }
}

impl Stream {
    fn send(&mut self, batches: Vec<Batch>, queries: &[Query]) -> Result<(), CallError> {
        let numbers = || batches.iter().flat_map(|batch| batch.next..batch.next + batch.remaining);
        let messages = || numbers().map(|number| &queries[number % queries.len()].message);
        let mut bytes = BytesMut::with_capacity(messages().map(Bytes::len).sum());
        messages().for_each(|message| bytes.extend_from_slice(message));
        self.in_flight_queries += numbers().count();
        self.in_flight.extend(batches);
        Ok(self.requests.send_data(bytes.freeze(), false)?)
    }

    /// Checks the answers that have arrived.
    fn receive(&mut self, part: Bytes, queries: &[Query], counts: &SharedCounts) -> Result<(), CallError> {
        let now = Instant::now();
        self.answers.flow_control().release_capacity(part.len())?;
        let bytes = if self.partial.is_empty() {
            part
        } else {
            self.partial.extend_from_slice(&part);
            self.partial.split().freeze()
        };
        let mut unread = &*bytes;
        let mut counts = counts.lock();
        while let Some((message, after)) = first_message(unread).map_err(CallError::Failed)? {
            let Some(batch) = self.in_flight.front_mut() else {
                return Err(CallError::Failed("the server sent an answer without a request".into()));
            };
            match queries[batch.next % queries.len()].check_message(message) {
                Ok(()) => counts.right(now.saturating_duration_since(batch.begun)),
                Err(reason) => counts.wrongs(1, reason),
            }
            batch.next += 1;
            batch.remaining -= 1;
            if batch.remaining == 0 {
                self.in_flight.pop_front();
            }
            self.in_flight_queries -= 1;
            unread = after;
        }
        self.partial.extend_from_slice(unread);
        Ok(())
    }

    /// The reason why the server ended the stream early.
    async fn error(&mut self) -> CallError {
        let trailers = match self.answers.trailers().await {
            Ok(trailers) => trailers.unwrap_or_default(),
            Err(error) => return error.into(),
        };
        match check_status(&trailers) {
            Ok(()) => CallError::Failed("the server ended the stream".into()),
            Err(error) => error,
        }
    }
}
