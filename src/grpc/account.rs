//! `AccountService`.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    convert,
    import::Import,
    origin::Origins,
    pb::{self, account_service_server::AccountService, get_account_request::Key, unlock_account_request},
    request_id::RequestId,
    status,
};
use crate::domain::{
    Engine, Error, Violation,
    accounts::{AccountKey, Update},
    origin::Origin,
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

    fn shown(&self, account: &Account) -> pb::Account {
        convert::account(account, self.engine.now())
    }

    async fn create(
        &self,
        message: pb::CreateAccountRequest,
        origin: &Origin,
    ) -> Result<pb::CreateAccountResponse, Error> {
        let username = Username::parse(&message.username)?;
        let password = NewPassword::new("password", message.password);
        let roles = Role::parse_all(&message.roles)?;
        let account = self.engine.create_account(username, password, roles, origin).await?;
        Ok(pb::CreateAccountResponse { account: Some(self.shown(&account)) })
    }

    async fn read(&self, message: pb::GetAccountRequest) -> Result<pb::GetAccountResponse, Error> {
        let key = match message.key {
            Some(Key::UserId(user_id)) => by_id(&user_id)?,
            Some(Key::Username(username)) => by_name(&username)?,
            None => return Err(no_key().into()),
        };
        let account = self.engine.account(&key).await?;
        let standing = self.engine.standing(&account.username).await?;
        Ok(pb::GetAccountResponse {
            account: Some(self.shown(&account)),
            login_throttle: Some(convert::standing(&standing)),
        })
    }

    async fn unlock(
        &self,
        message: pb::UnlockAccountRequest,
        origin: &Origin,
    ) -> Result<pb::UnlockAccountResponse, Error> {
        let key = match message.key {
            Some(unlock_account_request::Key::UserId(user_id)) => by_id(&user_id)?,
            Some(unlock_account_request::Key::Username(username)) => by_name(&username)?,
            None => return Err(no_key().into()),
        };
        let failures = self.engine.unlock_account(&key, origin).await?;
        Ok(pb::UnlockAccountResponse { failures })
    }

    async fn list(&self, message: pb::ListAccountsRequest) -> Result<pb::ListAccountsResponse, Error> {
        let limit = match message.page_size {
            0 => 100,
            size => u32::try_from(size)
                .map_err(|_| Violation::new("page_size", "must not be negative"))?
                .min(1000),
        };
        let after = page_token(&message.page_token)?;
        // One more than asked for, to know whether there is another page.
        let mut accounts = self.engine.list_accounts(after.as_ref(), limit + 1).await?;
        let more = accounts.len() > limit as usize;
        accounts.truncate(limit as usize);
        let next_page_token = match accounts.last() {
            Some(last) if more => BASE64URL_NOPAD.encode(last.username.as_str().as_bytes()),
            _ => String::new(),
        };
        let accounts = accounts.iter().map(|account| self.shown(account)).collect();
        Ok(pb::ListAccountsResponse { accounts, next_page_token })
    }

    async fn update(
        &self,
        message: pb::UpdateAccountRequest,
        origin: &Origin,
    ) -> Result<pb::UpdateAccountResponse, Error> {
        let user_id = UserId::parse(&message.user_id)?;
        let (account, ended) = self.engine.update_account(&user_id, update(&message)?, origin).await?;
        Ok(pb::UpdateAccountResponse { account: Some(self.shown(&account)), ended })
    }
}

#[async_trait]
impl AccountService for AccountHandler {
    async fn create_account(
        &self,
        request: Request<pb::CreateAccountRequest>,
    ) -> Result<Response<pb::CreateAccountResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        status::answer(self.create(message, &origin).await, &id)
    }

    async fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountResponse>, Status> {
        let id = RequestId::from_extensions(request.extensions());
        status::answer(self.read(request.into_inner()).await, &id)
    }

    async fn list_accounts(
        &self,
        request: Request<pb::ListAccountsRequest>,
    ) -> Result<Response<pb::ListAccountsResponse>, Status> {
        let id = RequestId::from_extensions(request.extensions());
        status::answer(self.list(request.into_inner()).await, &id)
    }

    async fn update_account(
        &self,
        request: Request<pb::UpdateAccountRequest>,
    ) -> Result<Response<pb::UpdateAccountResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        status::answer(self.update(message, &origin).await, &id)
    }

    async fn set_password(
        &self,
        request: Request<pb::SetPasswordRequest>,
    ) -> Result<Response<pb::SetPasswordResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        let done = async {
            let user_id = UserId::parse(&message.user_id)?;
            let password = NewPassword::new("password", message.password);
            let ended = self.engine.set_password(&user_id, password, &origin).await?;
            Ok(pb::SetPasswordResponse { ended })
        };
        status::answer(done.await, &id)
    }

    async fn unlock_account(
        &self,
        request: Request<pb::UnlockAccountRequest>,
    ) -> Result<Response<pb::UnlockAccountResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        status::answer(self.unlock(message, &origin).await, &id)
    }

    async fn delete_account(
        &self,
        request: Request<pb::DeleteAccountRequest>,
    ) -> Result<Response<pb::DeleteAccountResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        let done = async {
            let user_id = UserId::parse(&message.user_id)?;
            let ended = self.engine.delete_account(&user_id, &origin).await?;
            Ok(pb::DeleteAccountResponse { ended })
        };
        status::answer(done.await, &id)
    }

    async fn import_accounts(
        &self,
        request: Request<Streaming<pb::ImportAccountsRequest>>,
    ) -> Result<Response<pb::ImportAccountsResponse>, Status> {
        let origin = self.origins.of(request.metadata().as_ref(), request.extensions());
        self.import.run(request, origin).await.map(Response::new)
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

fn page_token(token: &str) -> Result<Option<Username>, Violation> {
    if token.is_empty() {
        return Ok(None);
    }
    BASE64URL_NOPAD
        .decode(token.as_bytes())
        .ok()
        .and_then(|bytes| Username::parse(std::str::from_utf8(&bytes).ok()?).ok())
        .map(Some)
        .ok_or_else(|| Violation::new("page_token", "is not a next_page_token that we gave"))
}

fn update(message: &pb::UpdateAccountRequest) -> Result<Update, Violation> {
    let named: Option<Vec<&str>> =
        message.update_mask.as_ref().map(|mask| mask.paths.iter().map(String::as_str).collect());
    if let Some(unknown) =
        named.iter().flatten().find(|path| !["roles", "disabled", "disabled_until"].contains(path))
    {
        return Err(Violation::new(
            "update_mask",
            format!("names {unknown}; what can be changed is roles, disabled and disabled_until"),
        ));
    }
    let covers = |field: &str, is_set: bool| named.as_ref().map_or(is_set, |paths| paths.contains(&field));

    let roles =
        covers("roles", !message.roles.is_empty()).then(|| Role::parse_all(&message.roles)).transpose()?;
    let until = message.disabled_until.map(convert::moment).filter(|_| covers("disabled_until", true));
    let disabled = message.disabled.filter(|_| covers("disabled", true));
    let cleared = covers("disabled_until", false) && until.is_none();
    let disabled = match (disabled, until) {
        (Some(false), Some(_)) => {
            return Err(Violation::new("disabled_until", "does not go with `disabled: false`"));
        }
        (Some(false), None) => Some(Disabled::No),
        (_, Some(until)) => Some(Disabled::Until(until)),
        (Some(true), None) => Some(Disabled::Yes),
        // Named in the mask and not set: the default of the field.
        (None, None) if covers("disabled", false) => Some(Disabled::No),
        (None, None) if cleared => {
            return Err(Violation::new("disabled", "must be set where `disabled_until` is cleared"));
        }
        (None, None) => None,
    };
    if roles.is_none() && disabled.is_none() {
        return Err(Violation::new("update_mask", "and the fields name nothing to change"));
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
    fn without_a_mask_what_is_set_is_changed() {
        let change = update(&request(&["a"], None, None, None)).unwrap();
        assert_eq!((change.roles.unwrap().len(), change.disabled), (1, None));
        assert_eq!(update(&request(&[], Some(true), None, None)).unwrap().disabled, Some(Disabled::Yes));
        assert_eq!(update(&request(&[], Some(false), None, None)).unwrap().disabled, Some(Disabled::No));
        let until = update(&request(&[], None, Some(9), None)).unwrap().disabled.unwrap();
        assert_eq!(until.until().unwrap().as_secs(), 9);
    }

    #[test]
    fn a_mask_names_what_is_changed_even_to_nothing() {
        let change = update(&request(&[], Some(true), None, Some(&["roles"]))).unwrap();
        assert_eq!((change.roles, change.disabled), (Some(Vec::new()), None));
        assert_eq!(
            update(&request(&[], None, None, Some(&["disabled"]))).unwrap().disabled,
            Some(Disabled::No)
        );
    }

    #[test]
    fn contradictions_and_nothing_are_refused() {
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
