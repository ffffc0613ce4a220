//! What to validate.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _},
    path::Path,
};

use crate::{
    cli::{Failure, client::Auth, login, secret},
    grpc::pb,
};

/// More would take memory and tell nothing more.
const MOST: usize = 1_000_000;

/// From a file or standard input, one a line; empty lines do not count.
pub(super) fn read(path: Option<&Path>) -> Result<Vec<String>, Failure> {
    let unreadable = |error: io::Error| Failure::Usage(format!("cannot read the tokens: {error}"));
    let tokens = match path.filter(|path| *path != Path::new("-")) {
        Some(path) => lines(BufReader::new(File::open(path).map_err(unreadable)?)),
        None if io::stdin().is_terminal() => {
            return Err(Failure::Usage(
                "there are no tokens: pipe them in, name a file by --tokens, or a user by --login".into(),
            ));
        }
        None => lines(io::stdin().lock()),
    };
    let tokens = tokens.map_err(unreadable)?;
    if tokens.is_empty() {
        return Err(Failure::Usage("there are no tokens: the input is empty".into()));
    }
    if tokens.len() > MOST {
        return Err(Failure::Usage(format!("there are more than {MOST} tokens")));
    }
    Ok(tokens)
}

fn lines(reader: impl BufRead) -> io::Result<Vec<String>> {
    let tokens = reader.lines().map(|line| line.map(|line| line.trim().to_owned()));
    // One beyond the bound, so that it is noticed.
    tokens.filter(|token| !matches!(token, Ok(token) if token.is_empty())).take(MOST + 1).collect()
}

/// Logs these users in, once each: their sessions displace each other otherwise.
pub(super) async fn log_in(mut client: Auth, users: &[String]) -> Result<Vec<String>, Failure> {
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
        tokens.push(client.login(request).await.map_err(login::refused)?.into_inner().token);
    }
    Ok(tokens)
}
