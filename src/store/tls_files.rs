//! Reads the PEM files with the certificate and key of the gRPC port.

use std::{fs, path::Path};

use zeroize::Zeroizing;

use super::secret_file;

/// The contents of the files.
#[derive(PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and the intermediate ones.
    pub certificates: Vec<u8>,
    /// The private key.
    pub key: Zeroizing<Vec<u8>>,
    /// The root certificates of clients.
    pub client_ca: Option<Vec<u8>>,
}

/// Reads the files. An error names the setting and the file.
pub fn read(certificates: &Path, key: &Path, client_ca: Option<&Path>) -> Result<TlsFiles, String> {
    let read_public = |setting: &str, path: &Path| {
        fs::read(path).map_err(|error| format!("{setting}: cannot read {}: {error}", path.display()))
    };
    Ok(TlsFiles {
        certificates: read_public("tls.certificate_file", certificates)?,
        key: secret_file::read(key).map_err(|error| format!("tls.key_file: {error}"))?,
        client_ca: client_ca.map(|path| read_public("tls.client_ca_file", path)).transpose()?,
    })
}
