//! `latchkey bench`: load on a server, and how it bears it.

mod connection;
mod load;
mod progress;
mod query;
mod report;
mod schedule;
mod stream;
mod tally;
mod tokens;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;

use self::{connection::Endpoint, load::Load, report::Report};
use super::{
    Common, Failure,
    client::{self, Carries},
    output::Output,
};

/// How long a run may take: longer than this is not a benchmark but a service.
const LONGEST: Duration = Duration::from_hours(1);
/// What is measured where nothing else is named.
const VALIDATE: &str = "/latchkey.v1.AuthService/Validate";
/// What is measured with `--stream`.
const VALIDATE_STREAM: &str = "/latchkey.v1.AuthService/ValidateStream";

#[derive(Args)]
#[command(
    after_help = "Examples:\n  echo \"$TOKEN\" | latchkey bench\n  latchkey bench --tokens tokens.txt --duration 30s --output json\n  echo \"$PASSWORD\" | latchkey bench --login alice --login bob --rate 2000\n  latchkey bench --tokens tokens.txt --stream --concurrency 256\n\nA rejection, an error and an answer about another session all count as wrong. Exit code 1 if there was one."
)]
pub(super) struct Bench {
    /// A file with tokens of live sessions, one a line, which are validated in turn. By default, and for
    /// `-`, standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "login")]
    tokens: Option<PathBuf>,
    /// Log this user in, which displaces whoever is logged in as such, and validate that token. Give it
    /// again for more users; they share the password, which comes from standard input.
    #[arg(long, value_name = "USER")]
    login: Vec<String>,
    /// How many connections to open.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Query over `ValidateStream`: many requests and answers on a call that stays open.
    #[arg(long)]
    stream: bool,
    /// How many streams to open on each connection.
    #[arg(long, default_value_t = 1, requires = "stream", value_parser = clap::value_parser!(u16).range(1..=100))]
    streams: u16,
    /// How many requests to have under way on each connection or, with --stream, on each stream.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// For how long, an hour at the most.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// So many requests a second, whether the server keeps up or not; the latency then counts from the moment
    /// at which a request was due. Of more than 5000 a second, several are due at a time, on one connection. By default
    /// a request follows the answer to the one before.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Do not slide the idle timeouts.
    #[arg(long)]
    peek: bool,
    /// Another method with the same messages, to compare with. What its answers are about is not checked.
    #[arg(long, hide = true)]
    path: Option<String>,
}

impl Bench {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        if self.duration.is_zero() || self.duration > LONGEST {
            return Err(Failure::Usage("--duration must be more than 0s and at most 1h".into()));
        }
        // Not for the load, but a server that is not there or not trusted is told in the usual words.
        let client = client::auth(common, Carries::Calls).await?;
        let tokens = if self.login.is_empty() {
            tokens::read(self.tokens.as_deref())?
        } else {
            tokens::log_in(client, &self.login).await?
        };
        let usual = if self.stream { VALIDATE_STREAM } else { VALIDATE };
        let path = self.path.as_deref().unwrap_or(usual);
        let is_ours = path == usual;
        let asks = tokens.iter().map(|token| query::Query::new(token, self.peek, is_ours)).collect();
        let load = Arc::new(Load {
            way: Endpoint::new(common, path)?,
            asks,
            streams: self.stream.then_some(self.streams),
            concurrency: usize::from(self.concurrency),
            duration: self.duration,
            rate: self.rate,
        });
        let output = common.output();
        let outcome = load::run(&load, self.connections, &output).await?;
        self.print(&output, &Report::new(outcome))
    }

    fn print(&self, output: &Output, report: &Report) -> Result<(), Failure> {
        let mut value = report.json();
        value["connections"] = self.connections.into();
        value["streams"] = self.stream.then_some(self.streams).into();
        value["concurrency"] = self.concurrency.into();
        value["rate"] = self.rate.into();
        output.print(&value, || report.text())?;
        report.verdict()
    }
}
