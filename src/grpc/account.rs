//! `AccountService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    call::Call,
    convert,
    import::Import,
    origin::Origins,
    page,
    pb::{self, account_service_server::AccountService, get_account_request::Key, unlock_account_request},
};
use crate::domain::{
    Engine, Violation,
    accounts::{AccountKey, Update},
    password::NewPassword,
    ports::{Account, Disabled},
    types::{Role, UserId},
    username::Username,
};

pub(super) struct AccountHandler {
    engine: Arc<Engine>,
    origins: Origins,
    import: Import,
}

impl AccountHandler {
    pub(super) fn new(engine: Arc<Engine>, origins: Origins, import: Import) -> Self {
        Self { engine, origins, import }
    }

    fn convert(&self, account: &Account) -> pb::Account {
        convert::account(account, self.engine.now())
    }
}

#[async_trait]
impl AccountService for AccountHandler {
    async fn create_account(
        &self,
        request: Request<pb::CreateAccountRequest>,
    ) -> Result<Response<pb::CreateAccountResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let username = Username::parse(&message.username)?;
            let password = NewPassword::new("password", message.password);
            let roles = Role::parse_all(&message.roles)?;
            let account = self.engine.create_account(username, password, roles, &call.origin).await?;
            Ok(Response::new(pb::CreateAccountResponse { account: Some(self.convert(&account)) }))
        })
        .await
    }

    async fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.read(async {
            let key = match message.key {
                Some(Key::UserId(user_id)) => by_id(&user_id)?,
                Some(Key::Username(username)) => by_name(&username)?,
                None => return Err(no_key().into()),
            };
            let account = self.engine.account(&key).await?;
            let status = self.engine.throttle_status(&account.username).await?;
            Ok(Response::new(pb::GetAccountResponse {
                account: Some(self.convert(&account)),
                login_throttle: Some(convert::login_throttle(&status)),
            }))
        })
        .await
    }

    async fn list_accounts(
        &self,
        request: Request<pb::ListAccountsRequest>,
    ) -> Result<Response<pb::ListAccountsResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.read(async {
            let limit = page::size(message.page_size)?;
            let after = page::after(&message.page_token)?;
            // One more than the page shows whether there is another page.
            let mut accounts = self.engine.list_accounts(after.as_ref(), limit + 1).await?;
            let has_more = accounts.len() > limit as usize;
            accounts.truncate(limit as usize);
            let next_page_token = match accounts.last() {
                Some(last) if has_more => page::token(&last.username),
                _ => String::new(),
            };
            let accounts = accounts.iter().map(|account| self.convert(account)).collect();
            Ok(Response::new(pb::ListAccountsResponse { accounts, next_page_token }))
        })
        .await
    }

    async fn update_account(
        &self,
        request: Request<pb::UpdateAccountRequest>,
    ) -> Result<Response<pb::UpdateAccountResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let user_id = UserId::parse(&message.user_id)?;
            let update = update(&message)?;
            let (account, ended) = self.engine.update_account(&user_id, update, &call.origin).await?;
            Ok(Response::new(pb::UpdateAccountResponse { account: Some(self.convert(&account)), ended }))
        })
        .await
    }

    async fn set_password(
        &self,
        request: Request<pb::SetPasswordRequest>,
    ) -> Result<Response<pb::SetPasswordResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let user_id = UserId::parse(&message.user_id)?;
            let password = NewPassword::new("password", message.password);
            let ended = self.engine.set_password(&user_id, password, &call.origin).await?;
            Ok(Response::new(pb::SetPasswordResponse { ended }))
        })
        .await
    }

    async fn unlock_account(
        &self,
        request: Request<pb::UnlockAccountRequest>,
    ) -> Result<Response<pb::UnlockAccountResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let key = match message.key {
                Some(unlock_account_request::Key::UserId(user_id)) => by_id(&user_id)?,
                Some(unlock_account_request::Key::Username(username)) => by_name(&username)?,
                None => return Err(no_key().into()),
            };
            let failures = self.engine.unlock_account(&key, &call.origin).await?;
            Ok(Response::new(pb::UnlockAccountResponse { failures }))
        })
        .await
    }

    async fn delete_account(
        &self,
        request: Request<pb::DeleteAccountRequest>,
    ) -> Result<Response<pb::DeleteAccountResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let user_id = UserId::parse(&message.user_id)?;
            let ended = self.engine.delete_account(&user_id, &call.origin).await?;
            Ok(Response::new(pb::DeleteAccountResponse { ended }))
        })
        .await
    }

    async fn import_accounts(
        &self,
        request: Request<Streaming<pb::ImportAccountsRequest>>,
    ) -> Result<Response<pb::ImportAccountsResponse>, Status> {
        let (messages, call) = Call::extract(request, &self.origins);
        self.import.run(messages, &call).await.map(Response::new)
    }
}

fn by_id(user_id: &str) -> Result<AccountKey, Violation> {
    UserId::parse(user_id).map(AccountKey::Id)
}

fn by_name(username: &str) -> Result<AccountKey, Violation> {
    Username::parse(username).map(AccountKey::Name)
}

fn no_key() -> Violation {
    Violation::new("user_id", "is missing, and so is username: set one")
}

/// Converts an update. Without a mask, the fields that are set are changed.
fn update(message: &pb::UpdateAccountRequest) -> Result<Update, Violation> {
    let mask: Option<Vec<&str>> =
        message.update_mask.as_ref().map(|mask| mask.paths.iter().map(String::as_str).collect());
    if let Some(unknown) =
        mask.iter().flatten().find(|path| !["roles", "disabled", "disabled_until"].contains(path))
    {
        return Err(Violation::new(
            "update_mask",
            format!("contains {unknown}: use roles, disabled and disabled_until"),
        ));
    }
    let selects = |field: &str, is_set: bool| mask.as_ref().map_or(is_set, |paths| paths.contains(&field));

    let roles =
        selects("roles", !message.roles.is_empty()).then(|| Role::parse_all(&message.roles)).transpose()?;
    let until =
        message.disabled_until.map(convert::from_timestamp).filter(|_| selects("disabled_until", true));
    let disabled = message.disabled.filter(|_| selects("disabled", true));
    let cleared = selects("disabled_until", false) && until.is_none();
    let disabled = match (disabled, until) {
        (Some(false), Some(_)) => {
            return Err(Violation::new("disabled_until", "cannot be set together with `disabled: false`"));
        }
        (Some(false), None) => Some(Disabled::No),
        (_, Some(until)) => Some(Disabled::Until(until)),
        (Some(true), None) => Some(Disabled::Yes),
        // A field in the mask without a value gets its default.
        (None, None) if selects("disabled", false) => Some(Disabled::No),
        (None, None) if cleared => {
            return Err(Violation::new("disabled", "must be set if `disabled_until` is cleared"));
        }
        (None, None) => None,
    };
    if roles.is_none() && disabled.is_none() {
        return Err(Violation::new(
            "update_mask",
            "selects nothing to change: set roles, disabled or disabled_until",
        ));
    }
    Ok(Update { roles, disabled })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        roles: &[&str],
        disabled: Option<bool>,
        until: Option<i64>,
        mask: Option<&[&str]>,
    ) -> pb::UpdateAccountRequest {
        pb::UpdateAccountRequest {
            user_id: String::new(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            disabled,
            disabled_until: until.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            update_mask: mask.map(|paths| prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
        }
    }

    #[test]
    fn without_a_mask_the_fields_that_are_set_are_changed() {
        let change = update(&request(&["a"], None, None, None)).unwrap();
        assert_eq!((change.roles.unwrap().len(), change.disabled), (1, None));
        assert_eq!(update(&request(&[], Some(true), None, None)).unwrap().disabled, Some(Disabled::Yes));
        assert_eq!(update(&request(&[], Some(false), None, None)).unwrap().disabled, Some(Disabled::No));
        let until = update(&request(&[], None, Some(9), None)).unwrap().disabled.unwrap();
        assert_eq!(until.until().unwrap().as_secs(), 9);
    }

    #[test]
    fn a_mask_selects_fields_that_are_changed_even_to_their_default() {
        let change = update(&request(&[], Some(true), None, Some(&["roles"]))).unwrap();
        assert_eq!((change.roles, change.disabled), (Some(Vec::new()), None));
        assert_eq!(
            update(&request(&[], None, None, Some(&["disabled"]))).unwrap().disabled,
            Some(Disabled::No)
        );
    }

    #[test]
    fn contradictory_and_empty_updates_are_violations() {
        for (message, field) in [
            (request(&[], None, None, None), "update_mask"),
            (request(&[], None, None, Some(&["username"])), "update_mask"),
            (request(&[], Some(false), Some(9), None), "disabled_until"),
            (request(&["a b"], None, None, None), "roles"),
        ] {
            assert_eq!(update(&message).unwrap_err().field, field);
        }
    }
}
