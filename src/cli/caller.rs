//! `latchkey caller`

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Common, Failure, client, output};
use crate::grpc::pb;

#[derive(Subcommand)]
pub(super) enum Caller {
    /// Make a caller: prints its key on standard output, everything else on standard error. The key is not
    /// shown again.
    #[command(
        after_help = "Examples:\n  latchkey caller create web --role validator > web.key\n  latchkey caller create sso --role issuer --role operator --output json"
    )]
    Create {
        /// Names the caller, to operators and in the audit trail.
        name: String,
        /// What it may do: admin, issuer, operator or validator; may be repeated.
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<String>,
    },
    /// List every caller: its roles, and when it was last used.
    #[command(after_help = "Examples:\n  latchkey caller list\n  latchkey caller list --output json")]
    List,
    /// Take a caller's key away.
    #[command(after_help = "Example:\n  latchkey caller revoke web")]
    Revoke {
        /// Which caller.
        name: String,
    },
}

impl Caller {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        match self {
            Self::Create { name, roles } => create(common, name, roles).await,
            Self::List => list(common).await,
            Self::Revoke { name } => {
                let mut client = client::callers(common).await?;
                let request = pb::RevokeCallerRequest { name: name.clone() };
                client.revoke_caller(request).await.map_err(client::failed)?;
                let value = json!({ "revoked": name });
                common.output().print_done(&value, || output::lines(&[("revoked", name.clone())]))
            }
        }
    }
}

async fn create(common: &Common, name: String, roles: Vec<String>) -> Result<(), Failure> {
    let mut client = client::callers(common).await?;
    let request = pb::CreateCallerRequest { name, roles };
    let answer = client.create_caller(request).await.map_err(client::failed)?.into_inner();
    let caller = answer.caller.unwrap_or_default();
    let output = common.output();
    if !output.is_json() {
        output::note(
            output::lines(&[("caller", caller.name.clone()), ("roles", caller.roles.join(", "))]).trim_end(),
        );
    }
    let value = json!({ "caller": caller_json(&caller), "key": answer.key });
    let Err(error) = output.try_print(&value, || answer.key.clone()) else { return Ok(()) };
    // Nobody has the key, and nobody will.
    let sentence = output::write_error(&error).into_sentence();
    let name = caller.name;
    let revoked = client.revoke_caller(pb::RevokeCallerRequest { name: name.clone() }).await;
    Err(Failure::Refused(match revoked {
        Ok(_) => format!("{sentence}. The key is lost, so the caller {name} was revoked again"),
        Err(status) => format!(
            "{sentence}. The key is lost, and the caller {name} could not be revoked ({}): run `latchkey caller revoke {name}`",
            status.message()
        ),
    }))
}

async fn list(common: &Common) -> Result<(), Failure> {
    let mut client = client::callers(common).await?;
    let answer = client.list_callers(pb::ListCallersRequest {}).await.map_err(client::failed)?;
    let callers = answer.into_inner().callers;
    let value: Vec<_> = callers.iter().map(caller_json).collect();
    common.output().print(&json!({ "callers": value }), || output::joined(callers.iter().map(line)))
}

fn line(caller: &pb::Caller) -> String {
    let used = match &caller.last_used_at {
        Some(at) => format!("last used {}", output::time(Some(at))),
        None => "never used".to_owned(),
    };
    format!("{}  {}  {used}", caller.name, caller.roles.join(","))
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
