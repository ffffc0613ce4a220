//! `latchkey validate`

use clap::Args;
use serde_json::json;

use super::{
    CommandError, Common,
    client::{self, CallKind},
    output::{rejection_json, session_json, session_text},
    secret,
};
use crate::grpc::pb::{self, validate_response::Verdict};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  echo \"$TOKEN\" | latchkey validate\n  LATCHKEY_TOKEN=$TOKEN latchkey validate --peek --output json\n\nExit codes: 0 for a session, 1 for a rejection, 3 if the server does not answer."
)]
pub(super) struct Validate {
    /// Do not count this as a use, so the idle timeout does not slide.
    #[arg(long)]
    peek: bool,
}

impl Validate {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let request = pb::ValidateRequest { token: secret::token()?, peek: self.peek, max_staleness: None };
        let response = client::auth(common, CallKind::Unary)
            .await?
            .validate(request)
            .await
            .map_err(client::command_error)?;
        let output = common.output();
        match response.into_inner().verdict {
            Some(Verdict::Session(session)) => {
                output.print(&json!({ "session": session_json(&session) }), || session_text(&session))
            }
            Some(Verdict::Rejection(rejection)) => {
                if output.is_json() {
                    output.print(&json!({ "rejection": rejection_json(&rejection) }), String::new)?;
                }
                Err(CommandError::rejected(&rejection))
            }
            None => Err(CommandError::Unavailable(
                "the server gave no verdict: it may be newer than this program".into(),
            )),
        }
    }
}
