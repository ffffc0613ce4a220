//! `latchkey bench`: measures the throughput and latency of Validate under load.

mod connection;
mod counts;
mod load;
mod progress;
mod query;
mod report;
mod schedule;
mod stream;

mod tokens;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;

use self::{connection::Endpoint, load::Load, report::Report};
use super::{
    CommandError, Common,
    client::{self, CallKind},
    output::Output,
};

const MAX_DURATION: Duration = Duration::from_hours(1);
const VALIDATE: &str = "/latchkey.v1.AuthService/Validate";
const VALIDATE_STREAM: &str = "/latchkey.v1.AuthService/ValidateStream";

#[derive(Args)]
#[command(
    after_help = "Examples:\n  echo \"$TOKEN\" | latchkey bench\n  latchkey bench --tokens tokens.txt --duration 30s --output json\n  echo \"$PASSWORD\" | latchkey bench --login alice --login bob --rate 2000\n  latchkey bench --tokens tokens.txt --stream --concurrency 256\n\nA login of --login may displace sessions; all its users have the same password, which is read from standard input. With --rate the latency counts from the time at which a request was due.\n\nA rejection, an error and an answer about another session count as wrong. Exit code 1 if there is a wrong answer."
)]
pub(super) struct Bench {
    /// A file with tokens of live sessions, one per line [default: standard input]
    #[arg(long, value_name = "FILE", conflicts_with = "login")]
    tokens: Option<PathBuf>,
    /// A user to log in for a token; can be repeated
    #[arg(long, value_name = "USER")]
    login: Vec<String>,
    /// The number of connections
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Use ValidateStream instead of unary calls
    #[arg(long)]
    stream: bool,
    /// The number of streams on each connection
    #[arg(long, default_value_t = 1, requires = "stream", value_parser = clap::value_parser!(u16).range(1..=100))]
    streams: u16,
    /// The number of requests in flight on each connection or stream
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// How long to measure, such as 30s; at most 1h
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Requests per second, whether the server keeps up or not
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Do not count the requests as uses, so idle timeouts do not slide
    #[arg(long)]
    peek: bool,
    /// Another method with the same messages, to compare with. The session of its answers is not checked.
    #[arg(long, hide = true)]
    path: Option<String>,
}

impl Bench {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        if self.duration.is_zero() || self.duration > MAX_DURATION {
            return Err(CommandError::Usage("--duration must be more than 0s and at most 1h".into()));
        }
        // The load has connections of its own. This one reports a server that is missing or not trusted, as other commands do.
        let client = client::auth(common, CallKind::Unary).await?;
        let tokens = if self.login.is_empty() {
            tokens::read(self.tokens.as_deref())?
        } else {
            tokens::log_in(client, &self.login).await?
        };
        let default_path = if self.stream { VALIDATE_STREAM } else { VALIDATE };
        let path = self.path.as_deref().unwrap_or(default_path);
        let check_session = path == default_path;
        let queries = tokens.iter().map(|token| query::Query::new(token, self.peek, check_session)).collect();
        let load = Arc::new(Load {
            endpoint: Endpoint::new(common, path)?,
            queries,
            streams: self.stream.then_some(self.streams),
            concurrency: usize::from(self.concurrency),
            duration: self.duration,
            rate: self.rate,
        });
        let output = common.output();
        let result = load::run(&load, self.connections, &output).await?;
        self.print(&output, &Report::new(result))
    }

    fn print(&self, output: &Output, report: &Report) -> Result<(), CommandError> {
        let mut value = report.json();
        value["connections"] = self.connections.into();
        value["streams"] = self.stream.then_some(self.streams).into();
        value["concurrency"] = self.concurrency.into();
        value["rate"] = self.rate.into();
        output.print(&value, || report.text())?;
        report.check()
    }
}
