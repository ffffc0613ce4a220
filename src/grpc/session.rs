//! `SessionService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    call::Call,
    convert,
    cookie::Cookies,
    origin::Origins,
    page,
    pb::{self, session_service_server::SessionService},
    watch,
};
use crate::domain::{
    Engine, Violation,
    accounts::AccountKey,
    end_sessions::Target,
    login::{LoggedIn, SessionRequest},
    ports::Cursor,
    types::{Device, LoginKey, Notice, SessionId, Slot, UserId},
    username::Username,
    watch_sessions::Filter,
};

pub(super) struct SessionHandler {
    engine: Arc<Engine>,
    origins: Origins,
}

impl SessionHandler {
    pub(super) fn new(engine: Arc<Engine>, origins: Origins) -> Self {
        Self { engine, origins }
    }
}

#[async_trait]
impl SessionService for SessionHandler {
    async fn issue_session(
        &self,
        request: Request<pb::IssueSessionRequest>,
    ) -> Result<Response<pb::IssueSessionResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let subject = subject(&message.user_id, &message.username)?;
            let wanted = SessionRequest {
                slot: message.slot,
                device: Device::parse(&message.device)?,
                login_key: LoginKey::parse(&message.idempotency_key)?,
                takeover: message.takeover,
            };
            let LoggedIn { token, session, displaced, .. } =
                self.engine.issue_session(&subject, wanted, &call.origin).await?;
            let lifetime = session.session().expires_at.since(self.engine.now());
            Cookies::set(call.cookies(), token, lifetime, |token| pb::IssueSessionResponse {
                token,
                session: Some(convert::session(&session)),
                displaced: displaced.iter().map(convert::displaced).collect(),
            })
        })
        .await
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.read(async {
            if !message.everyone {
                only_with_everyone(&message)?;
                let sessions = self.engine.list_sessions(&UserId::parse(&message.user_id)?).await?;
                let sessions = sessions.iter().map(convert::session_with_use).collect();
                return Ok(Response::new(pb::ListSessionsResponse {
                    sessions,
                    next_page_token: String::new(),
                }));
            }
            if !message.user_id.is_empty() {
                let both = "lists the sessions of all users: send it without user_id";
                return Err(Violation::new("everyone", both).into());
            }
            let limit = page::size(message.page_size)? as usize;
            let after = page::after(&message.page_token)?;
            let page = self.engine.list_all_sessions(after, limit).await?;
            let sessions = page.sessions.iter().map(convert::session_with_use).collect();
            let next_page_token = page.next.map(|last| page::token(&last)).unwrap_or_default();
            Ok(Response::new(pb::ListSessionsResponse { sessions, next_page_token }))
        })
        .await
    }

    async fn end_sessions(
        &self,
        request: Request<pb::EndSessionsRequest>,
    ) -> Result<Response<pb::EndSessionsResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let notice = Notice::parse(&message.message)?;
            let ended = self.engine.end_sessions(&target(&message)?, notice, &call.origin).await?;
            Ok(Response::new(pb::EndSessionsResponse { ended }))
        })
        .await
    }

    type WatchSessionsStream = watch::FeedStream;

    async fn watch_sessions(
        &self,
        request: Request<pb::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.read(async {
            let filter = Filter {
                user_id: non_empty(&message.user_id).map(UserId::parse).transpose()?,
                slot: non_empty(&message.slot).map(Slot::parse).transpose()?,
            };
            let after = non_empty(&message.after).map(|cursor| Cursor(cursor.to_owned()));
            let feed = self.engine.watch_sessions(after, filter).await?;
            Ok(Response::new(watch::feed(feed, call.id.clone())))
        })
        .await
    }
}

fn only_with_everyone(message: &pb::ListSessionsRequest) -> Result<(), Violation> {
    let field = match (message.page_size, message.page_token.as_str()) {
        (0, "") => return Ok(()),
        (0, _) => "page_token",
        _ => "page_size",
    };
    Err(Violation::new(field, "is only for the sessions of everyone: a user has one page"))
}

fn subject(user_id: &str, username: &str) -> Result<AccountKey, Violation> {
    match (user_id, username) {
        (user_id, "") => UserId::parse(user_id).map(AccountKey::Id),
        ("", username) => Username::parse(username).map(AccountKey::Name),
        _ => Err(Violation::new("user_id", "is set, and username, too: set only one of them")),
    }
}

fn target(message: &pb::EndSessionsRequest) -> Result<Target, Violation> {
    let is_filtered =
        [&message.user_id, &message.slot, &message.session_id].iter().any(|text| !text.is_empty());
    match (message.everyone, is_filtered) {
        (true, false) => return Ok(Target::Everyone),
        (true, true) => {
            let both = "ends all sessions of all users: send it without user_id, slot and session_id";
            return Err(Violation::new("everyone", both));
        }
        (false, _) => {}
    }
    let session_id = non_empty(&message.session_id).map(|text| {
        SessionId::parse(text)
            .ok_or_else(|| Violation::new("session_id", "is not a session id, as ListSessions shows it"))
    });
    Ok(Target::User {
        user_id: UserId::parse(&message.user_id)?,
        slot: non_empty(&message.slot).map(Slot::parse).transpose()?,
        session_id: session_id.transpose()?,
    })
}

fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
