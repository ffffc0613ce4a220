//! TLS of the gRPC port: created at startup, and again when its files change.

use std::{path::Path, sync::Arc};

use super::background::ReloadRequests;
use crate::{
    config::{ClientCertificate, Config},
    domain::ports::Clock,
    store::tls_files,
    transport::tls::{self, Tls, TlsFiles},
};

/// TLS of the gRPC port, and the contents of the files that it was created from.
pub(super) struct Encryption {
    pub(super) tls: Arc<Tls>,
    files: tls_files::TlsFiles,
}

/// Creates the TLS of the gRPC port, if it is configured.
pub(super) fn encryption(config: &Config, clock: &Arc<dyn Clock>) -> Result<Option<Encryption>, String> {
    if !config.tls.is_on() {
        return Ok(None);
    }
    let files = read(config)?;
    let tls = Tls::new(&pem_files(config, &files), Arc::clone(clock))
        .map_err(|error| with_file_names(config, &error))?;
    Ok(Some(Encryption { tls: Arc::new(tls), files }))
}

/// Uses new certificates when their files change.
pub(super) struct CertificateReload {
    encryption: Encryption,
    config: Config,
    clock: Arc<dyn Clock>,
}

impl CertificateReload {
    pub(super) fn new(encryption: Encryption, config: &Config, clock: Arc<dyn Clock>) -> Self {
        Self { encryption, config: config.clone(), clock }
    }

    /// Logs a warning about a certificate that is expired or not valid yet.
    pub(super) fn check_validity(&self) {
        if let Some(problem) = tls::validity_error(&self.encryption.files.certificates, self.clock.now()) {
            let file = &self.config.tls.certificate_file;
            tracing::warn!("the certificate in {file} {problem}: clients will reject it");
        }
    }

    /// Reads the files at intervals and on request. Logs an error about invalid files once.
    pub(super) async fn run(&mut self, requests: &mut ReloadRequests) {
        // The latest error, and whether it has been logged.
        let mut latest: Option<(String, bool)> = None;
        loop {
            let requested = requests.requested_within(self.config.tls.reload_interval).await;
            match self.update() {
                Ok(changed) => {
                    latest = None;
                    if changed {
                        tracing::info!("using the new certificate in {}", self.config.tls.certificate_file);
                        self.check_validity();
                    } else if requested {
                        tracing::info!(
                            "the certificate in {} is unchanged",
                            self.config.tls.certificate_file
                        );
                    }
                }
                // The files cannot be replaced at the same moment, so an error is logged if the next read returns it,
                // too.
                Err(error) => {
                    let logged = match &latest {
                        Some((before, logged)) if *before == error => {
                            if !logged || requested {
                                tracing::error!(
                                    error.message = error,
                                    "failed to use the TLS files; keeping those in memory"
                                );
                            }
                            true
                        }
                        _ => false,
                    };
                    latest = Some((error, logged));
                }
            }
        }
    }

    /// Reads the files and uses them. Returns whether they have changed.
    fn update(&mut self) -> Result<bool, String> {
        let Self { encryption, config, .. } = self;
        let files = read(config)?;
        if files == encryption.files {
            return Ok(false);
        }
        encryption
            .tls
            .replace(&pem_files(config, &files))
            .map_err(|error| with_file_names(config, &error))?;
        encryption.files = files;
        Ok(true)
    }
}

fn read(config: &Config) -> Result<tls_files::TlsFiles, String> {
    let tls = &config.tls;
    let client_ca = Some(Path::new(&tls.client_ca_file)).filter(|path| !path.as_os_str().is_empty());
    tls_files::read(Path::new(&tls.certificate_file), Path::new(&tls.key_file), client_ca)
}

fn pem_files<'a>(config: &Config, files: &'a tls_files::TlsFiles) -> TlsFiles<'a> {
    let required = config.tls.client_certificate == ClientCertificate::Required;
    TlsFiles {
        certificates: &files.certificates,
        key: &files.key,
        clients: files.client_ca.as_deref().map(|roots| (roots, required)),
    }
}

/// Adds the names of the files to the settings that an error names.
fn with_file_names(config: &Config, sentence: &str) -> String {
    let tls = &config.tls;
    let files = [
        ("tls.certificate_file", &tls.certificate_file),
        ("tls.key_file", &tls.key_file),
        ("tls.client_ca_file", &tls.client_ca_file),
    ];
    files.iter().fold(sentence.to_owned(), |sentence, (setting, file)| {
        sentence.replace(setting, &format!("{setting} ({file})"))
    })
}
