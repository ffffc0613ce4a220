//! Commands of the Redis protocol that are sent twice.

use std::{collections::VecDeque, sync::Mutex};

use bytes::BytesMut;
use redis::{RedisError, Value, ValueCodec};
use tokio_util::codec::Decoder as _;

/// Commands whose repetition would change the connection rather than repeat a request, that wait, or that have no
/// response of their own.
const ONCE: [&[u8]; 17] = [
    b"AUTH",
    b"HELLO",
    b"CLIENT",
    b"SELECT",
    b"ASKING",
    b"READONLY",
    b"READWRITE",
    b"RESET",
    b"QUIT",
    b"WAIT",
    b"WAITAOF",
    b"XREAD",
    b"MULTI",
    b"EXEC",
    b"DISCARD",
    b"WATCH",
    b"UNWATCH",
];

/// Commands that are answered by messages instead of a response.
const SUBSCRIPTIONS: [&[u8]; 7] = [
    b"SUBSCRIBE",
    b"PSUBSCRIBE",
    b"SSUBSCRIBE",
    b"UNSUBSCRIBE",
    b"PUNSUBSCRIBE",
    b"SUNSUBSCRIBE",
    b"MONITOR",
];

/// The responses that a connection waits for.
#[derive(Default)]
pub(super) struct Duplicates {
    /// For each response whether it is that to a duplicate.
    expected: Mutex<VecDeque<bool>>,
}

/// One direction of a connection, cut into commands or responses.
#[derive(Default)]
pub(super) struct Frames {
    codec: ValueCodec,
    rest: BytesMut,
    /// The bytes of the next value that are already decoded.
    begun: Vec<u8>,
    in_transaction: bool,
}

impl Frames {
    /// Returns the values that are complete with these bytes, each with its own bytes.
    fn next(&mut self, chunk: &[u8]) -> Result<Vec<(Value, Vec<u8>)>, RedisError> {
        self.rest.extend_from_slice(chunk);
        let mut complete = Vec::new();
        while !self.rest.is_empty() {
            let before = self.rest.clone();
            let value = self.codec.decode(&mut self.rest)?;
            self.begun.extend_from_slice(&before[..before.len() - self.rest.len()]);
            let Some(value) = value else { break };
            complete.push((value, std::mem::take(&mut self.begun)));
        }
        Ok(complete)
    }
}

impl Duplicates {
    /// Returns the bytes for the server: each command, and the same again if `twice` and it can be repeated.
    pub(super) fn requests(
        &self,
        frames: &mut Frames,
        chunk: &[u8],
        twice: bool,
    ) -> Result<Vec<u8>, RedisError> {
        let mut bytes = Vec::new();
        for (command, frame) in frames.next(chunk)? {
            let name = name(&command);
            match name.as_slice() {
                b"MULTI" => frames.in_transaction = true,
                b"EXEC" | b"DISCARD" => frames.in_transaction = false,
                _ => {}
            }
            bytes.extend_from_slice(&frame);
            if SUBSCRIPTIONS.contains(&name.as_slice()) {
                continue;
            }
            let mut expected = self.expected.lock().unwrap();
            expected.push_back(false);
            if twice && !frames.in_transaction && !ONCE.contains(&name.as_slice()) {
                expected.push_back(true);
                bytes.extend_from_slice(&frame);
            }
        }
        Ok(bytes)
    }

    /// Returns the bytes for the client: everything but the responses to duplicates.
    pub(super) fn responses(&self, frames: &mut Frames, chunk: &[u8]) -> Result<Vec<u8>, RedisError> {
        let mut bytes = Vec::new();
        for (response, frame) in frames.next(chunk)? {
            let is_message = matches!(response, Value::Push { .. });
            if is_message || self.expected.lock().unwrap().pop_front() != Some(true) {
                bytes.extend_from_slice(&frame);
            }
        }
        Ok(bytes)
    }
}

/// Returns the name of a command in upper case.
fn name(command: &Value) -> Vec<u8> {
    let Value::Array(words) = command else { return Vec::new() };
    let Some(Value::BulkString(name)) = words.first() else { return Vec::new() };
    name.to_ascii_uppercase()
}
