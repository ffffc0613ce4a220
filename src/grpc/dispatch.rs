//! The dispatcher: gives each request an id and a deadline, checks its caller and admits it before its method runs.
//!
//! A panic is caught and answered with INTERNAL under the id of the request.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status, body::Body, codegen::StdError};
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::{
    access::{Access, ProvenCaller},
    cookie::{Cookies, ENABLE_HEADER},
    cross_site,
    deadline::{self, Deadline},
    ext_authz,
    methods::{self, Rule},
    origin::CallerName,
    request_body::{Framing, MessageFramer, RequestBody, RequestPermit},
    request_id::RequestId,
    response_body::{self, MeasuredBody, ResponseBody},
    status, validate,
};
use crate::{
    admission::{Connection, Permit},
    domain::{Engine, metrics::Surface, validate::Lookup},
    isolation::panics::{self, Panic},
    metrics::rpc::{self, CallMeter, RpcMetrics},
    trace::{self, RequestSpans, Sampled, TraceContext},
    transport::{
        body::IncomingBody,
        connection::Services,
        http2::{Answer, Begun, MessageResponse},
        peer::Peer,
    },
};

/// The time limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct DispatchSettings {
    /// Maximum time from the headers to the response, for calls without a shorter `grpc-timeout`.
    pub timeout: Duration,
    /// Maximum time from the headers to the last byte of the message.
    pub body_timeout: Duration,
}

/// Dispatches requests to the services.
pub struct Dispatcher {
    engine: Arc<Engine>,
    /// Routes all methods except `Validate` and `ValidateStream`, which bypass its boxed futures.
    router: Router,
    access: Access,
    settings: DispatchSettings,
    metrics: Arc<RpcMetrics>,
}

impl Dispatcher {
    pub(super) fn new(
        engine: Arc<Engine>,
        router: Router,
        access: Access,
        settings: DispatchSettings,
    ) -> Self {
        let metrics = Arc::new(RpcMetrics::new(&methods::PATHS, validate::METHOD));
        Self { engine, router, access, settings, metrics }
    }

    /// The counters of handled calls.
    pub fn metrics(&self) -> &Arc<RpcMetrics> {
        &self.metrics
    }

    /// Answers a request from `peer`.
    pub fn serve<B>(&self, peer: &Peer, request: Request<B>) -> impl Future<Output = Response<Body>> + Send
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        self.serve_on(Surface::Grpc, peer, request)
    }

    /// Limits how long the message of a request may take to arrive and how many bytes of it are buffered, for a surface
    /// that reads messages itself.
    pub(crate) fn limit<B>(&self, body: B, connection: &Arc<Connection>) -> RequestBody<B> {
        RequestBody::new(body, connection, Framing::Message(None), self.settings.body_timeout)
    }

    /// Answers a request from `peer` that was sent to this surface.
    pub(crate) async fn serve_on<B>(
        &self,
        surface: Surface,
        peer: &Peer,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let logged = tracing::enabled!(tracing::Level::DEBUG)
            .then(|| (request.uri().path().to_owned(), Instant::now()));
        let meter = self.metrics.begin(request.uri().path());
        let sends_stream = methods::sends_stream(request.uri().path());
        let mut id = RequestId::from_headers(request.headers());
        let sampled = if trace::is_on() { sample(&request) } else { None };
        let mut spans = RequestSpans::none();
        let mut response = if request.uri().path() == validate::METHOD {
            if logged.is_some() || sampled.is_some() {
                spans = begin_spans(&request, id.get_or_insert_with(RequestId::random), sampled);
            }
            let answer = self.validate(surface, peer, id.as_ref(), request);
            let mut response = pin!(answer.instrument(spans.span().clone()));
            let response = panics::caught(response.as_mut()).await;
            response.unwrap_or_else(|panic| status::panicked(&panic, id.clone()).into_http())
        } else {
            let id = id.get_or_insert_with(RequestId::random).clone();
            spans = begin_spans(&request, &id, sampled);
            // Boxed, so that the future of Validate stays small.
            let answer = self.route(peer, id.clone(), request);
            let mut response = Box::pin(answer.instrument(spans.span().clone()));
            let response = panics::caught(response.as_mut()).await;
            let response = response.unwrap_or_else(|panic| Err(status::panicked(&panic, Some(id))));
            response.unwrap_or_else(Status::into_http)
        };
        if is_decode_error(&response) {
            response = status::undecodable().into_http();
        }
        if let Some(root) = spans.root() {
            root.rpc_status(code(response.headers()).unwrap_or(0));
        }
        if let (Some((method, started)), Some(id)) = (logged, &id) {
            spans.span().in_scope(|| log(&method, id, &response, started));
        }
        if let Some(id) = id {
            id.write(response.headers_mut());
        }
        measured(response, meter, sends_stream)
    }

    /// Counts a request that was answered without a call.
    pub(super) fn count_unserved(&self, path: &str, response: &Response<Body>) {
        if let Some(code) = code(response.headers()) {
            self.metrics.count(path, code);
        }
    }

    /// Answers a `Validate` request.
    async fn validate<B>(
        &self,
        surface: Surface,
        peer: &Peer,
        id: Option<&RequestId>,
        mut request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send,
    {
        let timeout = deadline::timeout(request.headers(), self.settings.timeout);
        let response = async {
            if self.access.requires_role(Rule::Validator) || is_proven(surface, &request) {
                self.check_caller(Rule::Validator, peer, id, &mut request).await?;
            }
            self.select_token(id, &mut request).await?;
            let body_timeout = self.settings.body_timeout;
            let request = request
                .map(|body| RequestBody::new(body, &peer.connection, Framing::Message(None), body_timeout));
            Ok(validate::unary(&self.engine, surface, id, &peer.connection, request).await)
        };
        let response = with_timeout(timeout, response).await.unwrap_or_else(Status::into_http);
        if surface == Surface::Json && code(response.headers()).is_some_and(rpc::is_server_error) {
            self.engine.metrics().verdict_errors.count_one(surface);
        }
        response
    }

    /// Answers a request to any other method.
    async fn route<B>(
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
        let Some(rule) = methods::rule(path) else {
            return Err(Status::unimplemented("there is no such method"));
        };
        // Health checks take no permit, because an overloaded server is still alive.
        let is_health = path.starts_with("/grpc.health.v1.Health/");
        let is_upload = methods::is_upload(path);
        let is_validate_stream = path == validate::STREAM;
        let (reads_stream, sends_stream) = (methods::reads_stream(path), methods::sends_stream(path));
        let stream_permit = methods::stream_resource(path)
            .map(|resource| Permit::take(Arc::clone(&peer.connection), resource))
            .transpose()
            .map_err(|scope| status::too_many("open streams", scope))?;
        let timeout = deadline::timeout(request.headers(), self.settings.timeout);
        request.extensions_mut().insert(Deadline(Instant::now() + timeout));
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(id.clone());
        // Held until the response. A request of one message takes it when the message is complete.
        let permit = Arc::new(RequestPermit::default());
        // The outer future checks the caller. Only then does the inner future call the method.
        let call = async {
            self.check_caller(rule, peer, Some(&id), &mut request).await?;
            self.select_token(Some(&id), &mut request).await?;
            if is_upload {
                permit.take(&peer.connection)?;
            }
            let request = request.map(|body| {
                let framing = if reads_stream {
                    Framing::Stream(MessageFramer::default())
                } else {
                    Framing::Message((!is_health).then(|| Arc::clone(&permit)))
                };
                RequestBody::new(body, &peer.connection, framing, self.settings.body_timeout)
            });
            Ok(async {
                if is_validate_stream {
                    return validate::stream(&self.engine, id.clone(), request).await;
                }
                let Ok(response) = self.router.clone().oneshot(request).await;
                response.map(Body::new)
            })
        };
        let response = if is_upload {
            // The method limits the time between messages itself.
            with_timeout(timeout, call).await?.await
        } else {
            with_timeout(timeout, async { Ok(call.await?.await) }).await?
        };
        Ok(match stream_permit {
            Some(permit) if sends_stream => {
                response.map(|body| Body::new(ResponseBody::stream(body, id, &peer.connection, permit)))
            }
            _ => response,
        })
    }

    /// Checks the caller against the rule of the method and puts its name into the extensions of the request.
    async fn check_caller<B>(
        &self,
        rule: Rule,
        peer: &Peer,
        id: Option<&RequestId>,
        request: &mut Request<B>,
    ) -> Result<(), Status> {
        let checked = if request.extensions().get::<ProvenCaller>().is_some() {
            self.access.check_proven(rule, request.headers(), peer).await
        } else {
            self.access.check(rule, request.headers(), peer).await
        };
        match checked {
            Ok(None) => Ok(()),
            Ok(Some(name)) => {
                request.extensions_mut().insert(CallerName(name));
                Ok(())
            }
            Err(error) => {
                let id = id.cloned().unwrap_or_else(RequestId::random);
                request.extensions_mut().insert(peer.clone());
                request.extensions_mut().insert(id.clone());
                let (path, headers) = (request.uri().path(), request.headers());
                self.access.audit_refusal(&error, path, headers, request.extensions());
                Err(id.add_to(status::from_error(error, &id)))
            }
        }
    }

    /// Selects one token if several cookies of the request contain tokens.
    async fn select_token<B: Send>(
        &self,
        id: Option<&RequestId>,
        request: &mut Request<B>,
    ) -> Result<(), Status> {
        Cookies::select_token(&self.engine, request).await.map_err(|error| {
            let id = id.cloned().unwrap_or_else(RequestId::random);
            id.add_to(status::from_error(error, &id))
        })
    }
}

impl Services for Dispatcher {
    type Body = ResponseBody;

    /// Begins `Validate` without futures, timers and the types of the library. Leaves every request to
    /// [`serve`](Self::serve) that needs more: a caller check, compression, a cookie, an error, a log line, a trace.
    fn begin<B>(&self, peer: &Peer, request: &mut Request<B>, message: &Bytes) -> Begun<ResponseBody> {
        if request.uri().path() != validate::METHOD
            || self.access.requires_role(Rule::Validator)
            || tracing::enabled!(tracing::Level::DEBUG)
        {
            return Begun::Unchanged;
        }
        let Some(headers) = PlainHeaders::of(request) else { return Begun::Unchanged };
        if trace::is_on()
            && let Some(sampled) = Sampled::decide(TraceContext::of(request.headers()))
        {
            request.extensions_mut().insert(Decided(Some(sampled)));
            return Begun::Unchanged;
        }
        let _panics = CountPanic(&self.metrics);
        let with_id = |mut response: MessageResponse| {
            if let Some(id) = headers.id() {
                id.write(response.head.headers_mut());
            }
            response
        };
        match validate::begin(&self.engine, request.headers(), message) {
            None => {
                if trace::is_on() {
                    request.extensions_mut().insert(Decided(None));
                }
                Begun::Unchanged
            }
            Some(Lookup::Hit(verdict)) => {
                self.engine.metrics().verdicts.count(Surface::Grpc, &verdict);
                Begun::Answered(with_id(validate::response(verdict)))
            }
            Some(Lookup::Miss(pending)) => {
                let (engine, connection) = (Arc::clone(&self.engine), Arc::clone(&peer.connection));
                let timeout = deadline::timeout(request.headers(), self.settings.timeout);
                let id = headers.id();
                let meter = self.metrics.begin_hot();
                Begun::Waiting(Box::pin(async move {
                    let mut answer = {
                        let resolved = validate::resolve(&engine, id.as_ref(), &connection, pending);
                        let mut resolved = pin!(with_timeout(timeout, resolved));
                        match panics::caught(resolved.as_mut()).await {
                            Ok(Ok(verdict)) => {
                                engine.metrics().verdicts.count(Surface::Grpc, &verdict);
                                Answer::Message(validate::response(verdict))
                            }
                            Ok(Err(status)) => error_answer(status),
                            Err(panic) => error_answer(status::panicked(&panic, id.clone())),
                        }
                    };
                    if let Some(id) = id {
                        id.write(answer.headers_mut());
                    }
                    meter.handled(code(answer.headers_mut()).unwrap_or(0));
                    answer
                }))
            }
        }
    }

    fn answered_at_once(&self, requests: u64, took: Duration) {
        self.metrics.answered_at_once(requests, took);
    }

    async fn serve(&self, peer: &Peer, request: Request<IncomingBody>) -> Response<ResponseBody> {
        let response = match cross_site::error_response(&request, &[]) {
            Some(response) => {
                self.count_unserved(request.uri().path(), &response);
                response
            }
            None => Self::serve(self, peer, request).await,
        };
        response.map(|body| ResponseBody::new(body, None))
    }

    fn panicked(&self, panic: &Panic) -> Response<ResponseBody> {
        response_body::panicked(panic)
    }
}

/// The decision that a request is traced or not, for one that [`Dispatcher::begin`] leaves to [`Dispatcher::serve`].
#[derive(Clone)]
struct Decided(Option<Sampled>);

/// Decides whether a request is traced, unless that was decided before.
fn sample<B>(request: &Request<B>) -> Option<Sampled> {
    if let Some(Decided(sampled)) = request.extensions().get() {
        return sampled.clone();
    }
    let caller = TraceContext::of(request.headers());
    // The context of a request that a gateway asks about may be in the message.
    if caller.is_none() && request.uri().path() == ext_authz::METHOD {
        return None;
    }
    Sampled::decide(caller)
}

fn begin_spans<B>(request: &Request<B>, id: &RequestId, sampled: Option<Sampled>) -> RequestSpans {
    let path = request.uri().path();
    // Names come from a closed set, because clients choose the paths.
    let is_known = path == validate::METHOD || methods::rule(path).is_some();
    let name = if is_known { path.trim_start_matches('/') } else { "_OTHER" };
    let caller = TraceContext::of(request.headers());
    RequestSpans::new(caller.as_ref(), id, || sampled.map(|sampled| sampled.rpc(name)))
}

/// Counts a panic in its scope.
struct CountPanic<'a>(&'a RpcMetrics);

impl Drop for CountPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.panicked_at_once();
        }
    }
}

/// Counts a call by its status, which is in the headers of an error and in the trailers of a stream.
fn measured(response: Response<Body>, meter: CallMeter, sends_stream: bool) -> Response<Body> {
    match code(response.headers()) {
        None if sends_stream => response.map(|body| Body::new(MeasuredBody::new(body, meter))),
        code => {
            meter.handled(code.unwrap_or(0));
            response
        }
    }
}

/// Whether the caller key of a request for a verdict must be known, if there is one.
fn is_proven<B>(surface: Surface, request: &Request<B>) -> bool {
    surface == Surface::Json && request.extensions().get::<ProvenCaller>().is_some()
}

/// Returns the status code in headers or trailers.
pub(super) fn code(headers: &HeaderMap) -> Option<i32> {
    Some(Status::from_header_map(headers)?.code().into())
}

/// The answer with a status.
fn error_answer(status: Status) -> Answer<ResponseBody> {
    Answer::Response(status.into_http().map(|body| ResponseBody::new(body, None)))
}

/// The headers of a request over gRPC that is not compressed and comes neither from a page nor with cookies.
struct PlainHeaders<'a> {
    id: Option<&'a HeaderValue>,
}

impl<'a> PlainHeaders<'a> {
    /// Reads the headers in one pass: a look-up of each would cost more.
    fn of<B>(request: &'a Request<B>) -> Option<Self> {
        let (mut has_type, mut id) = (false, None);
        for (name, value) in request.headers() {
            match name.as_str() {
                "content-type" if value == "application/grpc" || value == "application/grpc+proto" => {
                    has_type = true;
                }
                RequestId::HEADER => id = id.or(Some(value)),
                "content-type" | "cookie" | "grpc-encoding" | "origin" | ENABLE_HEADER => return None,
                _ => {}
            }
        }
        (has_type && *request.method() == Method::POST).then_some(Self { id })
    }

    fn id(&self) -> Option<RequestId> {
        self.id.and_then(RequestId::of)
    }
}

/// Runs a future with a timeout. A future that is ready at once starts no timer. The future is polled only when it was
/// woken: one that yields to others must not run again at once.
async fn with_timeout<T>(
    timeout: Duration,
    future: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let mut future = pin!(future);
    let mut timer = pin!(None::<Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(result) = future.as_mut().poll(cx) {
            return Poll::Ready(result);
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

/// Whether the library could not decode the message: it was too large (`OUT_OF_RANGE`, or `RESOURCE_EXHAUSTED` if
/// compressed) or malformed (INTERNAL). Statuses of Latchkey itself have details.
fn is_decode_error(response: &Response<Body>) -> bool {
    let has_code = |status: &HeaderValue| {
        let codes = [Code::OutOfRange, Code::ResourceExhausted, Code::Internal];
        codes.iter().any(|code| status == HeaderValue::from(i32::from(*code)))
    };
    response.headers().get(Status::GRPC_STATUS).is_some_and(has_code)
        && !response.headers().contains_key(Status::GRPC_STATUS_DETAILS)
}

/// Logs a request without its contents.
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
