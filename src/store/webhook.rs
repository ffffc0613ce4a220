//! The receiver of a webhook, over HTTP: signed as Standard Webhooks 1.0 has it, docs/webhook.md describes it.

mod payload;

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use http::{HeaderMap, Request, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

use crate::domain::{
    ports::{Clock, DeliveryError, EventBatch, Receiver},
    types::Timestamp,
    webhook::secret::Secret,
};

/// How long a connection is kept for the next batch. Less than what usual servers keep idle ones for, so that none
/// is closed on its way.
const IDLE: Duration = Duration::from_secs(3);
/// The head of an answer, in bytes, at most. The rest of it is not read.
const MAX_HEAD: usize = 16 * 1024;

/// Where to send, and how. Holds secrets, so it has no Debug.
pub struct WebhookSettings {
    /// `https://...`, or `http://...` to where nobody else listens.
    pub url: String,
    /// To sign with.
    pub secret: Secret,
    /// How long a batch may take, from connecting to the answer.
    pub timeout: Duration,
}

/// A receiver at a URL.
///
/// No redirect is followed and no proxy is used: a batch goes where the settings say, or nowhere.
pub struct HttpReceiver {
    client: Client<HttpsConnector<HttpConnector>, String>,
    uri: Uri,
    secret: Secret,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl HttpReceiver {
    /// Connects when there is something to send. An error is to be read after the name of the URL's setting.
    pub fn new(settings: WebhookSettings, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let WebhookSettings { url, secret, timeout } = settings;
        let uri: Uri = url.parse().map_err(|error| format!("cannot be used: {error}"))?;
        let mut roots = RootCertStore::empty();
        if uri.scheme_str() == Some("https") {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "needs roots to trust the receiver by, and this system has none: name a file with some in the environment variable SSL_CERT_FILE"
                        .to_owned(),
                );
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_max_buf_size(MAX_HEAD)
            .build(connector);
        Ok(Self { client, uri, secret, timeout, clock })
    }

    fn request(&self, batch: &EventBatch, now: Timestamp) -> Result<Request<String>, Box<dyn Error>> {
        let body = payload::of(batch)?;
        let time = now.as_secs();
        Ok(Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("latchkey/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &batch.id)
            .header("webhook-timestamp", time)
            .header("webhook-signature", self.secret.sign(&batch.id, time, &body))
            .body(body)?)
    }
}

#[async_trait]
impl Receiver for HttpReceiver {
    async fn take(&self, batch: &EventBatch) -> Result<(), DeliveryError> {
        let because = |cause| DeliveryError { cause, retry_after: None };
        let now = self.clock.now();
        let request = self.request(batch, now).map_err(|error| because(chain(&*error)))?;
        let answer = timeout(self.timeout, self.client.request(request))
            .await
            .map_err(|_| because(format!("no answer within {}", humantime::format_duration(self.timeout))))?
            .map_err(|error| because(chain(&error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let hint = if status.is_redirection() { ", and redirects are not followed" } else { "" };
        Err(DeliveryError {
            cause: format!("it answers {status}{hint}"),
            retry_after: retry_after(answer.headers(), now),
        })
    }
}

/// An error and what is behind it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// For how long a receiver asks to be left alone: in seconds, or until a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::default().after(date).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_in_both_of_its_forms() {
        let now = Timestamp::from_secs(784_111_777);
        for (text, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("99999999999999999999999", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
