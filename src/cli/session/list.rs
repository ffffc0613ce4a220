//! `latchkey session list`

use clap::Args;
use serde_json::{Value, json};

use crate::{
    cli::{
        CommandError, Common,
        client::{self, CallKind, Sessions},
        output::{self, Output, session_json},
        table,
        user::User,
    },
    grpc::pb,
};

/// The largest page of the server.
const MAX_PAGE: usize = 1000;

#[derive(Args)]
pub(in crate::cli) struct List {
    /// The username, or with --id the user id [default: all users]
    user: Option<String>,
    /// The argument is a user id
    #[arg(long, requires = "user")]
    id: bool,
    /// Stop after about this many sessions
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with_all = ["user", "all"])]
    limit: usize,
    /// List all sessions, page by page
    #[arg(long, conflicts_with = "user")]
    all: bool,
    /// The cursor that an earlier command printed
    #[arg(
        long,
        value_name = "CURSOR",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "user"
    )]
    after: String,
}

impl List {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let output = common.output();
        match self.user {
            Some(user) => {
                let user_id = User::new(user, self.id).id_for_operators(common).await?;
                let mut client = client::sessions(common, CallKind::Unary).await?;
                let request = pb::ListSessionsRequest { user_id, ..Default::default() };
                let sessions = client.list_sessions(request).await.map_err(client::command_error)?;
                let sessions = sessions.into_inner().sessions;
                output.print(&json!({ "sessions": json(&sessions) }), || text(&sessions))
            }
            None if self.limit == 0 => Err(CommandError::Usage("--limit must be at least 1".to_owned())),
            None => {
                let mut client = client::sessions(common, CallKind::Unary).await?;
                let limit = if self.all { usize::MAX } else { self.limit };
                list_everyone(&mut client, &output, limit, self.after).await
            }
        }
    }
}

/// Lists the sessions of all users. Without a limit, each page is printed when it arrives, because there may be too many for
/// the memory.
async fn list_everyone(
    client: &mut Sessions,
    output: &Output,
    limit: usize,
    mut page_token: String,
) -> Result<(), CommandError> {
    let print = |sessions: &[pb::Session], next: &str| {
        let value = json!({ "sessions": json(sessions), "next_page_token": next });
        output.print(&value, || text_of_everyone(sessions))
    };
    let mut listed = Vec::new();
    loop {
        let left = limit.saturating_sub(listed.len()).min(MAX_PAGE);
        let request = pb::ListSessionsRequest {
            everyone: true,
            page_size: i32::try_from(left).unwrap_or(i32::MAX),
            page_token,
            ..Default::default()
        };
        let page = client.list_sessions(request).await.map_err(client::command_error)?.into_inner();
        page_token = page.next_page_token;
        listed.extend(page.sessions);
        if page_token.is_empty() || listed.len() >= limit {
            break;
        }
        if limit == usize::MAX && !listed.is_empty() {
            print(&listed, &page_token)?;
            listed.clear();
        }
    }
    print(&listed, &page_token)?;
    if !page_token.is_empty() && !output.is_json() {
        output::note(&format!("there may be more: --after {page_token}"));
    }
    Ok(())
}

fn json(sessions: &[pb::Session]) -> Vec<Value> {
    sessions.iter().map(listed_json).collect()
}

/// A session as JSON, with `last_seen_at`, which only this call returns.
fn listed_json(session: &pb::Session) -> Value {
    let mut value = session_json(session);
    value["last_seen_at"] = output::time(session.last_seen_at.as_ref()).into();
    value
}

/// A table with a line for each session.
fn text(sessions: &[pb::Session]) -> String {
    let headings = ["SESSION", "SLOT", "DEVICE", "ISSUED", "LAST SEEN", "IF UNUSED", "EXPIRES"];
    let rows = sessions.iter().map(|session| {
        [
            session.session_id.clone(),
            session.slot.clone(),
            session.device.clone(),
            output::time(session.issued_at.as_ref()),
            output::time(session.last_seen_at.as_ref()),
            output::time(session.idle_expires_at.as_ref()),
            output::time(session.expires_at.as_ref()),
        ]
    });
    table::format(headings, rows)
}

/// A table with a line for each session and its user.
fn text_of_everyone(sessions: &[pb::Session]) -> String {
    let headings = ["USERNAME", "USER ID", "SESSION", "SLOT", "DEVICE", "ISSUED", "LAST SEEN"];
    let rows = sessions.iter().map(|session| {
        [
            session.username.clone(),
            session.user_id.clone(),
            session.session_id.clone(),
            session.slot.clone(),
            session.device.clone(),
            output::time(session.issued_at.as_ref()),
            output::time(session.last_seen_at.as_ref()),
        ]
    });
    table::format(headings, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, slot: &str, device: &str) -> pb::Session {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        pb::Session {
            session_id: id.into(),
            slot: slot.into(),
            device: device.into(),
            issued_at: at(1_800_000_000),
            last_seen_at: at(1_800_000_060),
            idle_expires_at: at(1_800_003_660),
            expires_at: at(1_800_086_400),
            ..Default::default()
        }
    }

    #[test]
    fn the_list_is_printed_in_columns() {
        let text = text(&[session("a", "web", "Firefox on Linux"), session("b", "mobile", "電話")]);
        let rest = "2027-01-15T08:00:00.000Z  2027-01-15T08:01:00.000Z  2027-01-15T09:01:00.000Z  \
                    2027-01-16T08:00:00.000Z";
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("SESSION  SLOT    DEVICE            ISSUED "), "{text}");
        assert_eq!(lines[1], format!("a        web     Firefox on Linux  {rest}"));
        assert_eq!(lines[2], format!("b        mobile  電話              {rest}"));
    }
}
