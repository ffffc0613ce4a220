//! What can be wrong with the origins of web sites, and with the cookie for their pages.

use url::{Origin, Url};

use crate::config::{Browser, ConfigError};

/// The longest name of a cookie with which every token fits into it.
const MAX_NAME: usize = 64;

/// Refuses what no browser would ever send, and what every site could.
pub(super) fn check(browser: &Browser) -> Result<(), ConfigError> {
    for origin in &browser.origins {
        let refuse = |sentence: &str| {
            Err(ConfigError(format!("browser.origins: \"{}\" {sentence}", origin.escape_debug())))
        };
        if origin == "*" || origin == "null" {
            return refuse("would let every web site in: name each, such as https://app.example.com");
        }
        // As a browser writes it: without a default port, a path, or capital letters in the host.
        let written = Url::parse(origin).ok().map(|url| url.origin()).filter(Origin::is_tuple);
        let Some(written) = written.map(|origin| origin.ascii_serialization()) else {
            return refuse("is not an origin such as https://app.example.com");
        };
        if written != *origin {
            return refuse(&format!("is not as browsers write it: \"{written}\""));
        }
        if !written.starts_with("https://") && !written.starts_with("http://") {
            return refuse("must begin with https://, or http:// on a developer's machine");
        }
    }
    Ok(())
}

/// Refuses a cookie that browsers would drop without a word.
pub(super) fn cookie(browser: &Browser, name: &str) -> Result<(), ConfigError> {
    let refuse = |sentence: String| Err(ConfigError(sentence));
    let domain = browser.cookie_domain.as_str();
    if !browser.set_cookie {
        if !domain.is_empty() {
            return refuse(
                "browser.cookie_domain is for browser.set_cookie: set that, too, or neither".into(),
            );
        }
        return Ok(());
    }
    if name.is_empty() {
        return refuse(
            "browser.set_cookie needs the name of the cookie: set gateway.cookie, such as \"__Host-latchkey\"".into(),
        );
    }
    if name.len() > MAX_NAME {
        return refuse(format!(
            "gateway.cookie must have at most {MAX_NAME} characters with browser.set_cookie"
        ));
    }
    if browser.origins.is_empty() {
        return refuse(
            "browser.set_cookie needs the sites that may use it: name them in browser.origins".into(),
        );
    }
    if domain.is_empty() {
        return Ok(());
    }
    if !is_domain(domain) {
        return refuse(format!(
            "browser.cookie_domain: \"{}\" is not a domain such as \"example.com\"",
            domain.escape_debug()
        ));
    }
    // RFC 6265bis section 4.1.3.2. Browsers make no difference between __Host- and __host-.
    if name.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case("__Host-")) {
        return refuse(format!(
            "browser.cookie_domain cannot go with gateway.cookie = \"{name}\", which browsers take for one host only: name it __Secure-... or leave the domain out"
        ));
    }
    Ok(())
}

/// Whether this is the name of a domain, as it is written in ASCII and small letters, and not that of all of `com`.
fn is_domain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let (_, top) = name.rsplit_once('.').unwrap_or_default();
    name.split('.').all(|label| !label.is_empty() && label.bytes().all(plain))
        && top.bytes().any(|byte| !byte.is_ascii_digit())
}
