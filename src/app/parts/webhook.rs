//! The webhook, where the settings name a receiver.

use std::{path::Path, sync::Arc};

use url::{Host, Url};

use crate::{
    config::Config,
    domain::{
        Engine,
        ports::{Clock, Registers},
        webhook::{
            Webhook,
            lease::{Delivery, DeliveryKey},
            secret::Secret,
        },
    },
    store::{
        secret_file,
        webhook::{HttpReceiver, WebhookSettings},
    },
};

/// Who is told of sessions that ended.
pub(in crate::app) struct WebhookReceiver {
    http: HttpReceiver,
    url: Url,
}

/// The receiver that the settings name, if they name one.
pub(in crate::app) fn webhook_receiver(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<Option<WebhookReceiver>, String> {
    let Some(url) = config.webhook_url().map_err(|error| error.to_string())? else { return Ok(None) };
    let settings =
        WebhookSettings { url: url.to_string(), secret: secret(config)?, timeout: config.webhook.timeout };
    let http = HttpReceiver::new(settings, Arc::clone(clock));
    Ok(Some(WebhookReceiver { http: http.map_err(|error| format!("webhook.url {error}"))?, url }))
}

impl WebhookReceiver {
    /// What tells it.
    pub(in crate::app) fn webhook(
        self,
        config: &Config,
        engine: &Arc<Engine>,
        register: Arc<dyn Registers<Delivery>>,
    ) -> Webhook {
        if is_in_clear(&self.url) {
            tracing::warn!(
                "what the webhook tells travels in clear: let the receiver speak TLS, and write https:// in webhook.url"
            );
        }
        let key = DeliveryKey::of(self.url.as_str());
        Webhook::new(Arc::clone(engine), Arc::new(self.http), register, key, config.webhook.batch)
    }
}

fn secret(config: &Config) -> Result<Secret, String> {
    let webhook = &config.webhook;
    if webhook.secret_file.is_empty() {
        return Secret::parse(&webhook.secret.0).map_err(|error| format!("webhook.secret {error}"));
    }
    let path = Path::new(&webhook.secret_file);
    let contents = secret_file::read(path).map_err(|error| format!("webhook.secret_file: {error}"))?;
    let text = std::str::from_utf8(&contents).unwrap_or_default();
    Secret::parse(text.trim())
        .map_err(|error| format!("webhook.secret_file: what {} holds {error}", path.display()))
}

/// Whether it leaves this machine unencrypted.
fn is_in_clear(url: &Url) -> bool {
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_the_machine_unencrypted_is_in_clear() {
        for (url, expected) in [
            ("https://example.com/", false),
            ("http://example.com/", true),
            ("http://10.0.0.1/", true),
            ("http://localhost:8000/", false),
            ("http://127.0.0.1/", false),
            ("http://[::1]/", false),
            ("http://localhost.example.com/", true),
        ] {
            assert_eq!(is_in_clear(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
