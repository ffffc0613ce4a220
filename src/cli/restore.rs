//! `latchkey restore`

use std::{
    fs::File,
    io::{Read, stdin},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use super::{CommandError, Common, output};
use crate::app::backup::{self, RestoreOptions};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey restore /backups/latchkey.tar\n  age -d latchkey.tar.age | latchkey restore -"
)]
pub(super) struct Restore {
    /// The tar file of `latchkey backup`; - for standard input
    file: PathBuf,
    /// Move the files of a data directory that is not empty aside
    #[arg(long)]
    force: bool,
    /// Keep the sessions. Those that were logged out, replaced or kicked since the backup are live again
    #[arg(long)]
    keep_sessions: bool,
}

impl Restore {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let config = common.config()?;
        let file = self.file.display();
        let failed = |error: String| CommandError::Failed(format!("cannot restore {file}: {error}"));
        let archive: Box<dyn Read + Send> = if self.file == Path::new("-") {
            Box::new(stdin())
        } else {
            Box::new(File::open(&self.file).map_err(|error| failed(error.to_string()))?)
        };
        let options = RestoreOptions { force: self.force, keep_sessions: self.keep_sessions };
        let restored = backup::restore(&config, archive, options).await.map_err(failed)?;
        for part in &restored.skipped {
            output::note(&format!("not restored: {part}"));
        }
        let data_dir = config.data_dir.display().to_string();
        let aside = restored.aside.map(|aside| aside.display().to_string());
        let value = json!({
            "data_dir": data_dir,
            "created_at": restored.manifest.created_at,
            "sessions_kept": self.keep_sessions,
            "old_files": aside,
            "not_restored": restored.skipped,
        });
        let sessions = if self.keep_sessions {
            "kept; those that ended after the backup was made are live again"
        } else {
            "all ended by a new epoch"
        };
        common.output().print_done(&value, || {
            output::fields(&[
                ("restored", data_dir),
                ("made at", restored.manifest.created_at),
                ("sessions", sessions.to_owned()),
                ("old files", aside.unwrap_or_default()),
            ])
        })
    }
}
