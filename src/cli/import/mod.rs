//! `latchkey account import`: reads accounts from a file and sends them to the server. Memory holds one call, and a hash of
//! each username, however large the file is.

mod account;
mod auth0;
mod csv;
mod django;
mod encoding;
mod json_lines;
mod keycloak;
mod objects;
mod progress;
mod record_reader;
mod report;
mod source;
#[cfg(test)]
mod tests;
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
    account::{Record, Violation},
    progress::Progress,
    record_reader::SyntaxError,
    report::Report,
    source::{Format, Source},
    upload::{Batch, Upload},
};
use super::{CommandError, Common};
use crate::domain::username::Username;

#[derive(Args)]
pub(super) struct Import {
    /// The file with the accounts, or - for standard input.
    file: PathBuf,
    /// auto, jsonl, csv, django, keycloak or auth0
    #[arg(long, value_enum, default_value_t = Format::Auto, hide_possible_values = true)]
    format: Format,
    /// A role to add to every account; can be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A prefix for every user id, to keep those of two sources apart
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    id_prefix: String,
    /// Only print what would be imported
    #[arg(long)]
    dry_run: bool,
    /// Write the refused accounts to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How long to retry while the server does not answer
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    retry_for: Duration,
    /// A field to skip, which would be an error; can be repeated
    #[arg(long = "ignore", value_name = "FIELD")]
    ignored: Vec<String>,
    /// Django: the model of the users
    #[arg(long, value_name = "APP.MODEL", default_value = "auth.user")]
    model: String,
    /// Django, Keycloak, Auth0: the field that users log in with, if not username (Auth0: or else email)
    #[arg(long, value_name = "FIELD")]
    username_field: Option<String>,
    /// Django, Keycloak: the role of a group or realm role, or none; can be repeated
    #[arg(long = "group-role", value_name = "GROUP=ROLE", value_parser = group_role)]
    group_roles: Vec<(String, String)>,
}

fn group_role(text: &str) -> Result<(String, String), String> {
    let (group, role) = text.rsplit_once('=').ok_or("must be of the form GROUP=ROLE")?;
    Ok((group.to_owned(), role.to_owned()))
}

impl Import {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let source = self.source()?;
        let upload = Upload::new(common, self.retry_for).await?;
        let file = match &self.report {
            Some(path) => Some(File::create(path).map_err(|error| {
                CommandError::Failed(format!("failed to create the report {}: {error}", path.display()))
            })?),
            None => None,
        };

        let output = common.output();
        let progress = Progress::new(&output, source.size);
        let mut importer =
            Importer { source, upload, progress, report: Report::default(), usernames: Usernames::default() };
        let result = importer.run(&self).await;
        let Importer { source, progress, mut report, .. } = importer;
        progress.finish();
        report.skipped = source.skipped();
        report.complete = result.is_ok();
        report.print(&output, self.dry_run, file)?;
        result?;
        match report.refused() {
            0 => Ok(()),
            count => {
                Err(CommandError::Failed(format!("{count} of {} accounts were refused", report.total())))
            }
        }
    }

    fn source(&self) -> Result<Source, CommandError> {
        let username_field = self.username_field.clone().unwrap_or_else(|| "username".to_owned());
        let roles: HashMap<_, _> = self.group_roles.iter().cloned().collect();
        let settings = source::Settings {
            ignored: self.ignored.clone(),
            django: django::Settings {
                model: self.model.clone(),
                username_field: username_field.clone(),
                group_roles: roles.clone(),
                ignored: self.ignored.clone(),
            },
            keycloak: keycloak::Settings { username_field, roles },
            auth0_username: self.username_field.clone(),
        };
        Source::open(&self.file, self.format, settings)
    }
}

struct Importer {
    source: Source,
    upload: Upload,
    progress: Progress,
    report: Report,
    usernames: Usernames,
}

impl Importer {
    async fn run(&mut self, import: &Import) -> Result<(), CommandError> {
        let mut batch = Batch::default();
        let error = loop {
            match self.source.next() {
                Ok(Some(record)) => self.add(record, import, &mut batch),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
            if batch.is_full() {
                self.send(std::mem::take(&mut batch)).await?;
            }
        };
        if !batch.is_empty() {
            self.send(batch).await?;
        }
        match error {
            None => Ok(()),
            Some(SyntaxError { line, reason }) => {
                Err(CommandError::Failed(format!("line {line} {reason}; nothing from there on was imported")))
            }
        }
    }

    fn add(&mut self, record: Record, import: &Import, batch: &mut Batch) {
        let Record { line, mut account, violation } = record;
        account.roles.extend(import.roles.iter().cloned());
        if !account.user_id.is_empty() {
            account.user_id.insert_str(0, &import.id_prefix);
        }
        let violation = violation
            .or_else(|| self.usernames.check(&account.username, line))
            .or_else(|| Batch::check_size(&account).err());
        match violation {
            Some(violation) => {
                let username = account.username.chars().take(Username::MAX_LEN).collect();
                self.report.refuse(line, username, violation);
            }
            None => batch.add(account, import.dry_run),
        }
    }

    async fn send(&mut self, batch: Batch) -> Result<(), CommandError> {
        match self.upload.send(batch, &self.progress).await {
            Ok(response) => {
                self.report.add_response(response);
                self.progress.advance(self.source.offset(), &self.report);
                Ok(())
            }
            Err(CommandError::Unavailable(message)) => Err(CommandError::Unavailable(format!(
                "{message}. The accounts counted here are imported: run the same command again to go on"
            ))),
            Err(failure) => Err(failure),
        }
    }
}

/// Finds usernames that appear twice. Stores a hash of each with its line, about twenty bytes per account.
#[derive(Default)]
struct Usernames {
    lines: HashMap<u64, u64>,
    hasher: RandomState,
}

impl Usernames {
    fn check(&mut self, username: &str, line: u64) -> Option<Violation> {
        // The server refuses an invalid username.
        let username = Username::parse(username).ok()?;
        let first = self.lines.insert(self.hasher.hash_one(username.key()), line)?;
        Some(Violation::new("username", format!("is the same as in line {first}; case makes no difference")))
    }
}
