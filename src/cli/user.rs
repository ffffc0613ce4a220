//! The arguments that name a user.

use clap::Args;

use super::{CommandError, Common, client};
use crate::grpc::pb::{self, get_account_request::Key};

#[derive(Args)]
pub(super) struct User {
    /// The username, or with --id the user id.
    user: String,
    /// The argument is a user id.
    #[arg(long)]
    id: bool,
}

pub(super) enum UserKey {
    Id(String),
    Name(String),
}

impl User {
    pub(super) const fn new(user: String, id: bool) -> Self {
        Self { user, id }
    }

    pub(super) fn into_key(self) -> UserKey {
        if self.id { UserKey::Id(self.user) } else { UserKey::Name(self.user) }
    }

    /// Returns the account and its failed logins.
    pub(super) async fn account(
        &self,
        common: &Common,
    ) -> Result<(pb::Account, pb::LoginThrottle), CommandError> {
        let mut client = client::accounts(common).await?;
        let response = client.get_account(self.request()).await.map_err(client::command_error)?.into_inner();
        Ok((response.account.unwrap_or_default(), response.login_throttle.unwrap_or_default()))
    }

    /// Returns the user id for a call that only admins may make.
    pub(super) async fn user_id(&self, common: &Common) -> Result<String, CommandError> {
        if self.id { Ok(self.user.clone()) } else { Ok(self.account(common).await?.0.user_id) }
    }

    /// Returns the user id for a call that operators may make, too. They may not look up a username, so the error suggests
    /// `--id`.
    pub(super) async fn id_for_operators(&self, common: &Common) -> Result<String, CommandError> {
        if self.id {
            return Ok(self.user.clone());
        }
        let mut client = client::accounts(common).await?;
        let response = client.get_account(self.request()).await.map_err(|status| {
            if client::info(&status).is_some_and(|info| info.reason == "CALLER_NOT_ALLOWED") {
                let message = format!(
                    "looking up a username failed: {}. Name the user by id, with --id",
                    status.message()
                );
                return CommandError::of_status(&status, message);
            }
            client::command_error(status)
        })?;
        Ok(response.into_inner().account.unwrap_or_default().user_id)
    }

    fn request(&self) -> pb::GetAccountRequest {
        let key = if self.id { Key::UserId(self.user.clone()) } else { Key::Username(self.user.clone()) };
        pb::GetAccountRequest { key: Some(key) }
    }
}
