//! The script that commits, `commit.lua`.

use std::time::Duration;

use redis::Script;

use super::{layout::Layout, script_call::ScriptCall};
use crate::store::backend::EncodedChange;

/// The approximate number of events that the stream of a bucket keeps.
const STREAM_LENGTH: usize = 4096;

/// The script that commits.
pub(super) struct CommitScript {
    script: Script,
    /// How long streams keep events, approximately.
    pub(super) retention: Duration,
    /// Whether events are announced on the channel of their stream.
    pub(super) announces: bool,
}

impl CommitScript {
    pub(super) fn new(retention: Duration, announces: bool) -> Self {
        Self { script: Script::new(include_str!("commit.lua")), retention, announces }
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
        let mut bytes = Vec::with_capacity(8 + value.bytes.len());
        bytes.extend_from_slice(&value.revision.to_be_bytes());
        bytes.extend_from_slice(&value.bytes);
        let mut arguments = vec![
            if expected == 0 { Vec::new() } else { expected.to_be_bytes().to_vec() },
            bytes,
            // PXAT rejects 0.
            keep_until.as_micros().div_ceil(1000).max(1).to_string().into_bytes(),
            STREAM_LENGTH.to_string().into_bytes(),
            u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX).to_string().into_bytes(),
            if self.announces { b"1".to_vec() } else { Vec::new() },
        ];
        arguments.extend(events.iter().map(|event| event.to_vec()));
        let keys = vec![layout.register_key(key), layout.stream_key(layout.bucket(key)).to_owned()];
        ScriptCall { script: &self.script, keys, arguments }
    }
}
