//! `latchkey login`

use clap::Args;
use serde_json::json;

use super::{
    Common, Failure, client,
    output::{self, session_json, session_text},
    secret,
};
use crate::grpc::pb;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey login alice\n  TOKEN=$(latchkey login alice --device laptop)\n  echo \"$PASSWORD\" | latchkey login alice --output json"
)]
pub(super) struct Login {
    /// Who logs in.
    username: String,
    /// The slot to take; by default the first one.
    #[arg(long, default_value = "")]
    slot: String,
    /// What to call this client to the user it may displace.
    #[arg(long, default_value = "latchkey command line")]
    device: String,
}

impl Login {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let password = secret::password(&format!("Password of {}: ", self.username))?;
        let request = pb::LoginRequest {
            username: self.username,
            password,
            slot: self.slot,
            device: self.device,
            ..Default::default()
        };
        let answer = client::auth(common).await?.login(request).await.map_err(client::failed)?.into_inner();
        let session = answer.session.unwrap_or_default();
        let displaced: Vec<_> = answer
            .displaced
            .iter()
            .map(|old| {
                json!({
                    "session_id": old.session_id,
                    "slot": old.slot,
                    "device": old.device,
                    "issued_at": output::time(old.issued_at.as_ref()),
                })
            })
            .collect();
        let output = common.output();
        if !output.is_json() {
            output::remark(session_text(&session).trim_end());
            for old in &answer.displaced {
                let since = output::time(old.issued_at.as_ref());
                output::remark(&format!("displaced  {} (logged in {since})", old.device));
            }
        }
        let value = json!({
            "token": answer.token,
            "session": session_json(&session),
            "displaced": displaced,
        });
        output.print(&value, || answer.token.clone());
        Ok(())
    }
}
