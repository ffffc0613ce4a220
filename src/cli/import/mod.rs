//! `latchkey account import`

mod account;
mod csv;
mod django;
mod json_lines;
mod progress;
mod report;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod upload;

use std::{
    collections::HashMap,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use self::{
    account::{FieldError, Record},
    progress::Progress,
    report::Report,
    source::{Format, Source},
    text::SyntaxError,
    upload::{Batch, Upload},
};
use super::{Common, Failure};
use crate::domain::username::Username;

#[derive(Args)]
pub(super) struct Import {
    /// The file with the accounts, or - for standard input.
    file: PathBuf,
    /// What the file holds; auto looks at its name and its beginning.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    format: Format,
    /// A role that every account gets besides its own; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Put before every user id, such as django- to tell the ids of two sources apart.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    id_prefix: String,
    /// Say what would be done and do nothing. What appears twice in the file is seen; what two accounts of
    /// it would do to each other's ids is not.
    #[arg(long)]
    dry_run: bool,
    /// Write what was refused into a file, a line each, and not on standard output.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Go on trying for this long where the server does not answer. What was added before the answer was lost is
    /// then counted as present.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    retry_for: Duration,
    /// A field to pass over; may be repeated. In JSON lines and CSV, others that an account does not have are
    /// errors.
    #[arg(long = "ignore", value_name = "FIELD")]
    ignored: Vec<String>,
    /// The model of the users (Django).
    #[arg(long, value_name = "APP.MODEL", default_value = "auth.user")]
    model: String,
    /// The field that users log in with (Django).
    #[arg(long, value_name = "FIELD", default_value = "username")]
    username_field: String,
    /// The role of a group whose name is not to be one, or nothing after the = for none (Django); may be
    /// repeated.
    #[arg(long = "group-role", value_name = "GROUP=ROLE", value_parser = group_role)]
    group_roles: Vec<(String, String)>,
}

fn group_role(text: &str) -> Result<(String, String), String> {
    let (group, role) = text.rsplit_once('=').ok_or("must be of the form GROUP=ROLE")?;
    Ok((group.to_owned(), role.to_owned()))
}

impl Import {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let refused = |what: &PathBuf, error| Failure::Refused(format!("{}: {error}", what.display()));
        let source = self.source()?;
        let upload = Upload::new(common, self.retry_for).await?;
        let file = self.report.as_ref().map(|path| File::create(path).map_err(|error| refused(path, error)));
        let file = file.transpose()?;

        let output = common.output();
        let progress = Progress::new(&output, source.bytes);
        let mut run = Run { source, upload, progress, report: Report::default(), seen: Seen::default() };
        let ended = run.all(&self).await;
        run.progress.finish();
        run.report.skipped = run.source.skipped();
        run.report.complete = ended.is_ok();
        run.report.print(&output, self.dry_run, file)?;
        ended?;
        match run.report.refused() {
            0 => Ok(()),
            count => {
                Err(Failure::Refused(format!("{count} of {} accounts were refused", run.report.total())))
            }
        }
    }

    fn source(&self) -> Result<Source, Failure> {
        let django = django::Settings {
            model: self.model.clone(),
            username_field: self.username_field.clone(),
            group_roles: self.group_roles.iter().cloned().collect(),
            ignored: self.ignored.clone(),
        };
        Source::open(&self.file, self.format, &self.ignored, django)
    }
}

/// An import under way.
struct Run {
    source: Source,
    upload: Upload,
    progress: Progress,
    report: Report,
    seen: Seen,
}

impl Run {
    async fn all(&mut self, import: &Import) -> Result<(), Failure> {
        let mut batch = Batch::default();
        let broken = loop {
            match self.source.next() {
                Ok(Some(record)) => self.take(record, import, &mut batch),
                Ok(None) => break None,
                Err(broken) => break Some(broken),
            }
            if batch.is_full() {
                self.send(std::mem::take(&mut batch)).await?;
            }
        };
        if !batch.is_empty() {
            self.send(batch).await?;
        }
        match broken {
            None => Ok(()),
            Some(SyntaxError { line, reason }) => {
                Err(Failure::Refused(format!("line {line} {reason}; nothing from there on was imported")))
            }
        }
    }

    fn take(&mut self, record: Record, import: &Import, batch: &mut Batch) {
        let Record { line, mut account, flaw } = record;
        account.roles.extend(import.roles.iter().cloned());
        if !account.user_id.is_empty() {
            account.user_id.insert_str(0, &import.id_prefix);
        }
        let flaw = flaw
            .or_else(|| self.seen.check(&account.username, line))
            .or_else(|| Batch::takes(&account).err());
        match flaw {
            Some(flaw) => {
                let username = account.username.chars().take(Username::MAX_LEN).collect();
                self.report.refuse(line, username, flaw);
            }
            None => batch.add(account, import.dry_run),
        }
    }

    async fn send(&mut self, batch: Batch) -> Result<(), Failure> {
        match self.upload.send(batch, &self.progress).await {
            Ok(answer) => {
                self.report.count(answer);
                self.progress.reached(self.source.offset(), &self.report);
                Ok(())
            }
            Err(Failure::Unavailable(sentence)) => Err(Failure::Unavailable(format!(
                "{sentence}. What is counted here has been done: run the same command again to go on"
            ))),
            Err(failure) => Err(failure),
        }
    }
}

/// The usernames of a file so far. A hash of each is kept, some twenty bytes: all else of a file is forgotten as
/// soon as it is sent.
#[derive(Default)]
struct Seen {
    lines: HashMap<u64, u64>,
    hasher: RandomState,
}

impl Seen {
    fn check(&mut self, username: &str, line: u64) -> Option<FieldError> {
        // One that is not a username is for the server to refuse.
        let username = Username::parse(username).ok()?;
        let first = self.lines.insert(self.hasher.hash_one(username.key()), line)?;
        Some(FieldError::new("username", format!("is the same as in line {first}; case makes no difference")))
    }
}
