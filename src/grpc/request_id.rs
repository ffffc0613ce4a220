//! Request ids, which connect a request, its response and the log.

use std::fmt;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use tonic::{Status, metadata::MetadataValue};

const ID_HEADER: HeaderName = HeaderName::from_static(RequestId::HEADER);

#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    pub(super) const HEADER: &str = "x-request-id";

    /// Returns the id that the client has sent, if there is a valid one.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        headers.get(ID_HEADER).and_then(Self::of)
    }

    /// Returns an id that a client has sent, if it can be logged (up to 64 visible characters).
    pub(super) fn of(value: &HeaderValue) -> Option<Self> {
        let is_loggable =
            (1..=64).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
        is_loggable.then(|| Self(value.clone()))
    }

    pub(super) fn random() -> Self {
        let id = format!("{:016x}", rand::random::<u64>());
        Self(HeaderValue::from_maybe_shared(id).unwrap_or(HeaderValue::from_static("-")))
    }

    /// Writes the id to the headers of the response.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert(ID_HEADER, self.0);
    }

    /// Returns `status` with the id in its metadata.
    pub(super) fn add_to(&self, mut status: Status) -> Status {
        if let Ok(id) = MetadataValue::try_from(self.0.as_bytes()) {
            status.metadata_mut().insert(Self::HEADER, id);
        }
        status
    }

    /// Returns the id that the dispatcher has put into the extensions.
    pub(super) fn from_extensions(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or(Self(HeaderValue::from_static("-")))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or("-"))
    }
}
