//! The handlers. The guard has told them who calls.

#![expect(clippy::unused_async, reason = "so are the handlers of a service")]

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use latchkey_client::Identity;
use tonic::{Request, Response, Status, Streaming};

use super::messages::{self, BegunRequest, BegunResponse, GreetRequest, GreetResponse};

/// Answers of a stream.
pub type Answers = Pin<Box<dyn Stream<Item = Result<GreetResponse, Status>> + Send>>;

/// Says hello to whoever is logged in.
#[derive(Clone, Default)]
pub struct Greeter {
    begun: Arc<AtomicU32>,
    running: Arc<AtomicU32>,
}

/// A handler that runs.
struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Greeter {
    pub async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let caller = caller(&request)?;
        Ok(Response::new(answer(request.get_ref(), &caller)))
    }

    pub async fn greet_all(
        &self,
        request: Request<Streaming<GreetRequest>>,
    ) -> Result<Response<GreetResponse>, Status> {
        let (_running, caller) = (self.begin(), caller(&request)?);
        let mut last = GreetRequest::default();
        let mut requests = request.into_inner();
        // It fails when the session ends, and so does the call.
        while let Some(request) = requests.message().await? {
            last = request;
        }
        Ok(Response::new(answer(&last, &caller)))
    }

    pub async fn greet_often(&self, request: Request<GreetRequest>) -> Result<Response<Answers>, Status> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let answer = answer(request.get_ref(), &caller(&request)?);
        Ok(Response::new(stream::iter([answer.clone(), answer.clone(), answer].map(Ok)).boxed()))
    }

    pub async fn chat(&self, request: Request<Streaming<GreetRequest>>) -> Result<Response<Answers>, Status> {
        let (running, caller) = (self.begin(), caller(&request)?);
        let answers = request.into_inner().map_ok(move |request| {
            let _while_it_runs = &running;
            answer(&request, &caller)
        });
        Ok(Response::new(answers.boxed()))
    }

    pub async fn greet_on(&self, request: Request<GreetRequest>) -> Result<Response<Answers>, Status> {
        let running = self.begin();
        let answer = answer(request.get_ref(), &caller(&request)?);
        let answers =
            stream::unfold((running, answer, Duration::ZERO), |(running, answer, pause)| async move {
                tokio::time::sleep(pause).await;
                Some((Ok(answer.clone()), (running, answer, Duration::from_millis(50))))
            });
        Ok(Response::new(answers.boxed()))
    }

    pub async fn begun(&self, _: Request<BegunRequest>) -> Result<Response<BegunResponse>, Status> {
        let [count, running] = [&self.begun, &self.running].map(|number| number.load(Ordering::SeqCst));
        Ok(Response::new(BegunResponse { count, running }))
    }

    fn begin(&self) -> Running {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }
}

/// Who calls.
fn caller<T>(request: &Request<T>) -> Result<Identity, Status> {
    let caller = Identity::of(request.extensions()).cloned();
    caller.ok_or_else(|| Status::internal("this method is not guarded"))
}

fn answer(request: &GreetRequest, caller: &Identity) -> GreetResponse {
    let text = format!("{}, {}", request.greeting, caller.username);
    GreetResponse { text, identity: Some(messages::Identity::from(caller)) }
}
