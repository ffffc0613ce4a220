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

/// Identifies the kind of a problem with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    UserId,
    Username,
    Hash,
    Disabled,
    Roles,
    SeveralRows,
    Characters,
}

/// Names the user that a row belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Who<'a> {
    Id(&'a UserId),
    /// Used where the row has no usable id, or several rows match.
    Name(&'a Username),
}

/// Logs problems with rows, each once for each user and kind.
#[derive(Default)]
pub(super) struct Notices(Mutex<HashSet<(String, Kind)>>);

impl Notices {
    /// Logs a problem, unless it was logged before.
    pub(super) fn log(&self, who: Who<'_>, kind: Kind, problem: &str) {
        let (user_id, username) = match who {
            Who::Id(user_id) => (Some(user_id.as_str()), None),
            Who::Name(username) => (None, Some(username.as_str())),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_NOTICES.saturating_sub(known.len());
        if room == 0 || !known.insert((user_id.or(username).unwrap_or_default().to_owned(), kind)) {
            return;
        }
        drop(known);
        tracing::warn!(
            user.id = user_id,
            user.name = username,
            error.message = problem,
            "a row found by accounts.lookup cannot be represented in full"
        );
        if room == 1 {
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
        let problem = "its user_id is not 1 to 128 printable ASCII characters, so this user cannot log in; where it is padded with blanks, write trim(column) AS user_id";
        if let Some(name) = &username {
            notices.log(Who::Name(name), Kind::UserId, problem);
        }
        return None;
    };
    let log = |kind, problem: &str| notices.log(Who::Id(&user_id), kind, problem);
    if !has_name {
        log(Kind::Username, "its username is empty or not text; the name that was typed is shown instead");
    }
    let username = username?;
    let password = match row.get("password_hash") {
        // An account without a password: nobody can log in with one.
        Some(Cell::Null) => "",
        _ => row.text("password_hash").unwrap_or_else(|_| {
            log(Kind::Hash, "its password_hash is not text, so no password matches");
            ""
        }),
    };
    let disabled = match row.get("disabled") {
        None | Some(Cell::Null) => false,
        Some(_) => row.boolean("disabled").unwrap_or_else(|_| {
            log(
                Kind::Disabled,
                "its column disabled is neither true nor false; the account is treated as disabled",
            );
            true
        }),
    };
    let (roles, problem) = roles(row);
    if let Some(problem) = problem {
        log(Kind::Roles, &problem);
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

/// Returns the user's id. White space around it is trimmed only from numbers and UUIDs: trimming an id that a user may
/// have chosen could merge two users into one. The padding of CHAR(n) columns is removed when the row is read.
pub(super) fn user_id(row: &Row) -> Option<UserId> {
    let written = row.written("user_id").ok()?;
    let trimmed = written.trim();
    let made_by_a_machine = trimmed.bytes().all(|byte| byte.is_ascii_digit())
        || matches!(trimmed.len(), 32 | 36)
            && trimmed.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    UserId::parse(if made_by_a_machine { trimmed } else { &written }).ok()
}

/// Returns the valid roles, and a description of the others.
fn roles(row: &Row) -> (Vec<Role>, Option<String>) {
    if row.get("roles").is_none() {
        return (Vec::new(), None);
    }
    let Ok(names) = row.names("roles") else {
        return (Vec::new(), Some("its roles are not text and are ignored".into()));
    };
    let mut left_out = names.iter().filter(|name| Role::parse(name).is_err());
    let problem = left_out.next().map(|first| {
        let first: String = first.chars().take(64).collect();
        format!(
            "{} of its roles, such as {first:?}, are left out, because a role is 1 to 64 letters, digits or `_ - . : /`: map them in accounts.lookup",
            1 + left_out.count()
        )
    });
    let mut roles: Vec<_> = names.iter().filter_map(|name| Role::parse(name).ok()).collect();
    roles.sort();
    roles.dedup();
    let count = roles.len();
    roles.truncate(Role::MAX_COUNT);
    let too_many = || format!("it has {count} roles, of which the first {} by name count", Role::MAX_COUNT);
    (roles, problem.or_else(|| (count > Role::MAX_COUNT).then(too_many)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_is_logged_once_and_their_number_is_bounded() {
        let notices = Notices::default();
        let user = |number: usize| UserId::parse(&number.to_string()).unwrap();
        for _ in 0..3 {
            notices.log(Who::Id(&user(7)), Kind::Roles, "x");
        }
        notices.log(Who::Id(&user(7)), Kind::Hash, "x");
        assert_eq!(notices.0.lock().unwrap().len(), 2);
        for number in 0..2 * MAX_NOTICES {
            notices.log(Who::Id(&user(number)), Kind::Roles, "x");
        }
        assert_eq!(notices.0.lock().unwrap().len(), MAX_NOTICES);
    }
}
