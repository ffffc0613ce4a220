//! `CallerService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    call::Call,
    convert,
    origin::Origins,
    pb::{self, caller_service_server::CallerService},
};
use crate::domain::{
    Engine,
    callers::{CallerName, role::CallerRoles},
};

pub(super) struct CallerHandler {
    engine: Arc<Engine>,
    origins: Origins,
}

impl CallerHandler {
    pub(super) fn new(engine: Arc<Engine>, origins: Origins) -> Self {
        Self { engine, origins }
    }
}

#[async_trait]
impl CallerService for CallerHandler {
    async fn create_caller(
        &self,
        request: Request<pb::CreateCallerRequest>,
    ) -> Result<Response<pb::CreateCallerResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let name = CallerName::parse(&message.name)?;
            let roles = CallerRoles::parse(&message.roles)?;
            let (caller, key) = self.engine.create_caller(&name, roles, &call.origin).await?;
            let (caller, key) = (Some(convert::caller(caller)), key.reveal().to_owned());
            Ok(Response::new(pb::CreateCallerResponse { caller, key }))
        })
        .await
    }

    async fn list_callers(
        &self,
        request: Request<pb::ListCallersRequest>,
    ) -> Result<Response<pb::ListCallersResponse>, Status> {
        let (_, call) = Call::extract(request, &self.origins);
        call.read(async {
            let callers = self.engine.list_callers().await?.into_iter().map(convert::caller).collect();
            Ok(Response::new(pb::ListCallersResponse { callers }))
        })
        .await
    }

    async fn revoke_caller(
        &self,
        request: Request<pb::RevokeCallerRequest>,
    ) -> Result<Response<pb::RevokeCallerResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            self.engine.revoke_caller(&CallerName::parse(&message.name)?, &call.origin).await?;
            Ok(Response::new(pb::RevokeCallerResponse {}))
        })
        .await
    }
}
