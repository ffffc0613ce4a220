//! What every request passes before it reaches its method: an id, a place, permission, a deadline.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderValue, Request, Response};
use tokio::sync::Semaphore;
use tonic::Status;
use tower::Service;

use super::{access::Access, status};

/// The metadata in which a request id comes and goes.
const ID_HEADER: &str = "x-request-id";

/// Bounds on requests.
#[derive(Debug, Clone, Copy)]
pub struct GuardSettings {
    /// At a time, over all connections.
    pub max_requests: usize,
    /// From the first byte to the answer.
    pub timeout: Duration,
}

/// Names a request, in the log and to the caller.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own id if it is fit to be logged (up to 64 visible characters), otherwise a new one.
    fn of<B>(request: &Request<B>) -> Self {
        let given = request
            .headers()
            .get(ID_HEADER)
            .filter(|id| (1..=64).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
        Self(given.cloned().unwrap_or_else(|| {
            let id = format!("{:016x}", rand::random::<u64>());
            HeaderValue::from_maybe_shared(id).unwrap_or(HeaderValue::from_static("-"))
        }))
    }

    /// The id of a request that has passed the guard.
    pub(super) fn from_extensions(extensions: &http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or(Self(HeaderValue::from_static("-")))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or("-"))
    }
}

/// The services behind the guard.
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    access: Arc<Access>,
    places: Arc<Semaphore>,
    timeout: Duration,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, access: Access, settings: GuardSettings) -> Self {
        Self {
            inner,
            access: Arc::new(access),
            places: Arc::new(Semaphore::new(settings.max_requests)),
            timeout: settings.timeout,
        }
    }
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut guard = self.clone();
        Box::pin(async move {
            let started = Instant::now();
            let id = RequestId::of(&request);
            request.extensions_mut().insert(id.clone());
            let method = tracing::enabled!(tracing::Level::DEBUG).then(|| request.uri().path().to_owned());

            let mut response = match guard.admit(request).await {
                Ok(response) => response,
                Err(refusal) => refusal.into_http(),
            };
            if let Some(method) = method {
                log(&method, &id, &response, started);
            }
            response.headers_mut().insert(ID_HEADER, id.0);
            Ok(response)
        })
    }
}

impl<S> Guard<S> {
    async fn admit<B>(&mut self, request: Request<B>) -> Result<Response<Body>, Status>
    where
        S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    {
        let path = request.uri().path();
        self.access.check(path, request.headers())?;
        // A server that is busy is alive, and probes must be able to see it.
        let probe = path.starts_with("/grpc.health.v1.Health/");
        let _place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) if probe => None,
            Err(_) => {
                return Err(status::overloaded("too many requests at a time", Duration::from_secs(1)));
            }
        };
        match tokio::time::timeout(self.timeout, self.inner.call(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_) => Err(status::deadline_exceeded()),
        }
    }
}

/// The one line of a request. Its method, never its contents.
fn log(method: &str, id: &RequestId, response: &Response<Body>, started: Instant) {
    let status = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()).unwrap_or("0");
    tracing::debug!(
        rpc.method = method,
        rpc.grpc.status_code = status,
        request.id = %id,
        duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        "request"
    );
}
