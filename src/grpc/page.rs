//! Pages of lists in the order of usernames.

use data_encoding::BASE64URL_NOPAD;

use crate::domain::{Violation, username::Username};

const DEFAULT_SIZE: u32 = 100;
const MAX_SIZE: u32 = 1000;

/// Parses `page_size`.
pub(super) fn size(size: i32) -> Result<u32, Violation> {
    match u32::try_from(size) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) => Err(Violation::new("page_size", "must not be negative")),
    }
}

/// Parses `page_token`: the last username of the previous page.
pub(super) fn after(token: &str) -> Result<Option<Username>, Violation> {
    if token.is_empty() {
        return Ok(None);
    }
    BASE64URL_NOPAD
        .decode(token.as_bytes())
        .ok()
        .and_then(|bytes| Username::parse(std::str::from_utf8(&bytes).ok()?).ok())
        .map(Some)
        .ok_or_else(|| Violation::new("page_token", "is not the next_page_token of a page before"))
}

/// The `next_page_token` of a page that ends with this username.
pub(super) fn token(last: &Username) -> String {
    BASE64URL_NOPAD.encode(last.as_str().as_bytes())
}
