//! Rotation of signing keys: which key signs, and when the key directory is read.
//!
//! A new key is published before it signs: every server verifies with it, and the JWKS contains it. It signs after the
//! activation delay, counted from its first sight by a monotonic clock. The delay is longer than any server takes to
//! read the directory again, so a key that signs anywhere was in the directory when any server last read it. A token of
//! an unknown key waits for another read of the directory before it is a `BAD_SIGNATURE`; however many tokens ask for
//! one, the directory is read at most once in `MAX_READ_AGE`.
//!
//! After a start, only the times of the files can tell how long a key has been there (see `selection`). See ADR 0013.

mod selection;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::domain::{
    keyring::{Key, Keyring},
    ports::StoreError,
    types::Timestamp,
};

use self::selection::KeySelection;
pub(crate) use self::selection::{SigningPeriod, signing_periods};

/// The name of the directory in errors.
const NAME: &str = "signing key";

/// The longest time for which a read of the directory counts as recent.
const MAX_READ_AGE: Duration = Duration::from_secs(1);

/// How long a request waits for a read of the directory. A file system that hangs is an outage.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// A key file in the directory.
#[derive(Clone)]
pub struct KeyFile {
    /// The name of the file.
    pub name: String,
    /// The key.
    pub key: Key,
    /// When the file was written or moved there, by the clock of the file system.
    pub written: Timestamp,
    /// When the key was created, if the file name says so.
    pub created: Option<Timestamp>,
}

/// The contents of the key directory.
#[derive(Default)]
pub struct KeyFiles {
    /// The keys, in the order of their file names.
    pub keys: Vec<KeyFile>,
    /// The errors of files that cannot be used.
    pub errors: Vec<String>,
}

/// A directory of key files.
pub trait KeyDirectory: Send + Sync {
    /// Reads the directory; may block. Fails if it cannot be read or its permissions are unsafe.
    fn read(&self) -> Result<KeyFiles, String>;
}

/// Keeps the key ring up to date with the key directory.
pub struct Rotation {
    directory: Arc<dyn KeyDirectory>,
    interval: Duration,
    /// How long a read counts as recent, so that an unknown key causes no other. Shorter than the activation delay, so
    /// that every key that signs was there at the latest read.
    max_read_age: Duration,
    selection: std::sync::Mutex<KeySelection>,
    /// The error that was logged last, so that it is logged once.
    reported: std::sync::Mutex<String>,
    reads: watch::Sender<DirectoryReads>,
    /// Requests a read before the interval has passed.
    early_read: Notify,
    /// Whether an operator has requested a read and expects a log line about it.
    requested: AtomicBool,
}

/// When the latest reads of the directory began.
#[derive(Debug, Clone, Copy, Default)]
struct DirectoryReads {
    succeeded: Option<Instant>,
    failed: Option<Instant>,
}

impl Rotation {
    /// Reads the directory for the first time. Any error in it is fatal.
    ///
    /// `signing` names the file that signs, whatever its age. The directory is read again at each `interval`.
    pub fn start(
        directory: Arc<dyn KeyDirectory>,
        signing: Option<String>,
        interval: Duration,
        delay: Duration,
        now: Timestamp,
    ) -> Result<(Self, Keyring), String> {
        let begun = Instant::now();
        let files = directory.read()?;
        if let Some(error) = files.errors.into_iter().next() {
            return Err(error);
        }
        let mut selection = KeySelection::new(signing, delay);
        selection.init(files.keys, now, begun);
        let ring = selection.ring(begun)?;
        let reads = watch::Sender::new(DirectoryReads { succeeded: Some(begun), failed: None });
        let rotation = Self {
            directory,
            interval,
            max_read_age: MAX_READ_AGE.min(delay / 2),
            selection: std::sync::Mutex::new(selection),
            reported: std::sync::Mutex::default(),
            reads,
            early_read: Notify::new(),
            requested: AtomicBool::new(false),
        };
        Ok((rotation, ring))
    }

    /// Whether the directory was read recently, so that it holds no unknown key.
    pub(in crate::domain) fn is_up_to_date(&self) -> bool {
        self.reads.borrow().succeeded.is_some_and(|begun| begun.elapsed() <= self.max_read_age)
    }

    /// Waits until the directory has been read recently. Fails if it cannot be read.
    pub(in crate::domain) async fn wait_for_read(&self) -> Result<(), StoreError> {
        let unavailable = |cause: &str| StoreError::Unavailable { store: NAME, cause: cause.to_owned() };
        let is_recent =
            |begun: Option<Instant>| begun.is_some_and(|begun| begun.elapsed() <= self.max_read_age);
        let mut reads = self.reads.subscribe();
        let latest = *reads.borrow_and_update();
        if is_recent(latest.succeeded) {
            return Ok(());
        }
        if is_recent(latest.failed) {
            return Err(unavailable("the key directory cannot be read"));
        }
        self.early_read.notify_one();
        match timeout(READ_TIMEOUT, reads.changed()).await {
            Ok(Ok(())) if reads.borrow().succeeded > latest.succeeded => Ok(()),
            Ok(_) => Err(unavailable("the key directory cannot be read")),
            Err(_) => Err(unavailable("timed out reading the key directory")),
        }
    }

    /// Requests a read of the directory whose result is logged.
    pub fn read_now(&self) {
        if let Ok(mut reported) = self.reported.lock() {
            reported.clear();
        }
        self.requested.store(true, Ordering::Relaxed);
        self.early_read.notify_one();
    }

    /// Waits for the next interval or a requested read, and reads the directory.
    pub(in crate::domain) async fn read_next(&self) -> (Instant, Result<KeyFiles, String>) {
        let _ = timeout(self.interval, self.early_read.notified()).await;
        let begun = Instant::now();
        let directory = Arc::clone(&self.directory);
        let read = tokio::task::spawn_blocking(move || directory.read()).await;
        (begun, read.unwrap_or_else(|_| Err("reading the key directory failed".to_owned())))
    }

    /// Notifies requests that wait for a read.
    pub(in crate::domain) fn note_read(&self, begun: Instant, succeeded: bool) {
        self.reads.send_modify(|reads| {
            let latest = if succeeded { &mut reads.succeeded } else { &mut reads.failed };
            *latest = Some(begun);
        });
    }

    /// Updates the selection with the files of a read. Returns the errors of files that cannot be used.
    pub(in crate::domain) fn observe(&self, files: KeyFiles, begun: Instant) -> Option<String> {
        let KeyFiles { keys, errors } = files;
        if let Ok(mut selection) = self.selection.lock() {
            // An unusable file may be a damaged old key, so no key is removed while there is one.
            selection.update(keys, !errors.is_empty(), begun);
        }
        Some(errors.join("; ")).filter(|errors| !errors.is_empty())
    }

    /// The key ring for the files read so far.
    pub(in crate::domain) fn ring(&self, now: Instant) -> Result<Keyring, String> {
        self.selection.lock().map_err(|error| error.to_string())?.ring(now)
    }

    /// Whether an operator has requested a read since the last call.
    pub(in crate::domain) fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::Relaxed)
    }

    /// Logs an error once, until another one follows.
    pub(in crate::domain) fn report(&self, error: &str) {
        let Ok(mut reported) = self.reported.lock() else { return };
        if *reported != error {
            error.clone_into(&mut reported);
            if !error.is_empty() {
                tracing::error!(
                    error.message = error,
                    "failed to read the signing keys; continuing with those in memory"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
