//! Converts a row of a foreign table to an account.
//!
//! A foreign table has rules of its own. Values that Latchkey cannot represent are left out and logged, once for each
//! user and kind. A row without a usable user id is treated as no account: the problem concerns one user, not the
//! service.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::row::{Cell, Row};
use crate::domain::{
    password::PasswordHash,
    ports::{Account, Disabled},
    types::{Role, Timestamp, UserId},
    username::Username,
};

/// The most notices that are remembered, so that each is logged once.
const MAX_NOTICES: usize = 1000;

/// A kind of problem with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Problem {
    UserId,
    Username,
    Hash,
    Disabled,
    Roles,
    SeveralRows,
    Characters,
}

/// Names the user of a row in the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum UserRef<'a> {
    Id(&'a UserId),
    /// Used where the row has no usable id, or several rows match.
    Name(&'a Username),
}

/// Logs problems with rows, each once for each user and kind.
#[derive(Default)]
pub(super) struct Notices(Mutex<HashSet<(String, Problem)>>);

impl Notices {
    /// Logs a problem, unless it was logged before.
    pub(super) fn log(&self, user: UserRef<'_>, problem: Problem, message: &str) {
        let (user_id, username) = match user {
            UserRef::Id(user_id) => (Some(user_id.as_str()), None),
            UserRef::Name(username) => (None, Some(username.as_str())),
        };
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let remaining = MAX_NOTICES.saturating_sub(logged.len());
        if remaining == 0 || !logged.insert((user_id.or(username).unwrap_or_default().to_owned(), problem)) {
            return;
        }
        drop(logged);
        tracing::warn!(
            user.id = user_id,
            user.name = username,
            error.message = message,
            "a row found by accounts.lookup cannot be represented in full"
        );
        if remaining == 1 {
            tracing::warn!(
                "logged {MAX_NOTICES} such rows; further ones are not logged until the server restarts"
            );
        }
    }
}

/// Returns the account of a row. `sought` is the name that was looked up, if the lookup was by name. Returns `None`
/// for a row without a usable user id.
pub(super) fn account(row: &Row, sought: Option<&Username>, notices: &Notices) -> Option<Account> {
    let username = row.text("username").ok().and_then(Username::foreign);
    let has_name = username.is_some();
    let username = username.or_else(|| sought.cloned());
    let Some(user_id) = user_id(row) else {
        let message = "its user_id is not 1 to 128 printable ASCII characters, so this user cannot log in; where it is padded with blanks, write trim(column) AS user_id";
        if let Some(name) = &username {
            notices.log(UserRef::Name(name), Problem::UserId, message);
        }
        return None;
    };
    let log = |problem, message: &str| notices.log(UserRef::Id(&user_id), problem, message);
    if !has_name {
        log(Problem::Username, "its username is empty or not text; the name that was typed is shown instead");
    }
    let username = username?;
    let password = match row.get("password_hash") {
        // The account has no password, so no password matches.
        Some(Cell::Null) => "",
        _ => row.text("password_hash").unwrap_or_else(|_| {
            log(Problem::Hash, "its password_hash is not text, so no password matches");
            ""
        }),
    };
    let disabled = match row.get("disabled") {
        None | Some(Cell::Null) => false,
        Some(_) => row.boolean("disabled").unwrap_or_else(|_| {
            log(
                Problem::Disabled,
                "its column disabled is neither true nor false; the account is treated as disabled",
            );
            true
        }),
    };
    let (roles, message) = roles(row);
    if let Some(message) = message {
        log(Problem::Roles, &message);
    }
    Some(Account {
        username,
        // The exact text, because accounts.update_hash compares it.
        password: PasswordHash::new(password.to_owned()),
        roles,
        disabled: if disabled { Disabled::Yes } else { Disabled::No },
        created_at: Timestamp::default(),
        user_id,
    })
}

/// Returns the user's id. White space around it is trimmed only from numbers and UUIDs: trimming an id that a user
/// may have chosen could merge two users into one. The padding of CHAR(n) columns is removed when the row is read.
pub(super) fn user_id(row: &Row) -> Option<UserId> {
    let text = row.text_or_integer("user_id").ok()?;
    let trimmed = text.trim();
    let is_number_or_uuid = trimmed.bytes().all(|byte| byte.is_ascii_digit())
        || matches!(trimmed.len(), 32 | 36)
            && trimmed.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    UserId::parse(if is_number_or_uuid { trimmed } else { &text }).ok()
}

/// Returns the valid roles, and a description of the others.
fn roles(row: &Row) -> (Vec<Role>, Option<String>) {
    if row.get("roles").is_none() {
        return (Vec::new(), None);
    }
    let Ok(names) = row.names("roles") else {
        return (Vec::new(), Some("its roles are not text and are ignored".into()));
    };
    let mut invalid = names.iter().filter(|name| Role::parse(name).is_err());
    let message = invalid.next().map(|first| {
        let first: String = first.chars().take(64).collect();
        format!(
            "{} of its roles, such as {first:?}, are left out, because a role is 1 to 64 letters, digits or `_ - . : /`: map them in accounts.lookup",
            1 + invalid.count()
        )
    });
    let mut roles: Vec<_> = names.iter().filter_map(|name| Role::parse(name).ok()).collect();
    roles.sort();
    roles.dedup();
    let count = roles.len();
    roles.truncate(Role::MAX_COUNT);
    let too_many = || format!("it has {count} roles, of which the first {} by name count", Role::MAX_COUNT);
    (roles, message.or_else(|| (count > Role::MAX_COUNT).then(too_many)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_is_logged_once_and_their_number_is_bounded() {
        let notices = Notices::default();
        let user = |number: usize| UserId::parse(&number.to_string()).unwrap();
        for _ in 0..3 {
            notices.log(UserRef::Id(&user(7)), Problem::Roles, "x");
        }
        notices.log(UserRef::Id(&user(7)), Problem::Hash, "x");
        assert_eq!(notices.0.lock().unwrap().len(), 2);
        for number in 0..2 * MAX_NOTICES {
            notices.log(UserRef::Id(&user(number)), Problem::Roles, "x");
        }
        assert_eq!(notices.0.lock().unwrap().len(), MAX_NOTICES);
    }
}
