//! The response streams of `WatchSession` and `WatchSessions`.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, stream};
use tonic::Status;

use super::{
    convert,
    pb::{self, watch_session_response::Verdict, watch_sessions_response::Event},
    request_id::RequestId,
    status,
};
use crate::domain::{
    sessions::Ended,
    types::UserId,
    validate::LiveSession,
    watch_session::SessionWatch,
    watch_sessions::{Feed, FeedEvent},
};

pub(super) type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::WatchSessionResponse, Status>> + Send>>;

pub(super) type FeedStream = Pin<Box<dyn Stream<Item = Result<pb::WatchSessionsResponse, Status>> + Send>>;

/// Returns a stream of the session and, when it ends, its rejection.
pub(super) fn session(session: &LiveSession, watch: SessionWatch) -> SessionStream {
    let first = Verdict::Session(convert::session(session));
    let last = async move { Verdict::Rejection(convert::rejection(&watch.end().await)) };
    let verdicts = stream::iter([first]).chain(stream::once(last));
    Box::pin(verdicts.map(|verdict| Ok(pb::WatchSessionResponse { verdict: Some(verdict) })))
}

/// Returns a stream of the events of the feed, until it ends with an error.
pub(super) fn feed(feed: Feed, id: RequestId) -> FeedStream {
    let events = stream::unfold(Some(feed), move |feed| {
        let id = id.clone();
        async move {
            let mut feed = feed?;
            match feed.next().await {
                Ok((cursor, event)) => {
                    let event = Some(to_pb(event));
                    Some((Ok(pb::WatchSessionsResponse { cursor: cursor.0, event }), Some(feed)))
                }
                Err(error) => Some((Err(status::from_error(error, &id)), None)),
            }
        }
    });
    Box::pin(events)
}

fn to_pb(event: FeedEvent) -> Event {
    match event {
        FeedEvent::Ended { user_id, ended } => Event::Ended(ended_session(&user_id, &ended)),
        FeedEvent::Everyone(epoch) => {
            Event::Everyone(pb::EndedEveryone { rejection: Some(convert::rejection(&epoch.rejection())) })
        }
        FeedEvent::Resync => Event::Resync(pb::Resync {}),
        FeedEvent::Heartbeat(as_of) => {
            Event::Heartbeat(pb::Heartbeat { as_of: as_of.map(convert::timestamp) })
        }
    }
}

fn ended_session(user_id: &UserId, ended: &Ended) -> pb::EndedSession {
    pb::EndedSession {
        user_id: user_id.to_string(),
        session_id: ended.session_id.to_string(),
        slot: ended.slot.as_str().to_owned(),
        rejection: Some(convert::rejection(&ended.rejection)),
        expires_at: Some(convert::timestamp(ended.expires_at)),
    }
}
