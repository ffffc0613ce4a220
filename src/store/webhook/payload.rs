//! Encodes a batch of events as JSON, with the names and meanings of the fields of `WatchSessions` in the protocol.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::domain::{ports::EventBatch, rejection::Rejection, types::Timestamp, watch_sessions::FeedEvent};

/// The latest time that RFC 3339 can represent, the last microsecond of the year 9999.
const MAX_MICROS: u64 = 253_402_300_799_999_999;

#[derive(Serialize)]
struct Payload<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    events: Vec<EventPayload<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum EventPayload<'a> {
    Ended {
        user_id: &'a str,
        session_id: String,
        slot: &'a str,
        rejection: RejectionPayload,
        expires_at: String,
    },
    Everyone {
        rejection: RejectionPayload,
    },
    Resync {},
}

#[derive(Serialize)]
struct RejectionPayload {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    by_device: String,
    message: String,
    terminal: bool,
}

/// Returns the body of the request for a batch.
pub(super) fn encode(batch: &EventBatch) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Payload {
        r#type: "sessions.ended",
        timestamp: format_time(batch.created_at),
        data: Data { events: batch.events.iter().filter_map(event).collect() },
    })
}

fn event(event: &FeedEvent) -> Option<EventPayload<'_>> {
    Some(match event {
        FeedEvent::Ended { user_id, ended } => EventPayload::Ended {
            user_id: user_id.as_str(),
            session_id: ended.session_id.to_string(),
            slot: ended.slot.as_str(),
            rejection: rejection(&ended.rejection),
            expires_at: format_time(ended.expires_at),
        },
        FeedEvent::Everyone(epoch) => EventPayload::Everyone { rejection: rejection(&epoch.rejection()) },
        FeedEvent::Resync => EventPayload::Resync {},
        FeedEvent::Heartbeat(_) => return None,
    })
}

fn rejection(rejection: &Rejection) -> RejectionPayload {
    RejectionPayload {
        reason: rejection.reason.name(),
        at: rejection.at.map(format_time),
        by_device: rejection.by_device.as_ref().map(|device| device.as_str().to_owned()).unwrap_or_default(),
        message: rejection.message(),
        terminal: rejection.reason.is_terminal(),
    }
}

/// Formats a time as RFC 3339 in UTC with microseconds.
fn format_time(time: Timestamp) -> String {
    let since = Duration::from_micros(time.as_micros().min(MAX_MICROS));
    humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::{
        rejection::Reason,
        sessions::{Ended, Epoch},
        types::{Device, Notice, SessionId, Slot, UserId},
    };

    #[test]
    fn every_kind_of_event_has_the_fields_of_the_protocol() {
        let at = Timestamp::from_micros(1_700_000_000_000_001);
        let ended = Ended {
            session_id: SessionId::from_bytes([0; 16]),
            slot: Slot::parse("web").unwrap(),
            rejection: Rejection {
                by_device: Some(Device::parse("iPhone \"7\"").unwrap()),
                ..Rejection::at(Reason::Replaced, at)
            },
            expires_at: Timestamp::from_micros(u64::MAX),
        };
        let epoch = Epoch { number: 7, since: at, notice: Notice::parse("maintenance").unwrap() };
        let user_id = UserId::parse("alice").unwrap();
        let news = vec![
            FeedEvent::Resync,
            FeedEvent::Ended { user_id, ended },
            FeedEvent::Heartbeat(Some(at)),
            FeedEvent::Everyone(epoch),
        ];
        let body = encode(&EventBatch { id: "msg_1".into(), created_at: at, events: news }).unwrap();
        let expected = json!({
            "type": "sessions.ended",
            "timestamp": "2023-11-14T22:13:20.000001Z",
            "data": { "events": [
                { "type": "resync" },
                {
                    "type": "ended",
                    "user_id": "alice",
                    "session_id": "aaaaaaaaaaaaaaaaaaaaaaaaaa",
                    "slot": "web",
                    "rejection": {
                        "reason": "REPLACED",
                        "at": "2023-11-14T22:13:20.000001Z",
                        "by_device": "iPhone \"7\"",
                        "message": "You were logged out because of a newer login on iPhone \"7\".",
                        "terminal": true,
                    },
                    "expires_at": "9999-12-31T23:59:59.999999Z",
                },
                {
                    "type": "everyone",
                    "rejection": {
                        "reason": "KICKED",
                        "at": "2023-11-14T22:13:20.000001Z",
                        "by_device": "",
                        "message": "maintenance",
                        "terminal": true,
                    },
                },
            ] },
        });
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), expected);
    }
}
