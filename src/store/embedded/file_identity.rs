//! Detects that the database file was deleted or replaced while it is open.
//!
//! A process still reads and writes such a file, and loses everything in it when it ends. So reads and commits fail
//! from then on, and the log says what to do.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::NAME;
use crate::domain::ports::StoreError;

/// The shortest time between two checks of the file.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The identity of an open database file.
pub(super) struct FileIdentity {
    path: PathBuf,
    /// The device and the inode of the file that was opened.
    opened: (u64, u64),
    status: Mutex<Status>,
}

struct Status {
    checked_at: Instant,
    /// Why the file is no longer the one that was opened.
    problem: Option<String>,
    /// The last problem in the log.
    logged: Option<String>,
}

impl FileIdentity {
    /// Has to be called when the database has just been opened.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        let status = Status { checked_at: Instant::now(), problem: None, logged: None };
        Ok(Self { path: path.to_owned(), opened: (file.dev(), file.ino()), status: Mutex::new(status) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if the file was deleted or replaced, as [`FileIdentity::verify`] does, but always looks at the file.
    pub(super) fn verify_now(&self) -> Result<(), StoreError> {
        self.find_problem().map_or(Ok(()), unavailable)
    }

    /// Fails if the file was deleted or replaced.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        let mut status = self.status();
        if status.checked_at.elapsed() >= CHECK_INTERVAL {
            status.problem = self.find_problem();
            status.checked_at = Instant::now();
            // That the file is back is only logged by a commit, which also checks the -wal file.
            if let Some(problem) = status.problem.clone() {
                status.log(Some(problem));
            }
        }
        status.problem.clone().map_or(Ok(()), unavailable)
    }

    /// Fails if the commit that has just succeeded is neither in the file nor in the -wal file.
    pub(super) fn verify_commit(&self) -> Result<(), StoreError> {
        self.verify()?;
        // The -wal file exists as long as a connection is open, and the one that has just committed is.
        let wal = self.path.with_extension("db-wal");
        let is_missing = fs::metadata(wal).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let problem = is_missing.then(|| self.describe("separated from its -wal file"));
        self.status().log(problem.clone());
        problem.map_or(Ok(()), unavailable)
    }

    fn find_problem(&self) -> Option<String> {
        match fs::metadata(&self.path) {
            Ok(file) if (file.dev(), file.ino()) != self.opened => Some(self.describe("replaced")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(self.describe("deleted")),
            // Other errors do not mean that the file is gone.
            Ok(_) | Err(_) => None,
        }
    }

    fn describe(&self, problem: &str) -> String {
        format!(
            "{} was {problem} while Latchkey was running, and further writes would be lost: stop Latchkey, put the \
             file back or restore a backup, and start it again",
            self.path.display()
        )
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
    /// Logs the problem, or its end, once.
    fn log(&mut self, problem: Option<String>) {
        if problem == self.logged {
            return;
        }
        if let Some(cause) = &problem {
            tracing::error!(error.message = cause, "the database file is gone");
        } else {
            tracing::info!("the database file is back");
        }
        self.logged = problem;
    }
}

fn unavailable(cause: String) -> Result<(), StoreError> {
    Err(StoreError::Unavailable { store: NAME, cause })
}
