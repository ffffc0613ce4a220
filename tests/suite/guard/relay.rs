//! Stands between a guard and Latchkey, and counts what Latchkey is asked.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::ServiceExt as _;

pub struct Relay {
    pub address: SocketAddr,
    asked: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Relay {
    pub async fn to(latchkey: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let channel = Endpoint::from_shared(format!("http://{latchkey}")).unwrap().connect_lazy();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (channel, asked) = (channel.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let pass = |request| pass(channel.clone(), request, Arc::clone(&asked));
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(socket), service_fn(pass)).await;
                });
            }
        });
        Self { address, asked, accepting }
    }

    /// How many tokens Latchkey was asked about, one by one or over a stream.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(
    channel: Channel,
    request: Request<Incoming>,
    asked: Arc<AtomicUsize>,
) -> Result<http::Response<Body>, tonic::transport::Error> {
    let counts = request.uri().path().starts_with("/latchkey.v1.AuthService/Validate");
    let request = request.map(|body| {
        if counts { Body::new(Counted { body, rest: Vec::new(), asked }) } else { Body::new(body) }
    });
    channel.oneshot(request).await
}

/// Counts the messages in a body.
struct Counted {
    body: Incoming,
    /// Of a message that has not come as a whole.
    rest: Vec<u8>,
    asked: Arc<AtomicUsize>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.rest.extend_from_slice(data);
            while let Some(length) = self.rest.get(1..5) {
                let length = usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap();
                if self.rest.len() < 5 + length {
                    break;
                }
                self.rest.drain(..5 + length);
                self.asked.fetch_add(1, Ordering::SeqCst);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
