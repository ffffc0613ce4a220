//! The `ValidateStream` that all requests of a guard share. Responses come in the order of the requests.
//!
//! If the stream fails, each request without a response is repeated as a unary `Validate`. If a request times out,
//! the stream is closed, because all later responses would wait behind the missing one. The next request opens a new
//! stream.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use crate::proto::{ValidateRequest, ValidateResponse};
use crate::{
    Client, ValidateOptions, Verdict,
    verdict::{self, Unavailable},
};

/// The maximum number of requests without a response. Latchkey itself works on 256 requests of a stream at a time.
const MAX_PENDING: usize = 4096;

type ResponseSender = oneshot::Sender<Result<ValidateResponse, Unavailable>>;
type ResponseReceiver = oneshot::Receiver<Result<ValidateResponse, Unavailable>>;

/// Validates tokens over a shared stream, which is opened when it is needed.
pub(super) struct ValidateStream {
    client: Client,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The number of streams that have been opened, which identifies the latest one.
    generation: u64,
    stream: Option<OpenStream>,
    /// The requests without a response, oldest first.
    pending: VecDeque<ResponseSender>,
}

struct OpenStream {
    requests: mpsc::UnboundedSender<ValidateRequest>,
    /// The task that reads the responses.
    reader: AbortHandle,
}

impl ValidateStream {
    pub(super) fn new(client: Client) -> Self {
        Self { client, state: Arc::default() }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Validates a token, like [`Client::validate`].
    pub(super) async fn validate(
        &self,
        token: &str,
        options: ValidateOptions,
    ) -> Result<Verdict, Unavailable> {
        if let Some(rejection) = verdict::reject_locally(token) {
            return Ok(Verdict::Rejected(rejection));
        }
        let timeout = self.client.timeout;
        let deadline = Instant::now() + timeout;
        let (generation, response) = self.send(options.to_request(token))?;
        let unavailable = match timeout_at(deadline, response).await {
            Ok(Ok(Ok(response))) => return response.try_into(),
            Ok(Ok(Err(unavailable))) => unavailable,
            Ok(Err(_)) => Unavailable::new(Code::Unavailable, "the stream was closed"),
            Err(_) => {
                let timed_out = Unavailable::timed_out(timeout);
                // To the other requests this is a connection failure, so that they are repeated.
                let closed = Unavailable::new(Code::Unavailable, timed_out.message.clone());
                lock(&self.state).close(generation, &closed);
                return Err(timed_out);
            }
        };
        if !unavailable.is_connection_failure() {
            return Err(unavailable);
        }
        match timeout_at(deadline, self.client.validate(token, options)).await {
            Ok(result) => result,
            Err(_) => Err(Unavailable::timed_out(timeout)),
        }
    }

    /// Sends a request. Returns the generation of the stream and the receiver of the response.
    fn send(&self, request: ValidateRequest) -> Result<(u64, ResponseReceiver), Unavailable> {
        let (sender, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        if state.pending.len() >= MAX_PENDING {
            let message = format!("{MAX_PENDING} validations are pending");
            return Err(Unavailable::new(Code::ResourceExhausted, message));
        }
        if state.stream.is_none() {
            let (requests, receiver) = mpsc::unbounded_channel();
            state.generation += 1;
            let reader = read_responses(
                self.client.clone(),
                Arc::clone(&self.state),
                state.generation,
                UnboundedReceiverStream::new(receiver),
            );
            state.stream = Some(OpenStream { requests, reader: tokio::spawn(reader).abort_handle() });
        }
        state.pending.push_back(sender);
        if let Some(stream) = &state.stream {
            // If nobody receives the request any more, the reader is about to report that the stream has ended.
            let _ = stream.requests.send(request);
        }
        Ok((state.generation, receiver))
    }
}

impl Drop for ValidateStream {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let generation = state.generation;
        state.close(generation, &Unavailable::new(Code::Cancelled, "the guard was dropped"));
    }
}

impl State {
    /// Hands a response to the oldest pending request. Returns false if the stream is no longer the open one, or no
    /// request is pending.
    fn respond(&mut self, generation: u64, response: ValidateResponse) -> bool {
        if self.generation != generation || self.stream.is_none() {
            return false;
        }
        let Some(sender) = self.pending.pop_front() else { return false };
        // The request may have been cancelled. The response belongs to it all the same.
        let _ = sender.send(Ok(response));
        true
    }

    /// Closes the stream of this generation and fails its pending requests.
    fn close(&mut self, generation: u64, unavailable: &Unavailable) {
        if self.generation != generation {
            return;
        }
        if let Some(stream) = self.stream.take() {
            // This also cancels the call, so that Latchkey stops working on it.
            stream.reader.abort();
            for sender in self.pending.drain(..) {
                let _ = sender.send(Err(unavailable.clone()));
            }
        }
    }
}

/// Reads the responses of a stream until it ends.
async fn read_responses(
    client: Client,
    state: Arc<Mutex<State>>,
    generation: u64,
    requests: UnboundedReceiverStream<ValidateRequest>,
) {
    let replica = client.replicas.pick();
    let read = async {
        let mut auth = client.auth_over(replica.channel.clone());
        let mut responses = auth.validate_stream(requests).await?.into_inner();
        while let Some(response) = responses.message().await? {
            if !lock(&state).respond(generation, response) {
                return Ok(());
            }
        }
        Ok::<_, Status>(())
    };
    let unavailable = match read.await {
        Ok(()) => Unavailable::new(Code::Unavailable, "Latchkey has ended the stream"),
        Err(status) => {
            // The next stream is opened on another replica.
            client.replicas.failed(replica, &status);
            status.into()
        }
    };
    lock(&state).close(generation, &unavailable);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_state() -> State {
        let (requests, _) = mpsc::unbounded_channel();
        let reader = tokio::spawn(std::future::pending::<()>()).abort_handle();
        State { generation: 1, stream: Some(OpenStream { requests, reader }), ..State::default() }
    }

    #[tokio::test]
    async fn responses_belong_to_the_requests_in_their_order_even_if_one_was_cancelled() {
        let mut state = open_state();
        let (first, cancelled) = oneshot::channel();
        let (second, mut receiver) = oneshot::channel();
        state.pending.extend([first, second]);
        drop(cancelled);
        assert!(state.respond(1, ValidateResponse::default()));
        assert!(receiver.try_recv().is_err(), "the first response is not for the second request");
        assert!(state.respond(1, ValidateResponse::default()));
        assert!(receiver.try_recv().unwrap().is_ok());
        assert!(!state.respond(1, ValidateResponse::default()), "no request is pending");
    }

    #[tokio::test]
    async fn closing_a_stream_fails_its_pending_requests_and_no_others() {
        let mut state = open_state();
        let (sender, mut receiver) = oneshot::channel();
        state.pending.push_back(sender);
        let unavailable = Unavailable::new(Code::Unavailable, "closed");
        state.close(0, &unavailable);
        assert!(!state.respond(0, ValidateResponse::default()));
        assert!(receiver.try_recv().is_err() && state.stream.is_some(), "another stream was closed");
        state.close(1, &unavailable);
        assert_eq!(receiver.try_recv().unwrap().unwrap_err(), unavailable);
        assert!(state.stream.is_none() && state.pending.is_empty());
    }

    #[tokio::test]
    async fn requests_beyond_the_limit_are_unavailable() {
        let stream = ValidateStream::new(Client::connect("127.0.0.1:1").unwrap());
        *lock(&stream.state) = open_state();
        let receivers: Vec<_> =
            (0..MAX_PENDING).map(|_| stream.send(ValidateRequest::default()).unwrap()).collect();
        let unavailable = stream.send(ValidateRequest::default()).unwrap_err();
        assert_eq!(unavailable.code, Code::ResourceExhausted);
        drop(receivers);
    }
}
