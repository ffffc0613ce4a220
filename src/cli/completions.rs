//! `latchkey completions`

use clap::Args;
use clap_complete::Shell;

use super::{CommandError, output};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey completions bash > /etc/bash_completion.d/latchkey\n  latchkey completions zsh > \"${fpath[1]}/_latchkey\"\n  latchkey completions fish > ~/.config/fish/completions/latchkey.fish"
)]
pub(super) struct Completions {
    /// The shell: bash, elvish, fish, powershell or zsh
    #[arg(value_enum, hide_possible_values = true)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), CommandError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "latchkey", &mut script);
        output::write(&String::from_utf8_lossy(&script)).map_err(|error| output::write_error(&error))
    }
}
