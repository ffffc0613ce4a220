//! `latchkey session list`

use serde_json::{Value, json};

use crate::{
    cli::{
        CommandError, Common,
        client::{self, CallKind},
        output::{self, session_json},
        user::User,
    },
    grpc::pb,
};

pub(super) async fn run(common: &Common, user: &User) -> Result<(), CommandError> {
    let user_id = user.id_for_operators(common).await?;
    let mut client = client::sessions(common, CallKind::Unary).await?;
    let request = pb::ListSessionsRequest { user_id };
    let sessions = client.list_sessions(request).await.map_err(client::command_error)?.into_inner().sessions;
    let value: Vec<_> = sessions.iter().map(listed_json).collect();
    common.output().print(&json!({ "sessions": value }), || text(&sessions))
}

/// A session as JSON, with `last_seen_at`, which only this call returns.
fn listed_json(session: &pb::Session) -> Value {
    let mut value = session_json(session);
    value["last_seen_at"] = output::time(session.last_seen_at.as_ref()).into();
    value
}

/// One line per session, in columns.
fn text(sessions: &[pb::Session]) -> String {
    let width = |text: fn(&pb::Session) -> &str| {
        sessions.iter().map(|session| text(session).chars().count()).max().unwrap_or_default()
    };
    let (slots, devices) = (width(|session| &session.slot), width(|session| &session.device));
    output::join_lines(sessions.iter().map(|session| {
        format!(
            "{}  {:slots$}  {:devices$}  issued {}  last seen {}  if unused {}  expires {}",
            session.session_id,
            session.slot,
            session.device,
            output::time(session.issued_at.as_ref()),
            output::time(session.last_seen_at.as_ref()),
            output::time(session.idle_expires_at.as_ref()),
            output::time(session.expires_at.as_ref()),
        )
    }))
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
        let rest = "issued 2027-01-15T08:00:00.000Z  last seen 2027-01-15T08:01:00.000Z  \
                    if unused 2027-01-15T09:01:00.000Z  expires 2027-01-16T08:00:00.000Z";
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], format!("a  web     Firefox on Linux  {rest}"));
        assert_eq!(lines[1], format!("b  mobile  電話                {rest}"));
        assert_eq!(super::text(&[]), "");
    }
}
