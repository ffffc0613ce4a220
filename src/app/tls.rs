//! The TLS of the gRPC port: made at the start, made anew when its files change.

use std::{path::Path, sync::Arc};

use super::background::ReloadRequests;
use crate::{
    config::{ClientCertificate, Config},
    domain::ports::Clock,
    store::tls_files,
    transport::tls::{self, Tls, TlsFiles},
};

/// A port that is encrypted, and what its files held when it was last made.
pub(super) struct Encryption {
    pub(super) tls: Arc<Tls>,
    files: tls_files::TlsFiles,
}

/// The encryption of the gRPC port, where the settings ask for it.
pub(super) fn encryption(config: &Config, clock: &Arc<dyn Clock>) -> Result<Option<Encryption>, String> {
    if !config.tls.is_on() {
        return Ok(None);
    }
    let files = read(config)?;
    let tls = Tls::new(&parts(config, &files), Arc::clone(clock)).map_err(|error| named(config, &error))?;
    Ok(Some(Encryption { tls: Arc::new(tls), files }))
}

/// Warns of a certificate that no client will accept.
pub(super) fn look_at_dates(config: &Config, encryption: &Encryption, clock: &dyn Clock) {
    if let Some(what) = tls::validity_error(&encryption.files.certificates, clock.now()) {
        tracing::warn!("the certificate in {} {what}: clients will refuse it", config.tls.certificate_file);
    }
}

/// Uses new files once they are there. What is wrong with them is said once.
pub(super) async fn reload(
    encryption: &mut Encryption,
    config: &Config,
    clock: &dyn Clock,
    requests: &mut ReloadRequests,
) {
    // What was wrong at the last look, and whether that was said.
    let mut wrong: Option<(String, bool)> = None;
    loop {
        let requested = requests.due(config.tls.reload_interval).await;
        match update(encryption, config) {
            Ok(changed) => {
                wrong = None;
                if changed {
                    tracing::info!("using the new certificate in {}", config.tls.certificate_file);
                    look_at_dates(config, encryption, clock);
                } else if requested {
                    tracing::info!("the certificate in {} is unchanged", config.tls.certificate_file);
                }
            }
            // Two files are not replaced at the same moment: what is wrong at one look only is no fault.
            Err(error) => {
                let said = match &wrong {
                    Some((before, said)) if *before == error => {
                        if !said || requested {
                            tracing::error!(
                                error.message = error,
                                "the TLS files cannot be used; going on with those in memory"
                            );
                        }
                        true
                    }
                    _ => false,
                };
                wrong = Some((error, said));
            }
        }
    }
}

fn update(encryption: &mut Encryption, config: &Config) -> Result<bool, String> {
    let files = read(config)?;
    if files == encryption.files {
        return Ok(false);
    }
    encryption.tls.replace(&parts(config, &files)).map_err(|error| named(config, &error))?;
    encryption.files = files;
    Ok(true)
}

fn read(config: &Config) -> Result<tls_files::TlsFiles, String> {
    let tls = &config.tls;
    let client_ca = Some(Path::new(&tls.client_ca_file)).filter(|path| !path.as_os_str().is_empty());
    tls_files::read(Path::new(&tls.certificate_file), Path::new(&tls.key_file), client_ca)
}

fn parts<'a>(config: &Config, files: &'a tls_files::TlsFiles) -> TlsFiles<'a> {
    let required = config.tls.client_certificate == ClientCertificate::Required;
    TlsFiles {
        certificates: &files.certificates,
        key: &files.key,
        clients: files.client_ca.as_deref().map(|roots| (roots, required)),
    }
}

/// With the names of the files behind those of the settings.
fn named(config: &Config, sentence: &str) -> String {
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
