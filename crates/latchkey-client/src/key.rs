//! The key of a service that asks.

use std::fmt;

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use crate::proto::KEY_HEADER;

/// Sends a caller's key along, where there is one.
#[derive(Clone, Default)]
pub struct CallerKey(Option<MetadataValue<Ascii>>);

impl CallerKey {
    /// The key with this text, without the white space around it. None where it is not one that can be sent: empty,
    /// or not of visible ASCII.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut value: MetadataValue<Ascii> = text.parse().ok()?;
        value.set_sensitive(true);
        Some(Self(Some(value)))
    }

    /// What is sent, where there is something to send.
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
        for nothing in ["", " \n", "ü", "a\nb"] {
            assert!(CallerKey::parse(nothing).is_none(), "{nothing:?}");
        }
        assert!(CallerKey::default().value().is_none());
    }
}
