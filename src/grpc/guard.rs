//! What every request passes before it reaches its method: an id, permission, a place, a deadline.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderValue, Request, Response};
use tokio::{sync::Semaphore, time::timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tower::Service;

use super::{
    access::{Access, Rule, is_streaming, rule},
    drain,
    import::is_upload,
    origin::CallerName,
    request_id::RequestId,
    status,
};

/// Bounds on requests.
#[derive(Debug, Clone, Copy)]
pub struct GuardSettings {
    /// At a time, over all connections.
    pub max_requests: usize,
    /// From the first byte to the answer.
    pub timeout: Duration,
}

/// The services behind the guard.
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    access: Arc<Access>,
    places: Arc<Semaphore>,
    timeout: Duration,
    shutdown: CancellationToken,
}

impl<S> Guard<S> {
    pub(super) fn new(
        inner: S,
        access: Access,
        settings: GuardSettings,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            inner,
            access: Arc::new(access),
            places: Arc::new(Semaphore::new(settings.max_requests)),
            timeout: settings.timeout,
            shutdown,
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
            let id = RequestId::of(&request);
            request.extensions_mut().insert(id.clone());
            let observed = tracing::enabled!(tracing::Level::DEBUG)
                .then(|| (request.uri().path().to_owned(), Instant::now()));

            let mut response = match guard.admit(request).await {
                Ok(response) if is_undecodable(&response) => status::undecodable().into_http(),
                Ok(response) => response,
                Err(refusal) => refusal.into_http(),
            };
            if let Some((method, started)) = observed {
                log(&method, &id, &response, started);
            }
            id.show(response.headers_mut());
            Ok(response)
        })
    }
}

impl<S> Guard<S> {
    async fn admit<B>(&mut self, mut request: Request<B>) -> Result<Response<Body>, Status>
    where
        S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    {
        let deadline = tokio::time::Instant::now() + self.timeout;
        let path = request.uri().path();
        let Some(rule) = rule(path) else {
            return Err(Status::unimplemented("there is no such method"));
        };
        // A server that is busy is alive, and probes must be able to see it.
        let probe = path.starts_with("/grpc.health.v1.Health/");
        let (streaming, upload) = (is_streaming(path), is_upload(path));
        let _place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) if probe => None,
            Err(_) => {
                return Err(status::overloaded("too many requests at a time", Duration::from_secs(1)));
            }
        };
        // Nothing below this line is reached by a caller who may not call the method.
        match timeout_at(deadline, identify(&self.access, rule, &mut request)).await {
            Ok(allowed) => allowed?,
            Err(_) => return Err(status::deadline_exceeded()),
        }
        if upload {
            // It bounds each wait for a message by itself.
            return self.inner.call(request).await.map_err(|never| match never {});
        }
        match timeout_at(deadline, self.inner.call(request)).await {
            Ok(Ok(response)) if streaming => Ok(response.map(|body| drain::until(&self.shutdown, body))),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_) => Err(status::deadline_exceeded()),
        }
    }
}

/// Refuses a caller who may not call a method with this rule; who calls is known from here on.
async fn identify<B>(access: &Access, rule: Rule, request: &mut Request<B>) -> Result<(), Status> {
    match access.check(rule, request.headers(), request.extensions()).await {
        Ok(None) => Ok(()),
        Ok(Some(name)) => {
            request.extensions_mut().insert(CallerName(name));
            Ok(())
        }
        Err(error) => {
            let (method, extensions) = (request.uri().path(), request.extensions());
            access.refused(&error, method, request.headers(), extensions);
            Err(status::of(error, &RequestId::from_extensions(extensions)))
        }
    }
}

/// Whether the library refused the message, as too large (`OUT_OF_RANGE`) or as not the message that it should
/// be (INTERNAL). What we refuse ourselves has details.
fn is_undecodable(response: &Response<Body>) -> bool {
    let refused = |status: &HeaderValue| {
        [Code::OutOfRange, Code::Internal].iter().any(|code| status == HeaderValue::from(i32::from(*code)))
    };
    response.headers().get("grpc-status").is_some_and(refused)
        && !response.headers().contains_key("grpc-status-details-bin")
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
