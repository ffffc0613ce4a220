//! `latchkey caller`

use clap::Subcommand;
use serde_json::{Value, json};

use super::{CommandError, Common, client, output, table};
use crate::grpc::pb;

#[derive(Subcommand)]
pub(super) enum Caller {
    /// Create a caller and print its key, which cannot be printed again
    #[command(
        after_help = "Examples:\n  latchkey caller create web --role validator > web.key\n  latchkey caller create sso --role issuer --role operator --output json"
    )]
    Create {
        /// The name of the caller, for operators and in the audit trail
        name: String,
        /// A role: admin, issuer, operator or validator; can be repeated
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<String>,
    },
    /// List every caller with its roles and its last use
    #[command(after_help = "Examples:\n  latchkey caller list\n  latchkey caller list --output json")]
    List,
    /// Revoke the key of a caller
    #[command(after_help = "Example:\n  latchkey caller revoke web")]
    Revoke {
        /// The name of the caller.
        name: String,
    },
}

impl Caller {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        match self {
            Self::Create { name, roles } => create(common, name, roles).await,
            Self::List => list(common).await,
            Self::Revoke { name } => {
                let mut client = client::callers(common).await?;
                let request = pb::RevokeCallerRequest { name: name.clone() };
                client.revoke_caller(request).await.map_err(client::command_error)?;
                let value = json!({ "revoked": name });
                common.output().print_done(&value, || output::fields(&[("revoked", name.clone())]))
            }
        }
    }
}

async fn create(common: &Common, name: String, roles: Vec<String>) -> Result<(), CommandError> {
    let mut client = client::callers(common).await?;
    let request = pb::CreateCallerRequest { name, roles };
    let response = client.create_caller(request).await.map_err(client::command_error)?.into_inner();
    let caller = response.caller.unwrap_or_default();
    let output = common.output();
    if !output.is_json() {
        output::note(
            output::fields(&[("caller", caller.name.clone()), ("roles", caller.roles.join(", "))]).trim_end(),
        );
    }
    let value = json!({ "caller": caller_json(&caller), "key": response.key });
    let Err(error) = output.try_print(&value, || response.key.clone()) else { return Ok(()) };
    // Nobody has the key, so the caller is revoked.
    let message = output::write_error(&error).message();
    let name = caller.name;
    let revoked = client.revoke_caller(pb::RevokeCallerRequest { name: name.clone() }).await;
    Err(CommandError::Failed(match revoked {
        Ok(_) => format!("{message}. The key is lost, so the caller {name} was revoked again"),
        Err(status) => format!(
            "{message}. The key is lost, and the caller {name} could not be revoked ({}): run `latchkey caller revoke {name}`",
            status.message()
        ),
    }))
}

async fn list(common: &Common) -> Result<(), CommandError> {
    let mut client = client::callers(common).await?;
    let response = client.list_callers(pb::ListCallersRequest {}).await.map_err(client::command_error)?;
    let callers = response.into_inner().callers;
    let value: Vec<_> = callers.iter().map(caller_json).collect();
    common.output().print(&json!({ "callers": value }), || text(&callers))
}

fn text(callers: &[pb::Caller]) -> String {
    let rows = callers.iter().map(|caller| {
        let used =
            caller.last_used_at.as_ref().map_or_else(|| "never".to_owned(), |at| output::time(Some(at)));
        [caller.name.clone(), caller.roles.join(","), used]
    });
    table::format(["CALLER", "ROLES", "LAST USED"], rows)
}

/// A caller as JSON, with the field names of the protocol.
fn caller_json(caller: &pb::Caller) -> Value {
    json!({
        "name": caller.name,
        "roles": caller.roles,
        "created_at": output::time(caller.created_at.as_ref()),
        "last_used_at": caller.last_used_at.as_ref().map(|at| output::time(Some(at))),
    })
}
