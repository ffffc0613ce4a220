//! `latchkey account`

use clap::Subcommand;
use serde_json::json;
use std::time::{Duration, SystemTime};

use super::{
    Common, Failure, client, import,
    output::{self, account_json, account_text, throttle_json, throttle_text},
    secret,
    user::{Named, User},
};
use crate::grpc::pb;

#[derive(Subcommand)]
pub(super) enum Account {
    /// Create an account; asks for the password.
    #[command(
        after_help = "Examples:\n  latchkey account add alice --role staff --role admin\n  echo \"$PASSWORD\" | latchkey account add alice"
    )]
    Add {
        /// What the user types to log in.
        username: String,
        /// A role; may be repeated.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// List every account.
    #[command(
        after_help = "Examples:\n  latchkey account list\n  latchkey account list --output json | jq -r '.accounts[].username'"
    )]
    List,
    /// Show an account.
    #[command(
        after_help = "Examples:\n  latchkey account show alice\n  latchkey account show --id hm5oz4mkzzgdmxsybkmjz3zqay"
    )]
    Show(User),
    /// Disable an account and end its sessions.
    #[command(
        after_help = "Examples:\n  latchkey account disable alice\n  latchkey account disable alice --for 24h"
    )]
    Disable {
        #[command(flatten)]
        user: User,
        /// Enable it again by itself after this long, such as 24h.
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        duration: Option<Duration>,
    },
    /// Enable an account.
    #[command(after_help = "Example:\n  latchkey account enable alice")]
    Enable(User),
    /// Set a new password and end every session; asks for the password.
    #[command(
        after_help = "Examples:\n  latchkey account set-password alice\n  echo \"$PASSWORD\" | latchkey account set-password alice"
    )]
    SetPassword(User),
    /// Forget the failed logins of a username, so that it can be tried again at once.
    #[command(after_help = "Example:\n  latchkey account unlock alice")]
    Unlock(User),
    /// Delete an account and end its sessions.
    #[command(after_help = "Example:\n  latchkey account delete alice")]
    Delete(User),
    /// Import accounts from a file, with the hashes of their passwords. Running it again goes on where
    /// it stopped; what is there already is left as it is.
    #[command(
        after_help = "Examples:\n  latchkey account import users.jsonl --dry-run\n  latchkey account import users.csv --role customer --ignore email\n  python manage.py dumpdata --natural-foreign auth.user | latchkey account import -"
    )]
    Import(Box<import::Import>),
}

impl Account {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        match self {
            Self::Add { username, roles } => add(common, username, roles).await,
            Self::List => list(common).await,
            Self::Show(user) => {
                let (account, throttle) = user.look(common).await?;
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
            Self::Enable(user) => {
                let update = pb::UpdateAccountRequest { disabled: Some(false), ..Default::default() };
                change(common, &user, update).await
            }
            Self::SetPassword(user) => {
                let user_id = user.user_id(common).await?;
                let password = secret::new_password()?;
                let request = pb::SetPasswordRequest { user_id, password };
                let mut client = client::accounts(common).await?;
                let ended = client.set_password(request).await.map_err(client::failed)?.into_inner().ended;
                print_ended(common, ended)
            }
            Self::Unlock(user) => unlock(common, user).await,
            Self::Delete(user) => {
                let user_id = user.user_id(common).await?;
                let mut client = client::accounts(common).await?;
                let request = pb::DeleteAccountRequest { user_id };
                let ended = client.delete_account(request).await.map_err(client::failed)?.into_inner().ended;
                print_ended(common, ended)
            }
            Self::Import(import) => import.run(common).await,
        }
    }
}

async fn add(common: &Common, username: String, roles: Vec<String>) -> Result<(), Failure> {
    let mut client = client::accounts(common).await?;
    let password = secret::new_password()?;
    let request = pb::CreateAccountRequest { username, password, roles };
    let answer = client.create_account(request).await.map_err(client::failed)?;
    let account = answer.into_inner().account.unwrap_or_default();
    common.output().print_done(&json!({ "account": account_json(&account) }), || account_text(&account))
}

async fn unlock(common: &Common, user: User) -> Result<(), Failure> {
    use pb::unlock_account_request::Key;
    let key = match user.named() {
        Named::Id(user_id) => Key::UserId(user_id),
        Named::Name(username) => Key::Username(username),
    };
    let request = pb::UnlockAccountRequest { key: Some(key) };
    let mut client = client::accounts(common).await?;
    let failures = client.unlock_account(request).await.map_err(client::failed)?.into_inner().failures;
    common.output().print_done(&json!({ "failures": failures }), || {
        output::lines(&[("logins", format!("{failures} failed ones forgotten"))])
    })
}

async fn list(common: &Common) -> Result<(), Failure> {
    let mut client = client::accounts(common).await?;
    let mut accounts = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListAccountsRequest { page_size: 1000, page_token };
        let page = client.list_accounts(request).await.map_err(client::failed)?.into_inner();
        accounts.extend(page.accounts);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let value: Vec<_> = accounts.iter().map(account_json).collect();
    common.output().print(&json!({ "accounts": value }), || {
        output::joined(accounts.iter().map(|account| {
            format!(
                "{}  {}  {}  {}",
                account.user_id,
                account.username,
                output::state(account),
                account.roles.join(",")
            )
        }))
    })
}

async fn change(common: &Common, user: &User, update: pb::UpdateAccountRequest) -> Result<(), Failure> {
    let user_id = user.user_id(common).await?;
    let mut client = client::accounts(common).await?;
    let request = pb::UpdateAccountRequest { user_id, ..update };
    let answer = client.update_account(request).await.map_err(client::failed)?.into_inner();
    let account = answer.account.unwrap_or_default();
    let value = json!({ "account": account_json(&account), "ended": answer.ended });
    common.output().print_done(&value, || format!("{}{}", account_text(&account), ended_text(answer.ended)))
}

fn print_ended(common: &Common, ended: u32) -> Result<(), Failure> {
    common.output().print_done(&json!({ "ended": ended }), || ended_text(ended))
}

fn ended_text(ended: u32) -> String {
    output::lines(&[("sessions", format!("{ended} ended"))])
}

fn until(duration: Duration) -> Result<prost_types::Timestamp, Failure> {
    #[expect(clippy::disallowed_methods, reason = "the user's own clock, for the user's own words")]
    let now = SystemTime::now();
    now.checked_add(duration).map(prost_types::Timestamp::from).ok_or_else(|| {
        Failure::Usage("--for is too long: leave it out to disable until further notice".into())
    })
}
