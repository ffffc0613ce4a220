//! `latchkey session issue`

use clap::Args;

use crate::{
    cli::{
        Common, Failure,
        client::{self, Carries},
        login::{self, Place},
        user::{Named, User},
    },
    grpc::pb,
};

#[derive(Args)]
pub(in crate::cli) struct Issue {
    #[command(flatten)]
    user: User,
    #[command(flatten)]
    place: Place,
}

impl Issue {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        // Either is taken as it is, because whoever may issue sessions need not be allowed to read accounts.
        let (user_id, username) = match self.user.named() {
            Named::Id(user_id) => (user_id, String::new()),
            Named::Name(username) => (String::new(), username),
        };
        let Place { slot, device, takeover, idempotency_key } = self.place;
        let repeatable = !idempotency_key.is_empty();
        let request = pb::IssueSessionRequest { user_id, username, slot, device, idempotency_key, takeover };
        let mut client = client::sessions(common, Carries::Calls).await?;
        let answer = client.issue_session(request).await.map_err(login::refused)?.into_inner();
        let printed = login::print(common, &answer.token, answer.session, &answer.displaced);
        login::end_if_lost(common, printed, answer.token, repeatable).await
    }
}
