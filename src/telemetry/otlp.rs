//! What the exports of traces and metrics share: the receiver, and the attributes of this process.

use std::{
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tonic::{
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{config::Otlp, store::secret_file};

/// The id of this process, the same in traces and metrics.
static INSTANCE: LazyLock<String> = LazyLock::new(|| format!("{:032x}", rand::random::<u128>()));

/// Checks the settings and the files that they name.
pub fn check(settings: &Otlp) -> Result<(), String> {
    if !settings.endpoint.is_empty() {
        tls(settings)?;
        headers(settings)?;
    }
    Ok(())
}

/// Connects when there is something to send. Requires a runtime.
pub(super) fn channel(settings: &Otlp) -> Result<Channel, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    // Not the TLS of tonic, whose feature would change how the command line connects.
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls(settings)?)
        .https_or_http()
        .enable_http2()
        .wrap_connector(http);
    let endpoint = Endpoint::from_shared(settings.endpoint.clone());
    let endpoint = endpoint.map_err(|error| format!("otlp.endpoint: {error}"))?;
    let endpoint = endpoint.connect_timeout(settings.timeout).timeout(settings.timeout);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn tls(settings: &Otlp) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let file = &settings.ca_file;
    if !file.is_empty() {
        let invalid = |error: String| format!("otlp.ca_file: cannot use {file}: {error}");
        let contents = fs::read(file).map_err(|error| invalid(error.to_string()))?;
        for root in CertificateDer::pem_slice_iter(&contents) {
            let root = root.map_err(|error| invalid(error.to_string()))?;
            roots.add(root).map_err(|error| invalid(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(invalid("it contains no certificate in PEM format".to_owned()));
        }
    } else if settings.endpoint.starts_with("https:") {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(
                "otlp.endpoint: this system has no root certificates: set otlp.ca_file to a file with those to trust"
                    .to_owned(),
            );
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Reads the file with the headers, which usually are credentials. An error does not quote it.
pub(super) fn headers(settings: &Otlp) -> Result<MetadataMap, String> {
    let mut headers = MetadataMap::new();
    let file = &settings.headers_file;
    if file.is_empty() {
        return Ok(headers);
    }
    let text = secret_file::read(Path::new(file)).map_err(|error| format!("otlp.headers_file: {error}"))?;
    let text = std::str::from_utf8(&text).map_err(|_| format!("otlp.headers_file: {file} is not UTF-8"))?;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name: MetadataKey<Ascii> = name.trim().to_ascii_lowercase().parse().ok()?;
            let mut value: MetadataValue<Ascii> = value.trim().parse().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let Some((name, value)) = parsed else {
            return Err(format!(
                "otlp.headers_file: line {} of {file} is not a header such as `authorization: Bearer ...`",
                index + 1
            ));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// The attributes of this process. Those of the settings come last and take precedence.
pub(super) fn resource(settings: &Otlp) -> Result<Vec<(String, String)>, String> {
    let own = [
        ("service.name", settings.service_name()),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &INSTANCE),
    ];
    let mut attributes = settings.attributes().map_err(|error| error.to_string())?;
    for (key, value) in own {
        if attributes.iter().all(|(other, _)| other != key) {
            attributes.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(attributes)
}
