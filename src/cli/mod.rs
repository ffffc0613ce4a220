//! The command line, with one file per command.
//!
//! Exit codes: 0 done, 1 failed or rejected, 2 wrong usage, 3 unavailable. An output error is 1.

mod account;
mod backup;
#[cfg(feature = "bench")]
mod bench;
mod caller;
mod client;
mod completions;
mod connection_error;
mod descriptor;
mod doctor;
mod error;
mod health;
mod import;
mod key;
mod login;
mod logout;
mod man;
mod output;
mod restore;
mod secret;
mod serve;
mod server_address;
mod session;
mod stream;
mod table;
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

use self::{
    error::CommandError,
    output::{Format, Output},
};
use crate::config::{Config, ConfigError};

const STYLES: styling::Styles = styling::Styles::styled()
    .header(styling::AnsiColor::Green.on_default().bold())
    .usage(styling::AnsiColor::Green.on_default().bold())
    .literal(styling::AnsiColor::Cyan.on_default().bold())
    .placeholder(styling::AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  latchkey serve                       run the server on the embedded store
  latchkey account add alice           create an account; asks for the password
  TOKEN=$(latchkey login alice)        log in; asks for the password
  echo \"$TOKEN\" | latchkey validate    check whether its session is live
  echo \"$TOKEN\" | latchkey watch       wait until it ends, and print why
  echo \"$TOKEN\" | latchkey logout      end this session and no other
  latchkey session list alice          list her sessions

Variables such as LATCHKEY_SERVER set global options, too. Without --server, the configuration has address, certificate and admin key of the local server.

Exit codes: 0 done, 1 failed or rejected, 2 wrong usage, 3 unavailable.";

/// An authentication service in which the latest login wins.
#[derive(Parser)]
#[command(name = "latchkey", version = env!("BUILD_VERSION"), styles = STYLES, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// The heading of the options of every command.
const GLOBAL: &str = "Global options";
/// The last line of the help of every command.
const FOOTER: &str = "Global options, such as --config, --server and --output: latchkey --help";

/// The global options for the connection to a server.
const CONNECTION: [&str; 5] = ["server", "key_file", "ca_file", "certificate_file", "certificate_key_file"];

/// Commands that do not connect to a server, and have no use for these options.
const LOCAL_COMMANDS: [&str; 7] =
    ["serve", "backup", "restore", "descriptor", "completions", "man", "doctor"];

/// The options of every command.
#[derive(Args, Clone)]
struct Common {
    /// Configuration file, in TOML
    #[arg(long, global = true, env = "LATCHKEY_CONFIG", hide_env = true, value_name = "FILE", value_parser = path(), help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// Output format: text or json
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT", hide_default_value = true, hide_possible_values = true, help_heading = GLOBAL)]
    output: Format,
    /// gRPC address, with https:// for TLS
    #[arg(
        long,
        global = true,
        env = "LATCHKEY_SERVER",
        hide_env = true,
        value_name = "HOST:PORT",
        help_heading = GLOBAL
    )]
    server: Option<String>,
    /// A caller key [default: the admin key]
    #[arg(long, global = true, env = "LATCHKEY_KEY_FILE", hide_env = true, value_name = "FILE", value_parser = path(), help_heading = GLOBAL)]
    key_file: Option<PathBuf>,
    /// Root certificates to trust, in PEM
    #[arg(long, global = true, env = "LATCHKEY_CA_FILE", hide_env = true, value_name = "FILE", value_parser = path(), help_heading = GLOBAL)]
    ca_file: Option<PathBuf>,
    /// Client certificate, in PEM
    #[arg(
        long,
        global = true,
        env = "LATCHKEY_CERTIFICATE_FILE",
        hide_env = true,
        value_name = "FILE",
        value_parser = path(),
        help_heading = GLOBAL
    )]
    certificate_file: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(
        long,
        global = true,
        env = "LATCHKEY_CERTIFICATE_KEY_FILE",
        hide_env = true,
        value_name = "FILE",
        value_parser = path(),
        help_heading = GLOBAL
    )]
    certificate_key_file: Option<PathBuf>,
}

/// Accepts an empty path, because an empty environment variable counts as not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl Common {
    /// Drops options that come from empty environment variables. An empty argument is an error.
    fn without_empty(self, matches: &ArgMatches) -> Result<Self, CommandError> {
        fn non_empty<T: AsRef<OsStr>>(
            matches: &ArgMatches,
            name: &str,
            value: Option<T>,
        ) -> Result<Option<T>, CommandError> {
            let is_empty = value.as_ref().is_some_and(|value| value.as_ref().is_empty());
            if is_empty && matches.value_source(name) != Some(ValueSource::EnvVariable) {
                let name = name.replace('_', "-");
                return Err(CommandError::Usage(format!(
                    "--{name} is empty: give it a value, or leave it out"
                )));
            }
            Ok(value.filter(|_| !is_empty))
        }
        let common = Self {
            config: non_empty(matches, "config", self.config)?,
            output: self.output,
            server: non_empty(matches, "server", self.server)?,
            key_file: non_empty(matches, "key_file", self.key_file)?,
            ca_file: non_empty(matches, "ca_file", self.ca_file)?,
            certificate_file: non_empty(matches, "certificate_file", self.certificate_file)?,
            certificate_key_file: non_empty(matches, "certificate_key_file", self.certificate_key_file)?,
        };
        if common.certificate_file.is_some() != common.certificate_key_file.is_some() {
            let message = "--certificate-file and --certificate-key-file go together: give both, or neither";
            return Err(CommandError::Usage(message.into()));
        }
        Ok(common)
    }

    /// Fails with all errors of the configuration.
    fn config(&self) -> Result<Config, CommandError> {
        match self.config_with_errors() {
            (Some(config), errors) if errors.is_empty() => Ok(config),
            (_, errors) => Err(CommandError::Several(errors.iter().map(ToString::to_string).collect())),
        }
    }

    fn config_with_errors(&self) -> (Option<Config>, Vec<ConfigError>) {
        #[expect(clippy::disallowed_methods, reason = "passes the environment to the configuration")]
        let environment = std::env::vars();
        Config::load_with_errors(self.config.as_deref(), environment)
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
    #[command(subcommand, after_help = "Example:\n  latchkey account add alice --role staff")]
    Account(account::Account),
    /// Manage callers: services that make calls which need a role
    #[command(
        subcommand,
        after_help = "Examples:\n  latchkey caller create web --role validator\n  latchkey caller revoke web"
    )]
    Caller(caller::Caller),
    /// Log in, and print the token
    Login(login::Login),
    /// Validate a token
    Validate(validate::Validate),
    /// End the session of a token
    Logout(logout::Logout),
    /// Wait until the session of a token ends, and print why
    Watch(watch::Watch),
    /// Manage the sessions of all users, with the key of a caller.
    #[command(
        subcommand,
        after_help = "Examples:\n  latchkey session list alice\n  latchkey session end alice"
    )]
    Session(session::Session),
    /// Measure the throughput and latency of Validate
    #[cfg(feature = "bench")]
    Bench(bench::Bench),
    /// Manage the signing keys in the key directory of this machine.
    #[command(
        subcommand,
        after_help = "Examples:\n  latchkey key generate\n  latchkey key list\n  latchkey key remove 2026-01-31T08-00-00-000Z-eddsa.pem"
    )]
    Key(key::Key),
    /// Back up the database and the keys of this machine
    Backup(backup::Backup),
    /// Restore a backup on this machine, and end all sessions
    Restore(restore::Restore),
    /// Ask a running server whether it serves
    Health(health::Health),
    /// Print the descriptor set of the protocol, for gateways
    #[command(after_help = "Examples:\n  latchkey descriptor > latchkey.binpb")]
    Descriptor,
    /// Look for problems of configuration, files and stores
    Doctor(doctor::Doctor),
    /// Print a script that completes commands in a shell
    Completions(completions::Completions),
    /// Print a manual page, or write all of them to a directory
    Man(man::Man),
}

/// The command line with all subcommands, for completions and manual pages.
fn command() -> clap::Command {
    with_global_options(|command, id| LOCAL_COMMANDS.contains(&command) && CONNECTION.contains(&id))
}

/// [`command`], in which the help of a subcommand has one line for the global options, so that it fits a screen.
fn command_on_screen() -> clap::Command {
    with_global_options(|_, _| true).mut_subcommands(with_footer)
}

/// The command line. Subcommands do not show the global options for which `is_hidden` holds.
fn with_global_options(is_hidden: fn(command: &str, id: &str) -> bool) -> clap::Command {
    let command = Arguments::command();
    let global: Vec<_> =
        command.get_arguments().filter(|argument| argument.is_global_set()).cloned().collect();
    command.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        let options = global.iter().cloned().map(|option| {
            let hide = is_hidden(&name, option.get_id().as_str());
            option.hide(hide)
        });
        command.args(options)
    })
}

fn with_footer(command: clap::Command) -> clap::Command {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let help = format!("{help}\n\n{FOOTER}");
    command.after_help(help.trim_start().to_owned()).mut_subcommands(with_footer)
}

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    let matches = match command_on_screen().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return print_clap_error(&error),
    };
    let Arguments { command, common } = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => return print_clap_error(&error),
    };
    let format = common.output;
    match common.without_empty(&matches).and_then(|common| start(command, &common)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit(&error, format),
    }
}

/// Prints an error and returns its exit code.
fn exit(error: &CommandError, format: Format) -> ExitCode {
    output::print_error(error, format);
    ExitCode::from(error.exit_code())
}

/// Prints help, the version, or an error about the arguments.
fn print_clap_error(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        if Format::of_arguments(std::env::args_os()) == Format::Json {
            return exit(&CommandError::Usage(error::clap_message(error)), Format::Json);
        }
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    match output::write(&error.render().ansi().to_string()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit(&output::write_error(&error), Format::of_arguments(std::env::args_os())),
    }
}

fn start(command: Command, common: &Common) -> Result<(), CommandError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::Unavailable(format!("cannot start: {error}")))
        .and_then(|runtime| {
            let result = runtime.block_on(async {
                match run(command, common).await {
                    Err(CommandError::Connection(error)) => {
                        Err(connection_error::explain(common, error).await)
                    }
                    result => result,
                }
            });
            // Tasks that still run are not waited for.
            runtime.shutdown_background();
            result
        })
}

async fn run(command: Command, common: &Common) -> Result<(), CommandError> {
    match command {
        Command::Serve(command) => command.run(common).await,
        Command::Account(command) => command.run(common).await,
        Command::Caller(command) => command.run(common).await,
        Command::Login(command) => command.run(common).await,
        Command::Validate(command) => command.run(common).await,
        Command::Logout(command) => command.run(common).await,
        Command::Watch(command) => command.run(common).await,
        Command::Session(command) => command.run(common).await,
        #[cfg(feature = "bench")]
        Command::Bench(command) => command.run(common).await,
        Command::Health(command) => command.run(common).await,
        Command::Key(command) => command.run(common).await,
        Command::Backup(command) => command.run(common),
        Command::Restore(command) => command.run(common).await,
        Command::Descriptor => descriptor::run(),
        Command::Doctor(command) => command.run(common).await,
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    }
}
