//! Files that hold a secret. They are created readable by their owner only, and not read if others can read or change
//! them.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use zeroize::Zeroizing;

use super::permissions;

/// Reads a secret that the server relies on. Fails if others can read, change or replace the file. The error names
/// the file and the remedy.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let read_error = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let mut file = fs::File::open(path).map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    permissions::check_file(path, &metadata)?;
    let mut contents = Zeroizing::new(Vec::new());
    file.read_to_end(&mut contents).map_err(read_error)?;
    Ok(contents)
}

/// Reads a secret for a command that presents it to a server. The owner is not checked, because root may run the
/// command.
pub fn read_to_present(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let read_error = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let mode = fs::metadata(path).map_err(read_error)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!(
            "{path} can be read by everybody (mode {mode:04o}): run `chmod 600 {path}`",
            path = path.display(),
            mode = mode & 0o7777,
        ));
    }
    fs::read(path).map(Zeroizing::new).map_err(read_error)
}

/// Creates a directory for secrets with mode 0700, unless it exists.
pub fn create_directory(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Ok(());
    }
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created
        .and_then(|()| give_to_owner_of_directory(&fs::File::open(path)?, path))
        .map_err(|error| format!("cannot create {}: {error}", path.display()))
}

/// Fails if everybody can write to the data directory.
pub fn check_data_directory(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o002 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(format!("{path} can be written by everybody (mode {mode:04o}): run `chmod 700 {path}`"))
}

/// Fails if others can write to a directory of keys.
pub fn check_directory(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    permissions::check_directory(path, &metadata)
}

/// Removes the right of others to list a directory, which earlier versions of Latchkey gave. A directory in which
/// others can write stays as it is, so that [`check_directory`] reports it: they may have put files there.
pub fn close_directory(path: &Path) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.mode();
    let is_owner = metadata.uid() == rustix::process::geteuid().as_raw();
    if is_owner && mode & 0o005 != 0 && mode & 0o022 == 0 {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    }
}

/// Creates a file with mode 0600, atomically and without replacing an existing file. If root writes into a directory
/// of another user, the file gets the owner of the directory, who could not read it otherwise.
pub fn create(path: &Path, contents: &[u8]) -> Result<(), String> {
    let write_error = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(write_error)?;
    let written = file
        .write_all(contents)
        .and_then(|()| give_to_owner_of_directory(&file, path))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&temporary, path));
    // The file itself stays, under its final name.
    let _ = fs::remove_file(&temporary);
    written.map_err(write_error)
}

pub(super) fn give_to_owner_of_directory(file: &fs::File, path: &Path) -> io::Result<()> {
    let Some(directory) = path.parent().and_then(|parent| parent.metadata().ok()) else { return Ok(()) };
    let user = rustix::process::geteuid();
    if user.is_root() && directory.uid() != 0 {
        std::os::unix::fs::fchown(file, Some(directory.uid()), Some(directory.gid()))?;
    }
    Ok(())
}
