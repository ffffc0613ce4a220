//! Distributed traces: the W3C Trace Context of callers, the sampling decision, and the spans of requests.
//!
//! Whether a request is traced is decided once, before its first span. A request that is not traced creates no span:
//! those of [`CHILD`] exist only inside one of [`ROOT`]. Spans contain no tokens, passwords, users, devices or addresses.

use std::{fmt, str::FromStr as _, sync::OnceLock};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of spans that begin the part of a trace in this process.
pub const ROOT: &str = "latchkey::trace::root";
/// The target of the spans inside these.
pub const CHILD: &str = "latchkey::trace";
/// The target of spans that add the ids of a request to its log lines.
pub const REQUEST: &str = "latchkey::request";

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// The length of `traceparent` in version 00.
const TRACEPARENT_LEN: usize = 55;
/// The longest `tracestate` that is kept, in bytes.
const MAX_STATE: usize = 512;

static SAMPLING: OnceLock<Sampling> = OnceLock::new();

/// Which requests are traced.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// The share of traced requests, of 2^64.
    threshold: u128,
    follows_parent: bool,
}

impl Sampling {
    /// Samples this share of the requests. With `follows_parent` the decision of a caller comes first.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the ratio is clamped, and its last bits do not matter"
    )]
    pub fn new(ratio: f64, follows_parent: bool) -> Self {
        Self { threshold: (ratio.clamp(0.0, 1.0) * 2_f64.powi(64)) as u128, follows_parent }
    }

    fn samples(&self, parent: Option<&TraceContext>) -> bool {
        match parent {
            Some(parent) if self.follows_parent => parent.is_sampled,
            _ => u128::from(rand::random::<u64>()) < self.threshold,
        }
    }
}

/// Starts tracing in this process, for good.
pub fn start(sampling: Sampling) {
    let _ = SAMPLING.set(sampling);
}

/// Whether requests may be traced.
#[inline]
pub fn is_on() -> bool {
    SAMPLING.get().is_some()
}

/// The position of a caller in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    is_sampled: bool,
    /// The value of `tracestate`.
    state: String,
}

impl TraceContext {
    /// Reads the headers of a request.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::find(|name| headers.get_all(name).iter().map(HeaderValue::as_bytes))
    }

    /// Reads the headers of a request whose values `values` returns.
    pub fn find<'a, V: Iterator<Item = &'a [u8]>>(values: impl Fn(&'static str) -> V) -> Option<Self> {
        let mut parents = values(TRACEPARENT);
        let parent = parents.next()?;
        // More than one is invalid.
        if parents.next().is_some() {
            return None;
        }
        Self::parse(parent, values(TRACESTATE))
    }

    fn parse<'a>(parent: &[u8], state: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let text = std::str::from_utf8(parent).ok()?;
        let is_hex =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let mut parts = text.splitn(5, '-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lengths = [version.len(), trace_id.len(), span_id.len(), flags.len()];
        if lengths != [2, 32, 16, 2] || ![version, trace_id, span_id, flags].into_iter().all(is_hex) {
            return None;
        }
        // A later version may have further parts.
        if version == "ff" || version == "00" && text.len() != TRACEPARENT_LEN {
            return None;
        }
        let (trace_id, span_id) = (TraceId::from_hex(trace_id).ok()?, SpanId::from_hex(span_id).ok()?);
        if trace_id == TraceId::INVALID || span_id == SpanId::INVALID {
            return None;
        }
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, span_id, is_sampled, state: joined(state) })
    }

    fn as_parent(&self) -> Context {
        // An invalid `tracestate` is dropped, as the standard demands.
        let state = TraceState::from_str(&self.state).unwrap_or_default();
        let context = SpanContext::new(self.trace_id, self.span_id, TraceFlags::SAMPLED, true, state);
        Context::new().with_remote_span_context(context)
    }
}

/// Joins the lines of `tracestate`. One that is too long is dropped, as the standard allows.
fn joined<'a>(lines: impl Iterator<Item = &'a [u8]>) -> String {
    let mut joined = String::new();
    for line in lines {
        let Ok(line) = std::str::from_utf8(line) else { return String::new() };
        if joined.len() + line.len() >= MAX_STATE {
            return String::new();
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(line);
    }
    joined
}

/// A request that is to be traced.
#[derive(Debug, Clone)]
pub struct Sampled(Option<TraceContext>);

impl Sampled {
    /// Decides about a request of this caller.
    pub fn decide(parent: Option<TraceContext>) -> Option<Self> {
        SAMPLING.get()?.samples(parent.as_ref()).then_some(Self(parent))
    }

    /// Begins the span of a gRPC call. `method` has the form `package.Service/Method`.
    pub fn rpc(self, method: &str) -> Root {
        Root::begin(
            &self,
            tracing::info_span!(
                target: ROOT,
                "rpc",
                otel.name = method,
                otel.kind = "server",
                otel.status_code = Empty,
                rpc.system.name = "grpc",
                rpc.method = method,
                rpc.response.status_code = Empty,
                "error.type" = Empty,
            ),
        )
    }

    /// Begins the span of an HTTP request.
    pub fn http(self, method: &str, route: &'static str) -> Root {
        Root::begin(
            &self,
            tracing::info_span!(
                target: ROOT,
                "http",
                otel.name = format!("{method} {route}"),
                otel.kind = "server",
                otel.status_code = Empty,
                http.request.method = method,
                http.route = route,
                url.path = route,
                url.scheme = "http",
                http.response.status_code = Empty,
                "error.type" = Empty,
            ),
        )
    }
}

/// The first span of a trace in this process. It ends when this is dropped.
#[derive(Debug)]
pub struct Root {
    span: Span,
    context: Context,
}

impl Root {
    fn begin(sampled: &Sampled, span: Span) -> Self {
        if let Some(parent) = &sampled.0 {
            // This fails only if there is no exporter.
            let _ = span.set_parent(parent.as_parent());
        }
        let context = span.context();
        Self { span, context }
    }

    /// Begins the span of work that no request waits for, if it is sampled. `kind` is that of OpenTelemetry.
    pub fn background(name: &'static str, kind: &'static str) -> Option<Self> {
        let sampled = Sampled::decide(None)?;
        let span = tracing::info_span!(
            target: ROOT,
            parent: None,
            "background",
            otel.name = name,
            otel.kind = kind,
            otel.status_code = Empty,
            messaging.batch.message_count = Empty,
            http.request.method = Empty,
            "error.type" = Empty,
        );
        Some(Self::begin(&sampled, span))
    }

    fn trace_id(&self) -> TraceId {
        self.context.span().span_context().trace_id()
    }

    /// The span, to run something inside it.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Records the status of a gRPC call. As the conventions demand, only those are errors of the span for which the
    /// server is to blame.
    pub fn rpc_status(&self, code: i32) {
        let name = RPC_STATUS.get(usize::try_from(code).unwrap_or(2)).copied().unwrap_or("UNKNOWN");
        self.span.record("rpc.response.status_code", name);
        if code != 0 {
            self.span.record("error.type", name);
        }
        if matches!(code, 2 | 4 | 12 | 13 | 14 | 15) {
            self.span.record("otel.status_code", "ERROR");
        }
    }

    /// Records the status of an HTTP request that this server has answered.
    pub fn http_status(&self, code: u16) {
        self.span.record("http.response.status_code", code);
        if code >= 500 {
            self.failed(&code.to_string());
        }
    }

    /// Records an error of this kind.
    pub fn failed(&self, kind: &str) {
        failed(&self.span, kind);
    }
}

impl Drop for Root {
    /// Tasks of the request that still run would otherwise keep it open.
    fn drop(&mut self) {
        self.context.span().end();
    }
}

/// Records an error of this kind in a span that has the fields `error.type` and `otel.status_code`.
pub fn failed(span: &Span, kind: &str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}

/// The names of the codes of gRPC.
const RPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The spans of a request: one whose ids its log lines carry, and inside it the first one of its trace, if it is sampled.
#[derive(Debug)]
pub struct RequestSpans {
    log: Span,
    root: Option<Root>,
}

impl RequestSpans {
    /// No spans.
    pub fn none() -> Self {
        Self { log: Span::none(), root: None }
    }

    /// Begins the spans of a request from `caller`, which may belong to a trace although this server does not sample it.
    pub fn new(
        caller: Option<&TraceContext>,
        request_id: &dyn fmt::Display,
        begin: impl FnOnce() -> Option<Root>,
    ) -> Self {
        let log = tracing::error_span!(
            target: REQUEST,
            parent: None,
            "request",
            request.id = %request_id,
            trace_id = caller.map(|caller| tracing::field::display(caller.trace_id)),
        );
        let root = log.in_scope(begin);
        if let (None, Some(root)) = (caller, &root) {
            log.record("trace_id", tracing::field::display(root.trace_id()));
        }
        Self { log, root }
    }

    /// The first span of the trace.
    pub fn root(&self) -> Option<&Root> {
        self.root.as_ref()
    }

    /// The innermost span, to run the request inside it.
    pub fn span(&self) -> &Span {
        self.root.as_ref().map_or(&self.log, |root| &root.span)
    }
}

/// Runs a step of a request inside a span of this name, if the request is traced.
pub async fn step<T>(name: &'static str, step: impl Future<Output = T>) -> T {
    step.instrument(tracing::info_span!(target: CHILD, "step", otel.name = name)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(parent: &str, state: &[&str]) -> Option<TraceContext> {
        TraceContext::parse(parent.as_bytes(), state.iter().map(|line| line.as_bytes()))
    }

    fn state_of(context: &TraceContext) -> String {
        context.as_parent().span().span_context().trace_state().header()
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let context = parse(PARENT, &["a=1", "b=2"]).unwrap();
        assert_eq!(context.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span_id.to_string(), "b7ad6b7169203331");
        assert!(context.is_sampled);
        assert_eq!(state_of(&context), "a=1,b=2");
        assert!(!parse(&PARENT.replace("-01", "-00"), &[]).unwrap().is_sampled);
        assert!(parse(&format!("01{}-more", &PARENT[2..]), &[]).is_some(), "a later version may have more");
        for wrong in [
            "",
            "00",
            &format!("{PARENT}-more"),
            &format!("ff{}", &PARENT[2..]),
            &PARENT.replace("0af7", "0AF7"),
            &PARENT.replace("0af7", "0ag7"),
            &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            &format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16)),
            &PARENT.replace("-01", "-1"),
            &PARENT.replace("-01", "-+1"),
            &format!("+0{}", &PARENT[2..]),
        ] {
            assert_eq!(parse(wrong, &[]), None, "{wrong}");
        }
    }

    #[test]
    fn a_tracestate_that_is_invalid_or_too_long_is_dropped() {
        let long = format!("a={}", "x".repeat(600));
        for (state, kept) in [("a=1", "a=1"), ("no pair", ""), (&long, "")] {
            assert_eq!(state_of(&parse(PARENT, &[state]).unwrap()), kept, "{state}");
        }
    }

    #[test]
    fn two_traceparents_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::of(&headers), None);
        headers.append(TRACEPARENT, PARENT.parse().unwrap());
        assert!(TraceContext::of(&headers).is_some());
        headers.append(TRACEPARENT, PARENT.parse().unwrap());
        assert_eq!(TraceContext::of(&headers), None);
    }

    #[test]
    fn a_caller_that_is_not_sampled_is_followed_unless_it_is_told_otherwise() {
        let (yes, no) = (parse(PARENT, &[]), parse(&PARENT.replace("-01", "-00"), &[]));
        let never = Sampling::new(0.0, true);
        assert!(never.samples(yes.as_ref()) && !never.samples(no.as_ref()) && !never.samples(None));
        let always = Sampling::new(1.0, true);
        assert!(always.samples(yes.as_ref()) && !always.samples(no.as_ref()) && always.samples(None));
        let own = Sampling::new(0.0, false);
        assert!(!own.samples(yes.as_ref()));
        let half = Sampling::new(0.5, true);
        let sampled = (0..10_000).filter(|_| half.samples(None)).count();
        assert!((4_500..5_500).contains(&sampled), "{sampled}");
    }
}
