//! `latchkey session end`

use std::io::{BufRead as _, IsTerminal as _, stdin};

use clap::Args;
use serde_json::json;

use crate::{
    cli::{
        CommandError, Common,
        client::{self, CallKind},
        output,
        user::User,
    },
    grpc::pb,
};

#[derive(Args)]
pub(in crate::cli) struct End {
    /// The username, or with --id the user id
    #[arg(required_unless_present = "everyone")]
    user: Option<String>,
    /// The argument is a user id.
    #[arg(long, requires = "user")]
    id: bool,
    /// End only the sessions in this slot.
    #[arg(long, requires = "user")]
    slot: Option<String>,
    /// End only the session with this id.
    #[arg(long, value_name = "ID", requires = "user")]
    session: Option<String>,
    /// A notice for the user, instead of the message of the rejection
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// End all sessions of all users
    #[arg(long, conflicts_with_all = ["user", "id", "slot", "session"])]
    everyone: bool,
    /// Do not ask for confirmation of --everyone
    // `requires = "everyone"` would be satisfied by a user, because of `required_unless_present`.
    #[arg(long, conflicts_with = "user")]
    yes: bool,
}

impl End {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let user_id = match self.user {
            Some(user) => User::new(user, self.id).id_for_operators(common).await?,
            // clap demands a user or --everyone.
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
        let mut client = client::sessions(common, CallKind::Unary).await?;
        let ended = client.end_sessions(request).await.map_err(client::command_error)?.into_inner().ended;
        // The sessions of everyone are not counted.
        let ended = (!everyone).then_some(ended);
        common.output().print_done(&json!({ "ended": ended, "everyone": everyone }), || {
            let ended = ended.map_or_else(|| "all".to_owned(), |ended| ended.to_string());
            output::fields(&[("sessions", format!("{ended} ended"))])
        })
    }
}

fn confirm() -> Result<(), CommandError> {
    if !stdin().is_terminal() {
        return Err(CommandError::Usage(
            "--everyone ends every session of every user: add --yes if there is no terminal".into(),
        ));
    }
    output::note("This ends every session of every user; all have to log in again. Go on? (yes/no)");
    let mut answer = String::new();
    stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CommandError::Usage(format!("cannot read the answer: {error}")))?;
    if is_yes(&answer) { Ok(()) } else { Err(CommandError::Failed("nothing was ended".into())) }
}

/// Demands the whole word, because a single key may be pressed by mistake.
fn is_yes(answer: &str) -> bool {
    answer.trim().eq_ignore_ascii_case("yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_confirms() {
        assert!(is_yes("yes\n") && is_yes(" YES\r\n"));
        for answer in ["", "\n", "y\n", "no\n", "yes please\n", "ye\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
