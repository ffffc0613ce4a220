//! `latchkey session watch`: prints the revocation feed.

use std::{io, ops::ControlFlow, time::SystemTime};

use clap::Args;
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use crate::{
    cli::{
        CommandError, Common,
        client::{self, CallKind, Sessions},
        output::{self, Output, reason, rejection_json},
        stream::{self, Retry, StreamReader},
        user::User,
    },
    grpc::pb::{self, watch_sessions_response::Event},
};

#[derive(Args)]
pub(in crate::cli) struct Watch {
    /// Only sessions of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The value of --user is a user id.
    #[arg(long, requires = "user")]
    id: bool,
    /// Only sessions in this slot.
    #[arg(long, default_value = "", hide_default_value = true)]
    slot: String,
    /// The cursor to begin after [default: now]
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    after: String,
    #[command(flatten)]
    retry: Retry,
}

impl Watch {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let user_id = match self.user {
            Some(user) => User::new(user, self.id).id_for_operators(common).await?,
            None => String::new(),
        };
        let first_cursor = self.after.clone();
        let mut reader = FeedReader {
            client: client::sessions(common, CallKind::Streaming).await?,
            request: pb::WatchSessionsRequest { after: self.after, user_id, slot: self.slot },
            output: common.output(),
        };
        let result = stream::read_all(&mut reader, &self.retry).await;
        let cursor = &reader.request.after;
        // Every line of JSON has a cursor already.
        if !reader.output.is_json() && *cursor != first_cursor {
            output::note(&format!("to go on from here: --after {cursor}"));
        }
        result
    }
}

struct FeedReader {
    client: Sessions,
    /// The request of the next stream, with the cursor of the last printed message.
    request: pb::WatchSessionsRequest,
    output: Output,
}

impl StreamReader for FeedReader {
    type Message = pb::WatchSessionsResponse;
    type Messages = Streaming<Self::Message>;

    async fn open(&mut self) -> Result<Self::Messages, Status> {
        self.client.watch_sessions(self.request.clone()).await.map(tonic::Response::into_inner)
    }

    fn handle(&mut self, message: Self::Message) -> ControlFlow<Result<(), CommandError>> {
        let value = event_json(&message);
        let text = event_text(message.event.as_ref());
        let printed = match text {
            // Heartbeats are for programs only.
            None if !self.output.is_json() => Ok(()),
            text => self.output.try_print(&value, || text.unwrap_or_default()),
        };
        match printed {
            Ok(()) => {}
            // A reader such as `head -1` ends the feed in this way.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return ControlFlow::Break(Ok(())),
            Err(error) => return ControlFlow::Break(Err(output::write_error(&error))),
        }
        // Set after printing, so that an event that was not printed comes again.
        self.request.after = message.cursor;
        ControlFlow::Continue(())
    }
}

/// A message as JSON, with the field names of the protocol.
fn event_json(message: &pb::WatchSessionsResponse) -> Value {
    let mut value = json!({ "cursor": message.cursor });
    match &message.event {
        Some(Event::Ended(ended)) => {
            value["ended"] = json!({
                "user_id": ended.user_id,
                "session_id": ended.session_id,
                "slot": ended.slot,
                "rejection": ended.rejection.as_ref().map(rejection_json),
                "expires_at": output::time(ended.expires_at.as_ref()),
            });
        }
        Some(Event::Everyone(everyone)) => {
            value["everyone"] = json!({ "rejection": everyone.rejection.as_ref().map(rejection_json) });
        }
        Some(Event::Heartbeat(heartbeat)) => {
            // The first heartbeat of a stream has no time.
            let as_of = heartbeat.as_of.as_ref().map(|as_of| output::time(Some(as_of)));
            value["heartbeat"] = json!({ "as_of": as_of });
        }
        // An unknown event of a newer server is treated as a missed one.
        Some(Event::Resync(_)) | None => value["resync"] = json!({}),
    }
    value
}

/// An event as a line: time, reason, user, slot, session and displacing device.
fn event_text(event: Option<&Event>) -> Option<String> {
    let line = |rejection: Option<&pb::Rejection>, subject: &str| {
        let rejection = rejection.cloned().unwrap_or_default();
        let by = match rejection.by_device.as_str() {
            "" => String::new(),
            device => format!("  by {device}"),
        };
        format!("{}  {:<19}  {subject}{by}", output::time(rejection.at.as_ref()), reason(&rejection))
    };
    match event {
        Some(Event::Ended(ended)) => {
            let subject = format!("{}  {}  {}", ended.user_id, ended.slot, ended.session_id);
            Some(line(ended.rejection.as_ref(), &subject))
        }
        Some(Event::Everyone(everyone)) => Some(line(everyone.rejection.as_ref(), "everyone")),
        Some(Event::Heartbeat(_)) => None,
        Some(Event::Resync(_)) | None => {
            #[expect(clippy::disallowed_methods, reason = "the time of printing, because a resync has none")]
            let now = prost_types::Timestamp::from(SystemTime::now());
            let text = "events were missed: discard what was derived from the feed";
            Some(format!("{}  {:<19}  {text}", output::time(Some(&now)), "RESYNC"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Option<prost_types::Timestamp> =
        Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });

    fn message(event: Option<Event>) -> pb::WatchSessionsResponse {
        pb::WatchSessionsResponse { cursor: "c1".into(), event }
    }

    fn ended(reason: pb::RejectionReason, by_device: &str) -> Event {
        Event::Ended(pb::EndedSession {
            user_id: "user".into(),
            session_id: "session".into(),
            slot: "web".into(),
            rejection: Some(pb::Rejection {
                reason: reason.into(),
                at: AT,
                by_device: by_device.into(),
                message: "A sentence.".into(),
                terminal: true,
            }),
            expires_at: AT,
        })
    }

    #[test]
    fn an_event_is_a_line_and_a_heartbeat_is_none() {
        let replaced = ended(pb::RejectionReason::Replaced, "Firefox on Linux");
        assert_eq!(
            event_text(Some(&replaced)).unwrap(),
            "2027-01-15T08:00:00.000Z  REPLACED             user  web  session  by Firefox on Linux"
        );
        let kicked = ended(pb::RejectionReason::Kicked, "");
        assert_eq!(
            event_text(Some(&kicked)).unwrap(),
            "2027-01-15T08:00:00.000Z  KICKED               user  web  session"
        );
        let rejection =
            Some(pb::Rejection { reason: pb::RejectionReason::Kicked.into(), at: AT, ..Default::default() });
        let everyone = Event::Everyone(pb::EndedEveryone { rejection });
        assert_eq!(
            event_text(Some(&everyone)).unwrap(),
            "2027-01-15T08:00:00.000Z  KICKED               everyone"
        );
        assert_eq!(event_text(Some(&Event::Heartbeat(pb::Heartbeat { as_of: AT }))), None);
        // An unknown event counts as a RESYNC.
        for event in [Some(Event::Resync(pb::Resync {})), None] {
            let line = event_text(event.as_ref()).unwrap();
            assert!(line.starts_with("20") && line.contains("Z  RESYNC  "), "{line}");
        }
    }

    #[test]
    fn json_has_the_names_of_the_protocol_and_a_cursor_in_every_line() {
        let value = event_json(&message(Some(ended(pb::RejectionReason::Replaced, "Android"))));
        assert_eq!(
            value,
            json!({ "cursor": "c1", "ended": {
                "user_id": "user",
                "session_id": "session",
                "slot": "web",
                "rejection": {
                    "reason": "REPLACED",
                    "at": "2027-01-15T08:00:00.000Z",
                    "by_device": "Android",
                    "message": "A sentence.",
                    "terminal": true,
                },
                "expires_at": "2027-01-15T08:00:00.000Z",
            }})
        );
        let heartbeat = event_json(&message(Some(Event::Heartbeat(pb::Heartbeat { as_of: AT }))));
        assert_eq!(
            heartbeat,
            json!({ "cursor": "c1", "heartbeat": { "as_of": "2027-01-15T08:00:00.000Z" } })
        );
        let first = event_json(&message(Some(Event::Heartbeat(pb::Heartbeat::default()))));
        assert_eq!(first["heartbeat"], json!({ "as_of": null }));
        let rejection = Some(pb::Rejection { message: "A key has leaked".into(), ..Default::default() });
        let everyone = event_json(&message(Some(Event::Everyone(pb::EndedEveryone { rejection }))));
        assert_eq!(everyone["everyone"]["rejection"]["message"], "A key has leaked");
        for event in [Some(Event::Resync(pb::Resync {})), None] {
            assert_eq!(event_json(&message(event)), json!({ "cursor": "c1", "resync": {} }));
        }
    }
}
