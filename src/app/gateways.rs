//! Turns settings into the gateway, forward-auth, cookies and OAuth.

use std::{net::SocketAddr, sync::Arc};

use ::http::{HeaderMap, HeaderValue};
use async_trait::async_trait;

use crate::{
    admission::Connection,
    config::{self, Config, ValidateAccess, base_url},
    domain::{Engine, Error},
    gateway::{Gateway, GatewaySettings, HeaderNames},
    grpc::{
        access::Access,
        browser::Pages,
        cookie::{SameSite, TokenCookie},
    },
    http::forward_auth::{CallerCheck, ForwardAuth},
    json::OAuthSettings,
};

/// Creates the gateway that both ports share.
pub(super) fn gateway(config: &Config, engine: &Arc<Engine>) -> Arc<Gateway> {
    let names = &config.gateway;
    let headers = HeaderNames {
        user_id: names.user_id_header.clone(),
        username: names.username_header.clone(),
        session_id: names.session_id_header.clone(),
        slot: names.slot_header.clone(),
        roles: names.roles_header.clone(),
    };
    let cookie = Some(names.cookie.clone()).filter(|name| !name.is_empty());
    Arc::new(Gateway::new(Arc::clone(engine), GatewaySettings { cookie, headers }))
}

/// The pages that may call both ports.
pub(super) fn pages(config: &Config) -> Result<Pages, String> {
    let origins = config.browser.origins.iter().map(|origin| HeaderValue::from_str(origin));
    let origins = origins
        .collect::<Result<_, _>>()
        .map_err(|_| "browser.origins: not an origin such as https://shop.example")?;
    Ok(Pages::new(origins, token_cookie(config)))
}

/// The cookie that carries tokens to pages, if `browser.set_cookie` is set.
fn token_cookie(config: &Config) -> Option<TokenCookie> {
    let browser = &config.browser;
    let same_site = match browser.cookie_same_site {
        config::SameSite::Strict => SameSite::Strict,
        config::SameSite::Lax => SameSite::Lax,
        config::SameSite::None => SameSite::None,
    };
    let domain = Some(browser.cookie_domain.as_str()).filter(|domain| !domain.is_empty());
    browser.set_cookie.then(|| TokenCookie::new(&config.gateway.cookie, same_site, domain))
}

pub(super) fn forward_auth(config: &Config, gateway: &Arc<Gateway>, access: Access) -> ForwardAuth {
    ForwardAuth::new(Arc::clone(gateway), Arc::new(Callers(access)), config.server.request_timeout)
}

/// The settings of OAuth. The endpoints are at `listen.http_url` or, if it is not set, below the issuer if that is a URL.
pub(super) fn oauth(config: &Config) -> OAuthSettings {
    let issuer = &config.token.issuer;
    let path = base_url(issuer).map(|url| url.path().trim_end_matches('/').to_owned());
    let http_url = Some(config.listen.http_url.as_str()).filter(|url| !url.is_empty());
    let base = http_url.or_else(|| path.is_some().then_some(issuer.as_str()));
    OAuthSettings {
        issuer: issuer.clone(),
        audience: config.token.audience.clone(),
        issuer_path: path,
        base_url: base.map(|url| url.trim_end_matches('/').to_owned()),
        needs_caller: config.access.validate == ValidateAccess::Caller,
    }
}

/// Checks the callers of forward-auth by the rule of Validate.
struct Callers(Access);

#[async_trait]
impl CallerCheck for Callers {
    async fn check(
        &self,
        headers: &HeaderMap,
        peer: SocketAddr,
        connection: &Arc<Connection>,
    ) -> Result<(), Error> {
        self.0.check_http(headers, peer, connection, "/forward-auth").await
    }
}
