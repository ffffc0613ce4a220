//! `latchkey validate`

use clap::Args;
use serde_json::json;

use super::{
    Common, Failure,
    client::{self, Carries},
    output::{rejection_json, rejection_text, session_json, session_text},
    secret,
};
use crate::grpc::pb::{self, validate_response::Verdict};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  echo \"$TOKEN\" | latchkey validate\n  LATCHKEY_TOKEN=$TOKEN latchkey validate --peek --output json\n\nExit code 0 for a session, 1 for a rejection, 3 where the server cannot tell."
)]
pub(super) struct Validate {
    /// Do not slide the idle timeout.
    #[arg(long)]
    peek: bool,
}

impl Validate {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let request = pb::ValidateRequest { token: secret::token()?, peek: self.peek, max_staleness: None };
        let answer =
            client::auth(common, Carries::Calls).await?.validate(request).await.map_err(client::failed)?;
        let output = common.output();
        match answer.into_inner().verdict {
            Some(Verdict::Session(session)) => {
                output.print(&json!({ "session": session_json(&session) }), || session_text(&session))
            }
            Some(Verdict::Rejection(rejection)) => {
                if output.is_json() {
                    output.print(&json!({ "rejection": rejection_json(&rejection) }), String::new)?;
                }
                Err(Failure::Refused(rejection_text(&rejection)))
            }
            None => Err(Failure::Unavailable(
                "the server gave no verdict: it may be newer than this program".into(),
            )),
        }
    }
}
