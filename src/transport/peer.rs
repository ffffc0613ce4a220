//! The other end of a connection.

use std::{net::SocketAddr, sync::Arc};

use crate::{admission::Connection, domain::callers::certificates::CertificateName};

/// The other end of a connection, known to every request on it.
#[derive(Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The names in its certificate, where it has presented one that was verified.
    pub certificate: Option<Arc<[CertificateName]>>,
    /// The account of what the connection uses.
    pub connection: Arc<Connection>,
}
