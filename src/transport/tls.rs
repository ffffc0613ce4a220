//! TLS on the gRPC port: what it is made of, and how it is replaced while connections are open.

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

/// What gRPC speaks (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";

/// What is configured, in PEM. The sentences that refuse it name the settings.
pub struct TlsFiles<'a> {
    /// Our certificate, and those between it and its root (`tls.certificate_file`).
    pub certificates: &'a [u8],
    /// Its private key (`tls.key_file`).
    pub key: &'a [u8],
    /// The roots of client certificates (`tls.client_ca_file`), and whether a client must have one.
    pub clients: Option<(&'a [u8], bool)>,
}

/// The TLS of a port.
pub struct Tls {
    config: ArcSwap<ServerConfig>,
    clock: Arc<dyn Clock>,
}

impl Tls {
    /// From files that fit together.
    pub fn new(files: &TlsFiles<'_>, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let config = server_config(files, &clock)?;
        Ok(Self { config: ArcSwap::new(config), clock })
    }

    /// Uses these from the next connection on; those that are open stay. An error changes nothing.
    pub fn replace(&self, files: &TlsFiles<'_>) -> Result<(), String> {
        self.config.store(server_config(files, &self.clock)?);
        Ok(())
    }

    /// The handshake of a connection; an error closes it.
    pub(crate) async fn accept(&self, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(socket).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(std::io::Error::other("the client did not ask for HTTP/2 by ALPN"));
        }
        Ok(stream)
    }
}

/// The names in the certificate that the client of a connection has proved to be its own.
pub(crate) fn client_names(stream: &TlsStream<TcpStream>) -> Option<Arc<[CertificateName]>> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    // It was verified, so it can be read.
    let certificate = EndEntityCert::try_from(leaf).ok()?;
    let uris = certificate.valid_uri_names().map(|uri| CertificateName::Uri(uri.to_owned()));
    let names = certificate.valid_dns_names().map(CertificateName::dns);
    Some(uris.chain(names).collect())
}

/// What is wrong with the dates of our own certificate, if anything is.
pub fn validity(certificates: &[u8], now: Timestamp) -> Option<String> {
    let leaf = CertificateDer::from_pem_slice(certificates).ok()?;
    let certificate = EndEntityCert::try_from(&leaf).ok()?;
    // Dates are looked at before roots, of which there are none here.
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

fn server_config(files: &TlsFiles<'_>, clock: &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(files.certificates).map_err(|error| format!("tls.certificate_file {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(files.key).map_err(|_| {
        "tls.key_file holds no private key in PEM: PKCS#8, PKCS#1 and SEC 1 are read".to_owned()
    })?;
    let verifier = match files.clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some((roots, required)) => {
            let mut store = RootCertStore::empty();
            for root in certificates(roots).map_err(|error| format!("tls.client_ca_file {error}"))? {
                store.add(root).map_err(|error| {
                    format!("tls.client_ca_file holds a certificate that cannot be a root: {error}")
                })?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
            let builder = if required { builder } else { builder.allow_unauthenticated() };
            builder.build().map_err(|error| format!("tls.client_ca_file cannot be used: {error}"))?
        }
    };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(Time(Arc::clone(clock))))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| format!("tls.certificate_file and tls.key_file do not fit together: {error}"))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would stand on a certificate that was verified once, and may have expired since.
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

/// Our clock, for the library.
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(self.0.now().as_micros())))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
