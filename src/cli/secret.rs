//! Passwords and tokens: from a prompt or standard input, never from an argument, which others can see.

use std::io::{BufRead as _, IsTerminal as _, stdin};

use super::Failure;

/// A password to check.
pub(super) fn password(prompt: &str) -> Result<String, Failure> {
    if stdin().is_terminal() {
        return rpassword::prompt_password(prompt)
            .map_err(|error| Failure::Usage(format!("cannot ask for the password: {error}")));
    }
    line("password")
}

/// A password to set: asked for twice where somebody types it.
pub(super) fn new_password() -> Result<String, Failure> {
    let first = password("New password: ")?;
    if stdin().is_terminal() && first != password("Once more: ")? {
        return Err(Failure::Usage("the two passwords differ".into()));
    }
    Ok(first)
}

/// A token.
pub(super) fn token() -> Result<String, Failure> {
    #[expect(clippy::disallowed_methods, reason = "a token of the caller, not a setting")]
    let token = std::env::var("LATCHKEY_TOKEN").unwrap_or_default();
    if !token.trim().is_empty() {
        return Ok(token.trim().to_owned());
    }
    if stdin().is_terminal() {
        return Err(Failure::Usage("there is no token: set LATCHKEY_TOKEN, or pipe it in".into()));
    }
    line("token").map(|token| token.trim().to_owned())
}

/// One line of standard input, exactly as it is.
fn line(what: &str) -> Result<String, Failure> {
    let mut line = String::new();
    stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::Usage(format!("cannot read the {what} from standard input: {error}")))?;
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    if line.is_empty() {
        return Err(Failure::Usage(format!("standard input has no {what}")));
    }
    Ok(line)
}
