//! The session that the bare echo returns.

use latchkey::grpc::pb::Session;
use prost_types::Timestamp;

/// A session of the size that Latchkey returns for a user of `make bench` with this many roles; `make bench` compares
/// the two.
pub fn session(count: usize) -> Session {
    let at = |seconds| Some(Timestamp { seconds, nanos: 123_000_000 });
    Session {
        session_id: "a".repeat(26),
        user_id: "u".repeat(26),
        username: "user0000".into(),
        slot: "default".into(),
        device: "bench".into(),
        roles: roles(count),
        issued_at: at(1_800_000_000),
        expires_at: at(1_800_086_400),
        idle_expires_at: at(1_800_003_600),
        ..Default::default()
    }
}

/// Roles of 24 characters.
pub fn roles(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("departments-{number:02}:operators")).collect()
}
