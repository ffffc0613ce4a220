//! `latchkey key`: manages the signing keys in the key directory of this machine.

use std::{fs, time::Duration};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    CommandError, Common,
    client::{self, CallKind},
    output,
};
use crate::{
    config::Config,
    domain::{
        keyring::KeyAlgorithm,
        ports::Clock as _,
        rotation::{KeyFile, SigningPeriod, signing_periods},
        types::Timestamp,
    },
    grpc::pb,
    store::{clock::SystemClock, key_files},
};

/// The largest page of the server.
const MAX_PAGE: i32 = 1000;

#[derive(Subcommand)]
pub(super) enum Key {
    /// Generate a new signing key. Running servers publish it within `token.reload_interval` and sign with it after
    /// `token.activation_delay`. Tokens of older keys stay valid as long as their key files exist.
    #[command(after_help = "Examples:\n  latchkey key generate\n  latchkey key generate --algorithm ES256")]
    Generate {
        /// The algorithm of the key. The default is `token.algorithm`.
        #[arg(long, value_enum)]
        algorithm: Option<Algorithm>,
    },
    /// List the signing keys: which key signs since when, and until when tokens of the others can live.
    #[command(
        after_help = "Examples:\n  latchkey key list\n  latchkey key list --sessions\n  latchkey key list --output json"
    )]
    List {
        /// Count the live sessions that can have a token of each key; reads those of all users
        #[arg(long)]
        sessions: bool,
    },
    /// Remove a signing key that no live token needs. Running servers notice within `token.reload_interval`.
    #[command(
        after_help = "Examples:\n  latchkey key remove 2026-01-31T08-00-00-000Z-eddsa.pem\n  latchkey key remove --force 2026-01-31T08-00-00-000Z-eddsa.pem"
    )]
    Remove {
        /// The name of the key file, or the key id
        key: String,
        /// Remove it although live tokens can need it, which are then rejected as `BAD_SIGNATURE`
        #[arg(long)]
        force: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "verbatim")]
pub(super) enum Algorithm {
    EdDSA,
    ES256,
    RS256,
    HS256,
}

impl Key {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let config = common.config()?;
        match self {
            Self::Generate { algorithm } => generate(common, &config, algorithm),
            Self::List { sessions } => list(common, &config, sessions).await,
            Self::Remove { key, force } => remove(common, &config, &key, force),
        }
    }
}

fn generate(common: &Common, config: &Config, algorithm: Option<Algorithm>) -> Result<(), CommandError> {
    let algorithm = match algorithm {
        None => config.token.algorithm,
        Some(Algorithm::EdDSA) => KeyAlgorithm::EdDSA,
        Some(Algorithm::ES256) => KeyAlgorithm::ES256,
        Some(Algorithm::RS256) => KeyAlgorithm::RS256,
        Some(Algorithm::HS256) => KeyAlgorithm::HS256,
    };
    let generated = key_files::generate(&config.keys_dir(), algorithm, SystemClock.now());
    let (path, key) = generated.map_err(CommandError::Failed)?;
    let file = path.display().to_string();
    let value = json!({ "file": file, "kid": key.kid, "algorithm": algorithm.name() });
    common.output().print(&value, || format!("{file}\nkid {}", key.kid)).map_err(|error| {
        // The key was not announced, and it does not sign yet.
        let _ = fs::remove_file(&path);
        CommandError::Failed(format!("{}. The key was removed again", error.message()))
    })
}

/// The use of a key at a time.
#[derive(Clone, Copy)]
enum Use {
    /// It signs.
    Signs,
    /// It will sign.
    Next,
    /// It verifies tokens that it has signed.
    Verifies,
}

/// A key with its use.
struct Listed {
    file: KeyFile,
    used: Use,
    /// `None` if `token.signing_key` decides which key signs.
    period: Option<SigningPeriod>,
    /// When the last token of an old key expires, if that is known.
    needed_until: Option<Timestamp>,
}

impl Listed {
    fn signs_from(&self) -> Option<Timestamp> {
        let period = self.period.filter(|_| !matches!(self.used, Use::Verifies))?;
        Some(period.from)
    }

    /// Whether a session that was opened at this time can have a token of the key.
    fn can_have_signed(&self, at: Timestamp) -> bool {
        let within =
            |period: SigningPeriod| period.from <= at && period.until.is_none_or(|until| at <= until);
        self.period.is_some_and(within)
    }

    fn json(&self, sessions: Option<u64>) -> Value {
        json!({
            "file": self.file.name,
            "kid": self.file.key.kid,
            "algorithm": self.file.key.algorithm.name(),
            "signs": matches!(self.used, Use::Signs),
            "signs_from": self.signs_from().map(time),
            "needed_until": self.needed_until.map(time),
            "sessions": sessions,
        })
    }

    fn text(&self, now: Timestamp, sessions: Option<u64>) -> String {
        let from = self.signs_from().map(time);
        let (used, mut when) = match (self.used, from) {
            (Use::Signs, Some(from)) => ("signs", format!("since {from}")),
            (Use::Signs, None) => ("signs", "by token.signing_key".to_owned()),
            (Use::Next, from) => ("next", format!("from {}", from.unwrap_or_default())),
            (Use::Verifies, _) => {
                let needed = match self.needed_until {
                    None => "perhaps needed".to_owned(),
                    Some(until) if until <= now => "not needed".to_owned(),
                    Some(until) => format!("needed until {}", time(until)),
                };
                ("verifies", needed)
            }
        };
        if let Some(sessions) = sessions {
            when = format!("{when}  {sessions} sessions");
        }
        let KeyFile { name, key, .. } = &self.file;
        format!("{used:<8} {name}  {}  {when}  {}", key.algorithm.name(), key.kid)
    }
}

/// Reads the keys, in the order of their names.
fn listed(config: &Config, now: Timestamp) -> Result<Vec<Listed>, CommandError> {
    let dir = config.keys_dir();
    let files = key_files::list(&dir).map_err(CommandError::Failed)?;
    if let Some(named) = config.signing_key() {
        if files.iter().all(|file| file.name != named) {
            return Err(CommandError::Failed(format!(
                "token.signing_key: there is no key file {named} in {}",
                dir.display()
            )));
        }
        let used = |file: &KeyFile| if file.name == named { Use::Signs } else { Use::Verifies };
        let listed = files.into_iter().map(|file| Listed {
            used: used(&file),
            file,
            period: None,
            needed_until: None,
        });
        return Ok(listed.collect());
    }
    let periods = signing_periods(&files, now, config.token.activation_delay());
    let signing = periods.iter().rposition(|period| period.from <= now);
    let lifetime = longest_lifetime(config)? + config.token.leeway;
    let listed = files.into_iter().zip(periods).enumerate().map(|(index, (file, period))| {
        let used = match signing {
            Some(signing) if index == signing => Use::Signs,
            Some(signing) if index < signing => Use::Verifies,
            _ => Use::Next,
        };
        let old = matches!(used, Use::Verifies);
        let needed_until = period.until.filter(|_| old).map(|until| until.after(lifetime));
        Listed { file, used, period: Some(period), needed_until }
    });
    Ok(listed.collect())
}

/// The longest time for which a token is good.
fn longest_lifetime(config: &Config) -> Result<Duration, CommandError> {
    let policies = config.slot_policies().map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(policies.iter().map(|(_, policy)| policy.absolute_timeout).max().unwrap_or_default())
}

async fn list(common: &Common, config: &Config, count: bool) -> Result<(), CommandError> {
    let now = SystemClock.now();
    let listed = listed(config, now)?;
    let counts = if count { Some(count_sessions(common, &listed).await?) } else { None };
    let sessions = |index: usize| {
        let is_known = listed[index].period.is_some();
        counts.as_ref().filter(|_| is_known).map(|counts| counts[index])
    };
    let rows = || listed.iter().enumerate();
    let value: Vec<_> = rows().map(|(index, key)| key.json(sessions(index))).collect();
    common.output().print(&json!({ "keys": value }), || {
        output::join_lines(rows().map(|(index, key)| key.text(now, sessions(index))))
    })
}

/// Counts the live sessions that can have a token of each key. A session that was opened while one key replaced another
/// counts for both.
async fn count_sessions(common: &Common, keys: &[Listed]) -> Result<Vec<u64>, CommandError> {
    let mut client = client::sessions(common, CallKind::Unary).await?;
    let mut counts = vec![0; keys.len()];
    let mut page_token = String::new();
    loop {
        let request =
            pb::ListSessionsRequest { everyone: true, page_size: MAX_PAGE, page_token, ..Default::default() };
        let page = client.list_sessions(request).await.map_err(client::command_error)?.into_inner();
        for session in page.sessions {
            let at = session.issued_at.unwrap_or_default();
            let micros = at.seconds * 1_000_000 + i64::from(at.nanos / 1000);
            let at = Timestamp::from_micros(u64::try_from(micros).unwrap_or_default());
            for (key, count) in keys.iter().zip(&mut counts) {
                *count += u64::from(key.can_have_signed(at));
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(counts);
        }
    }
}

fn remove(common: &Common, config: &Config, name: &str, force: bool) -> Result<(), CommandError> {
    let now = SystemClock.now();
    let dir = config.keys_dir();
    let listed = listed(config, now)?;
    let Some(key) = listed.iter().find(|key| key.file.name == name || key.file.key.kid == name) else {
        return Err(CommandError::Failed(format!(
            "there is no key {name} in {}: `latchkey key list` lists them",
            dir.display()
        )));
    };
    let KeyFile { name: file, key: removed, .. } = &key.file;
    if let Some(why) = why_kept(key, config, listed.len(), now, force)? {
        return Err(CommandError::Failed(format!("{file} was not removed: {why}")));
    }
    let path = dir.join(file);
    fs::remove_file(&path)
        .map_err(|error| CommandError::Failed(format!("cannot remove {}: {error}", path.display())))?;
    let path = path.display().to_string();
    let value = json!({ "file": path, "kid": removed.kid });
    common.output().print_done(&value, || format!("removed {path}\nkid {}", removed.kid))
}

/// Why a key must not be removed.
fn why_kept(
    key: &Listed,
    config: &Config,
    keys: usize,
    now: Timestamp,
    force: bool,
) -> Result<Option<String>, CommandError> {
    const GENERATE: &str = "run `latchkey key generate`";
    if keys == 1 {
        return Ok(Some(format!("it is the only key: {GENERATE} first")));
    }
    if config.signing_key() == Some(&key.file.name) {
        return Ok(Some("token.signing_key names it: change that first".to_owned()));
    }
    if force {
        return Ok(None);
    }
    Ok(match (key.used, key.needed_until) {
        (Use::Signs, _) => Some(format!(
            "it signs: {GENERATE}, and wait until the new key signs and the tokens of this one have expired"
        )),
        (Use::Next, _) => Some("it is about to sign".to_owned()),
        (Use::Verifies, Some(until)) if until > now => Some(format!(
            "its tokens can live until {}: remove it then. With --force they are rejected as BAD_SIGNATURE from now on, and their users have to log in again",
            time(until)
        )),
        (Use::Verifies, Some(_)) => None,
        (Use::Verifies, None) => Some(format!(
            "it is unknown when it last signed, because token.signing_key is set. Its tokens live for up to {} after that: wait that long, and use --force",
            humantime::format_duration(longest_lifetime(config)?)
        )),
    })
}

fn time(at: Timestamp) -> String {
    output::time(Some(&prost_types::Timestamp {
        seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.as_micros() % 1_000_000 * 1000).unwrap_or_default(),
    }))
}
