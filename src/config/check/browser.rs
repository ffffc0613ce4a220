//! What can be wrong with the origins of web sites.

use url::{Origin, Url};

use crate::config::{Browser, ConfigError};

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
