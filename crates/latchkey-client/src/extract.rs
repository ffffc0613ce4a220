//! `Identity` as an extractor of axum.

use std::{convert::Infallible, time::Instant};

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header, request::Parts};

use crate::{Identity, guard::LogLimiter};

/// The rejection of a handler that takes an [`Identity`] and is not behind a [`Guard`](crate::Guard).
///
/// The response is 500: the client cannot change anything about it. The log of the service says what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotGuarded;

impl IntoResponse for NotGuarded {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(
            r#"{"reason":"INTERNAL","message":"internal error; see the log of the service"}"#,
        ));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

/// Extracts the caller that the [`Guard`](crate::Guard) has let through.
///
/// Without a guard, or on an [open](crate::Guard::open) path, the handler is not called and the response is 500. Take
/// an `Option<Identity>` in handlers that serve such paths, too.
impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = NotGuarded;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotGuarded> {
        let caller = Self::of(&parts.extensions).cloned();
        caller.ok_or_else(|| {
            static NOT_GUARDED: LogLimiter = LogLimiter::new();
            if NOT_GUARDED.admits(Instant::now()) {
                tracing::error!(
                    url.path = parts.uri.path(),
                    "a handler takes an Identity, but the path is open or its route has no Guard layer: \
                     add the layer, or take an Option<Identity>"
                );
            }
            NotGuarded
        })
    }
}

/// Extracts the caller, or `None` without a guard and on [open](crate::Guard::open) paths.
impl<S: Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::of(&parts.extensions).cloned())
    }
}
