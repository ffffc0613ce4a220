//! `latchkey account`

use clap::Subcommand;
use serde_json::json;
use std::time::{Duration, SystemTime};

use super::{
    CommandError, Common, client, import,
    output::{self, account_json, account_text, throttle_json, throttle_text},
    secret, table,
    user::{User, UserKey},
};
use crate::grpc::pb;

#[derive(Subcommand)]
pub(super) enum Account {
    /// Create an account; asks for the password.
    #[command(
        after_help = "Examples:\n  latchkey account add alice --role staff --role admin\n  echo \"$PASSWORD\" | latchkey account add alice"
    )]
    Add {
        /// The name to log in with.
        username: String,
        /// A role of the user; can be repeated
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// List every account.
    #[command(
        after_help = "Examples:\n  latchkey account list\n  latchkey account list --output json | jq -r '.accounts[].username'"
    )]
    List,
    /// Show an account and its failed logins.
    #[command(
        after_help = "Examples:\n  latchkey account show alice\n  latchkey account show --id hm5oz4mkzzgdmxsybkmjz3zqay"
    )]
    Show(User),
    /// Replace the roles of an account, also of its live sessions
    #[command(
        after_help = "Examples:\n  latchkey account set-roles alice staff admin\n  latchkey account set-roles alice --none"
    )]
    SetRoles {
        #[command(flatten)]
        user: User,
        /// The new roles, which replace all old ones
        #[arg(value_name = "ROLE")]
        roles: Vec<String>,
        /// Remove all roles
        #[arg(long, conflicts_with = "roles")]
        none: bool,
    },
    /// Disable an account and end its sessions.
    #[command(
        after_help = "Examples:\n  latchkey account disable alice\n  latchkey account disable alice --for 24h"
    )]
    Disable {
        #[command(flatten)]
        user: User,
        /// How long it stays disabled, such as 24h or 30m
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        duration: Option<Duration>,
    },
    /// Enable an account.
    #[command(after_help = "Example:\n  latchkey account enable alice")]
    Enable(User),
    /// Set a new password and end every session; asks for it
    #[command(
        after_help = "Examples:\n  latchkey account set-password alice\n  echo \"$PASSWORD\" | latchkey account set-password alice"
    )]
    SetPassword(User),
    /// Reset the failed logins of a username
    #[command(after_help = "Example:\n  latchkey account unlock alice")]
    Unlock(User),
    /// Delete an account and end its sessions.
    #[command(after_help = "Example:\n  latchkey account delete alice")]
    Delete(User),
    /// Import accounts with their password hashes from a file
    #[command(
        after_help = "Examples:\n  latchkey account import users.jsonl --dry-run\n  latchkey account import users.csv --role customer --ignore email\n  python manage.py dumpdata --natural-foreign auth.user | latchkey account import -\n\nFormats: jsonl has an object on each line, and csv a row of names and then a row for each account, with the fields user_id, username, password_hash, roles, disabled, disabled_until and created_at; django is what `manage.py dumpdata` prints.\n\nAccounts that exist are left as they are, so the same command can be run again after an interruption."
    )]
    Import(Box<import::Import>),
}

impl Account {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        match self {
            Self::Add { username, roles } => add(common, username, roles).await,
            Self::List => list(common).await,
            Self::Show(user) => {
                let (account, throttle) = user.account(common).await?;
                let value =
                    json!({ "account": account_json(&account), "login_throttle": throttle_json(&throttle) });
                common
                    .output()
                    .print(&value, || format!("{}{}", account_text(&account), throttle_text(&throttle)))
            }
            Self::Disable { user, duration } => {
                let until = duration.map(until).transpose()?;
                let update = pb::UpdateAccountRequest {
                    disabled: Some(true),
                    disabled_until: until,
                    ..Default::default()
                };
                change(common, &user, update).await
            }
            Self::SetRoles { roles, none: false, .. } if roles.is_empty() => Err(CommandError::Usage(
                "there is no role: name the new roles, or remove all with --none".to_owned(),
            )),
            Self::SetRoles { user, roles, .. } => {
                // Without the mask, an empty list would leave the roles as they are.
                let update_mask = Some(prost_types::FieldMask { paths: vec!["roles".to_owned()] });
                let update = pb::UpdateAccountRequest { roles, update_mask, ..Default::default() };
                change(common, &user, update).await
            }
            Self::Enable(user) => {
                let update = pb::UpdateAccountRequest { disabled: Some(false), ..Default::default() };
                change(common, &user, update).await
            }
            Self::SetPassword(user) => {
                let user_id = user.user_id(common).await?;
                let password = secret::new_password()?;
                let request = pb::SetPasswordRequest { user_id, password };
                let mut client = client::accounts(common).await?;
                let ended =
                    client.set_password(request).await.map_err(client::command_error)?.into_inner().ended;
                print_ended(common, ended)
            }
            Self::Unlock(user) => unlock(common, user).await,
            Self::Delete(user) => {
                let user_id = user.user_id(common).await?;
                let mut client = client::accounts(common).await?;
                let request = pb::DeleteAccountRequest { user_id };
                let ended =
                    client.delete_account(request).await.map_err(client::command_error)?.into_inner().ended;
                print_ended(common, ended)
            }
            Self::Import(import) => import.run(common).await,
        }
    }
}

async fn add(common: &Common, username: String, roles: Vec<String>) -> Result<(), CommandError> {
    let mut client = client::accounts(common).await?;
    let password = secret::new_password()?;
    let request = pb::CreateAccountRequest { username, password, roles };
    let response = client.create_account(request).await.map_err(client::command_error)?;
    let account = response.into_inner().account.unwrap_or_default();
    common.output().print_done(&json!({ "account": account_json(&account) }), || account_text(&account))
}

async fn unlock(common: &Common, user: User) -> Result<(), CommandError> {
    use pb::unlock_account_request::Key;
    let key = match user.into_key() {
        UserKey::Id(user_id) => Key::UserId(user_id),
        UserKey::Name(username) => Key::Username(username),
    };
    let request = pb::UnlockAccountRequest { key: Some(key) };
    let mut client = client::accounts(common).await?;
    let failures = client.unlock_account(request).await.map_err(client::command_error)?.into_inner().failures;
    common.output().print_done(&json!({ "failures": failures }), || {
        output::fields(&[("logins", format!("{failures} failed ones forgotten"))])
    })
}

async fn list(common: &Common) -> Result<(), CommandError> {
    let mut client = client::accounts(common).await?;
    let mut accounts = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListAccountsRequest { page_size: 1000, page_token };
        let page = client.list_accounts(request).await.map_err(client::command_error)?.into_inner();
        accounts.extend(page.accounts);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let value: Vec<_> = accounts.iter().map(account_json).collect();
    common.output().print(&json!({ "accounts": value }), || {
        let rows = accounts.iter().map(|account| {
            let id = account.user_id.clone();
            [id, account.username.clone(), output::state(account), account.roles.join(",")]
        });
        table::format(["ID", "USERNAME", "STATE", "ROLES"], rows)
    })
}

async fn change(common: &Common, user: &User, update: pb::UpdateAccountRequest) -> Result<(), CommandError> {
    let user_id = user.user_id(common).await?;
    let mut client = client::accounts(common).await?;
    let request = pb::UpdateAccountRequest { user_id, ..update };
    let response = client.update_account(request).await.map_err(client::command_error)?.into_inner();
    let account = response.account.unwrap_or_default();
    let value = json!({ "account": account_json(&account), "ended": response.ended });
    common.output().print_done(&value, || format!("{}{}", account_text(&account), ended_text(response.ended)))
}

fn print_ended(common: &Common, ended: u32) -> Result<(), CommandError> {
    common.output().print_done(&json!({ "ended": ended }), || ended_text(ended))
}

fn ended_text(ended: u32) -> String {
    output::fields(&[("sessions", format!("{ended} ended"))])
}

fn until(duration: Duration) -> Result<prost_types::Timestamp, CommandError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a duration on the command line counts from the local clock"
    )]
    let now = SystemTime::now();
    now.checked_add(duration).map(prost_types::Timestamp::from).ok_or_else(|| {
        CommandError::Usage(
            "--for is too long: leave it out to disable the account without a time limit".into(),
        )
    })
}
