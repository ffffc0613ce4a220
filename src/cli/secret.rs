//! Passwords and tokens come from a prompt or from standard input, never from arguments, which other users can see.

use std::io::{BufRead as _, IsTerminal as _, stdin};

use super::CommandError;

/// Reads a password.
pub(super) fn password(prompt: &str) -> Result<String, CommandError> {
    if stdin().is_terminal() {
        return rpassword::prompt_password(prompt)
            .map_err(|error| CommandError::Usage(format!("cannot ask for the password: {error}")));
    }
    line("password")
}

/// Reads a new password, from a prompt twice.
pub(super) fn new_password() -> Result<String, CommandError> {
    let first = password("New password: ")?;
    if stdin().is_terminal() && first != password("Once more: ")? {
        return Err(CommandError::Usage("the two passwords differ".into()));
    }
    Ok(first)
}

/// Reads a token from `LATCHKEY_TOKEN` or from standard input.
pub(super) fn token() -> Result<String, CommandError> {
    #[expect(clippy::disallowed_methods, reason = "a token, not a setting of the server")]
    let token = std::env::var("LATCHKEY_TOKEN").unwrap_or_default();
    if !token.trim().is_empty() {
        return Ok(token.trim().to_owned());
    }
    if stdin().is_terminal() {
        return Err(CommandError::Usage(
            "there is no token: set LATCHKEY_TOKEN, or pipe the token in".into(),
        ));
    }
    line("token").map(|token| token.trim().to_owned())
}

/// Reads one line of standard input without its line break.
fn line(what: &str) -> Result<String, CommandError> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line).map_err(|error| {
        CommandError::Usage(format!("cannot read the {what} from standard input: {error}"))
    })?;
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    if line.is_empty() {
        return Err(CommandError::Usage(format!("standard input has no {what}")));
    }
    Ok(line)
}
