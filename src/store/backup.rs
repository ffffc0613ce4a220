//! Backup archives: tar files whose first member, `manifest.json`, has the SHA-256 of each of the others.
//!
//! The checksums find damage, not forgery: who can write the archive can write the checksums.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, EntryType, Header};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::{key_files, secret_file};

/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// The name of the database in the data directory and in an archive.
pub const DATABASE: &str = "latchkey.db";
/// The name of the directory of signing keys in the data directory and in an archive.
pub const KEYS: &str = "keys";
/// The name of the admin key in the data directory and in an archive.
pub const ADMIN_KEY: &str = "admin.key";

const MANIFEST: &str = "manifest.json";
const MAX_MANIFEST: u64 = 1024 * 1024;

/// The contents of an archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the archive, under a name that says whose archive it is.
    #[serde(rename = "latchkey_backup")]
    pub format: u32,
    /// The version of Latchkey that wrote it.
    pub version: String,
    /// When it was written, in RFC 3339.
    pub created_at: String,
    /// The scheme of `sessions.url`.
    pub sessions: String,
    /// The scheme of `accounts.url`.
    pub accounts: String,
    /// The SHA-256 of each file in hexadecimal.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// The manifest of a new archive, without files.
    pub fn new(created_at: String, sessions: &str, accounts: &str) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created_at,
            sessions: sessions.to_owned(),
            accounts: accounts.to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// Whether the archive has the database.
    pub fn has_database(&self) -> bool {
        self.files.contains_key(DATABASE)
    }
}

/// A file for an archive.
pub struct Source {
    name: String,
    content: Content,
}

enum Content {
    File(PathBuf),
    Secret(Zeroizing<Vec<u8>>),
}

impl Source {
    /// The database: a copy of it that does not change.
    pub fn database(copy: &Path) -> Self {
        Self { name: DATABASE.to_owned(), content: Content::File(copy.to_owned()) }
    }

    /// Reads a secret.
    pub fn secret(name: String, file: &Path) -> Result<Self, String> {
        Ok(Self { name, content: Content::Secret(secret_file::read_to_present(file)?) })
    }

    /// Reads the signing keys in a directory.
    pub fn keys(directory: &Path) -> Result<Vec<Self>, String> {
        let names = key_files::names(directory)?;
        names.iter().map(|name| Self::secret(format!("{KEYS}/{name}"), &directory.join(name))).collect()
    }

    fn open(&self) -> io::Result<(u64, Box<dyn Read + '_>)> {
        Ok(match &self.content {
            Content::File(path) => {
                let file = File::open(path)?;
                (file.metadata()?.len(), Box::new(file))
            }
            Content::Secret(bytes) => (bytes.len() as u64, Box::new(bytes.as_slice())),
        })
    }
}

/// Writes an archive. Returns its manifest with the files.
pub fn write(out: impl Write, mut manifest: Manifest, sources: &[Source]) -> io::Result<Manifest> {
    for source in sources {
        let sha256 = copy(&mut source.open()?.1, &mut io::sink())?;
        manifest.files.insert(source.name.clone(), sha256);
    }
    let mut archive = Builder::new(out);
    let mut append = |name: &str, size: u64, content: &mut dyn Read| {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_mode(0o600);
        archive.append_data(&mut header, name, content)
    };
    let text = serde_json::to_vec_pretty(&manifest)?;
    append(MANIFEST, text.len() as u64, &mut text.as_slice())?;
    for source in sources {
        let (size, mut content) = source.open()?;
        append(&source.name, size, &mut content)?;
    }
    archive.into_inner()?.flush()?;
    Ok(manifest)
}

/// Writes an archive to a file with mode 0600, which is there completely or not at all.
pub fn write_file(
    path: &Path,
    replace: bool,
    manifest: Manifest,
    sources: &[Source],
) -> Result<Manifest, String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let directory = directory_of(path);
    let mut file = temporary_file(directory).map_err(failed)?;
    let manifest = write(file.as_file_mut(), manifest, sources).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let persisted = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    persisted.map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => failed(error.error),
    })?;
    sync_directory(directory).map_err(failed)?;
    Ok(manifest)
}

/// Creates an empty file with mode 0600, which is removed when it is dropped.
pub fn temporary_file(directory: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(".latchkey-backup-").tempfile_in(directory)
}

/// The error about a file that [`write_file`] would have to replace.
pub fn exists(path: &Path) -> String {
    format!("{} exists: choose another name, or replace it with --force", path.display())
}

/// Extracts an archive to an empty directory and checks all of it. After an error, the directory must be removed.
pub fn extract(input: impl Read, into: &Path) -> Result<Manifest, String> {
    let damaged = |error: io::Error| format!("it is damaged or no archive of `latchkey backup` ({error})");
    let mut archive = Archive::new(input);
    let mut entries = archive.entries().map_err(damaged)?;
    let first = entries.next().ok_or("it is empty")?.map_err(damaged)?;
    if first.path_bytes() != MANIFEST.as_bytes() {
        return Err(format!("it does not begin with {MANIFEST}, so it is no archive of `latchkey backup`"));
    }
    let mut text = Vec::new();
    first.take(MAX_MANIFEST).read_to_end(&mut text).map_err(damaged)?;
    let manifest = read_manifest(&text)?;
    let mut missing = manifest.files.clone();
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let expected = missing.remove(&name);
        let Some(sha256) = expected.filter(|_| entry.header().entry_type() == EntryType::Regular) else {
            return Err(format!("its member {} is not in its manifest", name.escape_debug()));
        };
        let path = into.join(&name);
        let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
        let mut file = create(&path).map_err(failed)?;
        if copy(&mut entry, &mut file).map_err(failed)? != sha256 {
            return Err(format!("{name} is damaged: its SHA-256 is not that in the manifest"));
        }
        file.sync_all().map_err(failed)?;
    }
    match missing.keys().next() {
        Some(name) => Err(format!("{name} is missing: the archive is incomplete")),
        None => Ok(manifest),
    }
}

/// Creates a file, and its directory if needed, for the owner of the directory alone.
fn create(path: &Path) -> io::Result<File> {
    let directory = directory_of(path);
    if !directory.exists() {
        DirBuilder::new().mode(0o700).create(directory)?;
        secret_file::give_to_owner_of_directory(&File::open(directory)?, directory)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    secret_file::give_to_owner_of_directory(&file, path)?;
    Ok(file)
}

fn read_manifest(text: &[u8]) -> Result<Manifest, String> {
    /// What every format has.
    #[derive(Deserialize)]
    struct Common {
        latchkey_backup: u32,
        version: String,
    }
    let invalid = |error: serde_json::Error| format!("its manifest is invalid ({error})");
    let Common { latchkey_backup: format, version } = serde_json::from_slice(text).map_err(invalid)?;
    if format != FORMAT {
        return Err(format!(
            "it has format {format} and was written by Latchkey {version}, but this version reads format {FORMAT}: use Latchkey {version} or newer"
        ));
    }
    let manifest: Manifest = serde_json::from_slice(text).map_err(invalid)?;
    let is_key = |name: &str| {
        name.strip_prefix("keys/").is_some_and(|key| !key.contains('/') && key_files::is_key_file(key))
    };
    for name in manifest.files.keys() {
        if !(name == DATABASE || name == ADMIN_KEY || is_key(name)) {
            return Err(format!("its manifest has {}, which is no file of a backup", name.escape_debug()));
        }
    }
    Ok(manifest)
}

/// Copies everything. Returns the SHA-256 in hexadecimal.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<String> {
    struct Hashing<'a>(Context, &'a mut dyn Write);
    impl Write for Hashing<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.1.write(bytes)?;
            self.0.update(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.1.flush()
        }
    }
    let mut hashing = Hashing(Context::new(&SHA256), to);
    io::copy(from, &mut hashing)?;
    Ok(HEXLOWER.encode(hashing.0.finish().as_ref()))
}

/// The directory that holds a path.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Makes creations and renames in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// An archive with a key, an admin key, and this database.
    fn archive(database: &[u8]) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(DATABASE);
        fs::write(&file, database).unwrap();
        let secret = |name: &str| Source {
            name: name.to_owned(),
            content: Content::Secret(Zeroizing::new(b"secret".to_vec())),
        };
        let mut bytes = Vec::new();
        let manifest = Manifest::new("now".to_owned(), "embedded", "embedded");
        write(&mut bytes, manifest, &[Source::database(&file), secret("keys/1.pem"), secret(ADMIN_KEY)])
            .unwrap();
        bytes
    }

    fn error(archive: &[u8]) -> String {
        extract(archive, tempfile::tempdir().unwrap().path()).err().unwrap_or_default()
    }

    /// The archive with every occurrence of a text replaced by another of the same length, and new header checksums.
    fn replaced(archive: &[u8], text: &str, with: &str) -> Vec<u8> {
        assert_eq!(text.len(), with.len());
        let mut bytes = archive.to_vec();
        for at in 0..bytes.len() - text.len() {
            if bytes[at..].starts_with(text.as_bytes()) {
                bytes[at..at + text.len()].copy_from_slice(with.as_bytes());
            }
        }
        for block in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        bytes
    }

    #[test]
    fn an_archive_restores_contents_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = extract(archive(b"rows").as_slice(), directory.path()).unwrap();
        assert_eq!(manifest.files.len(), 3);
        assert_eq!(fs::read(directory.path().join(DATABASE)).unwrap(), b"rows");
        let key = directory.path().join("keys/1.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(key).unwrap(), b"secret");
    }

    #[test]
    fn a_damaged_or_altered_archive_is_an_error() {
        let good = archive(b"rows");
        assert_eq!(error(&replaced(&good, "rows", "rows")), "", "the helper changes nothing else");
        for (bytes, said) in [
            (replaced(&good, "rows", "cows"), "latchkey.db is damaged"),
            (replaced(&good, "keys/1.pem", "../../.pem"), "no file of a backup"),
            (replaced(&good, "keys/1.pem", "keys/1.txt"), "no file of a backup"),
            (replaced(&good, "admin.key\"", "admin.kez\""), "no file of a backup"),
            (replaced(&good, "admin.key\0", "admin.kez\0"), "not in its manifest"),
            (replaced(&good, "backup\": 1", "backup\": 2"), "it has format 2"),
            (replaced(&good, "latchkey_backup", "somebody_backup"), "its manifest is invalid"),
            (b"not an archive".to_vec(), "no archive"),
            (Vec::new(), "it is empty"),
        ] {
            let error = error(&bytes);
            assert!(error.contains(said), "{said}: {error}");
        }
    }

    #[test]
    fn an_archive_cut_short_anywhere_before_its_end_is_an_error() {
        let good = archive(&[7; 2000]);
        // Two empty blocks mark the end; without them everything is there.
        for length in (0..good.len() - 1024).step_by(97) {
            assert_ne!(error(&good[..length]), "", "{length} of {} bytes", good.len());
        }
    }

    #[test]
    fn a_file_is_replaced_only_on_request() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backup.tar");
        let written = |replace| write_file(&path, replace, Manifest::new(String::new(), "", ""), &[]);
        written(false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(written(false).unwrap_err().contains("--force"));
        written(true).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
