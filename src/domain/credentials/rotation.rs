//! Rotation of signing keys: which key signs, and when the key directory is read.
//!
//! A key that is new is published first: every server verifies with it, and the JWKS shows it. It signs once it has
//! been there for the activation delay, which is longer than any server takes to read the directory again. So no
//! server meets a token of a key that it could not have read before. Where one does all the same, it reads the
//! directory before it calls the signature bad: at most once in a pause, however many tokens ask for it.

mod choice;

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

pub use self::choice::{Choice, signs_from};

/// What errors call the directory.
const NAME: &str = "signing key";

/// The directory is not read for unknown keys more often than this.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How long a request waits for the directory. A file system that hangs is an outage.
const PATIENCE: Duration = Duration::from_secs(2);

/// A key, as the directory has it.
#[derive(Clone)]
pub struct KeyFile {
    /// The name of the file.
    pub name: String,
    /// The key.
    pub key: Key,
    /// When the file was written or put there, by the clock of the file system.
    pub written: Timestamp,
    /// When the key was made, where the name of the file says so.
    pub made: Option<Timestamp>,
}

/// What the key directory holds.
#[derive(Default)]
pub struct KeyFiles {
    /// The keys, in the order of their names.
    pub keys: Vec<KeyFile>,
    /// What is wrong with other files, in sentences.
    pub wrong: Vec<String>,
}

/// Where the keys are.
pub trait KeyDirectory: Send + Sync {
    /// Reads it, which may block. One sentence where it cannot be read, or must not be trusted.
    fn read(&self) -> Result<KeyFiles, String>;
}

/// Keeps the keys in use those of the directory.
pub struct Rotation {
    directory: Arc<dyn KeyDirectory>,
    interval: Duration,
    /// How long after a look no other is made for the sake of an unknown key. Shorter than the activation delay, so
    /// that a key that signs was there at the latest look.
    pause: Duration,
    choice: std::sync::Mutex<Choice>,
    /// What was last said to be wrong, so that it is said once.
    reported: std::sync::Mutex<String>,
    looks: watch::Sender<DirectoryReads>,
    /// Asks for a look before its time.
    early: Notify,
    /// An operator has asked for it, and wants to know what came of it.
    requested: AtomicBool,
}

/// When the latest looks at the directory began.
#[derive(Debug, Clone, Copy, Default)]
struct DirectoryReads {
    succeeded: Option<Instant>,
    failed: Option<Instant>,
}

impl Rotation {
    /// Reads the directory for the first time. Anything wrong with it is an error.
    ///
    /// `signing` names the file that signs, whatever its age. The directory is read again each `interval`.
    pub fn start(
        directory: Arc<dyn KeyDirectory>,
        signing: Option<String>,
        interval: Duration,
        delay: Duration,
        now: Timestamp,
    ) -> Result<(Self, Keyring), String> {
        let begun = Instant::now();
        let files = directory.read()?;
        if let Some(wrong) = files.wrong.into_iter().next() {
            return Err(wrong);
        }
        let mut choice = Choice::new(signing, delay);
        choice.see_first(files.keys, now, begun);
        let ring = choice.ring(begun)?;
        let looks = watch::Sender::new(DirectoryReads { succeeded: Some(begun), failed: None });
        let rotation = Self {
            directory,
            interval,
            pause: MAX_PAUSE.min(delay / 2),
            choice: std::sync::Mutex::new(choice),
            reported: std::sync::Mutex::default(),
            looks,
            early: Notify::new(),
            requested: AtomicBool::new(false),
        };
        Ok((rotation, ring))
    }

    /// Whether the directory was read recently, so that it holds no key that is not known here.
    pub(in crate::domain) fn is_up_to_date(&self) -> bool {
        self.looks.borrow().succeeded.is_some_and(|begun| begun.elapsed() <= self.pause)
    }

    /// Waits until the directory has been read recently; an error where it cannot be read.
    pub(in crate::domain) async fn wait_for_read(&self) -> Result<(), StoreError> {
        let unavailable = |cause: &str| StoreError::Unavailable { store: NAME, cause: cause.to_owned() };
        let recent = |begun: Option<Instant>| begun.is_some_and(|begun| begun.elapsed() <= self.pause);
        let mut looks = self.looks.subscribe();
        let latest = *looks.borrow_and_update();
        if recent(latest.succeeded) {
            return Ok(());
        }
        if recent(latest.failed) {
            return Err(unavailable("the key directory cannot be read"));
        }
        self.early.notify_one();
        match timeout(PATIENCE, looks.changed()).await {
            Ok(Ok(())) if looks.borrow().succeeded > latest.succeeded => Ok(()),
            Ok(_) => Err(unavailable("the key directory cannot be read")),
            Err(_) => Err(unavailable("reading the key directory takes too long")),
        }
    }

    /// Has the directory read before its time, and logs what came of it.
    pub fn read_now(&self) {
        if let Ok(mut reported) = self.reported.lock() {
            reported.clear();
        }
        self.requested.store(true, Ordering::Relaxed);
        self.early.notify_one();
    }

    /// Waits for the time of the next look, or for somebody who cannot wait for it, and reads the directory.
    pub(in crate::domain) async fn read_next(&self) -> (Instant, Result<KeyFiles, String>) {
        let _ = timeout(self.interval, self.early.notified()).await;
        let begun = Instant::now();
        let directory = Arc::clone(&self.directory);
        let read = tokio::task::spawn_blocking(move || directory.read()).await;
        (begun, read.unwrap_or_else(|_| Err("reading the key directory failed".to_owned())))
    }

    /// Notifies requests that wait for a read.
    pub(in crate::domain) fn note_read(&self, begun: Instant, succeeded: bool) {
        self.looks.send_modify(|looks| {
            let latest = if succeeded { &mut looks.succeeded } else { &mut looks.failed };
            *latest = Some(begun);
        });
    }

    /// Takes the files into account. Returns what is wrong with some of them.
    pub(in crate::domain) fn observe(&self, files: KeyFiles, begun: Instant) -> Option<String> {
        let KeyFiles { keys, wrong } = files;
        if let Ok(mut choice) = self.choice.lock() {
            // One wrong file may be an old key that was damaged: none is forgotten as long as it is there.
            choice.see(keys, !wrong.is_empty(), begun);
        }
        Some(wrong.join("; ")).filter(|wrong| !wrong.is_empty())
    }

    /// The key ring that follows from the files read so far.
    pub(in crate::domain) fn ring(&self, now: Instant) -> Result<Keyring, String> {
        self.choice.lock().map_err(|error| error.to_string())?.ring(now)
    }

    /// Whether an operator has asked for a read since the last call.
    pub(in crate::domain) fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::Relaxed)
    }

    /// Logs what is wrong, once.
    pub(in crate::domain) fn report(&self, sentence: &str) {
        let Ok(mut reported) = self.reported.lock() else { return };
        if *reported != sentence {
            sentence.clone_into(&mut reported);
            if !sentence.is_empty() {
                tracing::error!(
                    error.message = sentence,
                    "the signing keys cannot be read; going on with those in memory"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
