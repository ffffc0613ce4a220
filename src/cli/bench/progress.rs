//! The progress bar of a load.

use std::{
    io::IsTerminal as _,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::counts::SharedCounts;
use crate::cli::output::Output;

const UPDATE_INTERVAL: Duration = Duration::from_millis(250);

/// A bar on standard error if that is a terminal and the output is not JSON.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    duration: Duration,
}

impl Progress {
    pub(super) fn new(output: &Output, duration: Duration) -> Self {
        let is_visible = !output.is_json() && std::io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}").ok();
        let bar = style.filter(|_| is_visible).map(|style| {
            ProgressBar::new(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).with_style(style)
        });
        Self { bar, duration }
    }

    /// Updates the bar until the time is over.
    pub(super) async fn run(self, begin: Instant, counts_of_connections: Vec<Arc<SharedCounts>>) {
        let Some(bar) = self.bar else { return };
        let mut before = 0;
        while begin.elapsed() < self.duration {
            tokio::time::sleep(UPDATE_INTERVAL).await;
            let (mut right, mut wrong) = (0, 0);
            for counts in &counts_of_connections {
                let counts = counts.lock();
                right += counts.latencies.len();
                wrong += counts.wrong;
            }
            let updates_per_second = u64::from(1000 / UPDATE_INTERVAL.subsec_millis());
            bar.set_message(format!("{} requests/s, {wrong} wrong", (right - before) * updates_per_second));
            bar.set_position(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
            before = right;
        }
        bar.finish_and_clear();
    }
}
