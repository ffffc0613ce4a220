//! The context of a call: what a handler needs besides the message.

use http::Extensions;
use tonic::{Request, Status, metadata::MetadataMap};

use super::{convert, cookie::Cookies, origin::Origins, request_id::RequestId, status};
use crate::domain::{Error, Violation, origin::Origin};

/// The context of a call. A handler converts the message, calls the verb and converts the result inside of
/// [`read`](Self::read) or [`change`](Self::change).
pub(super) struct Call {
    pub(super) origin: Origin,
    pub(super) id: RequestId,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Call {
    /// Splits a request into its message and its context.
    pub(super) fn extract<T>(request: Request<T>, origins: &Origins) -> (T, Self) {
        Self::split(request, |metadata, extensions| origins.resolve(metadata.as_ref(), extensions))
    }

    /// Splits a request that carries a password to check. See [`Origins::resolve_attempt`].
    pub(super) fn extract_attempt<T>(request: Request<T>, origins: &Origins) -> (T, Self) {
        Self::split(request, |metadata, extensions| origins.resolve_attempt(metadata.as_ref(), extensions))
    }

    fn split<T>(request: Request<T>, resolve: impl FnOnce(&MetadataMap, &Extensions) -> Origin) -> (T, Self) {
        let (metadata, extensions, message) = request.into_parts();
        let origin = resolve(&metadata, &extensions);
        let id = RequestId::from_extensions(&extensions);
        (message, Self { origin, id, metadata, extensions })
    }

    /// Returns the token of the request: `field`, or else the metadata `authorization`.
    pub(super) fn token<'a>(&'a self, field: &'a str) -> Result<&'a str, Violation> {
        convert::token(field, self.metadata.as_ref())
    }

    /// The cookies of the request, if they count.
    pub(super) fn cookies(&self) -> Option<&Cookies> {
        self.extensions.get()
    }

    /// Runs a handler that changes nothing and turns its error into a status.
    pub(super) async fn read<R>(&self, handler: impl Future<Output = Result<R, Error>>) -> Result<R, Status> {
        handler.await.map_err(|error| status::from_error(error, &self.id))
    }

    /// Runs a handler that may change something and turns its error into a status.
    pub(super) async fn change<R>(
        &self,
        handler: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Status> {
        handler.await.map_err(|error| self.status(error))
    }

    /// Logs the error of a change under the request id and returns its status.
    pub(super) fn status(&self, error: Error) -> Status {
        status::from_error_of_change(error, &self.id)
    }
}
