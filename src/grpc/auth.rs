//! `AuthService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    convert,
    cookie::Cookies,
    origin::Origins,
    pb::{self, auth_service_server::AuthService},
    request_id::RequestId,
    status, watch,
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
        let (metadata, extensions, message) = request.into_parts();
        let answer = async {
            let origin = self.origins.of_attempt(metadata.as_ref(), &extensions);
            let LoggedIn { token, session, displaced, .. } =
                self.engine.login(login(message)?, &origin).await?;
            let lifetime = session.session().expires_at.since(self.engine.now());
            Cookies::give(extensions.get(), token, lifetime, |token| pb::LoginResponse {
                token,
                session: Some(convert::session(&session)),
                displaced: displaced.iter().map(convert::displaced).collect(),
            })
        };
        answer.await.map_err(|error| status::of(error, &RequestId::from_extensions(&extensions)))
    }

    type WatchSessionStream = watch::SessionStream;

    async fn watch_session(
        &self,
        request: Request<pb::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let answer = async {
            let token = convert::token(&message.token, &metadata)?;
            self.engine.watch_session(token).await
        };
        let (session, watch) =
            answer.await.map_err(|error| status::of(error, &RequestId::from_extensions(&extensions)))?;
        Ok(Response::new(watch::session(&session, watch)))
    }

    async fn logout(
        &self,
        request: Request<pb::LogoutRequest>,
    ) -> Result<Response<pb::LogoutResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let answer = async {
            let token = convert::token(&message.token, &metadata)?;
            let origin = self.origins.of(metadata.as_ref(), &extensions);
            let scope = scope(message.scope)?;
            Ok(match self.engine.logout(token, scope, &origin).await? {
                LoggedOut::Ended(ended) => {
                    let message = pb::LogoutResponse { ended, rejection: None };
                    match scope {
                        Scope::This | Scope::All => Cookies::take(extensions.get(), token, message),
                        Scope::Others => Response::new(message),
                    }
                }
                LoggedOut::Rejected(rejection) => {
                    let rejection = Some(convert::rejection(&rejection));
                    Cookies::take(extensions.get(), token, pb::LogoutResponse { ended: 0, rejection })
                }
            })
        };
        answer.await.map_err(|error| status::of(error, &RequestId::from_extensions(&extensions)))
    }

    async fn change_password(
        &self,
        request: Request<pb::ChangePasswordRequest>,
    ) -> Result<Response<pb::ChangePasswordResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let answer = async {
            let origin = self.origins.of_attempt(metadata.as_ref(), &extensions);
            let token = convert::token(&message.token, &metadata)?;
            let current = Password::presented_in("current_password", message.current_password)?;
            let new = NewPassword::new("new_password", message.new_password);
            self.engine.change_password(token, current, new, &origin).await
        };
        let ended =
            answer.await.map_err(|error| status::of(error, &RequestId::from_extensions(&extensions)))?;
        Ok(Response::new(pb::ChangePasswordResponse { ended }))
    }

    async fn get_jwks(
        &self,
        request: Request<pb::GetJwksRequest>,
    ) -> Result<Response<pb::GetJwksResponse>, Status> {
        let jwks = serde_json::to_string(&self.engine.tokens().jwks()).map_err(|error| {
            let id = RequestId::from_extensions(request.extensions());
            status::of(Error::Internal(error.to_string()), &id)
        })?;
        Ok(Response::new(pb::GetJwksResponse { jwks }))
    }
}

fn login(message: pb::LoginRequest) -> Result<Login, Violation> {
    Ok(Login {
        username: Username::parse(&message.username)?,
        password: Password::presented(message.password)?,
        wanted: SessionRequest {
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
