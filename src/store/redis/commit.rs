//! The scripts that commit, `commit.lua` and `commit_many.lua`.

use std::time::Duration;

use redis::Script;

use super::{
    REGISTER_KEY_LEN,
    layout::{Layout, Register},
    script_call::ScriptCall,
};
use crate::{
    domain::types::Timestamp,
    store::backend::{EncodedChange, EncodedValue},
};

/// The approximate number of events that the stream of a bucket keeps.
const STREAM_LENGTH: usize = 4096;

/// The scripts that commit.
pub(super) struct CommitScript {
    one: Script,
    many: Script,
    /// How long streams keep events, approximately.
    pub(super) retention: Duration,
    /// Whether events are announced on the channel of their stream.
    pub(super) announces: bool,
}

impl CommitScript {
    pub(super) fn new(retention: Duration, announces: bool) -> Self {
        let one = Script::new(include_str!("commit.lua"));
        let many = Script::new(include_str!("commit_many.lua"));
        Self { one, many, retention, announces }
    }

    /// A commit to a register that has the revision `expected`.
    pub(super) fn call(
        &self,
        layout: &Layout,
        key: &str,
        expected: u64,
        change: &EncodedChange,
    ) -> ScriptCall<'_> {
        let EncodedChange { value, keep_until, events, .. } = change;
        let mut arguments = vec![
            if expected == 0 { Vec::new() } else { expected.to_be_bytes().to_vec() },
            encoded(value),
            expiry(*keep_until),
            STREAM_LENGTH.to_string().into_bytes(),
            u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX).to_string().into_bytes(),
            if self.announces { b"1".to_vec() } else { Vec::new() },
        ];
        arguments.extend(events.iter().map(|event| event.to_vec()));
        let keys = vec![layout.register_key(key), layout.stream_key(layout.bucket(key)).to_owned()];
        ScriptCall { script: &self.one, keys, arguments }
    }

    /// Returns the call that makes commits without events to registers that exist. Each register is named once.
    pub(super) fn call_many(
        &self,
        layout: &Layout,
        commits: &[&(Register<'_>, EncodedChange)],
    ) -> ScriptCall<'_> {
        let mut keys = Vec::with_capacity(commits.len());
        let mut arguments = Vec::with_capacity(3 * commits.len());
        for (register, change) in commits {
            let mut register_key = String::with_capacity(REGISTER_KEY_LEN);
            layout.push_register_key(register, &mut register_key);
            keys.push(register_key);
            arguments.push(change.expected.to_be_bytes().to_vec());
            arguments.push(encoded(&change.value));
            arguments.push(expiry(change.keep_until));
        }
        ScriptCall { script: &self.many, keys, arguments }
    }
}

/// Returns a value as Redis stores it.
fn encoded(value: &EncodedValue) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + value.bytes.len());
    bytes.extend_from_slice(&value.revision.to_be_bytes());
    bytes.extend_from_slice(&value.bytes);
    bytes
}

/// Returns the argument of PXAT, which rejects 0.
fn expiry(keep_until: Timestamp) -> Vec<u8> {
    keep_until.as_micros().div_ceil(1000).max(1).to_string().into_bytes()
}
