//! Request ids: what the caller, the answer and the log have in common.

use std::fmt;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use tonic::{Status, metadata::MetadataValue};

/// The metadata in which a request id comes and goes.
const NAME: &str = "x-request-id";
const ID_HEADER: HeaderName = HeaderName::from_static(NAME);

/// Names a request, in the log and to the caller.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own id, if it is fit to be logged (up to 64 visible characters).
    pub(super) fn sent(headers: &HeaderMap) -> Option<Self> {
        let fit = |id: &&HeaderValue| {
            (1..=64).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        headers.get(ID_HEADER).filter(fit).cloned().map(Self)
    }

    /// A new id.
    pub(super) fn random() -> Self {
        let id = format!("{:016x}", rand::random::<u64>());
        Self(HeaderValue::from_maybe_shared(id).unwrap_or(HeaderValue::from_static("-")))
    }

    /// Tells the caller.
    pub(super) fn show(self, headers: &mut HeaderMap) {
        headers.insert(ID_HEADER, self.0);
    }

    /// Tells the caller, with a status.
    pub(super) fn on(&self, mut status: Status) -> Status {
        if let Ok(id) = MetadataValue::try_from(self.0.as_bytes()) {
            status.metadata_mut().insert(NAME, id);
        }
        status
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
