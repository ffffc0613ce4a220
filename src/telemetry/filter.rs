//! Which spans and events go to the log, and which to the collector of traces.

use tracing::{Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Registry,
    layer::{Context, Filter},
    registry::LookupSpan,
    reload,
};

use crate::trace::{CHILD, REQUEST, ROOT};

/// The log: events of the configured level, and the spans that connect them to the ids of their request.
pub(super) struct LogFilter {
    pub(super) events: reload::Layer<EnvFilter, Registry>,
    pub(super) traces: bool,
}

impl Filter<Registry> for LogFilter {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, Registry>) -> bool {
        if !metadata.is_span() {
            return Filter::enabled(&self.events, metadata, context);
        }
        match metadata.target() {
            REQUEST => true,
            ROOT => self.traces,
            CHILD => self.traces && is_traced(context),
            _ => false,
        }
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if !metadata.is_span() {
            return Filter::callsite_enabled(&self.events, metadata);
        }
        match metadata.target() {
            REQUEST => Interest::always(),
            ROOT if self.traces => Interest::always(),
            CHILD if self.traces => Interest::sometimes(),
            _ => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::max_level_hint(&self.events)
    }
}

/// The traces: the spans of `trace`, and nothing else, because events and spans of libraries may contain secrets.
pub(super) struct TraceFilter;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for TraceFilter {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        match metadata.target() {
            ROOT => metadata.is_span(),
            CHILD => metadata.is_span() && is_traced(context),
            _ => false,
        }
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.target() {
            ROOT if metadata.is_span() => Interest::always(),
            CHILD if metadata.is_span() => Interest::sometimes(),
            _ => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

/// Whether the current span belongs to a trace.
fn is_traced<S: Subscriber + for<'a> LookupSpan<'a>>(context: &Context<'_, S>) -> bool {
    context.lookup_current().is_some_and(|span| span.metadata().target() != REQUEST)
}
