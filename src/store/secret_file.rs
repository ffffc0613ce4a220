//! Files that hold a secret: written so that only we can read them, refused where others can read or change them.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use zeroize::Zeroizing;

use super::permissions;

/// Reads a secret that the server relies on. One sentence, with the file's name and the remedy, where it cannot or
/// must not be: where others can read it, change it or put another one in its place.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let refused = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let mut file = fs::File::open(path).map_err(refused)?;
    let metadata = file.metadata().map_err(refused)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    permissions::check_file(path, &metadata)?;
    let mut contents = Zeroizing::new(Vec::new());
    file.read_to_end(&mut contents).map_err(refused)?;
    Ok(contents)
}

/// Reads a secret to present it to a server, as a command does: whose it is matters to the server, and root runs
/// commands for it.
pub fn read_to_present(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
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

/// Makes a directory for secrets, mode 0700, where there is none.
pub fn create_directory(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| hand_over(&fs::File::open(path)?, path))
        .map_err(|error| format!("cannot create {}: {error}", path.display()))
}

/// Refuses a data directory in which everybody can put files.
pub fn check_data_directory(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o002 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(format!("{path} can be written by everybody (mode {mode:04o}): run `chmod 700 {path}`"))
}

/// Refuses a directory in which others can put keys.
pub fn check_directory(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    permissions::check_directory(path, &metadata)
}

/// Closes a directory of ours that an earlier version has left open to be listed. Where others could write, it stays
/// as it is, to be refused: they may have done so.
pub fn close_directory(path: &Path) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.mode();
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if is_ours && mode & 0o005 != 0 && mode & 0o022 == 0 {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    }
}

/// Writes a new secret, mode 0600; whole or not at all, and never over a file that is there. What root writes into a
/// directory of another user belongs to that user, who could not read it otherwise.
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
        .and_then(|()| hand_over(&file, path))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&unfinished, path));
    // The name under which it was begun; the file itself stays.
    let _ = fs::remove_file(&unfinished);
    written.map_err(refused)
}

fn hand_over(file: &fs::File, path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent().and_then(|parent| parent.metadata().ok()) else { return Ok(()) };
    let user = rustix::process::geteuid();
    if user.is_root() && directory.uid() != 0 {
        std::os::unix::fs::fchown(file, Some(directory.uid()), Some(directory.gid()))?;
    }
    Ok(())
}
