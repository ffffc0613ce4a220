//! Creates the webhook if `webhook.url` is set.

use std::{path::Path, sync::Arc};

use url::Url;

use crate::{
    config::Config,
    domain::{
        Engine,
        lease::{Delivery, DeliveryKey},
        ports::{Clock, Registers},
        webhook::{Webhook, secret::Secret},
    },
    store::{
        secret_file,
        webhook::{HttpReceiver, WebhookSettings},
    },
};

/// The receiver in the configuration.
pub(in crate::app) struct WebhookReceiver {
    http: HttpReceiver,
    url: Url,
}

/// Returns the receiver, if one is configured.
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
    /// Creates the webhook that delivers to it.
    pub(in crate::app) fn webhook(
        self,
        config: &Config,
        engine: &Arc<Engine>,
        register: Arc<dyn Registers<Delivery>>,
    ) -> Webhook {
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
        .map_err(|error| format!("webhook.secret_file: the content of {} {error}", path.display()))
}
