//! The tokens to validate.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _},
    path::Path,
};

use crate::{
    cli::{CommandError, client::Auth, login, secret},
    grpc::pb,
};

/// A limit of the memory.
const MAX_TOKENS: usize = 1_000_000;

/// Reads a file or standard input with one token per line. Empty lines are skipped.
pub(super) fn read(path: Option<&Path>) -> Result<Vec<String>, CommandError> {
    let read_error = |error: io::Error| CommandError::Usage(format!("cannot read the tokens: {error}"));
    let tokens = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => lines(BufReader::new(File::open(path).map_err(read_error)?)),
        None if io::stdin().is_terminal() => {
            return Err(CommandError::Usage(
                "there are no tokens: pipe them in, name a file by --tokens, or a user by --login".into(),
            ));
        }
        None => lines(io::stdin().lock()),
    };
    let tokens = tokens.map_err(read_error)?;
    if tokens.is_empty() {
        return Err(CommandError::Usage("there are no tokens: the input is empty".into()));
    }
    if tokens.len() > MAX_TOKENS {
        return Err(CommandError::Usage(format!("there are more than {MAX_TOKENS} tokens")));
    }
    Ok(tokens)
}

fn lines(reader: impl BufRead) -> io::Result<Vec<String>> {
    let tokens = reader.lines().map(|line| line.map(|line| line.trim().to_owned()));
    // One more than allowed, so that the limit is noticed.
    tokens.filter(|token| !matches!(token, Ok(token) if token.is_empty())).take(MAX_TOKENS + 1).collect()
}

/// Logs each user in once, because a second login would displace the first.
pub(super) async fn log_in(mut client: Auth, users: &[String]) -> Result<Vec<String>, CommandError> {
    let password = secret::password("Password of these users: ")?;
    let mut tokens = Vec::new();
    for (number, username) in users.iter().enumerate() {
        if users[..number].contains(username) {
            continue;
        }
        let request = pb::LoginRequest {
            username: username.clone(),
            password: password.clone(),
            device: "latchkey bench".into(),
            ..Default::default()
        };
        tokens.push(client.login(request).await.map_err(login::login_error)?.into_inner().token);
    }
    Ok(tokens)
}
