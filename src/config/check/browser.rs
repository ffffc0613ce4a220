//! Checks the page origins and the cookie of browsers.

use url::{Origin, Url};

use crate::config::{Browser, ConfigError};

/// The length of a cookie name with which every token still fits into a cookie.
const MAX_COOKIE_NAME: usize = 64;

/// Returns an error for an origin that no browser sends, and for one that every site can send.
pub(super) fn check(browser: &Browser) -> Result<(), ConfigError> {
    for origin in &browser.origins {
        let invalid = |message: &str| {
            Err(ConfigError(format!("browser.origins: \"{}\" {message}", origin.escape_debug())))
        };
        if origin == "*" || origin == "null" {
            return invalid("would allow every web site: list each origin, such as https://app.example.com");
        }
        // The form that a browser sends has no default port, no path and no capital letters in the host.
        let as_sent = Url::parse(origin).ok().map(|url| url.origin()).filter(Origin::is_tuple);
        let Some(as_sent) = as_sent.map(|origin| origin.ascii_serialization()) else {
            return invalid("is not an origin such as https://app.example.com");
        };
        if as_sent != *origin {
            return invalid(&format!("is not the form that browsers send: write \"{as_sent}\""));
        }
        if !as_sent.starts_with("https://") && !as_sent.starts_with("http://") {
            return invalid("must begin with https://, or http:// on a developer's machine");
        }
    }
    Ok(())
}

/// Returns an error for a cookie that browsers would drop silently.
pub(super) fn cookie(browser: &Browser, name: &str) -> Result<(), ConfigError> {
    let invalid = |message: String| Err(ConfigError(message));
    let domain = browser.cookie_domain.as_str();
    if !browser.set_cookie {
        if !domain.is_empty() {
            return invalid(
                "browser.cookie_domain needs browser.set_cookie = true: set both, or neither".into(),
            );
        }
        return Ok(());
    }
    if name.is_empty() {
        return invalid(
            "browser.set_cookie needs the name of the cookie: set gateway.cookie, such as \"__Host-latchkey\"".into(),
        );
    }
    if name.len() > MAX_COOKIE_NAME {
        return invalid(format!(
            "gateway.cookie must have at most {MAX_COOKIE_NAME} characters with browser.set_cookie"
        ));
    }
    if browser.origins.is_empty() {
        return invalid(
            "browser.set_cookie needs the sites that may use it: list them in browser.origins".into(),
        );
    }
    if domain.is_empty() {
        return Ok(());
    }
    if !is_domain(domain) {
        return invalid(format!(
            "browser.cookie_domain: \"{}\" is not a domain such as \"example.com\"",
            domain.escape_debug()
        ));
    }
    // RFC 6265bis section 4.1.3.2. Browsers compare the prefix without case.
    if name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("__Host-")) {
        return invalid(format!(
            "browser.cookie_domain cannot go with gateway.cookie = \"{name}\", which browsers accept for one host only: name it __Secure-..., or remove the domain"
        ));
    }
    Ok(())
}

/// Returns whether this is a domain name in lower-case ASCII that is not a top-level domain.
fn is_domain(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let (_, top) = name.rsplit_once('.').unwrap_or_default();
    name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_allowed))
        && top.bytes().any(|byte| !byte.is_ascii_digit())
}
