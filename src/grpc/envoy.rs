//! The generated messages of `proto/envoy/`, in modules named after their packages.

#![expect(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated"
)]

use std::fmt;

pub mod config {
    pub mod core {
        pub mod v3 {
            tonic::include_proto!("envoy.config.core.v3");
        }
    }
}

pub mod service {
    pub mod auth {
        pub mod v3 {
            tonic::include_proto!("envoy.service.auth.v3");
        }
    }
}

pub mod r#type {
    pub mod v3 {
        tonic::include_proto!("envoy.r#type.v3");
    }
}

/// Omits the value, which may be a token.
impl fmt::Debug for config::core::v3::HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderValue").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Omits the headers, which contain the token.
impl fmt::Debug for service::auth::v3::attribute_context::HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{config::core::v3::HeaderValue, service::auth::v3::attribute_context::HttpRequest};

    #[test]
    fn debug_shows_no_header() {
        let key = || "authorization".to_owned();
        let raw = HeaderValue { key: key(), value: "hunter2".into(), raw_value: b"hunter2".to_vec() };
        let headers = [(key(), "hunter2".to_owned())].into();
        let request = HttpRequest {
            headers,
            header_map: Some(super::config::core::v3::HeaderMap { headers: vec![raw] }),
        };
        let shown = format!("{request:?} {:?}", request.header_map);
        assert!(!shown.contains("hunter2") && shown.contains("authorization"), "{shown}");
    }
}
