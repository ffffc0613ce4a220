//! How commands name a user.

use clap::Args;

use super::{Common, Failure, client};
use crate::grpc::pb::{self, get_account_request::Key};

/// Names a user.
#[derive(Args)]
pub(super) struct User {
    /// The username, or with --id the user id.
    user: String,
    /// The argument is a user id.
    #[arg(long)]
    id: bool,
}

/// What a user was named by.
pub(super) enum Named {
    /// The user id.
    Id(String),
    /// The username.
    Name(String),
}

impl User {
    pub(super) const fn new(user: String, id: bool) -> Self {
        Self { user, id }
    }

    pub(super) fn named(self) -> Named {
        if self.id { Named::Id(self.user) } else { Named::Name(self.user) }
    }

    /// The account, and how it stands with those who try its password.
    pub(super) async fn look(&self, common: &Common) -> Result<(pb::Account, pb::LoginThrottle), Failure> {
        let mut client = client::accounts(common).await?;
        let answer = client.get_account(self.request()).await.map_err(client::failed)?.into_inner();
        Ok((answer.account.unwrap_or_default(), answer.login_throttle.unwrap_or_default()))
    }

    /// The id, for what only admins may do.
    pub(super) async fn user_id(&self, common: &Common) -> Result<String, Failure> {
        if self.id { Ok(self.user.clone()) } else { Ok(self.look(common).await?.0.user_id) }
    }

    /// The id, for what others may do as well: who may not look the name up is told how it goes without.
    pub(super) async fn id_for_operators(&self, common: &Common) -> Result<String, Failure> {
        if self.id {
            return Ok(self.user.clone());
        }
        let mut client = client::accounts(common).await?;
        let answer = client.get_account(self.request()).await.map_err(|status| {
            if client::info(&status).is_some_and(|info| info.reason == "CALLER_NOT_ALLOWED") {
                return Failure::Refused(format!(
                    "a username is looked up among the accounts, and {}: name the user by the id, with --id",
                    status.message()
                ));
            }
            client::failed(status)
        })?;
        Ok(answer.into_inner().account.unwrap_or_default().user_id)
    }

    fn request(&self) -> pb::GetAccountRequest {
        let key = if self.id { Key::UserId(self.user.clone()) } else { Key::Username(self.user.clone()) };
        pb::GetAccountRequest { key: Some(key) }
    }
}
