//! Files that hold a secret: written so that only we can read them, refused where others can.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use zeroize::Zeroizing;

/// Reads a secret. One sentence, with the file's name and the remedy, where it cannot or must not be.
///
/// Readable by the group is allowed, as a mounted secret of Kubernetes is; by everybody is not.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let refused = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let mode = fs::metadata(path).map_err(refused)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!(
            "{path} can be read by everybody (mode {mode:04o}): run `chmod 600 {path}`",
            path = path.display(),
            mode = mode & 0o7777,
        ));
    }
    fs::read(path).map(Zeroizing::new).map_err(refused)
}

/// Writes a new secret, mode 0600; whole or not at all, and never over a file that is there.
pub fn create(path: &Path, contents: &[u8]) -> Result<(), String> {
    let refused = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.tmp", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(refused)?;
    let written = file
        .write_all(contents)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&unfinished, path));
    // The name under which it was begun; the file itself stays.
    let _ = fs::remove_file(&unfinished);
    written.map_err(refused)
}
