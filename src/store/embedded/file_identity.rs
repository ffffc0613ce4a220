//! Whether the database is still where it was opened.
//!
//! A file that was deleted or replaced under a running process is still read and written, and gone with the process.
//! So nothing is acknowledged any more once that has happened, and an operator is told.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::NAME;
use crate::domain::ports::StoreError;

/// How often it is looked at, at most.
const INTERVAL: Duration = Duration::from_millis(100);

/// The place of an open database.
pub(super) struct FileIdentity {
    path: PathBuf,
    /// The device and the inode of the file that was opened.
    opened: (u64, u64),
    latest: Mutex<Look>,
}

/// What was found of the file, and when; and what was reported last.
struct Look {
    at: Instant,
    gone: Option<String>,
    reported: Option<String>,
}

impl FileIdentity {
    /// Of the database that has just been opened there.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        let latest = Look { at: Instant::now(), gone: None, reported: None };
        Ok(Self { path: path.to_owned(), opened: (file.dev(), file.ino()), latest: Mutex::new(latest) })
    }

    /// Fails where the file is no longer there.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let mut latest = self.latest();
        if latest.at.elapsed() >= INTERVAL {
            latest.gone = self.look();
            latest.at = Instant::now();
            let gone = latest.gone.clone();
            if gone.is_some() {
                latest.report(gone);
            }
        }
        latest.gone.clone().map_or(Ok(()), unavailable)
    }

    /// Fails where what has just been committed is not there, in the file or in its log.
    pub(super) fn check_commit(&self) -> Result<(), StoreError> {
        self.check()?;
        // There is a log while anybody has the database open, and whoever has just committed has.
        let log = self.path.with_extension("db-wal");
        let missing = fs::metadata(log).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let gone = missing.then(|| self.sentence("separated from its -wal file"));
        self.latest().report(gone.clone());
        gone.map_or(Ok(()), unavailable)
    }

    fn look(&self) -> Option<String> {
        match fs::metadata(&self.path) {
            Ok(file) if (file.dev(), file.ino()) != self.opened => Some(self.sentence("replaced")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(self.sentence("deleted")),
            // What cannot be looked at may well be there.
            Ok(_) | Err(_) => None,
        }
    }

    fn sentence(&self, what: &str) -> String {
        format!(
            "{} was {what} while Latchkey runs, and what is written would be lost: stop Latchkey, put the file \
             back or restore a backup, and start it again",
            self.path.display()
        )
    }

    fn latest(&self) -> MutexGuard<'_, Look> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look {
    fn report(&mut self, gone: Option<String>) {
        if gone == self.reported {
            return;
        }
        if let Some(cause) = &gone {
            tracing::error!(error.message = cause, "the database is gone");
        } else {
            tracing::info!("the database is back");
        }
        self.reported = gone;
    }
}

fn unavailable(cause: String) -> Result<(), StoreError> {
    Err(StoreError::Unavailable { store: NAME, cause })
}
