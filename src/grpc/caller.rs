//! `CallerService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    convert,
    origin::Origins,
    pb::{self, caller_service_server::CallerService},
    request_id::RequestId,
    status,
};
use crate::domain::{
    Engine, Error,
    callers::{CallerName, role::CallerRoles},
    origin::Origin,
    ports::Caller,
};

pub(super) struct CallerHandler {
    engine: Arc<Engine>,
    origins: Origins,
}

impl CallerHandler {
    pub(super) fn new(engine: Arc<Engine>, origins: Origins) -> Self {
        Self { engine, origins }
    }

    async fn create(
        &self,
        message: pb::CreateCallerRequest,
        origin: &Origin,
    ) -> Result<pb::CreateCallerResponse, Error> {
        let name = CallerName::parse(&message.name)?;
        let roles = CallerRoles::parse(&message.roles)?;
        let (caller, key) = self.engine.create_caller(&name, roles, origin).await?;
        Ok(pb::CreateCallerResponse { caller: Some(shown(caller)), key: key.reveal().to_owned() })
    }

    async fn revoke(
        &self,
        message: pb::RevokeCallerRequest,
        origin: &Origin,
    ) -> Result<pb::RevokeCallerResponse, Error> {
        self.engine.revoke_caller(&CallerName::parse(&message.name)?, origin).await?;
        Ok(pb::RevokeCallerResponse {})
    }
}

#[async_trait]
impl CallerService for CallerHandler {
    async fn create_caller(
        &self,
        request: Request<pb::CreateCallerRequest>,
    ) -> Result<Response<pb::CreateCallerResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        status::answer(self.create(message, &origin).await, &id)
    }

    async fn list_callers(
        &self,
        request: Request<pb::ListCallersRequest>,
    ) -> Result<Response<pb::ListCallersResponse>, Status> {
        let id = RequestId::from_extensions(request.extensions());
        let callers = self.engine.list_callers().await;
        let shown = |callers: Vec<Caller>| callers.into_iter().map(shown).collect();
        status::answer(callers.map(|callers| pb::ListCallersResponse { callers: shown(callers) }), &id)
    }

    async fn revoke_caller(
        &self,
        request: Request<pb::RevokeCallerRequest>,
    ) -> Result<Response<pb::RevokeCallerResponse>, Status> {
        let (message, origin, id) = self.origins.parts(request);
        status::answer(self.revoke(message, &origin).await, &id)
    }
}

fn shown(caller: Caller) -> pb::Caller {
    pb::Caller {
        name: caller.name,
        roles: caller.roles,
        created_at: Some(convert::timestamp(caller.created_at)),
        last_used_at: caller.last_used_at.map(convert::timestamp),
    }
}
