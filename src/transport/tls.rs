//! TLS on the gRPC port. Certificates can be replaced while connections are open.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
        server::{NoServerSessionStorage, WebPkiClientVerifier},
        time_provider::TimeProvider,
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};
use webpki::EndEntityCert;

use crate::domain::{callers::certificates::CertificateName, ports::Clock, types::Timestamp};

/// The ALPN identifier of HTTP/2 (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";

/// The contents of the configured PEM files. Errors name the settings.
pub struct TlsFiles<'a> {
    /// The certificate of the server and its intermediate certificates (`tls.certificate_file`).
    pub certificates: &'a [u8],
    /// The private key (`tls.key_file`).
    pub key: &'a [u8],
    /// The roots of client certificates (`tls.client_ca_file`), and whether clients must present one.
    pub clients: Option<(&'a [u8], bool)>,
}

/// The TLS configuration of a port.
pub struct Tls {
    config: ArcSwap<ServerConfig>,
    clock: Arc<dyn Clock>,
}

impl Tls {
    /// Creates the configuration from files.
    pub fn new(files: &TlsFiles<'_>, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let config = server_config(files, &clock)?;
        Ok(Self { config: ArcSwap::new(config), clock })
    }

    /// Replaces the files for new connections. Open connections stay. After an error, the previous files stay in use.
    pub fn replace(&self, files: &TlsFiles<'_>) -> Result<(), String> {
        self.config.store(server_config(files, &self.clock)?);
        Ok(())
    }

    /// Performs the handshake of a connection.
    pub(crate) async fn accept(&self, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(socket).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(std::io::Error::other("the client did not offer HTTP/2 by ALPN"));
        }
        Ok(stream)
    }
}

/// Returns the names in the verified client certificate.
pub(crate) fn client_names(stream: &TlsStream<TcpStream>) -> Option<Arc<[CertificateName]>> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    // The certificate was verified, so it can be parsed.
    let certificate = EndEntityCert::try_from(leaf).ok()?;
    let uris = certificate.valid_uri_names().map(|uri| CertificateName::Uri(uri.to_owned()));
    let names = certificate.valid_dns_names().map(CertificateName::dns);
    Some(uris.chain(names).collect())
}

/// Returns what is wrong with the validity dates of the server certificate, if anything is.
pub fn validity_error(certificates: &[u8], now: Timestamp) -> Option<String> {
    let leaf = CertificateDer::from_pem_slice(certificates).ok()?;
    let certificate = EndEntityCert::try_from(&leaf).ok()?;
    // The library checks dates before roots, and there are no roots here.
    let verified = certificate.verify_for_usage(
        &[],
        &[],
        &[],
        UnixTime::since_unix_epoch(Duration::from_micros(now.as_micros())),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    let date = |time: UnixTime| {
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
    };
    match verified.err()? {
        webpki::Error::CertExpired { not_after, .. } => Some(format!("expired at {}", date(not_after))),
        webpki::Error::CertNotValidYet { not_before, .. } => {
            Some(format!("is not valid before {}", date(not_before)))
        }
        _ => None,
    }
}

/// The first and the last second at which each certificate of a PEM file is valid. Certificates that cannot be read are left
/// out.
pub fn validity(certificates: &[u8]) -> Vec<(Timestamp, Timestamp)> {
    let certificates = CertificateDer::pem_slice_iter(certificates).filter_map(Result::ok);
    certificates
        .filter_map(|certificate| {
            let certificate = EndEntityCert::try_from(&certificate).ok()?;
            // The library names a date only if it is violated, and checks dates before everything else.
            let violated_at = |seconds| {
                let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
                let usage = webpki::KeyUsage::server_auth();
                certificate.verify_for_usage(&[], &[], &[], time, usage, None, None).err()
            };
            let at = |time: UnixTime| Timestamp::from_secs(time.as_secs());
            let first = match violated_at(0)? {
                webpki::Error::CertNotValidYet { not_before, .. } => at(not_before),
                _ => Timestamp::from_secs(0),
            };
            // The year 9999, which is the last that a certificate can name.
            match violated_at(253_402_300_800)? {
                webpki::Error::CertExpired { not_after, .. } => Some((first, at(not_after))),
                _ => None,
            }
        })
        .collect()
}

fn server_config(files: &TlsFiles<'_>, clock: &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(files.certificates).map_err(|error| format!("tls.certificate_file {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(files.key)
        .map_err(|_| "tls.key_file holds no private key in PEM: use PKCS#8, PKCS#1 or SEC 1".to_owned())?;
    let verifier = match files.clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some((roots, required)) => {
            let mut store = RootCertStore::empty();
            for root in certificates(roots).map_err(|error| format!("tls.client_ca_file {error}"))? {
                store.add(root).map_err(|error| {
                    format!("tls.client_ca_file holds a certificate that is not valid as a root: {error}")
                })?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
            let builder = if required { builder } else { builder.allow_unauthenticated() };
            builder.build().map_err(|error| format!("tls.client_ca_file is not usable: {error}"))?
        }
    };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(Arc::clone(clock))))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| format!("tls.certificate_file and tls.key_file do not fit together: {error}"))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the verification of a certificate that may have expired since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| format!("is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("holds no certificate in PEM".to_owned());
    }
    Ok(certificates)
}

/// Gives the library the time of the clock port.
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(self.0.now().as_micros())))
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}
