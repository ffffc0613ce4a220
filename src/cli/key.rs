//! `latchkey key`: manages the signing keys in the key directory of this machine.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{CommandError, Common, output};
use crate::{
    domain::{
        keyring::KeyAlgorithm,
        ports::Clock as _,
        rotation::{KeyFile, activation_time},
        types::Timestamp,
    },
    store::{clock::SystemClock, key_files},
};

#[derive(Subcommand)]
pub(super) enum Key {
    /// Generate a new signing key. Running servers publish it within `token.reload_interval` and sign with it after
    /// `token.activation_delay`. Tokens of older keys stay valid as long as their key files exist.
    #[command(after_help = "Examples:\n  latchkey key generate\n  latchkey key generate --algorithm ES256")]
    Generate {
        /// The algorithm of the key. The default is `token.algorithm`.
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
    },
    /// List the signing keys. The newest key signs, unless `token.signing_key` names another one. For a key that does not sign
    /// yet, the time of its activation is shown.
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
    pub(super) fn run(self, common: &Common) -> Result<(), CommandError> {
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
                let (path, key) =
                    key_files::generate(&dir, algorithm, SystemClock.now()).map_err(CommandError::Failed)?;
                let file = path.display().to_string();
                let value = json!({ "file": file, "kid": key.kid, "algorithm": algorithm.name() });
                common.output().print(&value, || format!("{file}\nkid {}", key.kid)).map_err(|error| {
                    // The key was not announced, and it does not sign yet.
                    let _ = std::fs::remove_file(&path);
                    CommandError::Failed(format!("{}. The key was removed again", error.message()))
                })
            }
            Self::List => {
                let files = key_files::list(&dir).map_err(CommandError::Failed)?;
                let named = config.signing_key();
                let is_named = |file: &KeyFile| named.is_none_or(|name| file.name == name);
                let Some(signing) = files.iter().rfind(|file| is_named(file)) else {
                    let name = named.unwrap_or_default();
                    return Err(CommandError::Failed(format!(
                        "token.signing_key: there is no key file {name} in {}",
                        dir.display()
                    )));
                };
                let from = match named {
                    Some(_) => None,
                    None => activation_time(&files, SystemClock.now(), config.token.activation_delay()),
                };
                let from = from.map(|from| output::time(Some(&to_proto(from))));
                let rows: Vec<_> = files
                    .iter()
                    .map(|file| {
                        let signs = file.key.kid == signing.key.kid;
                        let from = from.as_deref().filter(|_| signs);
                        (&file.name, &file.key.kid, file.key.algorithm.name(), signs, from)
                    })
                    .collect();
                let value: Vec<_> = rows
                    .iter()
                    .map(|(file, kid, algorithm, signs, from)| {
                        json!({ "file": file, "kid": kid, "algorithm": algorithm, "signs": signs, "signs_from": from })
                    })
                    .collect();
                common.output().print(&json!({ "keys": value }), || {
                    output::join_lines(rows.iter().map(|(file, kid, algorithm, signs, from)| {
                        let from = from.map(|from| format!("  from {from}")).unwrap_or_default();
                        let purpose = if *signs { "signs   " } else { "verifies" };
                        format!("{purpose} {file}  {algorithm}  {kid}{from}")
                    }))
                })
            }
        }
    }
}

fn to_proto(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.as_micros() % 1_000_000 * 1000).unwrap_or_default(),
    }
}
