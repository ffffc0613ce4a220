//! What is sent, as JSON. Field names and meanings are those of `WatchSessions` in the protocol.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::domain::{ports::EventBatch, rejection::Rejection, types::Timestamp, watch_sessions::News};

/// The last microsecond that has a form in RFC 3339: that of the year 9999.
const LAST: u64 = 253_402_300_799_999_999;

#[derive(Serialize)]
struct Payload<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    events: Vec<Told<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    Ended { user_id: &'a str, session_id: String, slot: &'a str, rejection: Why, expires_at: String },
    Everyone { rejection: Why },
    Resync {},
}

#[derive(Serialize)]
struct Why {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    by_device: String,
    message: String,
    terminal: bool,
}

/// The body that tells of a batch.
pub(super) fn of(batch: &EventBatch) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Payload {
        r#type: "sessions.ended",
        timestamp: moment(batch.made_at),
        data: Data { events: batch.news.iter().filter_map(told).collect() },
    })
}

fn told(news: &News) -> Option<Told<'_>> {
    Some(match news {
        News::Ended { user_id, ended } => Told::Ended {
            user_id: user_id.as_str(),
            session_id: ended.session_id.to_string(),
            slot: ended.slot.as_str(),
            rejection: why(&ended.rejection),
            expires_at: moment(ended.expires_at),
        },
        News::Everyone(epoch) => Told::Everyone { rejection: why(&epoch.rejection()) },
        News::Resync => Told::Resync {},
        News::Heartbeat(_) => return None,
    })
}

fn why(rejection: &Rejection) -> Why {
    Why {
        reason: rejection.reason.name(),
        at: rejection.at.map(moment),
        by_device: rejection.by_device.as_ref().map(|device| device.as_str().to_owned()).unwrap_or_default(),
        message: rejection.message(),
        terminal: rejection.reason.is_terminal(),
    }
}

/// RFC 3339, in UTC, to the microsecond.
fn moment(moment: Timestamp) -> String {
    let since = Duration::from_micros(moment.as_micros().min(LAST));
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
    fn every_kind_of_news_has_the_fields_of_the_protocol() {
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
            News::Resync,
            News::Ended { user_id, ended },
            News::Heartbeat(Some(at)),
            News::Everyone(epoch),
        ];
        let body = of(&EventBatch { id: "msg_1".into(), made_at: at, news }).unwrap();
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
