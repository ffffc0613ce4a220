//! A receiver of webhooks for tests.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ::aws_lc_rs::hmac;
use axum::{
    Router, extract::State, response::IntoResponse, response::Response, routing::post, serve::Listener,
};
use data_encoding::BASE64;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
    server::TlsStream,
};

use crate::support::tls::Identity;

pub const SECRET: &str = "whsec_bm90aGluZyBidXQgYSBzZWNyZXQgb2YgdGhlIHRlc3Rz";

/// How the receiver answers a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// A status and the seconds of `retry-after`.
    Later(u16, u64),
    /// Accepts the POST and answers after this number of milliseconds.
    Slowly(u64),
    /// No answer within any time-out.
    Never,
}

#[derive(Debug, Clone)]
pub struct Post {
    pub id: String,
    pub at: Instant,
    pub headers: HeaderMap,
    pub body: String,
    pub taken: bool,
}

impl Post {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }

    /// Parses the events in the body.
    pub fn events(&self) -> Vec<Value> {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["type"], "sessions.ended");
        assert!(humantime::parse_rfc3339(body["timestamp"].as_str().unwrap()).is_ok(), "{body}");
        body["data"]["events"].as_array().unwrap().clone()
    }

    /// Whether the signature is right, by an independent computation.
    pub fn is_signed(&self) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(&SECRET.as_bytes()[6..]).unwrap());
        let signed = [self.id.as_bytes(), self.header("webhook-timestamp").as_bytes(), self.body.as_bytes()];
        let Some(signature) = self.header("webhook-signature").strip_prefix("v1,") else { return false };
        hmac::verify(&key, &signed.join(&b'.'), &BASE64.decode(signature.as_bytes()).unwrap()).is_ok()
    }
}

#[derive(Default)]
struct Shared {
    posts: Vec<Post>,
    /// The answers to the next POSTs.
    answers: VecDeque<Answer>,
    /// The answer to all later POSTs; `None` accepts them.
    otherwise: Option<Answer>,
    under_way: usize,
    most_under_way: usize,
    elsewhere: usize,
}

pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(listener, address)
    }

    /// Starts a receiver with TLS and this certificate.
    pub async fn with_tls(identity: &Identity) -> Self {
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(TlsListener(listener, TlsAcceptor::from(Arc::new(config))), address)
    }

    fn serve<L: Listener<Addr = SocketAddr>>(listener: L, address: SocketAddr) -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let router = Router::new()
            .route("/hook", post(take))
            .route("/elsewhere", post(elsewhere).get(elsewhere))
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, serving }
    }

    /// Sets the answers to the next POSTs. Later ones are accepted.
    pub fn answer(&self, answers: &[Answer]) {
        self.shared.lock().unwrap().answers.extend(answers);
    }

    /// Sets the answer to all POSTs from now on; `None` accepts them.
    pub fn always(&self, answer: Option<Answer>) {
        self.shared.lock().unwrap().otherwise = answer;
    }

    /// Returns all POSTs so far.
    pub fn posts(&self) -> Vec<Post> {
        self.shared.lock().unwrap().posts.clone()
    }

    /// Returns the events of accepted POSTs in order.
    pub fn events(&self) -> Vec<Value> {
        self.posts().iter().filter(|post| post.taken).flat_map(Post::events).collect()
    }

    /// Returns the highest number of concurrent POSTs.
    pub fn most_under_way(&self) -> usize {
        self.shared.lock().unwrap().most_under_way
    }

    /// Returns how often the target of a redirect was requested.
    pub fn elsewhere(&self) -> usize {
        self.shared.lock().unwrap().elsewhere
    }

    /// Waits until a condition holds.
    pub async fn until(&self, limit: Duration, what: &str, is_true: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_true(self) {
            assert!(begun.elapsed() < limit, "{what}: not after {limit:?}: {:#?}", self.posts());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the ends of these sessions have been delivered.
    pub async fn until_delivered(&self, sessions: &[String], limit: Duration) {
        self.until(limit, &format!("told of {sessions:?}"), |receiver| {
            let told = receiver.events();
            sessions.iter().all(|id| told.iter().any(|event| event["session_id"] == id.as_str()))
        })
        .await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(State(shared): State<Arc<Mutex<Shared>>>, headers: HeaderMap, body: String) -> Response {
    let answer = {
        let mut shared = shared.lock().unwrap();
        shared.under_way += 1;
        shared.most_under_way = shared.most_under_way.max(shared.under_way);
        let otherwise = shared.otherwise.unwrap_or(Answer::Status(204));
        let answer = shared.answers.pop_front().unwrap_or(otherwise);
        let taken = matches!(answer, Answer::Status(200..=299) | Answer::Slowly(_));
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        shared.posts.push(Post { id, at: Instant::now(), headers, body, taken });
        answer
    };
    let _leaving = InFlight(Arc::clone(&shared));
    // The delay makes concurrent deliveries visible.
    tokio::time::sleep(Duration::from_millis(2)).await;
    match answer {
        Answer::Never => std::future::pending().await,
        Answer::Slowly(millis) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            StatusCode::NO_CONTENT.into_response()
        }
        Answer::Status(status) => {
            (StatusCode::from_u16(status).unwrap(), [("location", "/elsewhere")]).into_response()
        }
        Answer::Later(status, seconds) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", seconds.to_string())]).into_response()
        }
    }
}

/// Counts a POST as finished, also if the sender disconnects.
struct InFlight(Arc<Mutex<Shared>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().unwrap().under_way -= 1;
    }
}

async fn elsewhere(State(shared): State<Arc<Mutex<Shared>>>) -> StatusCode {
    shared.lock().unwrap().elsewhere += 1;
    StatusCode::NO_CONTENT
}

struct TlsListener(TcpListener, TlsAcceptor);

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (socket, address) = self.0.accept().await.unwrap();
            // A client that does not trust the certificate disconnects.
            if let Ok(stream) = self.1.accept(socket).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
