//! `SessionService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    convert,
    cookie::Cookies,
    origin::Origins,
    pb::{self, session_service_server::SessionService},
    status, watch,
};
use crate::domain::{
    Engine, Error, Violation,
    accounts::AccountKey,
    end_sessions::Target,
    login::{LoggedIn, SessionRequest},
    origin::Origin,
    ports::Cursor,
    types::{Device, LoginKey, Notice, SessionId, Slot, UserId},
    username::Username,
    watch_sessions::{Feed, Filter},
};

pub(super) struct SessionHandler {
    engine: Arc<Engine>,
    origins: Origins,
}

impl SessionHandler {
    pub(super) fn new(engine: Arc<Engine>, origins: Origins) -> Self {
        Self { engine, origins }
    }

    async fn issue(
        &self,
        message: pb::IssueSessionRequest,
        origin: &Origin,
        cookies: Option<&Cookies>,
    ) -> Result<Response<pb::IssueSessionResponse>, Error> {
        let subject = match (message.user_id.as_str(), message.username.as_str()) {
            (user_id, "") => AccountKey::Id(UserId::parse(user_id)?),
            ("", username) => AccountKey::Name(Username::parse(username)?),
            _ => {
                let both = "is set, and username, too: send the one that you know";
                return Err(Violation::new("user_id", both).into());
            }
        };
        let wanted = SessionRequest {
            slot: message.slot,
            device: Device::parse(&message.device)?,
            login_key: LoginKey::parse(&message.idempotency_key)?,
            takeover: message.takeover,
        };
        let LoggedIn { token, session, displaced, .. } =
            self.engine.issue_session(&subject, wanted, origin).await?;
        let lifetime = session.session().expires_at.since(self.engine.now());
        Cookies::give(cookies, token, lifetime, |token| pb::IssueSessionResponse {
            token,
            session: Some(convert::session(&session)),
            displaced: displaced.iter().map(convert::displaced).collect(),
        })
    }

    async fn list(&self, message: pb::ListSessionsRequest) -> Result<pb::ListSessionsResponse, Error> {
        let sessions = self.engine.list_sessions(&UserId::parse(&message.user_id)?).await?;
        let sessions = sessions.iter().map(convert::session_with_use).collect();
        Ok(pb::ListSessionsResponse { sessions })
    }

    async fn end(
        &self,
        message: pb::EndSessionsRequest,
        origin: &Origin,
    ) -> Result<pb::EndSessionsResponse, Error> {
        let notice = Notice::parse(&message.message)?;
        let ended = self.engine.end_sessions(&target(&message)?, notice, origin).await?;
        Ok(pb::EndSessionsResponse { ended })
    }

    async fn watch(&self, message: pb::WatchSessionsRequest) -> Result<Feed, Error> {
        let filter = Filter {
            user_id: given(&message.user_id).map(UserId::parse).transpose()?,
            slot: given(&message.slot).map(Slot::parse).transpose()?,
        };
        self.engine.watch_sessions(given(&message.after).map(|after| Cursor(after.to_owned())), filter).await
    }
}

#[async_trait]
impl SessionService for SessionHandler {
    async fn issue_session(
        &self,
        request: Request<pb::IssueSessionRequest>,
    ) -> Result<Response<pb::IssueSessionResponse>, Status> {
        let cookies = request.extensions().get().cloned();
        let (message, origin, id) = self.origins.parts(request);
        self.issue(message, &origin, cookies.as_ref()).await.map_err(|error| status::of(error, &id))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let (message, _, id) = self.origins.parts(request);
        status::answer(self.list(message).await, &id)
    }

    async fn end_sessions(
        &self,
        request: Request<pb::EndSessionsRequest>,
    ) -> Result<Response<pb::EndSessionsResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        status::answer(self.end(message, &origin).await, &id)
    }

    type WatchSessionsStream = watch::FeedStream;

    async fn watch_sessions(
        &self,
        request: Request<pb::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let (message, _, id) = self.origins.parts(request);
        let feed = self.watch(message).await.map_err(|error| status::of(error, &id))?;
        Ok(Response::new(watch::feed(feed, id)))
    }
}

fn target(message: &pb::EndSessionsRequest) -> Result<Target, Violation> {
    let narrowed = [&message.user_id, &message.slot, &message.session_id].iter().any(|text| !text.is_empty());
    match (message.everyone, narrowed) {
        (true, false) => return Ok(Target::Everyone),
        (true, true) => {
            let both = "ends all sessions of all users: send it without user_id, slot and session_id";
            return Err(Violation::new("everyone", both));
        }
        (false, _) => {}
    }
    let session_id = given(&message.session_id).map(|text| {
        SessionId::parse(text)
            .ok_or_else(|| Violation::new("session_id", "is not a session id, as ListSessions shows it"))
    });
    Ok(Target::User {
        user_id: UserId::parse(&message.user_id)?,
        slot: given(&message.slot).map(Slot::parse).transpose()?,
        session_id: session_id.transpose()?,
    })
}

/// A field, where it is set.
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
