//! A reader of the feed that records all messages.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use latchkey::grpc::pb::{RejectionReason, WatchSessionsResponse, watch_sessions_response::Event};
use tokio::{task::JoinHandle, time::timeout};
use tonic::Status;

use super::SOON;
use crate::support::client::Client;

/// All messages that a reader has received, over any number of streams.
#[derive(Debug, Default)]
pub struct Received {
    pub ended: Vec<Ended>,
    pub resyncs: usize,
    /// How the latest stream ended, unless the reader closed it.
    pub end: Option<Status>,
    /// How often the cursor advanced.
    pub pages: usize,
    /// The cursor to resume from.
    pub cursor: String,
}

#[derive(Debug)]
pub struct Ended {
    pub session_id: String,
    pub reason: RejectionReason,
    pub told: Instant,
}

impl Received {
    pub fn take(&mut self, message: WatchSessionsResponse) {
        match message.event {
            Some(Event::Ended(ended)) => self.ended.push(Ended {
                session_id: ended.session_id,
                reason: ended.rejection.unwrap().reason(),
                told: Instant::now(),
            }),
            Some(Event::Resync(_)) => self.resyncs += 1,
            Some(Event::Heartbeat(_)) => {}
            other => panic!("{other:?}"),
        }
        self.pages += usize::from(self.cursor != message.cursor);
        self.cursor = message.cursor;
    }

    pub fn has(&self, session_id: &str) -> bool {
        self.ended.iter().any(|ended| ended.session_id == session_id)
    }

    pub fn sessions(&self) -> HashSet<&str> {
        self.ended.iter().map(|ended| ended.session_id.as_str()).collect()
    }
}

pub struct Reader {
    told: Arc<Mutex<Received>>,
    reading: JoinHandle<()>,
}

impl Reader {
    /// Starts a reader from now on.
    pub async fn open(client: &Client) -> Self {
        Self::resume(client, Received::default()).await
    }

    /// Resumes after the recorded messages.
    pub async fn resume(client: &Client, mut told: Received) -> Self {
        let mut stream = client.feed_stream(&told.cursor).await.unwrap();
        let first = stream.message().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Heartbeat(_))), "{first:?}");
        told.take(first);
        let told = Arc::new(Mutex::new(told));
        let reading = tokio::spawn({
            let told = Arc::clone(&told);
            async move {
                let end = loop {
                    match stream.message().await {
                        Ok(Some(message)) => told.lock().unwrap().take(message),
                        Ok(None) => break Status::ok("the stream has ended"),
                        Err(status) => break status,
                    }
                };
                told.lock().unwrap().end = Some(end);
            }
        });
        Self { told, reading }
    }

    pub fn told(&self) -> MutexGuard<'_, Received> {
        self.told.lock().unwrap()
    }

    pub fn is_open(&self) -> bool {
        !self.reading.is_finished()
    }

    pub async fn until(&self, what: &str, is_true: impl Fn(&Received) -> bool) {
        self.until_within(SOON, what, is_true).await;
    }

    pub async fn until_within(&self, limit: Duration, what: &str, is_true: impl Fn(&Received) -> bool) {
        let begun = Instant::now();
        while !is_true(&self.told()) {
            assert!(begun.elapsed() < limit && self.is_open(), "not so: {what}; {}", self.standing());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Describes the state for failure messages.
    pub fn standing(&self) -> String {
        let told = self.told();
        format!(
            "{} ends and {} resyncs were told, the stream ended with {:?}",
            told.ended.len(),
            told.resyncs,
            told.end
        )
    }

    /// Waits for the end of the stream and returns the messages and the status.
    pub async fn end(self) -> (Received, Status) {
        timeout(SOON, self.reading).await.unwrap().unwrap();
        let mut told = Arc::into_inner(self.told).unwrap().into_inner().unwrap();
        let end = told.end.take().unwrap();
        (told, end)
    }

    /// Closes the stream and returns the messages.
    pub async fn leave(self) -> Received {
        assert!(self.is_open());
        self.reading.abort();
        let _ = self.reading.await;
        Arc::into_inner(self.told).unwrap().into_inner().unwrap()
    }
}
