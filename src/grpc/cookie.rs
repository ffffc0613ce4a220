//! The token in a cookie, which the scripts of a web page cannot read.
//!
//! Browsers send cookies with the requests of any site (CSRF). So a cookie counts only in a request from an allowed
//! page origin, which the browser itself sends in `origin`, or in a request with a header that pages of other sites
//! cannot send.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, header};
use tonic::Response;

use super::cookie_scope::{self, OtherScopes};
use crate::domain::{Engine, Error};
use latchkey_client::bearer::Credentials;

/// With the value `true`, the cookie counts in a request without `origin`, such as from a server that calls for a
/// browser.
pub(super) const ENABLE_HEADER: &str = "x-latchkey-cookie";
/// Maximum length of the name and the value of a cookie together, in bytes. Browsers ignore a larger one silently
/// (RFC 6265bis section 5.7).
const MAX_LEN: usize = 4096;

/// The attribute `SameSite` of the cookie: the pages that send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Pages of its own site, unless they are opened by a link on another site.
    Strict,
    /// Pages of its own site.
    Lax,
    /// Pages of every site.
    None,
}

/// The name and the attributes of the cookie with the token.
#[derive(Debug)]
pub struct TokenCookie {
    name: String,
    attributes: String,
    /// Scopes in which a browser may hold another cookie of this name.
    other_scopes: OtherScopes,
}

impl TokenCookie {
    /// A cookie of this name for the host that sets it or, with a domain, for all hosts of the domain.
    pub fn new(name: &str, same_site: SameSite, domain: Option<&str>) -> Self {
        let other_scopes = OtherScopes::of(name, domain.is_some());
        let domain = domain.map(|domain| format!("; Domain={domain}")).unwrap_or_default();
        Self {
            name: name.to_owned(),
            attributes: format!("; Path=/; Secure; HttpOnly; SameSite={same_site:?}{domain}"),
            other_scopes,
        }
    }

    /// Returns the value of `set-cookie` that stores a token.
    fn store(&self, token: &str, lifetime: Duration) -> Result<HeaderValue, Error> {
        if self.name.len() + token.len() > MAX_LEN {
            return Err(Error::Internal(format!(
                "a token of {} bytes is too large for a cookie: give the user fewer or shorter roles",
                token.len()
            )));
        }
        let (name, attributes) = (&self.name, &self.attributes);
        // Rounded down, so that the cookie does not outlive its token.
        let value = format!("{name}={token}; Max-Age={}{attributes}", lifetime.as_secs());
        let value = HeaderValue::try_from(value).map(sensitive);
        value.map_err(|error| Error::Internal(format!("failed to encode the cookie: {error}")))
    }

    /// Returns the value of `set-cookie` that deletes the cookie.
    fn delete(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}=; Max-Age=0{}", self.name, self.attributes)).ok()
    }

    /// Returns the values of `set-cookie` that delete cookies of this name in other scopes, such as those from before
    /// `browser.cookie_domain` was changed.
    fn delete_other_scopes(&self, host: Option<&str>) -> impl Iterator<Item = HeaderValue> {
        self.other_scopes.domain_attributes(host).into_iter().filter_map(move |domain| {
            let value = format!("{}=; Max-Age=0; Path=/; Secure; HttpOnly{domain}", self.name);
            HeaderValue::try_from(value).ok()
        })
    }
}

/// The cookies of a request in which they count, in its extensions.
#[derive(Clone)]
pub(super) struct Cookies {
    cookie: Arc<TokenCookie>,
    /// Whether a page reads the response, and not a server.
    from_page: bool,
    tokens: CookieTokens,
    /// The host that was called, if cookies of its domains have to be deleted.
    host: Option<Arc<str>>,
}

/// The tokens in the cookies of a request.
#[derive(Clone)]
enum CookieTokens {
    None,
    One(Arc<str>),
    /// Different tokens, of which [`Cookies::select_token`] has to select one.
    Several(Arc<[Box<str>]>),
}

impl Cookies {
    /// Whether the cookie counts in a request without `origin`.
    pub(super) fn are_enabled(headers: &HeaderMap) -> bool {
        headers.get(ENABLE_HEADER).is_some_and(|value| value == "true")
    }

    /// Makes the cookie count in a request: its token becomes the `authorization` of the request. An `authorization`
    /// that is not empty takes precedence, as at a gateway.
    pub(super) fn accept<B>(cookie: &Arc<TokenCookie>, from_page: bool, request: &mut Request<B>) {
        let values = request.headers().get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let tokens = match Credentials::find([], Some((&*cookie.name, values))) {
            Credentials::Token(token) => CookieTokens::One(token.into()),
            Credentials::Cookies(tokens) => {
                CookieTokens::Several(tokens.as_slice().iter().map(|token| Box::from(*token)).collect())
            }
            Credentials::None | Credentials::Malformed(_) => CookieTokens::None,
        };
        if let CookieTokens::One(token) = &tokens {
            set_authorization(token, request);
        }
        // A cookie for one host can exist for every domain of the host. They are deleted only if there are several.
        let is_ambiguous = matches!(tokens, CookieTokens::Several(_)) && cookie.other_scopes.need_host();
        let host = is_ambiguous.then(|| cookie_scope::host(request)).flatten();
        request.extensions_mut().insert(Self { cookie: Arc::clone(cookie), from_page, tokens, host });
    }

    /// Selects the token of a live session, if there is one, from several cookies. Does nothing for other requests.
    pub(super) async fn select_token<B: Send>(
        engine: &Engine,
        request: &mut Request<B>,
    ) -> Result<(), Error> {
        let Some(Self { tokens: CookieTokens::Several(tokens), .. }) = request.extensions().get() else {
            return Ok(());
        };
        let tokens = Arc::clone(tokens);
        // Boxed, so that the future of other requests stays small.
        Box::pin(async move {
            let all: Vec<_> = tokens.iter().map(|token| &**token).collect();
            let (index, _) = engine.validate_any(&all, true).await?;
            let token: Arc<str> = all[index].into();
            set_authorization(&token, request);
            if let Some(cookies) = request.extensions_mut().get_mut::<Self>() {
                cookies.tokens = CookieTokens::One(token);
            }
            Ok(())
        })
        .await
    }

    /// Returns the response to a login and stores the token in the cookie, if cookies count. The message to a page then
    /// contains no token, so that no script can read it.
    pub(super) fn set<T>(
        cookies: Option<&Self>,
        token: String,
        lifetime: Duration,
        message: impl FnOnce(String) -> T,
    ) -> Result<Response<T>, Error> {
        let Some(cookies) = cookies else { return Ok(Response::new(message(token))) };
        let value = cookies.cookie.store(&token, lifetime)?;
        let token = if cookies.from_page { String::new() } else { token };
        // The new cookie is last, because some clients do not tell the scopes apart.
        Ok(with_cookies(message(token), cookies.delete_other_scopes().chain([value])))
    }

    /// Returns the response to a logout after which the session of `token` is dead, and deletes the cookie. A cookie
    /// with another token stays, because a logout with a stale token must not delete the new one.
    pub(super) fn clear<T>(cookies: Option<&Self>, token: &str, message: T) -> Response<T> {
        let Some(cookies) = cookies else { return Response::new(message) };
        let is_current = match &cookies.tokens {
            CookieTokens::None => true,
            CookieTokens::One(cookie) => **cookie == *token,
            CookieTokens::Several(_) => false,
        };
        if !is_current {
            return Response::new(message);
        }
        with_cookies(message, cookies.delete_other_scopes().chain(cookies.cookie.delete()))
    }

    fn delete_other_scopes(&self) -> impl Iterator<Item = HeaderValue> {
        self.cookie.delete_other_scopes(self.host.as_deref())
    }
}

/// Sets `authorization` to a token, unless it is set already.
fn set_authorization<B>(token: &str, request: &mut Request<B>) {
    let values = request.headers().get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let is_unset = Credentials::find(values, None::<(&str, [&[u8]; 0])>) == Credentials::None;
    if is_unset && let Ok(bearer) = HeaderValue::try_from(format!("Bearer {token}")) {
        request.headers_mut().insert(header::AUTHORIZATION, sensitive(bearer));
    }
}

fn with_cookies<T>(message: T, values: impl Iterator<Item = HeaderValue>) -> Response<T> {
    let mut response = Response::new(message);
    for value in values {
        response.metadata_mut().as_mut().append(header::SET_COOKIE, value);
    }
    response
}

/// Keeps a value out of Debug and of the compression table of headers.
fn sensitive(mut value: HeaderValue) -> HeaderValue {
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
    fn cookies_are_http_only_and_secure() {
        let cookie = TokenCookie::new("__Host-latchkey", SameSite::Lax, None);
        let set = cookie.store("a.b.c", Duration::from_millis(3_600_999)).unwrap();
        let rest = "; Path=/; Secure; HttpOnly; SameSite=Lax";
        assert_eq!(text(&set), format!("__Host-latchkey=a.b.c; Max-Age=3600{rest}"));
        assert_eq!(text(&cookie.delete().unwrap()), format!("__Host-latchkey=; Max-Age=0{rest}"));
        let cookie = TokenCookie::new("__Secure-t", SameSite::None, Some("example.com"));
        let rest = "; Path=/; Secure; HttpOnly; SameSite=None; Domain=example.com";
        assert_eq!(text(&cookie.delete().unwrap()), format!("__Secure-t=; Max-Age=0{rest}"));
        let strict = TokenCookie::new("t", SameSite::Strict, None).delete().unwrap();
        assert!(text(&strict).ends_with("; SameSite=Strict"));
        assert!(!format!("{set:?}").contains("a.b.c"), "Debug shows it");
    }

    #[test]
    fn a_cookie_that_browsers_would_ignore_is_an_error() {
        let cookie = TokenCookie::new("name", SameSite::Lax, None);
        assert!(cookie.store(&"x".repeat(MAX_LEN - 4), Duration::ZERO).is_ok());
        let error = cookie.store(&"x".repeat(MAX_LEN - 3), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("too large for a cookie") && !error.to_string().contains("xx"));
    }
}
