//! `latchkey logout`

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    CommandError, Common,
    client::{self, CallKind},
    output::{rejection_json, rejection_text},
    secret,
};
use crate::grpc::pb;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  echo \"$TOKEN\" | latchkey logout\n  echo \"$TOKEN\" | latchkey logout --scope others"
)]
pub(super) struct Logout {
    /// The sessions of the user to end: this, others or all
    #[arg(long, value_enum, default_value_t = Scope::This, hide_possible_values = true)]
    scope: Scope,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scope {
    /// The session of the token.
    This,
    /// Every other session of the user.
    Others,
    /// Every session of the user.
    All,
}

impl Logout {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let scope = match self.scope {
            Scope::This => pb::LogoutScope::This,
            Scope::Others => pb::LogoutScope::Others,
            Scope::All => pb::LogoutScope::All,
        };
        let request = pb::LogoutRequest { token: secret::token()?, scope: scope.into() };
        let response = client::auth(common, CallKind::Unary)
            .await?
            .logout(request)
            .await
            .map_err(client::command_error)?
            .into_inner();
        let value = json!({
            "ended": response.ended,
            "rejection": response.rejection.as_ref().map(rejection_json),
        });
        common.output().print_done(&value, || match &response.rejection {
            None => format!("{} ended", response.ended),
            Some(rejection) => format!("nothing to end: {}", rejection_text(rejection)),
        })
    }
}
