//! The handlers of the service. The guard provides the identity of the caller.

#![expect(clippy::unused_async, reason = "handlers of a generated service are async")]

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

/// The responses of a streaming method.
pub type Responses = Pin<Box<dyn Stream<Item = Result<GreetResponse, Status>> + Send>>;

/// Greets the caller.
#[derive(Clone, Default)]
pub struct Greeter {
    begun: Arc<AtomicU32>,
    running: Arc<AtomicU32>,
}

/// Counts a handler until it is dropped.
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
        Ok(Response::new(response(request.get_ref(), &caller)))
    }

    pub async fn greet_all(
        &self,
        request: Request<Streaming<GreetRequest>>,
    ) -> Result<Response<GreetResponse>, Status> {
        let (_running, caller) = (self.begin(), caller(&request)?);
        let mut last = GreetRequest::default();
        let mut requests = request.into_inner();
        // The request stream fails when the session ends.
        while let Some(request) = requests.message().await? {
            last = request;
        }
        Ok(Response::new(response(&last, &caller)))
    }

    pub async fn greet_often(&self, request: Request<GreetRequest>) -> Result<Response<Responses>, Status> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let response = response(request.get_ref(), &caller(&request)?);
        Ok(Response::new(stream::iter([response.clone(), response.clone(), response].map(Ok)).boxed()))
    }

    pub async fn chat(
        &self,
        request: Request<Streaming<GreetRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (running, caller) = (self.begin(), caller(&request)?);
        let responses = request.into_inner().map_ok(move |request| {
            let _counted = &running;
            response(&request, &caller)
        });
        Ok(Response::new(responses.boxed()))
    }

    pub async fn greet_on(&self, request: Request<GreetRequest>) -> Result<Response<Responses>, Status> {
        let running = self.begin();
        let response = response(request.get_ref(), &caller(&request)?);
        let responses =
            stream::unfold((running, response, Duration::ZERO), |(running, response, pause)| async move {
                tokio::time::sleep(pause).await;
                Some((Ok(response.clone()), (running, response, Duration::from_millis(50))))
            });
        Ok(Response::new(responses.boxed()))
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

/// Returns the caller of a guarded method.
fn caller<T>(request: &Request<T>) -> Result<Identity, Status> {
    let caller = Identity::of(request.extensions()).cloned();
    caller.ok_or_else(|| Status::internal("the method is not guarded"))
}

fn response(request: &GreetRequest, caller: &Identity) -> GreetResponse {
    let text = format!("{}, {}", request.greeting, caller.username);
    GreetResponse { text, identity: Some(messages::Identity::from(caller)) }
}
