//! `latchkey backup`

use std::{
    io::{IsTerminal as _, stdout},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use super::{CommandError, Common, output};
use crate::app::backup::{self, Target};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey backup /backups/latchkey.tar\n  latchkey backup - | age -r age1... > latchkey.tar.age"
)]
pub(super) struct Backup {
    /// The tar file to write, which has secrets in clear; - for standard output
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl Backup {
    pub(super) fn run(&self, common: &Common) -> Result<(), CommandError> {
        let config = common.config()?;
        let to_stdout = self.file == Path::new("-");
        if to_stdout && stdout().is_terminal() {
            return Err(CommandError::Usage("the archive is not text: redirect standard output".into()));
        }
        let target = if to_stdout {
            Target::StandardOutput
        } else {
            Target::File { path: &self.file, replace: self.force }
        };
        let manifest = backup::backup(&config, &target).map_err(CommandError::Failed)?;
        let not_included = backup::not_included(&config);
        for part in &not_included {
            output::note(&format!("not included: {part}"));
        }
        if to_stdout {
            return Ok(());
        }
        let file = self.file.display().to_string();
        let files: Vec<_> = manifest.files.keys().cloned().collect();
        let value = json!({
            "file": file,
            "created_at": manifest.created_at,
            "files": files,
            "not_included": not_included,
        });
        common
            .output()
            .print_done(&value, || output::fields(&[("backup", file), ("files", files.join(", "))]))
    }
}
