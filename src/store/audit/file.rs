//! The audit trail in a file: one JSON object a line.
//!
//! A thread of its own writes, so that no request waits for the disk. If the disk does not keep up, or
//! takes nothing more, entries wait in memory up to a bound. Entries beyond it are lost: they are counted, and the
//! file and the log say how many.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Line, time};
use crate::{
    domain::ports::Clock as _,
    isolation::{log_limiter::LogLimiter, panics},
    store::clock::SystemClock,
};

/// Entries that wait to be written, at most.
const QUEUE: usize = 65_536;
/// How often the file is looked at, for whether somebody has moved it away.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after the file could not be written.
const PAUSE: Duration = Duration::from_secs(1);

static LOST: LogLimiter = LogLimiter::new("an entry of the audit trail was lost", 1);

enum Message {
    Line(String),
    /// Everything before this is in the file.
    Flush(SyncSender<()>),
}

/// A file that the audit trail is appended to. If it is moved away, as `logrotate` does, a new one is
/// begun.
pub struct AuditFile {
    writer: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Entries that wait to be written.
    waiting: AtomicU64,
    /// Entries that were lost.
    lost: AtomicU64,
}

impl AuditFile {
    /// Appends to the file at `path`, which is created readable to us only where there is none.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = open(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Self::start(path, file, QUEUE)
    }

    fn start(path: &Path, file: File, queue: usize) -> Result<Self, String> {
        let (writer, messages) = sync_channel(queue);
        let counts = Arc::<Counts>::default();
        let mut writing = Writing {
            path: path.to_owned(),
            file: Some(file),
            unfinished: Vec::new(),
            counts: Arc::clone(&counts),
            reported: Reported::default(),
        };
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                // A panic costs the entry at hand.
                while let Err(panic) = panics::catch(|| writing.run(&messages)) {
                    tracing::error!(error.message = %panic, "an entry of the audit trail could not be written");
                    writing.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                    writing.counts.lost.fetch_add(1, Ordering::Relaxed);
                }
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { writer, counts })
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let sent = serde_json::to_string(line).is_ok_and(|mut text| {
            text.push('\n');
            self.counts.waiting.fetch_add(1, Ordering::Relaxed);
            let sent = self.writer.try_send(Message::Line(text)).is_ok();
            if !sent {
                self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            sent
        });
        if !sent {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            // Here, because the thread that writes may be blocked.
            if LOST.admits("") {
                tracing::error!(
                    "an entry of the audit trail was lost: too many wait to be written to audit.file"
                );
            }
        }
    }

    /// Entries that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything is in the file, at most this long: how many entries are not.
    pub(super) fn flush(&self, limit: Duration) -> u64 {
        let (done, wait) = sync_channel(1);
        if self.writer.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
        self.counts.waiting.load(Ordering::Relaxed)
    }
}

struct Writing {
    path: PathBuf,
    file: Option<File>,
    /// What could not be written yet of an entry whose beginning is in the file.
    unfinished: Vec<u8>,
    counts: Arc<Counts>,
    reported: Reported,
}

/// What the log and the file tell of.
#[derive(Debug, Default)]
struct Reported {
    /// The file cannot be written.
    failing: bool,
    /// Lost entries that the file tells of.
    lost: u64,
}

impl Writing {
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut looked = Instant::now();
        loop {
            match messages.recv_timeout(LOOK) {
                Ok(Message::Line(line)) => {
                    self.put(line);
                    self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(Message::Flush(done)) => {
                    if let Some(file) = &self.file {
                        let _ = file.sync_data();
                    }
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.follow();
            }
            self.tell_of_losses();
        }
    }

    /// Writes a line, and does not go on before it is written.
    fn put(&mut self, line: String) {
        self.unfinished = line.into_bytes();
        loop {
            match self.try_put() {
                Ok(()) => {
                    if std::mem::take(&mut self.reported.failing) {
                        tracing::warn!(file.path = %self.path.display(), "the audit trail can be written again");
                    }
                    return;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.reported.failing, true) {
                        tracing::error!(
                            error.message = %error,
                            file.path = %self.path.display(),
                            "the audit trail cannot be written; entries wait in memory"
                        );
                    }
                    thread::sleep(PAUSE);
                    self.follow();
                }
            }
        }
    }

    /// Writes what is left of a line.
    fn try_put(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        // One call: lines of several processes do not mix, and none is written by halves as long as there is room.
        // Where there is no more, the rest follows once there is.
        while !self.unfinished.is_empty() {
            match file.write(&self.unfinished) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.unfinished.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Begins a new file where the old one was moved away.
    fn follow(&mut self) {
        let there = std::fs::metadata(&self.path).map(|there| (there.dev(), there.ino())).ok();
        let ours =
            self.file.as_ref().and_then(|file| file.metadata().ok()).map(|ours| (ours.dev(), ours.ino()));
        if there != ours {
            self.file = None;
        }
    }

    /// Says how many entries are missing, in the log and in the file.
    fn tell_of_losses(&mut self) {
        let lost = self.counts.lost.load(Ordering::Relaxed) - self.reported.lost;
        if lost > 0 {
            self.reported.lost += lost;
            tracing::error!(
                audit.lost = lost,
                "entries of the audit trail were lost: the file could not be written in time"
            );
            let now = time(SystemClock.now());
            let line =
                serde_json::json!({ "time": now, "action": "audit.lost", "outcome": "failed", "lost": lost });
            self.put(format!("{line}\n"));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::domain::{
        audit::{Action, Entry, Outcome},
        origin::Origin,
        types::Timestamp,
    };

    #[test]
    fn a_full_disk_holds_nobody_up_and_what_is_lost_is_counted_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let (path, disk) = (directory.path().join("audit.jsonl"), directory.path().join("disk"));
        symlink("/dev/full", &path).unwrap();
        let audit = AuditFile::start(&path, open(&path).unwrap(), 4).unwrap();
        let entry = Entry::new(Timestamp::from_secs(1), Action::Login, Outcome::Done, &Origin::default())
            .named("alice");
        for _ in 0..100 {
            audit.write(&Line::of(&entry));
        }
        // Four wait, and one is being tried.
        let lost = audit.lost();
        assert!((95..=96).contains(&lost), "{lost}");
        assert_eq!(audit.flush(Duration::from_millis(10)), 100 - lost, "what waits is not taken for written");

        File::create(&disk).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(&disk, &path).unwrap();
        let begun = Instant::now();
        let text = loop {
            let text = std::fs::read_to_string(&disk).unwrap();
            if text.contains("audit.lost") && text.matches("alice").count() as u64 == 100 - lost {
                break text;
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "{text}");
            thread::sleep(Duration::from_millis(10));
        };
        let told: serde_json::Value = text
            .lines()
            .find(|line| line.contains("audit.lost"))
            .map(|line| serde_json::from_str(line).unwrap())
            .unwrap();
        assert_eq!(told["lost"], lost);
        assert_eq!(audit.flush(Duration::from_mins(1)), 0);
    }
}
