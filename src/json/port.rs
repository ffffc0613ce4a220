//! JSON on the gRPC port.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Version};

use super::{Json, headers};
use crate::{
    grpc::response_body::ResponseBody,
    isolation::panics::Panic,
    transport::{body::IncomingBody, connection::Services, http2::Begun, peer::Peer},
};

/// Serves JSON in addition to gRPC.
pub struct WithJson<S> {
    grpc: Arc<S>,
    json: Arc<Json>,
}

impl<S> WithJson<S> {
    /// Requests whose content type is not that of gRPC go to `json`.
    pub fn new(grpc: Arc<S>, json: Arc<Json>) -> Self {
        Self { grpc, json }
    }
}

impl<S: Services<Body = ResponseBody>> Services for WithJson<S> {
    type Body = ResponseBody;

    /// Requests in JSON are left to [`serve`](Self::serve), because of their content type.
    fn begin<B>(&self, peer: &Peer, request: &mut Request<B>, message: &Bytes) -> Begun<ResponseBody> {
        self.grpc.begin(peer, request, message)
    }

    fn answered_at_once(&self, requests: u64, took: Duration) {
        self.grpc.answered_at_once(requests, took);
    }

    async fn serve(&self, peer: &Peer, request: Request<IncomingBody>) -> Response<ResponseBody> {
        if headers::is_grpc(request.headers()) {
            // Without pages, nothing speaks gRPC over HTTP/1.1.
            if request.version() == Version::HTTP_2 || self.json.has_pages() {
                return self.grpc.serve(peer, request).await;
            }
            return self.json.needs_http2().map(|body| ResponseBody::new(body, None));
        }
        self.json.serve(peer, request).await.map(|body| ResponseBody::new(body, None))
    }

    fn panicked(&self, panic: &Panic) -> Response<ResponseBody> {
        self.grpc.panicked(panic)
    }
}
