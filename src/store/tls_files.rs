//! The certificate and key of the gRPC port, as files in PEM.

use std::{fs, path::Path};

use zeroize::Zeroizing;

use super::secret_file;

/// What the files hold.
#[derive(PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its root.
    pub certificates: Vec<u8>,
    /// Its private key.
    pub key: Zeroizing<Vec<u8>>,
    /// The roots of client certificates.
    pub client_ca: Option<Vec<u8>>,
}

/// Reads them. The sentence that says why not names the setting and the file.
pub fn read(certificates: &Path, key: &Path, client_ca: Option<&Path>) -> Result<TlsFiles, String> {
    let public = |setting: &str, path: &Path| {
        fs::read(path).map_err(|error| format!("{setting}: cannot read {}: {error}", path.display()))
    };
    Ok(TlsFiles {
        certificates: public("tls.certificate_file", certificates)?,
        key: secret_file::read(key).map_err(|error| format!("tls.key_file: {error}"))?,
        client_ca: client_ca.map(|path| public("tls.client_ca_file", path)).transpose()?,
    })
}
