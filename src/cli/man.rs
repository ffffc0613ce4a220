//! `latchkey man`

use std::{fs, path::PathBuf};

use clap::{Args, Command};
use clap_mangen::Man as Page;

use super::{CommandError, output};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey man | man -l -\n  latchkey man account add | man -l -\n  latchkey man --dir /usr/local/share/man/man1"
)]
pub(super) struct Man {
    /// The command, such as `account add`; by default the page of latchkey itself
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write the pages of all commands to this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let mut root = super::command().disable_help_subcommand(true);
        root.build();
        if let Some(dir) = self.dir {
            let failed = |path: &PathBuf, error: std::io::Error| {
                CommandError::Failed(format!("cannot write {}: {error}", path.display()))
            };
            fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
            for (name, page) in pages(&root, "latchkey") {
                let path = dir.join(format!("{name}.1"));
                fs::write(&path, page?).map_err(|error| failed(&path, error))?;
            }
            return Ok(());
        }
        let mut command = &root;
        let mut name = "latchkey".to_owned();
        for word in &self.command {
            command = command.find_subcommand(word).ok_or_else(|| {
                CommandError::Usage(format!("{name} has no command {word}: `{name} --help` lists them"))
            })?;
            name = format!("{name}-{word}");
        }
        output::write(&page(command, &name)?).map_err(|error| output::write_error(&error))
    }
}

/// The pages of a command and of all below it, with their names.
fn pages(command: &Command, name: &str) -> Vec<(String, Result<String, CommandError>)> {
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    let mut found = vec![(name.to_owned(), page(command, name))];
    found.extend(below.flat_map(|below| pages(below, &format!("{name}-{}", below.get_name()))));
    found
}

fn page(command: &Command, name: &str) -> Result<String, CommandError> {
    let mut page = Vec::new();
    Page::new(command.clone())
        .title(name.to_owned())
        .render(&mut page)
        .map_err(|error| CommandError::Failed(format!("cannot make the page of {name}: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
