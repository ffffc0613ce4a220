//! A log writer that never blocks and never fails.
//!
//! Lines go into a bounded buffer in memory, which a thread writes out. A reader that stalls blocks only that thread. Lines that
//! do not fit into the buffer or cannot be written are lost. They are counted, and one line reports their number once writing
//! works again.

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

/// Capacity of the buffer in bytes.
const CAPACITY: usize = 1024 * 1024;
/// The delay before the next write to a non-blocking descriptor that is full.
const WOULD_BLOCK_DELAY: Duration = Duration::from_millis(20);
/// The interval of retries after a write error.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Formats the line that reports a number of lost lines.
pub(super) type Report = Box<dyn Fn(u64) -> Vec<u8> + Send>;

/// Accepts log lines from any thread, one per call of `write`.
#[derive(Debug, Default)]
pub(super) struct LogWriter {
    queue: Mutex<Queue>,
    /// Notified when lines arrive.
    arrived: Condvar,
    /// Notified when the queue is empty and every line is written or lost.
    drained: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Lines,
    /// Whether lines were taken and are being written.
    busy: bool,
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    /// The end of each line.
    ends: Vec<usize>,
}

impl LogWriter {
    /// Starts the thread that writes to `output`.
    pub(super) fn start(output: impl Write + Send + 'static, report: Report) -> io::Result<Arc<Self>> {
        let writer = Arc::new(Self::default());
        let mut worker = Worker {
            writer: Arc::clone(&writer),
            output,
            report,
            lines: Lines::default(),
            reported: 0,
            is_partial: false,
        };
        thread::Builder::new().name("log".into()).spawn(move || {
            // A panic loses only the lines that were being written.
            while panics::catch(|| worker.run()).is_err() {}
        })?;
        Ok(writer)
    }

    /// The number of lines lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, at most this long.
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

    fn count_lost(&self, lines: usize) {
        self.lost.fetch_add(lines as u64, Ordering::Relaxed);
    }
}

impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.queue();
        let Lines { text, ends } = &mut queue.lines;
        if text.len() + line.len() > CAPACITY {
            drop(queue);
            self.count_lost(1);
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
    /// The number of lost lines that were reported.
    reported: u64,
    /// Whether the last line was written in part.
    is_partial: bool,
}

impl<W: Write> Worker<W> {
    fn run(&mut self) {
        loop {
            self.take_lines();
            if !self.report_lost() {
                self.writer.count_lost(self.lines.ends.len());
            } else if let Err(written) = write_all(&mut self.output, &self.lines.text) {
                self.writer.count_lost(self.lines.ends.iter().filter(|end| **end > written).count());
                self.is_partial = written > 0 && !self.lines.ends.contains(&written);
            }
        }
    }

    /// Waits for lines and takes all of them.
    fn take_lines(&mut self) {
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
                queue = arrived.wait_timeout(queue, RETRY_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
                break;
            }
        }
        mem::swap(&mut queue.lines, &mut self.lines);
        queue.busy = true;
    }

    /// Reports lost lines. Returns false if writing fails.
    fn report_lost(&mut self) -> bool {
        let lost = self.writer.lost();
        if lost == self.reported {
            return true;
        }
        let mut line = if self.is_partial { vec![b'\n'] } else { Vec::new() };
        line.extend((self.report)(lost - self.reported));
        match write_all(&mut self.output, &line) {
            Ok(()) => {
                self.reported = lost;
                self.is_partial = false;
                true
            }
            Err(written) => {
                self.is_partial |= written > 0;
                false
            }
        }
    }
}

/// Writes all of `text`. The error is the number of bytes written.
fn write_all(output: &mut impl Write, text: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < text.len() {
        match output.write(&text[written..]) {
            Ok(0) => return Err(written),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(WOULD_BLOCK_DELAY),
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// The behaviour of an output.
    #[derive(Clone, Copy, PartialEq)]
    enum Behaviour {
        Takes,
        TakesHalf,
        Fails,
        Stalls,
    }

    /// The behaviour, and the bytes written.
    type State = (Behaviour, Vec<u8>);

    #[derive(Clone)]
    struct Output(Arc<(Mutex<State>, Condvar)>);

    impl Output {
        fn new(behaviour: Behaviour) -> Self {
            Self(Arc::new((Mutex::new((behaviour, Vec::new())), Condvar::new())))
        }

        fn set(&self, behaviour: Behaviour) {
            self.0.0.lock().unwrap().0 = behaviour;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
        }

        fn until(&self, end: &str) -> String {
            let begun = Instant::now();
            while !self.text().ends_with(end) {
                assert!(begun.elapsed() < TIMEOUT, "{:?}", self.text());
                thread::sleep(Duration::from_millis(5));
            }
            self.text()
        }
    }

    impl Write for Output {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().unwrap();
            while state.0 == Behaviour::Stalls {
                state = self.0.1.wait(state).unwrap();
            }
            let count = match state.0 {
                Behaviour::Fails => return Err(ErrorKind::StorageFull.into()),
                Behaviour::TakesHalf => {
                    state.0 = Behaviour::Fails;
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
            assert!(begun.elapsed() < TIMEOUT);
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(writer.lost(), count);
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let output = Output::new(Behaviour::Takes);
        let writer = start(&output);
        for number in 0..1000 {
            log(&writer, &format!("{number}\n"));
        }
        writer.flush(TIMEOUT);
        let expected = (0..1000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        assert_eq!((output.text(), writer.lost()), (expected, 0));
    }

    #[test]
    fn a_reader_that_stalls_holds_nobody_up_and_is_told_how_many_lines_it_has_missed() {
        let output = Output::new(Behaviour::Stalls);
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
        all_logged.recv_timeout(TIMEOUT).expect("logging waits for the reader");
        let lost = writer.lost();
        assert!((2900..=4000).contains(&lost), "{lost}");
        output.set(Behaviour::Takes);
        writer.flush(TIMEOUT);
        // If the worker starts late, the first lines are lost before it reports for the first time.
        let text = output.text();
        let reports: Vec<u64> =
            text.lines().filter_map(|line| line.strip_prefix("lost ")?.parse().ok()).collect();
        assert!(!reports.is_empty() && reports.iter().sum::<u64>() == lost, "{lost} were lost: {reports:?}");
        assert_eq!(text.lines().count(), 5000 - usize::try_from(lost).unwrap() + reports.len());
        log(&writer, "and on\n");
        writer.flush(TIMEOUT);
        assert_eq!(output.text(), format!("{text}and on\n"), "the loss is reported again");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_reported_once_it_works_again() {
        let output = Output::new(Behaviour::Fails);
        let writer = start(&output);
        for number in 1..=3 {
            log(&writer, "gone\n");
            until_lost(&writer, number);
        }
        assert_eq!(output.text(), "");
        // Also if nobody logs any more.
        output.set(Behaviour::Takes);
        assert_eq!(output.until("lost 3\n"), "lost 3\n");
        log(&writer, "there\n");
        assert_eq!(output.until("there\n"), "lost 3\nthere\n");
    }

    #[test]
    fn a_line_that_was_written_in_part_does_not_spoil_the_next() {
        let output = Output::new(Behaviour::TakesHalf);
        let writer = start(&output);
        log(&writer, "12345678\n");
        until_lost(&writer, 1);
        output.set(Behaviour::Takes);
        assert_eq!(output.until("lost 1\n"), "1234\nlost 1\n");
    }
}
