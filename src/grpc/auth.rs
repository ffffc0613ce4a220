//! `AuthService`, without `Validate` and `ValidateStream`, which are in [`validate`](super::validate).

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    call::Call,
    convert,
    cookie::Cookies,
    origin::Origins,
    pb::{self, auth_service_server::AuthService},
    watch,
};
use crate::domain::{
    Engine, Error, Violation,
    login::{LoggedIn, Login, SessionRequest},
    logout::{LoggedOut, Scope},
    password::{NewPassword, Password},
    types::{Device, LoginKey},
    username::Username,
};

pub(super) struct AuthHandler {
    engine: Arc<Engine>,
    origins: Origins,
}

impl AuthHandler {
    pub(super) fn new(engine: Arc<Engine>, origins: Origins) -> Self {
        Self { engine, origins }
    }
}

#[async_trait]
impl AuthService for AuthHandler {
    async fn login(&self, request: Request<pb::LoginRequest>) -> Result<Response<pb::LoginResponse>, Status> {
        let (message, call) = Call::extract_attempt(request, &self.origins);
        call.change(async {
            let LoggedIn { token, session, displaced, .. } =
                self.engine.login(login(message)?, &call.origin).await?;
            let lifetime = session.session().expires_at.since(self.engine.now());
            Cookies::set(call.cookies(), token, lifetime, |token| pb::LoginResponse {
                token,
                session: Some(convert::session(&session)),
                displaced: displaced.iter().map(convert::displaced).collect(),
            })
        })
        .await
    }

    type WatchSessionStream = watch::SessionStream;

    async fn watch_session(
        &self,
        request: Request<pb::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.read(async {
            let token = call.token(&message.token)?;
            let (session, watch) = self.engine.watch_session(token).await?;
            Ok(Response::new(watch::session(&session, watch)))
        })
        .await
    }

    async fn logout(
        &self,
        request: Request<pb::LogoutRequest>,
    ) -> Result<Response<pb::LogoutResponse>, Status> {
        let (message, call) = Call::extract(request, &self.origins);
        call.change(async {
            let token = call.token(&message.token)?;
            let scope = scope(message.scope)?;
            let (ended, rejection) = match self.engine.logout(token, scope, &call.origin).await? {
                LoggedOut::Ended(ended) => (ended, None),
                LoggedOut::Rejected(rejection) => (0, Some(convert::rejection(&rejection))),
            };
            // Only with the scope OTHERS the session of this token lives on.
            let clears_cookie = rejection.is_some() || scope != Scope::Others;
            let message = pb::LogoutResponse { ended, rejection };
            Ok(if clears_cookie {
                Cookies::clear(call.cookies(), token, message)
            } else {
                Response::new(message)
            })
        })
        .await
    }

    async fn change_password(
        &self,
        request: Request<pb::ChangePasswordRequest>,
    ) -> Result<Response<pb::ChangePasswordResponse>, Status> {
        let (message, call) = Call::extract_attempt(request, &self.origins);
        call.change(async {
            let token = call.token(&message.token)?;
            let current = Password::presented_in("current_password", message.current_password)?;
            let new = NewPassword::new("new_password", message.new_password);
            let ended = self.engine.change_password(token, current, new, &call.origin).await?;
            Ok(Response::new(pb::ChangePasswordResponse { ended }))
        })
        .await
    }

    async fn get_jwks(
        &self,
        request: Request<pb::GetJwksRequest>,
    ) -> Result<Response<pb::GetJwksResponse>, Status> {
        let (_, call) = Call::extract(request, &self.origins);
        call.read(async {
            let jwks = serde_json::to_string(&self.engine.tokens().jwks())
                .map_err(|error| Error::Internal(error.to_string()))?;
            Ok(Response::new(pb::GetJwksResponse { jwks }))
        })
        .await
    }
}

fn login(message: pb::LoginRequest) -> Result<Login, Violation> {
    Ok(Login {
        username: Username::parse(&message.username)?,
        password: Password::presented(message.password)?,
        session: SessionRequest {
            slot: message.slot,
            device: Device::parse(&message.device)?,
            login_key: LoginKey::parse(&message.idempotency_key)?,
            takeover: message.takeover,
        },
    })
}

fn scope(number: i32) -> Result<Scope, Violation> {
    match pb::LogoutScope::try_from(number) {
        Ok(pb::LogoutScope::Unspecified | pb::LogoutScope::This) => Ok(Scope::This),
        Ok(pb::LogoutScope::Others) => Ok(Scope::Others),
        Ok(pb::LogoutScope::All) => Ok(Scope::All),
        Err(_) => {
            Err(Violation::new("scope", "must be LOGOUT_SCOPE_THIS, LOGOUT_SCOPE_OTHERS or LOGOUT_SCOPE_ALL"))
        }
    }
}
