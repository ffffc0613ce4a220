//! Signing keys as files in one directory: the last by name signs, all verify.
//!
//! New files are named by the time, so the newest key signs. To rotate, add a file; once every token of
//! the old key has expired, remove the old one. While a new key is being handed out to several replicas,
//! name the old one in `token.signing_key`: then all verify with the new one before any signs with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::domain::{
    keyring::{Key, KeyAlgorithm, Keyring},
    types::Timestamp,
};

/// A key and the file it came from.
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// The key.
    pub key: Key,
}

/// The keys in `directory`, in the order of their names.
pub fn list(directory: &Path) -> Result<Vec<KeyFile>, String> {
    let refused = |error: std::io::Error| format!("cannot read {}: {error}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_key = path.extension().is_some_and(|extension| extension == "pem" || extension == "secret");
        if is_key && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let contents = super::secret_file::read(&path)?;
            let key = Key::read(&contents).map_err(|error| format!("{} {error}", path.display()))?;
            Ok(KeyFile { path, key })
        })
        .collect()
}

/// The keys in `directory`; `signing` names the file that signs, otherwise the last one does.
pub fn load(directory: &Path, signing: Option<&str>) -> Result<Keyring, String> {
    let files = list(directory)?;
    let index = match signing {
        None => files.len().checked_sub(1),
        Some(name) => files.iter().position(|file| file.path.file_name().is_some_and(|found| found == name)),
    };
    let keys = files.into_iter().map(|file| file.key).collect();
    index.and_then(|index| Keyring::new(keys, index)).ok_or_else(|| match signing {
        Some(name) => format!("token.signing_key: there is no key file {name} in {}", directory.display()),
        None => format!("there is no key in {}: run `latchkey key generate`", directory.display()),
    })
}

/// Makes a new key file in `directory`, named by the time.
pub fn generate(directory: &Path, algorithm: KeyAlgorithm, now: Timestamp) -> Result<KeyFile, String> {
    fs::create_dir_all(directory)
        .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    let contents = algorithm.generate().map_err(|error| error.to_string())?;
    let key = Key::read(contents.as_bytes()).map_err(|error| error.to_string())?;
    let extension = if algorithm == KeyAlgorithm::HS256 { "secret" } else { "pem" };
    let time = humantime::format_rfc3339_millis(
        std::time::UNIX_EPOCH + std::time::Duration::from_micros(now.as_micros()),
    );
    let name = format!(
        "{}-{}.{extension}",
        time.to_string().replace([':', '.'], "-"),
        algorithm.name().to_lowercase()
    );
    let path = directory.join(name);
    super::secret_file::create(&path, contents.as_bytes())?;
    Ok(KeyFile { path, key })
}
