//! Signing keys as files in one directory, named by the time of their creation.
//!
//! A rotation adds a file; the old file is removed once all tokens of its key have expired.
//! `domain/credentials/rotation.rs` decides which key signs.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use zeroize::Zeroizing;

use super::secret_file;
use crate::domain::{
    keyring::{Key, KeyAlgorithm, KeyFormat, Keyring},
    rotation::{KeyDirectory, KeyFile, KeyFiles},
    types::Timestamp,
};

/// A directory of key files.
pub struct KeyFileDirectory(pub PathBuf);

impl KeyDirectory for KeyFileDirectory {
    fn read(&self) -> Result<KeyFiles, String> {
        secret_file::check_directory(&self.0)?;
        read(&self.0, secret_file::read)
    }
}

/// A function of [`secret_file`] that reads a file.
type ReadFile = fn(&Path) -> Result<Zeroizing<Vec<u8>>, String>;

/// Returns the keys in `directory`, for commands. A file that is not a valid key is an error.
pub fn list(directory: &Path) -> Result<Vec<KeyFile>, String> {
    require_all_valid(read(directory, secret_file::read_to_present)?)
}

/// Returns the keys in `directory`, with the same errors as the start of a server.
pub fn check(directory: &Path) -> Result<Vec<KeyFile>, String> {
    require_all_valid(KeyFileDirectory(directory.to_owned()).read()?)
}

fn require_all_valid(files: KeyFiles) -> Result<Vec<KeyFile>, String> {
    files.errors.into_iter().next().map_or(Ok(files.keys), Err)
}

fn read(directory: &Path, read_file: ReadFile) -> Result<KeyFiles, String> {
    let mut files = KeyFiles::default();
    let mut secrets = Vec::new();
    for (path, format) in paths(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match read_key(&path, &name, format, read_file) {
            Ok((file, contents)) => {
                if format == KeyFormat::Secret {
                    secrets.push((name, contents));
                }
                files.keys.push(file);
            }
            Err(error) => files.errors.push(error),
        }
    }
    for (name, contents) in secrets {
        if let Some(other) = files.keys.iter().find(|file| file.key.publishes(&contents)) {
            files.errors.push(format!(
                "{} holds the public key of {}, which is not secret: create a secret with `latchkey key generate --algorithm HS256`",
                directory.join(&name).display(),
                other.name
            ));
            files.keys.retain(|file| file.name != name);
        }
    }
    if files.keys.is_empty() && files.errors.is_empty() {
        return Err(format!("there is no key in {}: run `latchkey key generate`", directory.display()));
    }
    Ok(files)
}

fn read_key(
    path: &Path,
    name: &str,
    format: KeyFormat,
    read_file: ReadFile,
) -> Result<(KeyFile, Zeroizing<Vec<u8>>), String> {
    let contents = read_file(path)?;
    let key = Key::read(format, &contents).map_err(|error| format!("{} {error}", path.display()))?;
    let metadata = fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    // The change time counts, too, because a file may have been moved or copied here with its old modification time.
    let (seconds, nanos) =
        (metadata.mtime(), metadata.mtime_nsec()).max((metadata.ctime(), metadata.ctime_nsec()));
    let micros = seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000);
    let written = Timestamp::from_micros(u64::try_from(micros).unwrap_or_default());
    Ok((KeyFile { name: name.to_owned(), key, written, created: created_at(name) }, contents))
}

/// Parses the time of creation from a name by [`generate`].
fn created_at(name: &str) -> Option<Timestamp> {
    let time: Vec<&str> = name.get(..24)?.split(['-', 'T']).collect();
    let [year, month, day, hour, minute, second, rest] = time.as_slice() else { return None };
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}.{rest}");
    let since = humantime::parse_rfc3339(&text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_micros(u64::try_from(since.as_micros()).ok()?))
}

/// Returns the names of the key files in `directory`, in order. Their contents are not checked.
pub fn names(directory: &Path) -> Result<Vec<String>, String> {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let named = paths(directory)?.into_iter().map(|(path, _)| {
        name(&path).ok_or_else(|| format!("the name of {} is not UTF-8: rename it", path.display()))
    });
    named.collect()
}

/// Whether a file with this name is a key file.
pub fn is_key_file(name: &str) -> bool {
    let extension = Path::new(name).extension();
    !name.starts_with('.')
        && KeyFormat::ALL
            .iter()
            .any(|format| extension.is_some_and(|extension| extension == format.extension()))
}

/// Returns the files in `directory` that have the extension of a key format, in the order of their names.
fn paths(directory: &Path) -> Result<Vec<(PathBuf, KeyFormat)>, String> {
    let read_error = |error: std::io::Error| format!("cannot read {}: {error}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let has_extension =
            |format: &KeyFormat| path.extension().is_some_and(|extension| extension == format.extension());
        if let Some(format) = KeyFormat::ALL.into_iter().find(has_extension).filter(|_| !is_hidden) {
            paths.push((path, format));
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether `directory` has a file with the extension of a key format.
pub fn exist(directory: &Path) -> Result<bool, String> {
    Ok(directory.exists() && !paths(directory)?.is_empty())
}

/// Returns a key ring with the keys in `directory`, of which the last by name signs.
pub fn load(directory: &Path) -> Result<Keyring, String> {
    let keys: Vec<_> = list(directory)?.into_iter().map(|file| file.key).collect();
    let last = keys.len().saturating_sub(1);
    Keyring::new(keys, last)
        .ok_or_else(|| format!("there is no key in {}: run `latchkey key generate`", directory.display()))
}

/// Creates the first key of a directory, unless a server that starts at the same time has created it.
pub fn generate_first(directory: &Path, algorithm: KeyAlgorithm, now: Timestamp) -> Result<(), String> {
    secret_file::create_directory(directory)?;
    // If the file system has no locks, two servers may create one key each. That does no lasting harm, because both
    // keys verify tokens.
    let lock = File::open(directory).and_then(|file| file.lock().map(|()| file));
    if !exist(directory)? {
        generate(directory, algorithm, now)?;
    }
    drop(lock);
    Ok(())
}

/// Creates a key file in `directory`, named by the time.
pub fn generate(directory: &Path, algorithm: KeyAlgorithm, now: Timestamp) -> Result<(PathBuf, Key), String> {
    secret_file::create_directory(directory)?;
    let contents = algorithm.generate().map_err(|error| error.to_string())?;
    let format = algorithm.format();
    let key = Key::read(format, contents.as_bytes()).map_err(|error| error.to_string())?;
    let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(now.as_micros()));
    let name = format!(
        "{}-{}.{}",
        time.to_string().replace([':', '.'], "-"),
        algorithm.name().to_lowercase(),
        format.extension()
    );
    let path = directory.join(name);
    secret_file::create(&path, contents.as_bytes())?;
    Ok((path, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_key_file_has_the_time_of_creation() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::from_micros(1_800_000_000_123_000);
        for algorithm in KeyAlgorithm::ALL {
            let (path, _) = generate(directory.path(), algorithm, now).unwrap();
            assert_eq!(
                created_at(path.file_name().unwrap().to_str().unwrap()),
                Some(now),
                "{}",
                path.display()
            );
        }
        for name in
            ["mine.pem", "2026-11-28.pem", "2026-13-28T10-00-00-000Z-eddsa.pem", "日本語日本語日本語.pem"]
        {
            assert_eq!(created_at(name), None, "{name}");
        }
    }

    #[test]
    fn an_invalid_file_is_named_and_the_others_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let (_, good) =
            generate(directory.path(), KeyAlgorithm::EdDSA, Timestamp::from_secs(1_800_000_000)).unwrap();
        let public = directory.path().join("public.pem");
        secret_file::create(&public, include_bytes!("../domain/credentials/keyring/fixtures/rsa_public.pem"))
            .unwrap();
        let error = list(directory.path()).err().unwrap();
        assert!(error.starts_with(&format!("{} holds a public key in PEM", public.display())), "{error}");
        let KeyFiles { keys, errors } = read(directory.path(), secret_file::read).unwrap();
        assert_eq!((keys.len(), errors), (1, vec![error]));
        assert_eq!(keys[0].key.kid, good.kid);
    }
}
