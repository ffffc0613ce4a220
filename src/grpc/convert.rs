//! Conversions between domain values and protobuf messages that several services share.

use std::time::Duration;

use http::{HeaderMap, header::AUTHORIZATION};

use super::pb;
use crate::domain::{
    Violation,
    limiter::ThrottleStatus,
    ports::{Account, Caller},
    rejection::Rejection,
    sessions::Session,
    types::{Role, Timestamp},
    validate::LiveSession,
};
use latchkey_client::bearer::bearer;

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.as_micros();
    prost_types::Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1000).unwrap_or_default(),
    }
}

/// Converts a time that a client has sent. Times before 1970 become 1970.
pub(super) fn from_timestamp(timestamp: prost_types::Timestamp) -> Timestamp {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or_default();
    let nanos = u64::try_from(timestamp.nanos).unwrap_or_default();
    Timestamp::from_secs(seconds).after(Duration::from_nanos(nanos))
}

pub(super) fn session(live: &LiveSession) -> pb::Session {
    let session = live.session();
    pb::Session {
        session_id: session.id.to_string(),
        user_id: live.user_id().to_string(),
        username: live.username().to_owned(),
        slot: session.slot.as_str().to_owned(),
        device: session.device.as_str().to_owned(),
        roles: role_names(live.roles()),
        issued_at: Some(timestamp(session.issued_at)),
        expires_at: Some(timestamp(session.expires_at)),
        idle_expires_at: Some(timestamp(live.idle_expires_at())),
        last_seen_at: None,
    }
}

/// Like [`session`], with the latest recorded use.
pub(super) fn session_with_use(live: &LiveSession) -> pb::Session {
    let last_seen = live.session().last_seen;
    pb::Session { last_seen_at: Some(timestamp(last_seen)), ..session(live) }
}

pub(super) fn displaced(session: &Session) -> pb::DisplacedSession {
    pb::DisplacedSession {
        session_id: session.id.to_string(),
        slot: session.slot.as_str().to_owned(),
        device: session.device.as_str().to_owned(),
        issued_at: Some(timestamp(session.issued_at)),
    }
}

pub(super) fn rejection(rejection: &Rejection) -> pb::Rejection {
    pb::Rejection {
        reason: i32::from(rejection.reason.code()),
        at: rejection.at.map(timestamp),
        by_device: rejection.by_device.as_ref().map(|device| device.as_str().to_owned()).unwrap_or_default(),
        message: rejection.message(),
        terminal: rejection.reason.is_terminal(),
    }
}

pub(super) fn login_throttle(status: &ThrottleStatus) -> pb::LoginThrottle {
    pb::LoginThrottle {
        failures: status.failures,
        locked: status.locked,
        next_attempt_at: status.next_attempt_at.map(timestamp),
    }
}

pub(super) fn account(account: &Account, now: Timestamp) -> pb::Account {
    let disabled = account.disabled.at(now);
    pb::Account {
        user_id: account.user_id.to_string(),
        username: account.username.as_str().to_owned(),
        roles: role_names(&account.roles),
        disabled,
        disabled_until: account.disabled.until().filter(|_| disabled).map(timestamp),
        // An external users table has no creation time.
        created_at: Some(account.created_at).filter(|at| *at > Timestamp::default()).map(timestamp),
    }
}

pub(super) fn caller(caller: Caller) -> pb::Caller {
    pb::Caller {
        name: caller.name,
        roles: caller.roles,
        created_at: Some(timestamp(caller.created_at)),
        last_used_at: caller.last_used_at.map(timestamp),
    }
}

fn role_names(roles: &[Role]) -> Vec<String> {
    roles.iter().map(|role| role.as_str().to_owned()).collect()
}

/// Returns the token of a request: `field`, or else the metadata `authorization: Bearer ...`.
pub(super) fn token<'a>(field: &'a str, metadata: &'a HeaderMap) -> Result<&'a str, Violation> {
    if !field.is_empty() {
        return Ok(field);
    }
    let mut values = metadata.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(Violation::new(
            "token",
            "is missing: set it, or send the metadata `authorization: Bearer <token>`",
        )),
        // Proxies disagree about which of two values counts.
        (Some(_), Some(_)) => {
            Err(Violation::new("token", "is missing, and there is more than one `authorization`: send one"))
        }
        (Some(value), None) => value.to_str().ok().and_then(bearer).ok_or_else(|| {
            Violation::new(
                "token",
                "is missing, and the metadata `authorization` is not of the form `Bearer <token>`",
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rejection::Reason;

    #[test]
    fn rejection_reasons_have_the_numbers_and_names_of_the_protocol() {
        for reason in Reason::ALL {
            let wire = pb::RejectionReason::try_from(i32::from(reason.code())).unwrap();
            assert_eq!(wire.as_str_name(), format!("REJECTION_REASON_{}", reason.name()));
            assert_eq!(Reason::from_code(reason.code().into()), Some(reason));
        }
        assert!(pb::RejectionReason::try_from(13).is_err());
    }

    #[test]
    fn a_token_in_two_authorization_values_is_a_violation() {
        let mut metadata = HeaderMap::new();
        metadata.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        assert_eq!(token("", &metadata), Ok("a"));
        assert_eq!(token("b", &metadata), Ok("b"));
        metadata.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        assert_eq!(token("", &metadata).unwrap_err().field, "token");
    }
}
