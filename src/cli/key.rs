//! `latchkey key`

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{Common, Failure, output};
use crate::{
    domain::{keyring::KeyAlgorithm, ports::Clock as _},
    store::{clock::SystemClock, key_files},
};

#[derive(Subcommand)]
pub(super) enum Key {
    /// Make a new signing key. A running server signs with it within seconds; tokens of older keys stay
    /// good as long as their files are there.
    #[command(after_help = "Examples:\n  latchkey key generate\n  latchkey key generate --algorithm ES256")]
    Generate {
        /// What the key is for; by default `token.algorithm`.
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
    },
    /// List the signing keys. The last one signs, unless `token.signing_key` names another.
    #[command(after_help = "Examples:\n  latchkey key list\n  latchkey key list --output json")]
    List,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "verbatim")]
pub(super) enum Algorithm {
    EdDSA,
    ES256,
    RS256,
    HS256,
}

impl Key {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        let config = common.config()?;
        let dir = config.keys_dir();
        match self {
            Self::Generate { algorithm } => {
                let algorithm = match algorithm {
                    None => config.token.algorithm,
                    Some(Algorithm::EdDSA) => KeyAlgorithm::EdDSA,
                    Some(Algorithm::ES256) => KeyAlgorithm::ES256,
                    Some(Algorithm::RS256) => KeyAlgorithm::RS256,
                    Some(Algorithm::HS256) => KeyAlgorithm::HS256,
                };
                let file =
                    key_files::generate(&dir, algorithm, SystemClock.now()).map_err(Failure::Refused)?;
                let path = file.path.display().to_string();
                let value = json!({ "file": path, "kid": file.key.kid, "algorithm": algorithm.name() });
                common.output().print(&value, || format!("{path}\nkid {}", file.key.kid)).map_err(|failure| {
                    // Whoever asked for it does not know of it.
                    let _ = std::fs::remove_file(&file.path);
                    Failure::Refused(format!("{}. The key was removed again", failure.into_sentence()))
                })?;
            }
            Self::List => {
                let files = key_files::list(&dir).map_err(Failure::Refused)?;
                let ring = key_files::load(&dir, config.signing_key()).map_err(Failure::Refused)?;
                let signing = &ring.signing().kid;
                let rows: Vec<_> = files
                    .iter()
                    .map(|file| {
                        let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        (name, &file.key.kid, file.key.algorithm.name(), file.key.kid == *signing)
                    })
                    .collect();
                let value: Vec<_> = rows
                    .iter()
                    .map(|(file, kid, algorithm, signs)| {
                        json!({ "file": file, "kid": kid, "algorithm": algorithm, "signs": signs })
                    })
                    .collect();
                common.output().print(&json!({ "keys": value }), || {
                    let line = |(file, kid, algorithm, signs): &(String, &String, &str, bool)| {
                        format!("{} {file}  {algorithm}  {kid}", if *signs { "signs   " } else { "verifies" })
                    };
                    output::joined(rows.iter().map(line))
                })?;
            }
        }
        Ok(())
    }
}
