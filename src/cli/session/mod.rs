//! `latchkey session`

mod end;
mod issue;
mod list;
mod watch;

use clap::Subcommand;

use super::{CommandError, Common};

#[derive(Subcommand)]
pub(super) enum Session {
    /// List live sessions
    #[command(
        after_help = "Examples:\n  latchkey session list alice\n  latchkey session list --limit 50\n  latchkey session list --all --output json | jq -r '.sessions[].username'\n\nNeeds the role operator, and admin to look up a username."
    )]
    List(list::List),
    /// End sessions of a user, or all sessions of all users
    #[command(
        after_help = "Examples:\n  latchkey session end alice --message \"Please call the help desk\"\n  latchkey session end --everyone\n\nNeeds the role operator, and admin to look up a username."
    )]
    End(end::End),
    /// Print sessions as they end, until Ctrl-C
    #[command(
        after_help = "Examples:\n  latchkey session watch\n  latchkey session watch --user alice --slot web\n  latchkey session watch --output json --after \"$CURSOR\"\n\nWith --output json every line has a cursor; --after begins behind it and misses nothing. RESYNC means that events are lost.\n\nNeeds the role operator, and admin to look up a username."
    )]
    Watch(watch::Watch),
    /// Open a session without a password, and print its token
    #[command(
        after_help = "Examples:\n  TOKEN=$(latchkey session issue alice --device \"single sign-on\")\n  latchkey session issue --id hm5oz4mkzzgdmxsybkmjz3zqay --slot web --output json\n\nNeeds the role issuer."
    )]
    Issue(issue::Issue),
}

impl Session {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        match self {
            Self::List(command) => command.run(common).await,
            Self::End(command) => command.run(common).await,
            Self::Watch(command) => command.run(common).await,
            Self::Issue(command) => command.run(common).await,
        }
    }
}
