//! Many questions over one `ValidateStream`. The answers come in the order of the questions.
//!
//! A stream that breaks takes with it what has no answer yet; each of those questions is asked once more by itself.
//! A question that gets no answer in time takes the stream with it, because all that were asked after it wait behind
//! it: the next question opens another one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tonic::Code;

use crate::proto::{ValidateRequest, ValidateResponse};
use crate::{
    Client, ValidateOptions, Verdict,
    verdict::{self, Unavailable},
};

/// Questions that have no answer yet, at most. Latchkey itself works on 256 of a stream at a time.
const MOST: usize = 4096;

type Answered = oneshot::Sender<Result<ValidateResponse, Unavailable>>;

/// Asks over one stream.
pub(super) struct Asker {
    client: Client,
    open: Arc<Mutex<Open>>,
}

/// The stream that is open.
#[derive(Default)]
struct Open {
    /// How many streams have been opened.
    number: u64,
    /// Where questions go, and who reads the answers; None where no stream is open.
    stream: Option<(mpsc::UnboundedSender<ValidateRequest>, AbortHandle)>,
    /// Who waits for an answer, in the order of the questions.
    waiting: VecDeque<Answered>,
}

impl Asker {
    pub(super) fn new(client: Client) -> Self {
        Self { client, open: Arc::default() }
    }

    /// The client that it asks with.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What is true of a token.
    pub(super) async fn ask(&self, token: &str, ask: ValidateOptions) -> Result<Verdict, Unavailable> {
        if let Some(rejection) = verdict::rejected_unasked(token) {
            return Ok(Err(rejection));
        }
        let limit = self.client.timeout;
        let deadline = Instant::now() + limit;
        let (number, answer) = self.send(ask.about(token))?;
        let failed = match timeout_at(deadline, answer).await {
            Ok(Ok(Ok(answer))) => return verdict::verdict(answer),
            Ok(Ok(Err(failed))) => failed,
            Ok(Err(_)) => Unavailable::new(Code::Unavailable, "the stream has broken"),
            Err(_) => {
                let slow = Unavailable::too_slow(limit);
                lock(&self.open).end(number, &Unavailable::new(Code::Unavailable, slow.message.clone()));
                return Err(slow);
            }
        };
        // The stream is gone, and this question may never have been looked at.
        if !failed.is_broken_connection() {
            return Err(failed);
        }
        match timeout_at(deadline, self.client.validate(token, ask)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Unavailable::too_slow(limit)),
        }
    }

    /// Puts a question on the stream: on which one, and from where its answer comes.
    fn send(
        &self,
        question: ValidateRequest,
    ) -> Result<(u64, oneshot::Receiver<Result<ValidateResponse, Unavailable>>), Unavailable> {
        let (answered, answer) = oneshot::channel();
        let mut open = lock(&self.open);
        if open.waiting.len() >= MOST {
            let message = format!("{MOST} questions wait for an answer");
            return Err(Unavailable::new(Code::ResourceExhausted, message));
        }
        if open.stream.is_none() {
            let (questions, coming) = mpsc::unbounded_channel();
            open.number += 1;
            let reading = read(self.client.clone(), Arc::clone(&self.open), open.number, listed(coming));
            open.stream = Some((questions, tokio::spawn(reading).abort_handle()));
        }
        open.waiting.push_back(answered);
        if let Some((questions, _)) = &open.stream {
            // Where nobody takes it any more, whoever reads the stream is about to say so to all who wait.
            let _ = questions.send(question);
        }
        Ok((open.number, answer))
    }
}

/// The stream ends with whoever asks.
impl Drop for Asker {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        let number = open.number;
        open.end(number, &Unavailable::new(Code::Cancelled, "the guard is gone"));
    }
}

impl Open {
    /// Hands an answer to who asked first. False where this is not the stream that is open, or nobody has asked.
    fn answer(&mut self, number: u64, answer: ValidateResponse) -> bool {
        if self.number != number || self.stream.is_none() {
            return false;
        }
        // Whoever has given up does not matter: the answer is theirs all the same.
        let Some(answered) = self.waiting.pop_front() else { return false };
        let _ = answered.send(Ok(answer));
        true
    }

    /// This stream is no more, and all who wait for it know why.
    fn end(&mut self, number: u64, why: &Unavailable) {
        if self.number != number {
            return;
        }
        if let Some((_, reader)) = self.stream.take() {
            // Latchkey is told that nobody reads any more.
            reader.abort();
            for answered in self.waiting.drain(..) {
                let _ = answered.send(Err(why.clone()));
            }
        }
    }
}

/// Reads the answers of a stream until it ends, for whatever reason.
async fn read(
    client: Client,
    open: Arc<Mutex<Open>>,
    number: u64,
    questions: impl Stream<Item = ValidateRequest> + Send + 'static,
) {
    let conversation = async {
        let mut answers = client.auth().validate_stream(questions).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            if !lock(&open).answer(number, answer) {
                return Ok(());
            }
        }
        Ok::<_, tonic::Status>(())
    };
    let why = match conversation.await {
        Ok(()) => Unavailable::new(Code::Unavailable, "Latchkey has ended the stream"),
        Err(status) => status.into(),
    };
    lock(&open).end(number, &why);
}

fn listed(coming: mpsc::UnboundedReceiver<ValidateRequest>) -> impl Stream<Item = ValidateRequest> + Send {
    stream::unfold(coming, async |mut coming| Some((coming.recv().await?, coming)))
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
