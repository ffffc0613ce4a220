//! The peer of a connection.

use std::{net::SocketAddr, sync::Arc};

use crate::{admission::Connection, domain::callers::certificates::CertificateName};

/// The other end of a connection: the client or a proxy.
#[derive(Clone)]
pub struct Peer {
    /// The address.
    pub address: SocketAddr,
    /// The names in the verified client certificate, if there is one.
    pub certificate: Option<Arc<[CertificateName]>>,
    /// The resources that the connection uses.
    pub connection: Arc<Connection>,
}
