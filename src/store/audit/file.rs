//! Writes the audit trail to a file, one JSON object per line.
//!
//! A thread of its own writes, so that no request waits for the disk. If the disk is slow or full, entries wait in
//! memory up to a bound. Entries beyond it are lost; the file and the log report how many.

use std::{
    fs::{File, Metadata, OpenOptions},
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

use super::{Line, format_time};
use crate::{
    domain::ports::Clock as _,
    isolation::{log_limiter::LogLimiter, panics},
    store::clock::SystemClock,
};

/// The most entries that wait to be written.
const QUEUE: usize = 65_536;
/// The interval of the checks whether the file was moved away.
const ROTATION_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a failed write.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

static LOST: LogLimiter = LogLimiter::new("lost an audit entry", 1);

enum Message {
    Line(String),
    /// Answered when all earlier messages have been written.
    Flush(SyncSender<()>),
}

/// A file to which the audit trail is appended. If it is moved away, as `logrotate` does, a new file is created.
pub struct AuditFile {
    messages: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    lost: AtomicU64,
}

impl AuditFile {
    /// Opens or creates the file at `path`. A new file is only readable by the user that runs Latchkey.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = open(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Self::start(path, file, QUEUE)
    }

    fn start(path: &Path, file: File, queue: usize) -> Result<Self, String> {
        let (messages, receiver) = sync_channel(queue);
        let counts = Arc::<Counts>::default();
        let mut writer = Writer {
            path: path.to_owned(),
            file: Some(file),
            pending: Vec::new(),
            counts: Arc::clone(&counts),
            reported: Reported::default(),
        };
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || {
                // A panic loses the current entry only.
                while let Err(panic) = panics::catch(|| writer.run(&receiver)) {
                    tracing::error!(error.message = %panic, "failed to write an audit entry");
                    writer.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                    writer.counts.lost.fetch_add(1, Ordering::Relaxed);
                }
            })
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { messages, counts })
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let sent = serde_json::to_string(line).is_ok_and(|mut text| {
            text.push('\n');
            self.counts.waiting.fetch_add(1, Ordering::Relaxed);
            let sent = self.messages.try_send(Message::Line(text)).is_ok();
            if !sent {
                self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            sent
        });
        if !sent {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            // Logged here, because the writer may be blocked.
            if LOST.admits("") {
                tracing::error!("lost an audit entry: too many entries wait to be written to audit.file");
            }
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Waits until all entries are in the file, but not longer than `time_limit`. Returns how many are not.
    pub(super) fn flush(&self, time_limit: Duration) -> u64 {
        let (done, flushed) = sync_channel(1);
        if self.messages.try_send(Message::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(time_limit);
        }
        self.counts.waiting.load(Ordering::Relaxed)
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    /// The unwritten rest of the current line.
    pending: Vec<u8>,
    counts: Arc<Counts>,
    reported: Reported,
}

/// What has been reported.
#[derive(Debug, Default)]
struct Reported {
    is_failing: bool,
    lost: u64,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut last_check = Instant::now();
        loop {
            match messages.recv_timeout(ROTATION_CHECK_INTERVAL) {
                Ok(Message::Line(line)) => {
                    self.write_line(line);
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
            if last_check.elapsed() >= ROTATION_CHECK_INTERVAL {
                last_check = Instant::now();
                self.close_if_moved();
            }
            self.report_lost();
        }
    }

    /// Writes a line; retries until it is written.
    fn write_line(&mut self, line: String) {
        self.pending = line.into_bytes();
        loop {
            match self.try_write() {
                Ok(()) => {
                    if std::mem::take(&mut self.reported.is_failing) {
                        tracing::warn!(file.path = %self.path.display(), "writing audit entries works again");
                    }
                    return;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.reported.is_failing, true) {
                        tracing::error!(
                            error.message = %error,
                            file.path = %self.path.display(),
                            "failed to write audit entries; they wait in memory"
                        );
                    }
                    thread::sleep(RETRY_PAUSE);
                    self.close_if_moved();
                }
            }
        }
    }

    /// Writes the rest of the current line.
    fn try_write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        // A line is usually written by one call, so that lines of several processes do not mix. If the disk is full,
        // the rest follows later.
        while !self.pending.is_empty() {
            match file.write(&self.pending) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Closes the file if it was moved away, so that the next line creates a new one.
    fn close_if_moved(&mut self) {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let at_path = std::fs::metadata(&self.path).map(identity).ok();
        let open = self.file.as_ref().and_then(|file| file.metadata().ok()).map(identity);
        if at_path != open {
            self.file = None;
        }
    }

    /// Reports the number of lost entries in the log and in the file.
    fn report_lost(&mut self) {
        let lost = self.counts.lost.load(Ordering::Relaxed) - self.reported.lost;
        if lost > 0 {
            self.reported.lost += lost;
            tracing::error!(audit.lost = lost, "lost audit entries: audit.file was not written fast enough");
            let now = format_time(SystemClock.now());
            let line =
                serde_json::json!({ "time": now, "action": "audit.lost", "outcome": "failed", "lost": lost });
            self.write_line(format!("{line}\n"));
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
    fn a_full_disk_blocks_nobody_and_lost_entries_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        let (path, disk) = (directory.path().join("audit.jsonl"), directory.path().join("disk"));
        symlink("/dev/full", &path).unwrap();
        let audit = AuditFile::start(&path, open(&path).unwrap(), 4).unwrap();
        let entry = Entry::new(Timestamp::from_secs(1), Action::Login, Outcome::Done, &Origin::default())
            .named("alice");
        for _ in 0..100 {
            audit.write(&Line::of(&entry));
        }
        // Four entries wait, and the writer has one.
        let lost = audit.lost();
        assert!((95..=96).contains(&lost), "{lost}");
        assert_eq!(
            audit.flush(Duration::from_millis(10)),
            100 - lost,
            "waiting entries do not count as written"
        );

        File::create(&disk).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(&disk, &path).unwrap();
        let start = Instant::now();
        let text = loop {
            let text = std::fs::read_to_string(&disk).unwrap();
            if text.contains("audit.lost") && text.matches("alice").count() as u64 == 100 - lost {
                break text;
            }
            assert!(start.elapsed() < Duration::from_mins(1), "{text}");
            thread::sleep(Duration::from_millis(10));
        };
        let report: serde_json::Value = text
            .lines()
            .find(|line| line.contains("audit.lost"))
            .map(|line| serde_json::from_str(line).unwrap())
            .unwrap();
        assert_eq!(report["lost"], lost);
        assert_eq!(audit.flush(Duration::from_mins(1)), 0);
    }
}
