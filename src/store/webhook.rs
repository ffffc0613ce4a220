//! Delivers the revocation feed to the receiver of the webhook, as HTTP requests signed by Standard Webhooks 1.0.
//! docs/webhook.md describes them.

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

/// How long an idle connection is kept: shorter than servers usually do, so that none is closed while a batch is
/// sent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest response head, in bytes. Response bodies are not read.
const MAX_RESPONSE_HEAD: usize = 16 * 1024;

/// The address of a receiver, and how to deliver. It has no `Debug`, because it holds a secret.
pub struct WebhookSettings {
    /// `https://...`, or `http://...` in a trusted network.
    pub url: String,
    /// The secret that signs requests.
    pub secret: Secret,
    /// The time limit for a batch, from connecting to the response.
    pub timeout: Duration,
}

/// A receiver at a URL. It follows no redirects and uses no proxy, so that batches only go to the configured address.
pub struct HttpReceiver {
    client: Client<HttpsConnector<HttpConnector>, String>,
    uri: Uri,
    secret: Secret,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl HttpReceiver {
    /// Connects when there is something to send. An error continues the sentence that the name of the setting begins.
    pub fn new(settings: WebhookSettings, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let WebhookSettings { url, secret, timeout } = settings;
        let uri: Uri = url.parse().map_err(|error| format!("is not a valid URL: {error}"))?;
        let mut roots = RootCertStore::empty();
        if uri.scheme_str() == Some("https") {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "needs root certificates to verify the receiver, and this system has none: set the environment variable SSL_CERT_FILE to a file with root certificates"
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
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(MAX_RESPONSE_HEAD)
            .build(connector);
        Ok(Self { client, uri, secret, timeout, clock })
    }

    fn request(&self, batch: &EventBatch, now: Timestamp) -> Result<Request<String>, Box<dyn Error>> {
        let body = payload::encode(batch)?;
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
    async fn deliver(&self, batch: &EventBatch) -> Result<(), DeliveryError> {
        let error = |cause| DeliveryError { cause, retry_after: None };
        let now = self.clock.now();
        let request = self.request(batch, now).map_err(|cause| error(chain(&*cause)))?;
        let response = timeout(self.timeout, self.client.request(request))
            .await
            .map_err(|_| error(format!("no response within {}", humantime::format_duration(self.timeout))))?
            .map_err(|cause| error(chain(&cause)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let hint = if status.is_redirection() { ", and redirects are not followed" } else { "" };
        Err(DeliveryError {
            cause: format!("the receiver answered {status}{hint}"),
            retry_after: retry_after(response.headers(), now),
        })
    }
}

/// Formats an error with its sources, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Parses the header `retry-after`: seconds or a date (RFC 9110, section 10.2.3).
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
    fn retry_after_is_parsed_in_both_forms() {
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
