//! What every request passes before it reaches its method: an id, permission, a place, a deadline.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use axum::Router;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status, body::Body, codegen::StdError};
use tower::ServiceExt as _;

use super::{
    access::{Access, Rule, is_streaming, open_stream, rule, takes_stream},
    body::{Framing, MessageFramer, RequestBody, RequestPermit},
    cookie::Cookies,
    cross_site,
    deadline::{self, Deadline},
    import::is_upload,
    origin::CallerName,
    request_id::RequestId,
    response_body::ResponseBody,
    status, validate,
};
use crate::{
    admission::Permit,
    domain::Engine,
    isolation::panics::{self, Panic},
    transport::{connection::Services, peer::Peer},
};

/// Bounds on requests.
#[derive(Debug, Clone, Copy)]
pub struct DispatchSettings {
    /// From the first byte to the answer, for calls without a shorter `grpc-timeout`.
    pub timeout: Duration,
    /// From the headers to the last byte of the message.
    pub body_timeout: Duration,
}

/// The services behind the guard.
pub struct Dispatcher {
    engine: Arc<Engine>,
    /// Of all methods but `Validate`, which every other service calls on every request: it goes without the
    /// router and its boxes, and without an id where nobody asks for one.
    router: Router,
    access: Access,
    settings: DispatchSettings,
}

impl Dispatcher {
    pub(super) fn new(
        engine: Arc<Engine>,
        router: Router,
        access: Access,
        settings: DispatchSettings,
    ) -> Self {
        Self { engine, router, access, settings }
    }

    /// The answer to a request that comes from `peer`.
    pub async fn serve<B>(&self, peer: &Peer, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let observed = tracing::enabled!(tracing::Level::DEBUG)
            .then(|| (request.uri().path().to_owned(), Instant::now()));
        let mut id = RequestId::sent(request.headers());
        let mut response = if request.uri().path() == validate::METHOD {
            if observed.is_some() {
                id.get_or_insert_with(RequestId::random);
            }
            let mut verdict = pin!(self.verdict(peer, id.as_ref(), request));
            let answer = panics::caught(verdict.as_mut()).await;
            answer.unwrap_or_else(|panic| status::panicked(&panic, id.clone()).into_http())
        } else {
            let id = id.get_or_insert_with(RequestId::random).clone();
            // Apart, so that a verdict needs no room for it.
            let mut answer = Box::pin(self.admit(peer, id.clone(), request));
            let answer = panics::caught(answer.as_mut()).await;
            let answer = answer.unwrap_or_else(|panic| Err(status::panicked(&panic, Some(id))));
            answer.unwrap_or_else(Status::into_http)
        };
        if is_undecodable(&response) {
            response = status::undecodable().into_http();
        }
        if let (Some((method, started)), Some(id)) = (observed, &id) {
            log(&method, id, &response, started);
        }
        if let Some(id) = id {
            id.show(response.headers_mut());
        }
        response
    }

    /// The answer to `Validate`.
    async fn verdict<B>(&self, peer: &Peer, id: Option<&RequestId>, mut request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let timeout = deadline::timeout(request.headers(), self.settings.timeout);
        let answer = async {
            if self.access.demands(Rule::Validator) {
                self.identify(Rule::Validator, peer, id, &mut request).await?;
            }
            self.settle_cookies(id, &mut request).await?;
            let body_timeout = self.settings.body_timeout;
            let request = request
                .map(|body| RequestBody::new(body, &peer.connection, Framing::Message(None), body_timeout));
            Ok(validate::unary(&self.engine, id, &peer.connection, request).await)
        };
        within(timeout, answer).await.unwrap_or_else(Status::into_http)
    }

    async fn admit<B>(
        &self,
        peer: &Peer,
        id: RequestId,
        mut request: Request<B>,
    ) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let path = request.uri().path();
        let Some(rule) = rule(path) else {
            return Err(Status::unimplemented("there is no such method"));
        };
        // A server that is busy is alive, and probes must be able to see it.
        let probe = path.starts_with("/grpc.health.v1.Health/");
        let (streaming, upload) = (is_streaming(path), is_upload(path));
        let verdicts = path == validate::STREAM;
        let takes_stream = takes_stream(path);
        let open = open_stream(path)
            .map(|resource| Permit::take(Arc::clone(&peer.connection), resource))
            .transpose()
            .map_err(|scope| status::too_many("open streams", scope))?;
        let timeout = deadline::timeout(request.headers(), self.settings.timeout);
        request.extensions_mut().insert(Deadline(Instant::now() + timeout));
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(id.clone());
        // Kept until there is an answer; where the request is one message, taken once that is complete.
        let place = Arc::new(RequestPermit::default());
        // Nothing below this line is reached by a caller who may not call the method.
        let calling = async {
            self.identify(rule, peer, Some(&id), &mut request).await?;
            self.settle_cookies(Some(&id), &mut request).await?;
            if upload {
                place.take(&peer.connection)?;
            }
            let request = request.map(|body| {
                let kind = if takes_stream {
                    Framing::MessageFramer(MessageFramer::default())
                } else {
                    Framing::Message((!probe).then(|| Arc::clone(&place)))
                };
                RequestBody::new(body, &peer.connection, kind, self.settings.body_timeout)
            });
            Ok(async {
                if verdicts {
                    return validate::stream(&self.engine, id.clone(), request).await;
                }
                let Ok(response) = self.router.clone().oneshot(request).await;
                response.map(Body::new)
            })
        };
        let body = if upload {
            // It bounds each wait for a message by itself.
            within(timeout, calling).await?.await
        } else {
            within(timeout, async { Ok(calling.await?.await) }).await?
        };
        Ok(match open {
            Some(open) if streaming => {
                body.map(|body| Body::new(ResponseBody::stream(body, id, &peer.connection, open)))
            }
            _ => body,
        })
    }

    /// Refuses a caller who may not call a method with this rule; who calls is known from here on.
    async fn identify<B>(
        &self,
        rule: Rule,
        peer: &Peer,
        id: Option<&RequestId>,
        request: &mut Request<B>,
    ) -> Result<(), Status> {
        match self.access.check(rule, request.headers(), peer).await {
            Ok(None) => Ok(()),
            Ok(Some(name)) => {
                request.extensions_mut().insert(CallerName(name));
                Ok(())
            }
            Err(error) => {
                let id = id.cloned().unwrap_or_else(RequestId::random);
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(id.clone());
                self.access.refused(&error, request.uri().path(), request.headers(), request.extensions());
                Err(id.on(status::of(error, &id)))
            }
        }
    }
}

impl Dispatcher {
    /// Chooses among the tokens of a request that brought several in cookies.
    async fn settle_cookies<B: Send>(
        &self,
        id: Option<&RequestId>,
        request: &mut Request<B>,
    ) -> Result<(), Status> {
        Cookies::settle(&self.engine, request).await.map_err(|error| {
            let id = id.cloned().unwrap_or_else(RequestId::random);
            id.on(status::of(error, &id))
        })
    }
}

impl Services for Dispatcher {
    type Body = ResponseBody;

    async fn serve(&self, peer: &Peer, request: Request<Incoming>) -> Response<ResponseBody> {
        let response = match cross_site::refusal(&request, &[]) {
            Some(refusal) => refusal,
            None => Self::serve(self, peer, request).await,
        };
        response.map(|body| ResponseBody::new(body, None))
    }

    fn panicked(&self, panic: &Panic) -> Response<ResponseBody> {
        panicked(panic)
    }
}

/// The response to a request during which the dispatcher itself panicked.
pub(super) fn panicked(panic: &Panic) -> Response<ResponseBody> {
    status::panicked(panic, None).into_http().map(|body| ResponseBody::new(body, None))
}

/// What `answer` comes to, unless it takes too long. One that is ready at once sets no timer, and each is polled
/// only when it has been woken: whoever yields to others must not have its turn again at once.
async fn within<T>(timeout: Duration, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let mut answer = pin!(answer);
    let mut timer = pin!(None::<Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        if timer.is_none() {
            timer.set(Some(sleep(timeout)));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| Err(status::deadline_exceeded())),
            None => Poll::Pending,
        }
    })
    .await
}

/// Whether the library refused the message, as too large (`OUT_OF_RANGE`; `RESOURCE_EXHAUSTED` where it was
/// compressed) or as not the message that it should be (INTERNAL). What we refuse ourselves has details.
fn is_undecodable(response: &Response<Body>) -> bool {
    let refused = |status: &HeaderValue| {
        let codes = [Code::OutOfRange, Code::ResourceExhausted, Code::Internal];
        codes.iter().any(|code| status == HeaderValue::from(i32::from(*code)))
    };
    response.headers().get(Status::GRPC_STATUS).is_some_and(refused)
        && !response.headers().contains_key(Status::GRPC_STATUS_DETAILS)
}

/// The one line of a request. Its method, never its contents.
fn log(method: &str, id: &RequestId, response: &Response<Body>, started: Instant) {
    let status =
        response.headers().get(Status::GRPC_STATUS).and_then(|status| status.to_str().ok()).unwrap_or("0");
    tracing::debug!(
        rpc.method = method,
        rpc.grpc.status_code = status,
        request.id = %id,
        duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        "request"
    );
}
