//! A log writer that never waits and never fails.
//!
//! Lines go into a bounded buffer in memory, and a thread of its own writes them. A reader that stalls blocks that
//! thread alone. Lines that do not fit into the buffer, or that cannot be written, are lost: they are counted, and
//! one line reports their number once writing works again.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::isolation::panics;

/// Lines that wait to be written, in bytes.
const CAPACITY: usize = 1024 * 1024;
/// How long to wait for a descriptor that is non-blocking and full.
const PAUSE: Duration = Duration::from_millis(20);
/// How often to try whether writing works again.
const RETRY: Duration = Duration::from_secs(1);

/// The line that reports so many lost lines.
pub(super) type Report = Box<dyn Fn(u64) -> Vec<u8> + Send>;

/// Accepts log lines, one a call of `write`, from any thread.
#[derive(Debug, Default)]
pub(super) struct LogWriter {
    queue: Mutex<Queue>,
    /// Lines have arrived.
    arrived: Condvar,
    /// The queue is empty, and everything before was written or lost.
    drained: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Lines,
    /// Lines have been taken and are being written.
    busy: bool,
}

/// Lines, one after the other.
#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl LogWriter {
    /// Writes to `output` from a thread of its own.
    pub(super) fn start(output: impl Write + Send + 'static, report: Report) -> io::Result<Arc<Self>> {
        let writer = Arc::new(Self::default());
        let mut worker = Worker {
            writer: Arc::clone(&writer),
            output,
            report,
            lines: Lines::default(),
            reported: 0,
            torn: false,
        };
        thread::Builder::new().name("log".into()).spawn(move || {
            // A panic loses the lines at hand, and nothing else.
            while panics::catch(|| worker.run()).is_err() {}
        })?;
        Ok(writer)
    }

    /// Lines that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything so far is written, at most this long.
    pub(super) fn flush(&self, limit: Duration) {
        let begun = Instant::now();
        let mut queue = self.queue();
        while queue.busy || !queue.lines.text.is_empty() {
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            queue = self.drained.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, lines: usize) {
        self.lost.fetch_add(lines as u64, Ordering::Relaxed);
    }
}

impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.queue();
        let Lines { text, ends } = &mut queue.lines;
        if text.len() + line.len() > CAPACITY {
            drop(queue);
            self.lose(1);
        } else {
            text.extend_from_slice(line);
            ends.push(text.len());
            drop(queue);
            self.arrived.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Worker<W> {
    writer: Arc<LogWriter>,
    output: W,
    report: Report,
    lines: Lines,
    /// Lost lines that the log tells of.
    reported: u64,
    /// The last line was written in part.
    torn: bool,
}

impl<W: Write> Worker<W> {
    fn run(&mut self) {
        loop {
            self.take();
            if !self.tell_of_losses() {
                self.writer.lose(self.lines.ends.len());
            } else if let Err(written) = put(&mut self.output, &self.lines.text) {
                self.writer.lose(self.lines.ends.iter().filter(|end| **end > written).count());
                self.torn = written > 0 && !self.lines.ends.contains(&written);
            }
        }
    }

    /// Takes what there is to write, once there is something.
    fn take(&mut self) {
        self.lines.text.clear();
        self.lines.ends.clear();
        let mut queue = self.writer.queue();
        queue.busy = false;
        while queue.lines.text.is_empty() {
            self.writer.drained.notify_all();
            let arrived = &self.writer.arrived;
            if self.writer.lost() == self.reported {
                queue = arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else {
                queue = arrived.wait_timeout(queue, RETRY).unwrap_or_else(PoisonError::into_inner).0;
                break;
            }
        }
        mem::swap(&mut queue.lines, &mut self.lines);
        queue.busy = true;
    }

    /// Reports lines that were lost; false if that is not possible yet.
    fn tell_of_losses(&mut self) -> bool {
        let lost = self.writer.lost();
        if lost == self.reported {
            return true;
        }
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        line.extend((self.report)(lost - self.reported));
        match put(&mut self.output, &line) {
            Ok(()) => {
                self.reported = lost;
                self.torn = false;
                true
            }
            Err(written) => {
                self.torn |= written > 0;
                false
            }
        }
    }
}

/// Writes all of it. An error says how much was written.
fn put(output: &mut impl Write, text: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < text.len() {
        match output.write(&text[written..]) {
            Ok(0) => return Err(written),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    /// What an output does with the next line.
    #[derive(Clone, Copy, PartialEq)]
    enum Mood {
        Takes,
        TakesHalf,
        Fails,
        Stalls,
    }

    /// Its mood, and what it has taken.
    type State = (Mood, Vec<u8>);

    #[derive(Clone)]
    struct Output(Arc<(Mutex<State>, Condvar)>);

    impl Output {
        fn new(mood: Mood) -> Self {
            Self(Arc::new((Mutex::new((mood, Vec::new())), Condvar::new())))
        }

        fn set(&self, mood: Mood) {
            self.0.0.lock().unwrap().0 = mood;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
        }

        fn until(&self, end: &str) -> String {
            let begun = Instant::now();
            while !self.text().ends_with(end) {
                assert!(begun.elapsed() < PATIENCE, "{:?}", self.text());
                thread::sleep(Duration::from_millis(5));
            }
            self.text()
        }
    }

    impl Write for Output {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().unwrap();
            while state.0 == Mood::Stalls {
                state = self.0.1.wait(state).unwrap();
            }
            let count = match state.0 {
                Mood::Fails => return Err(ErrorKind::StorageFull.into()),
                Mood::TakesHalf => {
                    state.0 = Mood::Fails;
                    text.len() / 2
                }
                _ => text.len(),
            };
            state.1.extend_from_slice(&text[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(output: &Output) -> Arc<LogWriter> {
        LogWriter::start(output.clone(), Box::new(|lost| format!("lost {lost}\n").into_bytes())).unwrap()
    }

    fn log(writer: &LogWriter, line: &str) {
        let mut writer = writer;
        assert_eq!(writer.write(line.as_bytes()).unwrap(), line.len());
    }

    fn until_lost(writer: &LogWriter, count: u64) {
        let begun = Instant::now();
        while writer.lost() < count {
            assert!(begun.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(writer.lost(), count);
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let output = Output::new(Mood::Takes);
        let writer = start(&output);
        for number in 0..1000 {
            log(&writer, &format!("{number}\n"));
        }
        writer.flush(PATIENCE);
        let expected = (0..1000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        assert_eq!((output.text(), writer.lost()), (expected, 0));
    }

    #[test]
    fn a_reader_that_stalls_holds_nobody_up_and_is_told_how_many_lines_it_has_missed() {
        let output = Output::new(Mood::Stalls);
        let writer = start(&output);
        let line = format!("{}\n", "x".repeat(1023));
        let (done, all_logged) = mpsc::channel();
        thread::spawn({
            let writer = Arc::clone(&writer);
            move || {
                for _ in 0..5000 {
                    log(&writer, &line);
                }
                writer.flush(Duration::from_millis(10));
                done.send(()).unwrap();
            }
        });
        all_logged.recv_timeout(PATIENCE).expect("logging waits for the reader");
        let lost = writer.lost();
        assert!((2900..=4000).contains(&lost), "{lost}");
        output.set(Mood::Takes);
        writer.flush(PATIENCE);
        let text = output.text();
        assert_eq!(text.matches(&format!("lost {lost}\n")).count(), 1);
        assert_eq!(text.lines().count() as u64, 5000 - lost + 1);
        log(&writer, "and on\n");
        writer.flush(PATIENCE);
        assert_eq!(output.text().matches("lost").count(), 1, "it is told once");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_reported_once_it_works_again() {
        let output = Output::new(Mood::Fails);
        let writer = start(&output);
        for number in 1..=3 {
            log(&writer, "gone\n");
            until_lost(&writer, number);
        }
        assert_eq!(output.text(), "");
        // Also if nobody logs any more.
        output.set(Mood::Takes);
        assert_eq!(output.until("lost 3\n"), "lost 3\n");
        log(&writer, "there\n");
        assert_eq!(output.until("there\n"), "lost 3\nthere\n");
    }

    #[test]
    fn a_line_that_was_written_in_part_does_not_spoil_the_next() {
        let output = Output::new(Mood::TakesHalf);
        let writer = start(&output);
        log(&writer, "12345678\n");
        until_lost(&writer, 1);
        output.set(Mood::Takes);
        assert_eq!(output.until("lost 1\n"), "1234\nlost 1\n");
    }
}
