//! The audit trail in a file: one JSON object a line.
//!
//! A thread of its own writes, so that no request waits for the disk. If the disk does not keep up, or
//! takes nothing more, entries wait in memory up to a bound; what is lost beyond it is said in the file and
//! in the log.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
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

use super::Line;

/// Entries that wait to be written, at most.
const QUEUE: usize = 65_536;
/// How often the file is looked at, for whether somebody has moved it away.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after the file could not be written.
const PAUSE: Duration = Duration::from_secs(1);

enum Message {
    Line(String),
    /// Everything before this is in the file.
    Flush(SyncSender<()>),
}

/// A file that the audit trail is appended to. If it is moved away, as `logrotate` does, a new one is
/// begun.
pub struct AuditFile {
    writer: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl AuditFile {
    /// Appends to the file at `path`, which is created readable to us only where there is none.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = open(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        let (writer, messages) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writing =
            Writing { path: path.to_owned(), file: Some(file), lost: Arc::clone(&lost), complained: false };
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || writing.run(&messages))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { writer, lost })
    }

    pub(super) fn write(&self, line: &Line<'_>) {
        let sent = serde_json::to_string(line).is_ok_and(|mut text| {
            text.push('\n');
            self.writer.try_send(Message::Line(text)).is_ok()
        });
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn flush(&self, limit: Duration) {
        let (done, wait) = sync_channel(1);
        if self.writer.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

struct Writing {
    path: PathBuf,
    file: Option<File>,
    lost: Arc<AtomicU64>,
    complained: bool,
}

impl Writing {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut looked = Instant::now();
        loop {
            match messages.recv_timeout(LOOK) {
                Ok(Message::Line(line)) => self.put(&line),
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
            self.confess();
        }
    }

    /// Writes a line, and does not go on before it is written.
    fn put(&mut self, line: &str) {
        loop {
            match self.try_put(line) {
                Ok(()) => {
                    self.complained = false;
                    return;
                }
                Err(error) => {
                    if !self.complained {
                        tracing::error!(
                            error.message = %error,
                            file.path = %self.path.display(),
                            "the audit trail cannot be written; entries wait in memory"
                        );
                    }
                    self.complained = true;
                    self.file = None;
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    fn try_put(&mut self, line: &str) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path)?),
        };
        // One call: lines of several processes do not mix, and none is written by halves as long as there
        // is room.
        file.write_all(line.as_bytes())
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

    /// Says how many entries are missing.
    fn confess(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::error!(
                audit.lost = lost,
                "entries of the audit trail were lost: the file does not keep up"
            );
            let line = serde_json::json!({ "action": "audit.lost", "outcome": "failed", "lost": lost });
            self.put(&format!("{line}\n"));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
