//! The command line: one file a command.
//!
//! Exit codes: 0 done, 1 refused or rejected, 2 wrong usage, 3 unavailable. Output that could not be written is 1.

mod account;
mod bench;
mod caller;
mod client;
mod descriptor;
mod import;
mod key;
mod login;
mod logout;
mod output;
mod secret;
mod serve;
mod session;
mod stream;
mod tls;
mod user;
mod validate;
mod watch;

use std::{ffi::OsStr, path::PathBuf, process::ExitCode};

use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser, styling},
    parser::ValueSource,
};

use self::output::{Format, Output};
use crate::config::Config;

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default().bold())
    .placeholder(styling::AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  latchkey serve                          serve on the embedded default
  latchkey account add alice --role staff create an account; asks for the password
  TOKEN=$(latchkey login alice)           log in; asks for the password
  echo \"$TOKEN\" | latchkey validate       is it still the latest?
  echo \"$TOKEN\" | latchkey watch          wait until it is not, and say why
  echo \"$TOKEN\" | latchkey logout         end that session and no other
  latchkey session list alice             where is she logged in?

Exit codes: 0 done, 1 refused, rejected or not written, 2 wrong usage, 3 unavailable.";

/// An authentication service in which the latest login wins.
#[derive(Parser)]
#[command(name = "latchkey", version, styles = STYLES, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// What every command takes.
#[derive(Args, Clone)]
struct Common {
    /// A TOML file with settings.
    #[arg(long, global = true, env = "LATCHKEY_CONFIG", value_name = "FILE", value_parser = path())]
    config: Option<PathBuf>,
    /// How to print data.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// The gRPC address of the server, for the commands that talk to one; by default `listen.grpc` of the
    /// settings. With `https://` before it by TLS, with `http://` without.
    #[arg(long, global = true, env = "LATCHKEY_SERVER", value_name = "HOST:PORT")]
    server: Option<String>,
    /// A file with the key of a caller; by default the admin key of the server on this machine.
    #[arg(long, global = true, env = "LATCHKEY_KEY_FILE", value_name = "FILE", value_parser = path())]
    key_file: Option<PathBuf>,
    /// The roots to trust the server's certificate by, in PEM; by default those of the system, and for the
    /// server on this machine exactly its own certificate.
    #[arg(long, global = true, env = "LATCHKEY_CA_FILE", value_name = "FILE", value_parser = path())]
    ca_file: Option<PathBuf>,
    /// A client certificate in PEM, for servers that ask for one.
    #[arg(
        long,
        global = true,
        env = "LATCHKEY_CERTIFICATE_FILE",
        value_name = "FILE",
        value_parser = path()
    )]
    certificate_file: Option<PathBuf>,
    /// The private key of the client certificate, in PEM.
    #[arg(
        long,
        global = true,
        env = "LATCHKEY_CERTIFICATE_KEY_FILE",
        value_name = "FILE",
        value_parser = path()
    )]
    certificate_key_file: Option<PathBuf>,
}

/// Reads a path, which may be empty: an empty variable is not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl Common {
    /// Without what comes from empty variables. An empty argument is a mistake.
    fn given(self, matches: &ArgMatches) -> Result<Self, Failure> {
        fn given<T: AsRef<OsStr>>(
            matches: &ArgMatches,
            name: &str,
            value: Option<T>,
        ) -> Result<Option<T>, Failure> {
            let is_empty = value.as_ref().is_some_and(|value| value.as_ref().is_empty());
            if is_empty && matches.value_source(name) != Some(ValueSource::EnvVariable) {
                let name = name.replace('_', "-");
                return Err(Failure::Usage(format!("--{name} is empty: give it a value, or leave it out")));
            }
            Ok(value.filter(|_| !is_empty))
        }
        let common = Self {
            config: given(matches, "config", self.config)?,
            output: self.output,
            server: given(matches, "server", self.server)?,
            key_file: given(matches, "key_file", self.key_file)?,
            ca_file: given(matches, "ca_file", self.ca_file)?,
            certificate_file: given(matches, "certificate_file", self.certificate_file)?,
            certificate_key_file: given(matches, "certificate_key_file", self.certificate_key_file)?,
        };
        if common.certificate_file.is_some() != common.certificate_key_file.is_some() {
            let sentence = "--certificate-file and --certificate-key-file go together: give both, or neither";
            return Err(Failure::Usage(sentence.into()));
        }
        Ok(common)
    }

    fn config(&self) -> Result<Config, Failure> {
        #[expect(
            clippy::disallowed_methods,
            reason = "settings come from the environment; this hands it over"
        )]
        let environment = std::env::vars();
        Config::load(self.config.as_deref(), environment).map_err(|error| Failure::Refused(error.to_string()))
    }

    fn output(&self) -> Output {
        Output::new(self.output)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::Serve),
    /// Manage accounts, with the admin key.
    #[command(
        subcommand,
        after_help = "Examples:\n  latchkey account add alice\n  latchkey account disable alice --for 24h"
    )]
    Account(account::Account),
    /// Manage callers: the services that may call what needs a permission.
    #[command(
        subcommand,
        after_help = "Examples:\n  latchkey caller create web --role validator\n  latchkey caller list\n  latchkey caller revoke web"
    )]
    Caller(caller::Caller),
    /// Log in: prints the token on standard output, everything else on standard error.
    Login(login::Login),
    /// Ask whether a token is good. The token comes from LATCHKEY_TOKEN or standard input.
    Validate(validate::Validate),
    /// End the session of a token. The token comes from LATCHKEY_TOKEN or standard input.
    Logout(logout::Logout),
    /// Wait for the end of the session of a token. The token comes from LATCHKEY_TOKEN or standard input.
    Watch(watch::Watch),
    /// Manage the sessions of all users, with the key of a caller.
    #[command(
        subcommand,
        after_help = "Examples:\n  latchkey session list alice\n  latchkey session end alice --message \"Please call the help desk\"\n  latchkey session watch"
    )]
    Session(session::Session),
    /// Measure how many Validates a second a server answers, and how fast. Every answer is checked.
    Bench(bench::Bench),
    /// Manage signing keys, in the key directory on this machine.
    #[command(subcommand, after_help = "Examples:\n  latchkey key generate\n  latchkey key list")]
    Key(key::Key),
    /// Print the descriptor set of the protocol, for gateways that make gRPC of JSON.
    #[command(after_help = "Examples:\n  latchkey descriptor > latchkey.binpb")]
    Descriptor,
}

/// Why a command did not do what it was asked to.
enum Failure {
    /// Refused or rejected: exit code 1.
    Refused(String),
    /// Wrong usage: exit code 2.
    Usage(String),
    /// The server or its store does not answer: exit code 3.
    Unavailable(String),
}

impl Failure {
    /// What is said about it.
    fn into_sentence(self) -> String {
        let (Self::Refused(sentence) | Self::Usage(sentence) | Self::Unavailable(sentence)) = self;
        sentence
    }
}

/// Runs the command line: the exit code.
pub fn main() -> ExitCode {
    let matches = match Arguments::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return told(&error),
    };
    let outcome = match Arguments::from_arg_matches(&matches) {
        Ok(Arguments { command, common }) => {
            common.given(&matches).and_then(|common| start(command, &common))
        }
        Err(error) => return told(&error),
    };
    let (code, sentence) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Refused(sentence)) => (1, sentence),
        Err(Failure::Usage(sentence)) => (2, sentence),
        Err(Failure::Unavailable(sentence)) => (3, sentence),
    };
    output::print_error(&sentence);
    ExitCode::from(code)
}

/// Prints help, the version, or what is wrong with the arguments: the exit code.
fn told(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    match output::write(&error.render().ansi().to_string()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&output::write_error(&error).into_sentence());
            ExitCode::from(1)
        }
    }
}

fn start(command: Command, common: &Common) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Unavailable(format!("cannot start: {error}")))
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(command, common));
            // What still runs has had its time.
            runtime.shutdown_background();
            outcome
        })
}

async fn run(command: Command, common: &Common) -> Result<(), Failure> {
    match command {
        Command::Serve(command) => command.run(common).await,
        Command::Account(command) => command.run(common).await,
        Command::Caller(command) => command.run(common).await,
        Command::Login(command) => command.run(common).await,
        Command::Validate(command) => command.run(common).await,
        Command::Logout(command) => command.run(common).await,
        Command::Watch(command) => command.run(common).await,
        Command::Session(command) => command.run(common).await,
        Command::Bench(command) => command.run(common).await,
        Command::Key(command) => command.run(common),
        Command::Descriptor => descriptor::run(),
    }
}
