//! The address of the server that a command talks to.

use super::{CommandError, Common};

pub(super) struct ServerAddress {
    /// Host and port.
    pub(super) authority: String,
    pub(super) tls: bool,
    /// The server is the one that the local configuration describes, so its certificate is known.
    pub(super) is_local: bool,
}

impl ServerAddress {
    /// `https://` demands TLS and `http://` rules it out. Without either, TLS is used if the local configuration enables it,
    /// or if `--ca-file` is given.
    pub(super) fn of(common: &Common) -> Result<Self, CommandError> {
        let given = common.server.as_deref();
        if let Some(server) = given.and_then(|server| server.strip_prefix("https://")) {
            return Ok(Self { authority: authority(server), tls: true, is_local: false });
        }
        if let Some(server) = given.and_then(|server| server.strip_prefix("http://")) {
            return Ok(Self { authority: authority(server), tls: false, is_local: false });
        }
        let config = common.config()?;
        let authority = given.map_or_else(|| config.listen.grpc.to_string(), str::to_owned);
        let is_local = config.tls.is_on() && common.ca_file.is_none();
        Ok(Self { authority, tls: is_local || common.ca_file.is_some(), is_local })
    }
}

fn authority(server: &str) -> String {
    server.trim_end_matches('/').to_owned()
}
