//! `latchkey session end`

use std::io::{BufRead as _, IsTerminal as _, stdin};

use clap::Args;
use serde_json::json;

use crate::{
    cli::{
        Common, Failure,
        client::{self, Carries},
        output,
        user::User,
    },
    grpc::pb,
};

#[derive(Args)]
pub(in crate::cli) struct End {
    /// The username, or with --id the user id.
    #[arg(required_unless_present = "everyone")]
    user: Option<String>,
    /// The argument is a user id.
    #[arg(long, requires = "user")]
    id: bool,
    /// Only those in this slot.
    #[arg(long, requires = "user")]
    slot: Option<String>,
    /// Only this one.
    #[arg(long, value_name = "ID", requires = "user")]
    session: Option<String>,
    /// What to tell the user instead of a sentence of ours.
    #[arg(long, value_name = "TEXT", default_value = "")]
    message: String,
    /// All sessions of all users: for the day a signing key leaks. Make a new key first.
    #[arg(long, conflicts_with_all = ["user", "id", "slot", "session"])]
    everyone: bool,
    /// Do not ask whether everyone is meant.
    // Not `requires`, which a user who is named would satisfy.
    #[arg(long, conflicts_with = "user")]
    yes: bool,
}

impl End {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let user_id = match self.user {
            Some(user) => User::new(user, self.id).id_for_operators(common).await?,
            // Without a user there is nothing else to mean: one of them has to be given.
            None if self.yes => String::new(),
            None => {
                confirm()?;
                String::new()
            }
        };
        let everyone = self.everyone;
        let request = pb::EndSessionsRequest {
            user_id,
            slot: self.slot.unwrap_or_default(),
            session_id: self.session.unwrap_or_default(),
            message: self.message,
            everyone,
        };
        let mut client = client::sessions(common, Carries::Calls).await?;
        let ended = client.end_sessions(request).await.map_err(client::failed)?.into_inner().ended;
        // Of everyone's sessions nobody knows how many there were.
        let ended = (!everyone).then_some(ended);
        common.output().print_done(&json!({ "ended": ended, "everyone": everyone }), || {
            let ended = ended.map_or_else(|| "all".to_owned(), |ended| ended.to_string());
            output::lines(&[("sessions", format!("{ended} ended"))])
        })
    }
}

/// Asks whoever typed this whether it was meant.
fn confirm() -> Result<(), Failure> {
    if !stdin().is_terminal() {
        return Err(Failure::Usage(
            "--everyone ends every session of every user: add --yes where nobody can be asked".into(),
        ));
    }
    output::note("This ends every session of every user, who then have to log in again. Go on? (yes/no)");
    let mut answer = String::new();
    stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::Usage(format!("cannot read the answer: {error}")))?;
    if is_yes(&answer) { Ok(()) } else { Err(Failure::Refused("nothing was ended".into())) }
}

/// The whole word: a key pressed by mistake is not enough.
fn is_yes(answer: &str) -> bool {
    answer.trim().eq_ignore_ascii_case("yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_whole_word_means_everyone() {
        assert!(is_yes("yes\n") && is_yes(" YES\r\n"));
        for answer in ["", "\n", "y\n", "no\n", "yes please\n", "ye\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
