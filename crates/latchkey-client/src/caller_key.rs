//! The key with which a service authenticates itself to Latchkey.

use std::fmt;

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::proto::KEY_HEADER;

/// A tonic interceptor that adds a caller key to every request.
///
/// [`Client::with_caller_key`](crate::Client::with_caller_key) is the usual way to set one. Use the interceptor
/// directly with generated clients that have a channel of their own:
///
/// ```no_run
/// use latchkey_client::{CallerKey, proto::auth_service_client::AuthServiceClient};
/// use tonic::transport::Endpoint;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let key = CallerKey::parse("lkc_...").ok_or("not a caller key")?;
/// let channel = Endpoint::from_static("http://127.0.0.1:50051").connect().await?;
/// let client = AuthServiceClient::with_interceptor(channel, key);
/// # let _ = client; Ok(())
/// # }
/// ```
///
/// The default value holds no key and leaves requests unchanged. `Debug` does not print the key.
#[derive(Clone, Default)]
pub struct CallerKey(Option<MetadataValue<Ascii>>);

impl CallerKey {
    /// Parses a caller key. Surrounding ASCII white space is removed, so that the contents of a key file can be passed
    /// as they are.
    ///
    /// Returns `None` if the key is empty or contains anything but visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut value: MetadataValue<Ascii> = text.parse().ok()?;
        value.set_sensitive(true);
        Some(Self(Some(value)))
    }

    /// Returns the metadata value that is sent, or `None` without a key.
    pub fn value(&self) -> Option<&MetadataValue<Ascii>> {
        self.0.as_ref()
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "CallerKey([redacted])" } else { "CallerKey(none)" })
    }
}

impl Interceptor for CallerKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert(KEY_HEADER, key.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_and_not_shown() {
        let mut key = CallerKey::parse(" lk_hunter2\n").unwrap();
        assert_eq!(key.value().unwrap(), "lk_hunter2");
        assert!(!format!("{key:?}").contains("hunter2"));
        let sent = key.call(Request::new(())).unwrap();
        assert!(!format!("{sent:?}").contains("hunter2"));
    }

    #[test]
    fn empty_and_non_ascii_keys_are_rejected() {
        for invalid in ["", " \n", "ü", "a\nb", "a b"] {
            assert!(CallerKey::parse(invalid).is_none(), "{invalid:?}");
        }
    }

    #[test]
    fn the_default_sends_no_key() {
        let mut key = CallerKey::default();
        assert!(key.value().is_none());
        assert!(key.call(Request::new(())).unwrap().metadata().is_empty());
    }
}
