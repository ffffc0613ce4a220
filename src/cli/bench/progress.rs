//! How far the load has come, for a person at a terminal.

use std::{
    io::IsTerminal as _,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Tally;
use crate::cli::output::Output;

/// How often it is drawn.
const STEP: Duration = Duration::from_millis(250);

/// A bar on standard error, where that is a terminal and a person reads the answer; otherwise nothing.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    duration: Duration,
}

impl Progress {
    pub(super) fn new(output: &Output, duration: Duration) -> Self {
        let is_seen = !output.is_json() && std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}").ok();
        let bar = style.filter(|_| is_seen).map(|style| {
            ProgressBar::new(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).with_style(style)
        });
        Self { bar, duration }
    }

    /// Draws until the time is over.
    pub(super) async fn follow(self, begin: Instant, tallies: Vec<Arc<Tally>>) {
        let Some(bar) = self.bar else { return };
        let mut before = 0;
        while begin.elapsed() < self.duration {
            tokio::time::sleep(STEP).await;
            let (mut right, mut wrong) = (0, 0);
            for tally in &tallies {
                let counts = tally.counts();
                right += counts.latencies.len();
                wrong += counts.wrong;
            }
            let steps = u64::from(1000 / STEP.subsec_millis());
            bar.set_message(format!("{} requests/s, {wrong} wrong", (right - before) * steps));
            bar.set_position(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
            before = right;
        }
        bar.finish_and_clear();
    }
}
