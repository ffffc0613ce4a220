//! `latchkey session issue`

use clap::Args;

use crate::{
    cli::{
        CommandError, Common,
        client::{self, CallKind},
        login::{self, LoginOptions},
        user::{User, UserKey},
    },
    grpc::pb,
};

#[derive(Args)]
pub(in crate::cli) struct Issue {
    #[command(flatten)]
    user: User,
    #[command(flatten)]
    options: LoginOptions,
}

impl Issue {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        // A username is not looked up here, because issuers may not read accounts.
        let (user_id, username) = match self.user.into_key() {
            UserKey::Id(user_id) => (user_id, String::new()),
            UserKey::Name(username) => (String::new(), username),
        };
        let LoginOptions { slot, device, takeover, idempotency_key } = self.options;
        let repeatable = !idempotency_key.is_empty();
        let request = pb::IssueSessionRequest { user_id, username, slot, device, idempotency_key, takeover };
        let mut client = client::sessions(common, CallKind::Unary).await?;
        let response = client.issue_session(request).await.map_err(login::login_error)?.into_inner();
        let printed = login::print(common, &response.token, response.session, &response.displaced);
        login::end_if_not_printed(common, printed, response.token, repeatable).await
    }
}
