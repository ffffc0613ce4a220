//! The tower layer and service of a guard.

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
    body::{BodyKind, BodySession, GuardedBody},
};
use crate::Identity;

/// A service behind a [`Guard`], which the guard creates as a [tower layer](tower::Layer).
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
        // Only the original is ready. The clone takes its place and is polled before the next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let guard = self.guard.clone();
        let mut request = request.map(Body::new);
        // An identity that is already present does not come from this guard.
        request.extensions_mut().remove::<Identity>();
        if guard.is_open(request.uri().path()) {
            let response = inner.call(request);
            return Box::pin(async move { Ok(response.await?.map(Body::new)) });
        }
        Box::pin(async move {
            let is_grpc = is_grpc(request.headers());
            let (identity, token) = match guard.authenticate(request.headers(), request.uri().path()).await {
                Ok(authenticated) => authenticated,
                Err(denial) => return Ok(denial.response(is_grpc)),
            };
            let session = guard.rules.outage_grace.map(|outage_grace| {
                Arc::new(BodySession {
                    checker: Arc::clone(&guard.checker),
                    token,
                    identity: identity.clone(),
                    outage_grace,
                })
            });
            request.extensions_mut().insert(identity);
            let Some(session) = session else {
                return Ok(inner.call(request).await?.map(Body::new));
            };
            let request = request.map(|body| GuardedBody::wrap(body, &session, BodyKind::Request));
            let response = inner.call(request).await?;
            let kind = if is_grpc { BodyKind::GrpcResponse } else { BodyKind::HttpResponse };
            Ok(response.map(|body| GuardedBody::wrap(body, &session, kind)))
        })
    }
}

/// Makes it possible to guard single services of a tonic server.
impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::service_fn;

    use super::*;
    use crate::Client;

    fn guard() -> Guard {
        Guard::new(Client::connect("127.0.0.1:1").unwrap()).open(["/open"])
    }

    /// Sends a request through a guard. Returns the status and whether the service has seen an identity.
    async fn call(guard: &Guard, request: Request<Body>) -> (u16, Option<bool>) {
        let service = service_fn(async |request: Request<Body>| {
            let has_identity = Identity::of(request.extensions()).is_some();
            Ok::<_, Infallible>(Response::builder().extension(has_identity).body(Body::empty()).unwrap())
        });
        let response = guard.layer(service).call(request).await.unwrap();
        (response.status().as_u16(), response.extensions().get::<bool>().copied())
    }

    #[tokio::test]
    async fn only_open_paths_are_served_without_a_token() {
        let guard = guard();
        for (path, expected) in [
            ("/open", (200, Some(false))),
            ("/open/", (401, None)),
            ("/Open", (401, None)),
            ("/", (401, None)),
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            assert_eq!(call(&guard, request).await, expected, "{path}");
        }
    }

    #[tokio::test]
    async fn an_outage_denies_the_request() {
        let request = Request::get("/").header("authorization", "Bearer token").body(Body::empty()).unwrap();
        assert_eq!(call(&guard(), request).await, (503, None));
    }

    #[tokio::test]
    async fn an_identity_from_elsewhere_is_removed() {
        let at = Some(prost_types::Timestamp::default());
        let session = crate::proto::Session {
            session_id: "s".into(),
            user_id: "u".into(),
            issued_at: at,
            expires_at: at,
            idle_expires_at: at,
            ..Default::default()
        };
        let forged = Identity::from_session(session).unwrap();
        let request = Request::get("/open").extension(forged).body(Body::empty()).unwrap();
        assert_eq!(call(&guard(), request).await, (200, Some(false)));
    }

    #[test]
    fn the_content_type_tells_grpc_from_http() {
        for (content_type, expected) in
            [("application/grpc", true), ("application/grpc+proto", true), ("application/json", false)]
        {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().unwrap())]);
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
