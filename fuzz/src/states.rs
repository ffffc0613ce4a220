//! Builds states from an input.

use std::num::NonZeroU64;

use arbitrary::{Result, Unstructured};
use latchkey::domain::{
    rejection::{Reason, Rejection},
    sessions::{ClientMark, Ended, Epoch, Fence, Profile, Session, Tombstone, UserSessions},
    throttle::{Attempt, Throttle},
    types::{Device, Generation, LoginKey, Notice, Role, SessionId, Slot, Timeout, Timestamp, UserId},
};

/// The latest time that the codec keeps exactly: times are stored as differences.
const LATEST: u64 = 1 << 62;

pub(crate) fn user_sessions(from: &mut Unstructured<'_>) -> Result<UserSessions> {
    let roles: Vec<_> = list(from, 4, role)?;
    Ok(UserSessions {
        generation: generation(from)?,
        profile: Profile {
            username: from.arbitrary::<&str>()?.into(),
            roles: Role::parse_all(&roles.iter().map(Role::as_str).collect::<Vec<_>>())
                .unwrap_or_default()
                .into(),
        },
        sessions: list(from, 5, session)?.into(),
        tombstones: list(from, 17, tombstone)?.into(),
        fence: option(from, fence)?.map(Box::new),
    })
}

pub(crate) fn ended(from: &mut Unstructured<'_>) -> Result<Ended> {
    Ok(Ended {
        session_id: SessionId::from_bytes(from.arbitrary()?),
        slot: slot(from)?,
        rejection: Rejection {
            reason: *from.choose(&Reason::ALL)?,
            at: option(from, moment)?,
            by_device: option(from, device)?,
            notice: notice(from)?,
        },
        expires_at: moment(from)?,
    })
}

pub(crate) fn epoch(from: &mut Unstructured<'_>) -> Result<Epoch> {
    Ok(Epoch { number: from.arbitrary()?, since: moment(from)?, notice: notice(from)? })
}

pub(crate) fn throttle(from: &mut Unstructured<'_>) -> Result<Throttle> {
    let attempt = |from: &mut Unstructured<'_>| Ok(Attempt { id: from.arbitrary()?, until: moment(from)? });
    Ok(Throttle {
        failures: from.arbitrary()?,
        since: moment(from)?,
        attempts: list(from, 8, attempt)?,
        changed_at: moment(from)?,
    })
}

pub(crate) fn user_id(from: &mut Unstructured<'_>) -> Result<UserId> {
    let text = from.arbitrary::<&str>()?;
    Ok(UserId::parse(text).unwrap_or_else(|_| UserId::parse("user-1").expect("valid")))
}

fn session(from: &mut Unstructured<'_>) -> Result<Session> {
    Ok(Session {
        id: SessionId::from_bytes(from.arbitrary()?),
        generation: generation(from)?,
        slot: slot(from)?,
        device: device(from)?,
        issued_at: moment(from)?,
        // Sessions end on whole seconds because tokens do.
        expires_at: moment(from)?.ceil_to_second(),
        last_seen: moment(from)?,
        idle_timeout: Timeout::from_micros(from.arbitrary()?),
        epoch: from.arbitrary()?,
        exclusive: from.arbitrary()?,
        login_key: option(from, |from| from.arbitrary().map(LoginKey::from_hash))?,
        client: client(from)?,
    })
}

fn tombstone(from: &mut Unstructured<'_>) -> Result<Tombstone> {
    Ok(Tombstone {
        id: SessionId::from_bytes(from.arbitrary()?),
        generation: generation(from)?,
        slot: slot(from)?,
        reason: *from.choose(&Reason::ALL)?,
        at: moment(from)?,
        by_device: device(from)?,
        notice: notice(from)?,
        until: moment(from)?,
        exclusive: from.arbitrary()?,
        login_key: option(from, |from| from.arbitrary().map(LoginKey::from_hash))?,
        client: client(from)?,
        by_client: client(from)?,
    })
}

fn fence(from: &mut Unstructured<'_>) -> Result<Fence> {
    Ok(Fence {
        generation: generation(from)?,
        reason: *from.choose(&Reason::ALL)?,
        at: moment(from)?,
        notice: notice(from)?,
        until: moment(from)?,
    })
}

fn moment(from: &mut Unstructured<'_>) -> Result<Timestamp> {
    from.int_in_range(0..=LATEST).map(Timestamp::from_micros)
}

fn generation(from: &mut Unstructured<'_>) -> Result<Generation> {
    from.int_in_range(0..=LATEST).map(Generation)
}

fn client(from: &mut Unstructured<'_>) -> Result<Option<ClientMark>> {
    from.arbitrary().map(|mark| NonZeroU64::new(mark).map(ClientMark))
}

fn slot(from: &mut Unstructured<'_>) -> Result<Slot> {
    let text = from.arbitrary::<&str>()?;
    Ok(Slot::parse(text).unwrap_or_else(|_| Slot::parse("default").expect("valid")))
}

fn device(from: &mut Unstructured<'_>) -> Result<Device> {
    from.arbitrary::<&str>().map(|text| Device::parse(text).unwrap_or_default())
}

fn notice(from: &mut Unstructured<'_>) -> Result<Option<Notice>> {
    from.arbitrary::<&str>().map(|text| Notice::parse(text).unwrap_or_default())
}

fn role(from: &mut Unstructured<'_>) -> Result<Role> {
    let text = from.arbitrary::<&str>()?;
    Ok(Role::parse(text).unwrap_or_else(|_| Role::parse("staff").expect("valid")))
}

fn option<T>(
    from: &mut Unstructured<'_>,
    build: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    if from.arbitrary()? { build(from).map(Some) } else { Ok(None) }
}

fn list<T>(
    from: &mut Unstructured<'_>,
    most: usize,
    build: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let length = from.int_in_range(0..=most)?;
    (0..length).map(|_| build(from)).collect()
}
