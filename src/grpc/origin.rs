//! Where a request comes from: its id, the client's address as far as proxies can be believed, the caller.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Extensions, HeaderMap};

use super::request_id::RequestId;
use crate::domain::{callers::certificates::CertificateName, origin::Origin};

/// The other end of the connection, for every request that comes over it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The names in its certificate, where it has proved to have one.
    pub certificate: Option<Arc<[CertificateName]>>,
}

/// The name of a caller that has proved who it is.
#[derive(Debug, Clone)]
pub struct CallerName(pub Arc<str>);

/// Finds out where requests come from.
#[derive(Debug, Clone, Default)]
pub struct Origins;

impl Origins {
    /// Where a request with these headers and extensions comes from.
    pub(super) fn of(&self, _headers: &HeaderMap, extensions: &Extensions) -> Origin {
        Origin {
            request_id: RequestId::from_extensions(extensions).to_string(),
            address: self.address(extensions),
            caller: extensions.get().map(|CallerName(name)| name.to_string()),
        }
    }

    fn address(&self, extensions: &Extensions) -> Option<IpAddr> {
        extensions.get().map(|peer: &Peer| peer.address.ip().to_canonical())
    }
}
