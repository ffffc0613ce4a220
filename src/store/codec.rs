//! Encodes states and events: a format byte, then Protocol Buffers.
//!
//! Rolling upgrades mix versions, and Protocol Buffers let a reader skip fields that it does not know. An older
//! replica that writes a state drops such fields, however. So a field that must not be lost raises [`FORMAT`], and
//! then older replicas return an error instead of a wrong state.
//!
//! Every user has an encoded state in some memory, so the encoding is small: times are stored as differences, and
//! default values are left out.

mod client;
mod epoch;
mod probe;
mod sessions;
mod throttle;
mod webhook;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use prost::Message;

use self::{client::client_wire, sessions::Problem};
use crate::domain::{
    ports::Event,
    rejection::{Reason, Rejection},
    sessions::{Ended, Fence, Session, Tombstone, UserSessions},
    types::{Device, LoginKey, Notice, SessionId, Slot, Timestamp, UserId},
};

pub use self::epoch::{decode_epoch, encode_epoch, encode_epoch_event};
pub use self::probe::{decode_probe, encode_probe};
pub use self::throttle::{decode_throttle, encode_throttle};
pub use self::webhook::{decode_delivery, encode_delivery};

// Field 15 of every message that is the value of a register is reserved for `binding`.

const FORMAT: u8 = 1;

/// The slot that is encoded as the empty string.
const DEFAULT_SLOT: &str = "default";

/// An error of decoding.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A newer version of Latchkey wrote the value, and this one would misread it.
    #[error("the value has format {0}, which is newer than this version of Latchkey: upgrade Latchkey")]
    Newer(u8),
    /// Latchkey did not write the value, or it was damaged.
    #[error("{0}")]
    Corrupt(String),
}

// `sessions` decodes these messages, too: a field has to be added in both places.

#[derive(Message)]
struct StateWire {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(bytes = "bytes", tag = "2")]
    username: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    roles: Vec<Bytes>,
    #[prost(message, repeated, tag = "4")]
    sessions: Vec<SessionWire>,
    #[prost(message, repeated, tag = "5")]
    tombstones: Vec<TombstoneWire>,
    #[prost(message, optional, tag = "6")]
    fence: Option<FenceWire>,
}

#[derive(Message)]
struct SessionWire {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(uint64, tag = "2")]
    generation: u64,
    #[prost(bytes = "bytes", tag = "3")]
    slot: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    device: Bytes,
    /// Microseconds since the generation, which usually is the time of the login.
    #[prost(sint64, tag = "5")]
    issued_delta: i64,
    /// Seconds since the epoch.
    #[prost(uint64, tag = "6")]
    expires_secs: u64,
    /// Microseconds since the login.
    #[prost(sint64, tag = "7")]
    seen_delta: i64,
    #[prost(uint64, tag = "8")]
    idle_micros: u64,
    #[prost(bool, tag = "9")]
    exclusive: bool,
    #[prost(fixed64, optional, tag = "10")]
    login_key: Option<u64>,
    #[prost(uint64, tag = "11")]
    epoch: u64,
    /// 0 if unknown.
    #[prost(fixed64, tag = "12")]
    client: u64,
}

#[derive(Message)]
struct TombstoneWire {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(uint64, tag = "2")]
    generation: u64,
    #[prost(bytes = "bytes", tag = "3")]
    slot: Bytes,
    #[prost(uint32, tag = "4")]
    reason: u32,
    #[prost(uint64, tag = "5")]
    at_micros: u64,
    #[prost(bytes = "bytes", tag = "6")]
    by_device: Bytes,
    #[prost(uint64, tag = "7")]
    until_micros: u64,
    #[prost(bytes = "bytes", tag = "8")]
    notice: Bytes,
    #[prost(bool, tag = "9")]
    exclusive: bool,
    #[prost(fixed64, optional, tag = "10")]
    login_key: Option<u64>,
    /// 0 if unknown.
    #[prost(fixed64, tag = "11")]
    client: u64,
    /// 0 if unknown.
    #[prost(fixed64, tag = "12")]
    by_client: u64,
}

#[derive(Message)]
struct FenceWire {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(uint32, tag = "2")]
    reason: u32,
    #[prost(uint64, tag = "3")]
    at_micros: u64,
    #[prost(uint64, tag = "4")]
    until_micros: u64,
    #[prost(bytes = "bytes", tag = "5")]
    notice: Bytes,
}

#[derive(Message)]
struct EventWire {
    #[prost(string, tag = "1")]
    user_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    session_id: Bytes,
    #[prost(string, tag = "3")]
    slot: String,
    #[prost(uint32, tag = "4")]
    reason: u32,
    #[prost(uint64, optional, tag = "5")]
    at_micros: Option<u64>,
    #[prost(string, optional, tag = "6")]
    by_device: Option<String>,
    #[prost(uint64, tag = "7")]
    expires_micros: u64,
    #[prost(string, tag = "8")]
    notice: String,
    /// Set, without other fields, if an epoch has begun.
    #[prost(message, optional, tag = "9")]
    epoch: Option<epoch::EpochWire>,
    /// Set, with `user_id` only, if the profile of the user has changed.
    #[prost(bool, tag = "10")]
    changed: bool,
}

/// Encodes the sessions of a user.
pub fn encode_sessions(state: &UserSessions) -> Bytes {
    pack(&StateWire {
        generation: state.generation.0,
        username: text_wire(&state.profile.username),
        roles: state.profile.roles.iter().map(|role| text_wire(role.as_str())).collect(),
        sessions: state.sessions.iter().map(session_wire).collect(),
        tombstones: state.tombstones.iter().map(tombstone_wire).collect(),
        fence: state.fence.as_deref().map(fence_wire),
    })
}

/// Decodes the sessions of a user.
pub fn decode_sessions(bytes: impl AsRef<[u8]>) -> Result<UserSessions, CodecError> {
    let bytes = bytes.as_ref();
    if let Some((&FORMAT, message)) = bytes.split_first()
        && let Ok(state) = sessions::decode(message)
    {
        return Ok(state);
    }
    let wire: StateWire = unpack(bytes)?;
    sessions::decode(&wire.encode_to_vec()).map_err(|problem| match problem {
        Problem::Invalid(error) => error,
        Problem::Unusual => CodecError::Corrupt("the value is not one of Latchkey".into()),
    })
}

/// Encodes the event that a session has ended.
pub fn encode_event(user_id: &UserId, ended: &Ended) -> Bytes {
    pack(&EventWire {
        user_id: user_id.as_str().to_owned(),
        session_id: Bytes::copy_from_slice(ended.session_id.as_bytes()),
        slot: slot_wire(&ended.slot).to_owned(),
        reason: ended.rejection.reason.code().into(),
        at_micros: ended.rejection.at.map(Timestamp::as_micros),
        by_device: ended.rejection.by_device.as_ref().map(|device| device.as_str().to_owned()),
        expires_micros: ended.expires_at.as_micros(),
        notice: notice_wire(ended.rejection.notice.as_ref()).to_owned(),
        epoch: None,
        changed: false,
    })
}

/// Encodes the event that the profile of a user has changed.
pub fn encode_changed(user_id: &UserId) -> Bytes {
    pack(&EventWire { user_id: user_id.as_str().to_owned(), changed: true, ..EventWire::default() })
}

/// Decodes an event.
pub fn decode_event(bytes: &[u8]) -> Result<Event, CodecError> {
    let wire: EventWire = unpack(bytes)?;
    if let Some(wire) = &wire.epoch {
        return Ok(Event::Epoch(epoch::epoch(wire)?));
    }
    if wire.changed {
        return Ok(Event::Changed { user_id: checked(UserId::parse(&wire.user_id))? });
    }
    Ok(Event::Ended {
        user_id: checked(UserId::parse(&wire.user_id))?,
        ended: Ended {
            session_id: session_id(&wire.session_id)?,
            slot: slot(&wire.slot)?,
            rejection: Rejection {
                reason: reason(wire.reason)?,
                at: wire.at_micros.map(Timestamp::from_micros),
                by_device: wire.by_device.as_deref().map(device).transpose()?,
                notice: notice(&wire.notice)?,
            },
            expires_at: Timestamp::from_micros(wire.expires_micros),
        },
    })
}

fn session_wire(session: &Session) -> SessionWire {
    SessionWire {
        id: Bytes::copy_from_slice(session.id.as_bytes()),
        generation: session.generation.0,
        slot: text_wire(slot_wire(&session.slot)),
        device: text_wire(session.device.as_str()),
        issued_delta: difference(session.issued_at.as_micros(), session.generation.0),
        expires_secs: session.expires_at.as_secs(),
        seen_delta: difference(session.last_seen.as_micros(), session.issued_at.as_micros()),
        idle_micros: session.idle_timeout.as_micros(),
        epoch: session.epoch,
        exclusive: session.exclusive,
        login_key: session.login_key.map(LoginKey::hash),
        client: client_wire(session.client),
    }
}

fn tombstone_wire(tombstone: &Tombstone) -> TombstoneWire {
    TombstoneWire {
        id: Bytes::copy_from_slice(tombstone.id.as_bytes()),
        generation: tombstone.generation.0,
        slot: text_wire(slot_wire(&tombstone.slot)),
        reason: tombstone.reason.code().into(),
        at_micros: tombstone.at.as_micros(),
        by_device: text_wire(tombstone.by_device.as_str()),
        until_micros: tombstone.until.as_micros(),
        notice: text_wire(notice_wire(tombstone.notice.as_ref())),
        exclusive: tombstone.exclusive,
        login_key: tombstone.login_key.map(LoginKey::hash),
        client: client_wire(tombstone.client),
        by_client: client_wire(tombstone.by_client),
    }
}

fn fence_wire(fence: &Fence) -> FenceWire {
    FenceWire {
        generation: fence.generation.0,
        reason: fence.reason.code().into(),
        at_micros: fence.at.as_micros(),
        until_micros: fence.until.as_micros(),
        notice: text_wire(notice_wire(fence.notice.as_ref())),
    }
}

fn text_wire(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn slot_wire(slot: &Slot) -> &str {
    if slot.as_str() == DEFAULT_SLOT { "" } else { slot.as_str() }
}

fn slot(wire: &str) -> Result<Slot, CodecError> {
    checked(Slot::parse(if wire.is_empty() { DEFAULT_SLOT } else { wire }))
}

fn device(wire: &str) -> Result<Device, CodecError> {
    checked(Device::parse(wire))
}

fn notice_wire(notice: Option<&Notice>) -> &str {
    notice.map(Notice::as_str).unwrap_or_default()
}

fn notice(wire: &str) -> Result<Option<Notice>, CodecError> {
    checked(Notice::parse(wire))
}

fn session_id(wire: &[u8]) -> Result<SessionId, CodecError> {
    let bytes =
        wire.try_into().map_err(|_| CodecError::Corrupt("a session id has the wrong length".into()))?;
    Ok(SessionId::from_bytes(bytes))
}

fn reason(code: u32) -> Result<Reason, CodecError> {
    Reason::from_code(code).ok_or_else(|| CodecError::Corrupt(format!("unknown rejection reason {code}")))
}

fn checked<T>(parsed: Result<T, crate::domain::Violation>) -> Result<T, CodecError> {
    parsed.map_err(|violation| CodecError::Corrupt(format!("{} {}", violation.field, violation.description)))
}

/// Returns `to - from`.
fn difference(to: u64, from: u64) -> i64 {
    i64::try_from(i128::from(to) - i128::from(from)).unwrap_or_default()
}

fn pack(wire: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + wire.encoded_len());
    bytes.put_u8(FORMAT);
    wire.encode_raw(&mut bytes);
    bytes.freeze()
}

fn unpack<M: Message + Default>(mut bytes: impl Buf) -> Result<M, CodecError> {
    match bytes.try_get_u8() {
        Ok(FORMAT) => M::decode(bytes).map_err(|error| CodecError::Corrupt(error.to_string())),
        Ok(newer) if newer > FORMAT => Err(CodecError::Newer(newer)),
        _ => Err(CodecError::Corrupt("the value does not begin with a format byte".into())),
    }
}
