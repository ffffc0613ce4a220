//! The address of the server that a command talks to.

use std::fmt::Display;

use http::uri::Authority;

use super::{CommandError, Common};

/// The port of the examples in error messages.
const DEFAULT_PORT: u16 = 50051;

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
            return Self { authority: authority(server), tls: true, is_local: false }.with_port();
        }
        if let Some(server) = given.and_then(|server| server.strip_prefix("http://")) {
            return Self { authority: authority(server), tls: false, is_local: false }.with_port();
        }
        let config = common.config()?;
        let authority = given.map_or_else(|| config.listen.grpc.to_string(), authority);
        let is_local = config.tls.is_on() && common.ca_file.is_none();
        Self { authority, tls: is_local || common.ca_file.is_some(), is_local }.with_port()
    }

    /// The error for an address that cannot be parsed.
    pub(super) fn invalid(&self, error: &dyn Display) -> CommandError {
        CommandError::Usage(format!(
            "--server {} is not an address such as 127.0.0.1:50051 or https://latchkey.internal:50051: {error}",
            self.authority
        ))
    }

    /// Fails without a port: those of URLs, 80 and 443, are not those of Latchkey.
    fn with_port(self) -> Result<Self, CommandError> {
        let parsed: Authority = self.authority.parse().map_err(|error| self.invalid(&error))?;
        if parsed.port_u16().is_some() {
            return Ok(self);
        }
        let scheme = if self.tls { "https://" } else { "" };
        let host = parsed.host();
        let proxy = if self.tls { format!(", or {scheme}{host}:443 behind a proxy") } else { String::new() };
        Err(CommandError::Usage(format!(
            "--server {} has no port: write {scheme}{host}:{DEFAULT_PORT}{proxy}",
            self.authority
        )))
    }
}

fn authority(server: &str) -> String {
    server.trim_end_matches('/').to_owned()
}
