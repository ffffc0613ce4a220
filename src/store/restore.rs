//! Puts the files of a backup into a data directory.
//!
//! They are extracted into a directory in it and moved from there, because the data directory may be the root of a volume
//! and cannot be exchanged as a whole. While that directory exists, no server starts; after a crash, the restore is run
//! again. Old files are moved aside and never deleted.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::{
    backup::{ADMIN_KEY, DATABASE, KEYS, sync_directory},
    secret_file,
};

const INCOMPLETE: &str = "restore.incomplete";
const LOCK: &str = "latchkey.lock";
const WAL_FILES: [&str; 2] = ["latchkey.db-wal", "latchkey.db-shm"];

/// Fails if a restore of the data directory was interrupted.
pub fn check_complete(data_dir: &Path) -> Result<(), String> {
    if !data_dir.join(INCOMPLETE).exists() {
        return Ok(());
    }
    Err(format!(
        "data_dir: a restore of {} was interrupted, or is running: run `latchkey restore --force` again with its file",
        data_dir.display()
    ))
}

/// How a process uses a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Alone.
    Exclusive,
    /// Together with servers that share sessions through Redis.
    Shared,
}

/// Locks a data directory for as long as the file is open. Returns `None` if another process uses it.
pub fn lock(data_dir: &Path, how: Use) -> io::Result<Option<File>> {
    let path = data_dir.join(LOCK);
    let file = File::create(&path)?;
    secret_file::give_to_owner_of_directory(&file, &path)?;
    let locked = match how {
        Use::Exclusive => file.try_lock(),
        Use::Shared => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A restore whose files are not in their places yet. Dropping it undoes it.
pub struct Staging {
    data_dir: PathBuf,
    directory: PathBuf,
    _lock: File,
    /// Whether files may have been moved.
    placing: bool,
}

impl Staging {
    /// Locks the data directory, which is created if needed, and makes a directory in it for the archive.
    pub fn begin(data_dir: &Path, force: bool) -> Result<Self, String> {
        let shown = data_dir.display();
        let failed = |error: io::Error| format!("data_dir: cannot use {shown}: {error}");
        let named = |error: String| format!("data_dir: {error}");
        secret_file::create_directory(data_dir).map_err(named)?;
        secret_file::check_data_directory(data_dir).map_err(named)?;
        let lock = lock(data_dir, Use::Exclusive)
            .map_err(failed)?
            .ok_or_else(|| format!("{shown} is in use: stop every Latchkey on it first"))?;
        let present = |name: &&str| data_dir.join(name).symlink_metadata().is_ok();
        if let (Some(name), false) = ([DATABASE, KEYS, ADMIN_KEY].into_iter().find(present), force) {
            return Err(format!(
                "{shown} is not empty, it has {name}: restore into an empty directory (data_dir), or move its files aside with --force"
            ));
        }
        let directory = data_dir.join(INCOMPLETE);
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(failed)?;
        }
        DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        let staging = Self { data_dir: data_dir.to_owned(), directory, _lock: lock, placing: false };
        File::open(&staging.directory)
            .and_then(|file| secret_file::give_to_owner_of_directory(&file, &staging.directory))
            .map_err(failed)?;
        Ok(staging)
    }

    /// The directory for the archive.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Moves the files to their places, and the old ones of the same names to `aside` in the data directory. Returns the
    /// path of that directory if there were any.
    pub fn place(mut self, aside: &str) -> Result<Option<PathBuf>, String> {
        self.placing = true;
        self.move_files(aside).map_err(|error| {
            format!(
                "data_dir: cannot use {}: {error}: run the restore again with --force",
                self.data_dir.display()
            )
        })
    }

    fn move_files(&self, aside: &str) -> io::Result<Option<PathBuf>> {
        let (data_dir, new) = (&self.data_dir, &self.directory);
        let names = [KEYS, ADMIN_KEY, DATABASE].into_iter().filter(|name| new.join(name).exists());
        let names: Vec<_> = names.collect();
        if names.contains(&KEYS) {
            sync_directory(&new.join(KEYS))?;
        }
        sync_directory(new)?;
        sync_directory(data_dir)?;
        // The -wal file belongs to the old database.
        let wal = WAL_FILES.into_iter().filter(|_| names.contains(&DATABASE));
        let old: Vec<_> = names
            .iter()
            .copied()
            .chain(wal)
            .filter(|name| data_dir.join(name).symlink_metadata().is_ok())
            .collect();
        let aside = data_dir.join(aside);
        if !old.is_empty() {
            DirBuilder::new().mode(0o700).create(&aside)?;
            secret_file::give_to_owner_of_directory(&File::open(&aside)?, &aside)?;
            for name in &old {
                fs::rename(data_dir.join(name), aside.join(name))?;
            }
            sync_directory(&aside)?;
        }
        for name in names {
            fs::rename(new.join(name), data_dir.join(name))?;
        }
        sync_directory(data_dir)?;
        fs::remove_dir_all(new)?;
        sync_directory(data_dir)?;
        Ok((!old.is_empty()).then_some(aside))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.placing {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(data_dir: &Path, force: bool) -> Staging {
        let staging = Staging::begin(data_dir, force).unwrap();
        fs::write(staging.directory().join(DATABASE), "new").unwrap();
        fs::create_dir(staging.directory().join(KEYS)).unwrap();
        fs::write(staging.directory().join(KEYS).join("new.pem"), "new").unwrap();
        fs::write(staging.directory().join(ADMIN_KEY), "new").unwrap();
        staging
    }

    /// A data directory with a database, its -wal file, a key and a file of somebody else.
    fn used() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(DATABASE), "old").unwrap();
        fs::write(directory.path().join(WAL_FILES[0]), "old").unwrap();
        fs::create_dir(directory.path().join(KEYS)).unwrap();
        fs::write(directory.path().join(KEYS).join("old.pem"), "old").unwrap();
        fs::write(directory.path().join("notes.txt"), "mine").unwrap();
        directory
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn old_files_are_moved_aside_and_only_on_request() {
        let directory = used();
        let data_dir = directory.path();
        assert!(Staging::begin(data_dir, false).err().unwrap().contains("is not empty"));
        drop(staged(data_dir, true));
        assert_eq!(read(data_dir.join(DATABASE)), "old", "a restore that was dropped changes nothing");
        check_complete(data_dir).unwrap();
        assert_eq!(staged(data_dir, true).place("aside").unwrap(), Some(data_dir.join("aside")));
        for name in [DATABASE, ADMIN_KEY, "keys/new.pem"] {
            assert_eq!(read(data_dir.join(name)), "new", "{name}");
        }
        for name in [DATABASE, WAL_FILES[0], "keys/old.pem"] {
            assert_eq!(read(data_dir.join("aside").join(name)), "old", "{name}");
        }
        assert!(!data_dir.join(WAL_FILES[0]).exists() && !data_dir.join("keys/old.pem").exists());
        assert!(data_dir.join("notes.txt").exists());
        check_complete(data_dir).unwrap();
    }

    #[test]
    fn a_restore_that_was_interrupted_can_be_run_again() {
        let directory = used();
        let data_dir = directory.path();
        let mut staging = staged(data_dir, true);
        // A crash after some files were moved.
        fs::create_dir(data_dir.join("first")).unwrap();
        fs::rename(data_dir.join(KEYS), data_dir.join("first").join(KEYS)).unwrap();
        fs::rename(staging.directory().join(KEYS), data_dir.join(KEYS)).unwrap();
        staging.placing = true;
        drop(staging);
        assert!(check_complete(data_dir).unwrap_err().contains("--force"));
        staged(data_dir, true).place("second").unwrap();
        assert_eq!(read(data_dir.join(DATABASE)), "new");
        assert_eq!(read(data_dir.join("first/keys/old.pem")), "old");
        assert_eq!(read(data_dir.join("second").join(DATABASE)), "old");
        check_complete(data_dir).unwrap();
    }

    #[test]
    fn a_data_directory_in_use_is_left_alone() {
        let directory = used();
        for how in [Use::Exclusive, Use::Shared] {
            let _server = lock(directory.path(), how).unwrap().unwrap();
            assert!(Staging::begin(directory.path(), true).err().unwrap().contains("is in use"));
        }
        let _one = lock(directory.path(), Use::Shared).unwrap().unwrap();
        assert!(lock(directory.path(), Use::Shared).unwrap().is_some());
    }
}
