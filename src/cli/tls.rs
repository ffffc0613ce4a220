//! TLS to the server, without depending on names if it is the local one.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    },
};
use tonic::transport;
use tower::Service;

use super::{CommandError, Common, server_address::ServerAddress};
use crate::store::secret_file;

/// Connects with TLS.
#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
}

/// Returns `None` for a server without TLS.
pub(super) fn connector(common: &Common, address: &ServerAddress) -> Result<Option<Connector>, CommandError> {
    if !address.tls {
        return Ok(None);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    let builder = if address.is_local {
        let path = common.config()?.tls.certificate_file;
        let certificate = certificates("tls.certificate_file", Path::new(&path))?.swap_remove(0);
        let verifier = PinnedCertificate { certificate, path, provider };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    } else {
        builder.with_root_certificates(roots(common)?)
    };
    let mut config = match (&common.certificate_file, &common.certificate_key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("--certificate-file", certificate)?;
            let key = secret_file::read_to_present(key)
                .map_err(|error| CommandError::Failed(format!("--certificate-key-file: {error}")))?;
            let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| {
                CommandError::Failed(
                    "--certificate-key-file contains no private key in PEM format".to_owned(),
                )
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                CommandError::Failed(format!(
                    "--certificate-file and --certificate-key-file do not match: {error}"
                ))
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Connector { tls: TlsConnector::from(Arc::new(config)) }))
}

/// The TLS error by which one side does not trust the other, if that prevented a connection. Other TLS errors say that the
/// other side does not speak TLS.
pub(super) fn distrust(error: &transport::Error) -> Option<String> {
    tls_error(error)
        .filter(|error| !matches!(error, rustls::Error::InvalidMessage(_)))
        .map(ToString::to_string)
}

/// The TLS error in a chain of errors.
pub(super) fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // The source of an I/O error is the source of its inner error, so the inner error itself is looked at here.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(tls) = tls.or_else(|| error.downcast_ref()) {
            return Some(tls);
        }
        cause = error.source();
    }
    None
}

/// A configuration that trusts every certificate, only to find out whether a server uses TLS: nothing secret is sent.
pub(super) fn probe_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(AnyCertificate(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn roots(common: &Common) -> Result<RootCertStore, CommandError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &common.ca_file {
        for root in certificates("--ca-file", path)? {
            store.add(root).map_err(|error| {
                CommandError::Failed(format!(
                    "--ca-file: {} contains no root certificate: {error}",
                    path.display()
                ))
            })?;
        }
        return Ok(store);
    }
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(CommandError::Failed(
            "this system has no root certificates: name a file with the roots to trust by --ca-file"
                .to_owned(),
        ));
    }
    Ok(store)
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CommandError> {
    let failed = |error: &dyn std::fmt::Display| {
        CommandError::Failed(format!("{option}: cannot use {}: {error}", path.display()))
    };
    let contents = fs::read(path).map_err(|error| failed(&error))?;
    let certificates = CertificateDer::pem_slice_iter(&contents).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| failed(&error))?;
    if certificates.is_empty() {
        Err(failed(&"it contains no certificate in PEM format"))
    } else {
        Ok(certificates)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let socket = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
            socket.set_nodelay(true)?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            Ok(TokioIo::new(tls.connect(name, socket).await?))
        })
    }
}

/// Trusts exactly one certificate, whatever its names and dates are: that of the local server, which is known from the
/// configuration.
#[derive(Debug)]
struct PinnedCertificate {
    certificate: CertificateDer<'static>,
    path: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!(
            "its certificate is not the one in {} (tls.certificate_file); for another server write https:// before its name",
            self.path
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Trusts every certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
