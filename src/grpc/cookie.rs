//! The token in a cookie, for pages whose scripts then never see it.
//!
//! Browsers send a cookie whatever site makes them call (CSRF). So one counts only in a request from a page of a site
//! that the settings name, which the browser itself says in `origin`; or in one that asks for it in a header that pages
//! of other sites cannot send.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, header};
use tonic::Response;

use super::cookie_scope::{self, OtherScopes};
use crate::domain::{Engine, Error};
use latchkey_client::bearer::Credentials;

/// With the value `true`, a request without an `origin` asks for the cookie: from a server that speaks for a browser.
const ASK_HEADER: &str = "x-latchkey-cookie";
/// The name and the value of a larger cookie together, in bytes, and browsers forget it without a word (RFC 6265bis
/// section 5.7).
const MAX_LEN: usize = 4096;

/// On whose pages a browser sends a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Of its own site, unless they are reached by a link on another.
    Strict,
    /// Of its own site.
    Lax,
    /// Of every site.
    None,
}

/// What the cookie with the token looks like.
#[derive(Debug)]
pub struct TokenCookie {
    name: String,
    attributes: String,
    /// Scopes in which a browser may hold another cookie of this name.
    others: OtherScopes,
}

impl TokenCookie {
    /// A cookie of this name, for the host that sets it or, where there is a domain, for all hosts of that.
    pub fn new(name: &str, same_site: SameSite, domain: Option<&str>) -> Self {
        let others = OtherScopes::of(name, domain.is_some());
        let domain = domain.map(|domain| format!("; Domain={domain}")).unwrap_or_default();
        Self {
            name: name.to_owned(),
            attributes: format!("; Path=/; Secure; HttpOnly; SameSite={same_site:?}{domain}"),
            others,
        }
    }

    /// The cookie with this token, for so long.
    fn with(&self, token: &str, lifetime: Duration) -> Result<HeaderValue, Error> {
        if self.name.len() + token.len() > MAX_LEN {
            return Err(Error::Internal(format!(
                "a token of {} bytes is too large for a cookie: give the user fewer or shorter roles",
                token.len()
            )));
        }
        let (name, attributes) = (&self.name, &self.attributes);
        // Whole seconds, rounded down: it is gone when the token is.
        let value = format!("{name}={token}; Max-Age={}{attributes}", lifetime.as_secs());
        let value = HeaderValue::try_from(value).map(secret);
        value.map_err(|error| Error::Internal(format!("the cookie cannot be set: {error}")))
    }

    /// What makes a browser forget it.
    fn gone(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}=; Max-Age=0{}", self.name, self.attributes)).ok()
    }

    /// What makes a browser forget cookies of this name that were set for another scope, such as before
    /// `browser.cookie_domain` was changed.
    fn gone_elsewhere(&self, host: Option<&str>) -> impl Iterator<Item = HeaderValue> {
        self.others.of_host(host).into_iter().filter_map(move |domain| {
            let value = format!("{}=; Max-Age=0; Path=/; Secure; HttpOnly{domain}", self.name);
            HeaderValue::try_from(value).ok()
        })
    }
}

/// The cookie in a request in which it counts; in its extensions.
#[derive(Clone)]
pub(super) struct Cookies {
    cookie: Arc<TokenCookie>,
    /// Whether a page will read the answer, and not a server.
    by_page: bool,
    brought: Brought,
    /// The host that was called, where cookies of its domains are to be cleared.
    host: Option<Arc<str>>,
}

/// The tokens that came in cookies.
#[derive(Clone)]
enum Brought {
    Nothing,
    Token(Arc<str>),
    /// Different ones, of which [`Cookies::settle`] has to choose.
    Several(Arc<[Box<str>]>),
}

impl Cookies {
    /// Whether a request without an `origin` asks for the cookie.
    pub(super) fn asked(headers: &HeaderMap) -> bool {
        headers.get(ASK_HEADER).is_some_and(|value| value == "true")
    }

    /// Makes the cookie count in a request. The token in it stands in `authorization` from here on, unless there
    /// is one already: as at a gateway, that comes first, unless it is empty.
    pub(super) fn let_in<B>(cookie: &Arc<TokenCookie>, by_page: bool, request: &mut Request<B>) {
        let values = request.headers().get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let brought = match Credentials::find([], Some((&*cookie.name, values))) {
            Credentials::Token(token) => Brought::Token(token.into()),
            Credentials::Cookies(tokens) => {
                Brought::Several(tokens.as_slice().iter().map(|token| Box::from(*token)).collect())
            }
            Credentials::None | Credentials::Unclear(_) => Brought::Nothing,
        };
        if let Brought::Token(token) = &brought {
            stand_in(token, request);
        }
        // Where the cookie is for one host, nobody says of which domains there may be others: only where there are some.
        let is_ambiguous = matches!(brought, Brought::Several(_)) && cookie.others.need_host();
        let host = is_ambiguous.then(|| cookie_scope::host(request)).flatten();
        request.extensions_mut().insert(Self { cookie: Arc::clone(cookie), by_page, brought, host });
    }

    /// Chooses the token of a request that brought several in cookies: that of a live session, where there is one.
    /// Nothing to do for all others.
    pub(super) async fn settle<B: Send>(engine: &Engine, request: &mut Request<B>) -> Result<(), Error> {
        let Some(Self { brought: Brought::Several(tokens), .. }) = request.extensions().get() else {
            return Ok(());
        };
        let tokens = Arc::clone(tokens);
        // Apart, so that requests without it need no room for it.
        Box::pin(async move {
            let all: Vec<_> = tokens.iter().map(|token| &**token).collect();
            let (place, _) = engine.validate_any(&all, true).await?;
            let token: Arc<str> = all[place].into();
            stand_in(&token, request);
            if let Some(cookies) = request.extensions_mut().get_mut::<Self>() {
                cookies.brought = Brought::Token(token);
            }
            Ok(())
        })
        .await
    }

    /// The answer to a login: its token goes into a cookie where there may be one. A page then gets it nowhere else,
    /// so that no script can read it.
    pub(super) fn give<T>(
        cookies: Option<&Self>,
        token: String,
        lifetime: Duration,
        message: impl FnOnce(String) -> T,
    ) -> Result<Response<T>, Error> {
        let Some(cookies) = cookies else { return Ok(Response::new(message(token))) };
        let value = cookies.cookie.with(&token, lifetime)?;
        let token = if cookies.by_page { String::new() } else { token };
        // The new one last: some clients take it for the same cookie as those that are cleared.
        Ok(with_cookies(message(token), cookies.gone_elsewhere().chain([value])))
    }

    /// The answer to a logout that ended the session of this token, or found it dead. A cookie with another token
    /// stays: whoever logs out with a stale one must not take the new one away.
    pub(super) fn take<T>(cookies: Option<&Self>, token: &str, message: T) -> Response<T> {
        let Some(cookies) = cookies else { return Response::new(message) };
        let is_ours = match &cookies.brought {
            Brought::Nothing => true,
            Brought::Token(brought) => **brought == *token,
            Brought::Several(_) => false,
        };
        if !is_ours {
            return Response::new(message);
        }
        with_cookies(message, cookies.gone_elsewhere().chain(cookies.cookie.gone()))
    }

    fn gone_elsewhere(&self) -> impl Iterator<Item = HeaderValue> {
        self.cookie.gone_elsewhere(self.host.as_deref())
    }
}

/// Puts a token where the methods look for it.
fn stand_in<B>(token: &str, request: &mut Request<B>) {
    let sent = request.headers().get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let is_free = Credentials::find(sent, None::<(&str, [&[u8]; 0])>) == Credentials::None;
    if is_free && let Ok(bearer) = HeaderValue::try_from(format!("Bearer {token}")) {
        request.headers_mut().insert(header::AUTHORIZATION, secret(bearer));
    }
}

fn with_cookies<T>(message: T, values: impl Iterator<Item = HeaderValue>) -> Response<T> {
    let mut response = Response::new(message);
    for value in values {
        response.metadata_mut().as_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// A header that neither Debug nor the compression of headers may keep.
fn secret(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &HeaderValue) -> &str {
        value.to_str().unwrap()
    }

    #[test]
    fn a_cookie_is_for_no_script_and_for_no_connection_in_clear() {
        let cookie = TokenCookie::new("__Host-latchkey", SameSite::Lax, None);
        let set = cookie.with("a.b.c", Duration::from_millis(3_600_999)).unwrap();
        let rest = "; Path=/; Secure; HttpOnly; SameSite=Lax";
        assert_eq!(text(&set), format!("__Host-latchkey=a.b.c; Max-Age=3600{rest}"));
        assert_eq!(text(&cookie.gone().unwrap()), format!("__Host-latchkey=; Max-Age=0{rest}"));
        let cookie = TokenCookie::new("__Secure-t", SameSite::None, Some("example.com"));
        let rest = "; Path=/; Secure; HttpOnly; SameSite=None; Domain=example.com";
        assert_eq!(text(&cookie.gone().unwrap()), format!("__Secure-t=; Max-Age=0{rest}"));
        let strict = TokenCookie::new("t", SameSite::Strict, None).gone().unwrap();
        assert!(text(&strict).ends_with("; SameSite=Strict"));
        assert!(!format!("{set:?}").contains("a.b.c"), "Debug shows it");
    }

    #[test]
    fn a_cookie_that_a_browser_would_drop_is_an_error() {
        let cookie = TokenCookie::new("name", SameSite::Lax, None);
        assert!(cookie.with(&"x".repeat(MAX_LEN - 4), Duration::ZERO).is_ok());
        let error = cookie.with(&"x".repeat(MAX_LEN - 3), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("too large for a cookie") && !error.to_string().contains("xx"));
    }
}
