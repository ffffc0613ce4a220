//! Request ids: what the caller, the answer and the log have in common.

use std::fmt;

use http::{Extensions, HeaderMap, HeaderValue, Request};

/// The metadata in which a request id comes and goes.
const ID_HEADER: &str = "x-request-id";

/// Names a request, in the log and to the caller.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own id if it is fit to be logged (up to 64 visible characters), otherwise a new one.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let given = request
            .headers()
            .get(ID_HEADER)
            .filter(|id| (1..=64).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
        Self(given.cloned().unwrap_or_else(|| {
            let id = format!("{:016x}", rand::random::<u64>());
            HeaderValue::from_maybe_shared(id).unwrap_or(HeaderValue::from_static("-"))
        }))
    }

    /// Tells the caller.
    pub(super) fn show(self, headers: &mut HeaderMap) {
        headers.insert(ID_HEADER, self.0);
    }

    /// The id of a request that has passed the guard.
    pub(super) fn from_extensions(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or(Self(HeaderValue::from_static("-")))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or("-"))
    }
}
