//! The form of log lines in JSON: the ids of a request are fields of the line.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormattedFields,
        format::{self, FormatEvent, Json, JsonFields, Writer},
    },
    registry::LookupSpan,
};

use crate::trace::REQUEST;

/// The field that events may have themselves.
const REQUEST_ID: &str = "request.id";

/// Adds the fields of the span of a request to the lines inside of it.
pub(super) struct JsonLines(format::Format<Json>);

impl JsonLines {
    pub(super) fn new() -> Self {
        let json = format::format().json().flatten_event(true);
        Self(json.with_current_span(false).with_span_list(false))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for JsonLines {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let request =
            context.event_scope().into_iter().flatten().find(|span| span.metadata().target() == REQUEST);
        let Some(request) = request else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let extensions = request.extensions();
        let fields = extensions.get::<FormattedFields<JsonFields>>().map_or("", |fields| fields.as_str());
        let has_id = event.metadata().fields().field(REQUEST_ID).is_some();
        writer.write_str(&with_fields(&line, fields, has_id))
    }
}

/// Adds the fields of one JSON object to another one, on one line.
fn with_fields(line: &str, fields: &str, has_id: bool) -> String {
    let object = line.trim_end();
    let members = |object: &str| {
        let inner = object.strip_prefix('{').and_then(|object| object.strip_suffix('}')).unwrap_or_default();
        inner.to_owned()
    };
    let added = if has_id {
        let mut fields: Map<String, Value> = serde_json::from_str(fields).unwrap_or_default();
        fields.remove(REQUEST_ID);
        members(&Value::Object(fields).to_string())
    } else {
        members(fields)
    };
    match object.strip_suffix('}') {
        Some(open) if !added.is_empty() => format!("{open},{added}}}\n"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_request_are_fields_of_the_line_and_appear_once() {
        let fields = r#"{"request.id":"a\"b","trace_id":"0af7"}"#;
        assert_eq!(
            with_fields("{\"level\":\"INFO\"}\n", fields, false),
            "{\"level\":\"INFO\",\"request.id\":\"a\\\"b\",\"trace_id\":\"0af7\"}\n"
        );
        assert_eq!(
            with_fields("{\"request.id\":\"x\"}\n", fields, true),
            "{\"request.id\":\"x\",\"trace_id\":\"0af7\"}\n"
        );
        let line = "{\"request.id\":\"x\"}\n";
        assert_eq!(with_fields(line, r#"{"request.id":"x"}"#, true), line);
        assert_eq!(with_fields(line, "", false), line);
    }
}
