//! The guard in front of a service.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use tonic::{body::Body, server::NamedService};
use tower::{BoxError, Layer, Service};

use super::{
    Guard,
    body::{GuardedBody, On, Until},
};
use crate::Identity;

/// A service behind a [`Guard`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready serves this request; its copy gets ready for the next.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let guard = self.guard.clone();
        let mut request = request.map(Body::new);
        // Whoever put one there was not this guard.
        request.extensions_mut().remove::<Identity>();
        if guard.is_open(request.uri().path()) {
            let response = inner.call(request);
            return Box::pin(async move { Ok(response.await?.map(Body::new)) });
        }
        Box::pin(async move {
            let grpc = speaks_grpc(request.headers());
            let (identity, token) = match guard.admit(request.headers(), request.uri().path()).await {
                Ok(admitted) => admitted,
                Err(refusal) => return Ok(refusal.response(grpc)),
            };
            let until = guard.rules.outage_grace.map(|grace| {
                Arc::new(Until {
                    checker: Arc::clone(&guard.checker),
                    token,
                    identity: identity.clone(),
                    grace,
                })
            });
            request.extensions_mut().insert(identity);
            let Some(until) = until else {
                return Ok(inner.call(request).await?.map(Body::new));
            };
            let request = request.map(|body| GuardedBody::wrap(body, &until, On::Request));
            let response = inner.call(request).await?;
            let on = if grpc { On::Grpc } else { On::Http };
            Ok(response.map(|body| GuardedBody::wrap(body, &until, on)))
        })
    }
}

/// So that one service of a server can be guarded, and others not.
impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

fn speaks_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
