//! The position of a reader in the event log: an entry id in the stream of every bucket.

use super::{BUCKETS, bucket_index};
use crate::domain::ports::Cursor;

/// The id of the last entry read, by bucket. A [`Cursor`] holds them separated by commas.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamCursor(Vec<String>);

impl StreamCursor {
    /// Returns the cursor of a reader that has none yet: `tail.lua` answers the empty id with that of the newest
    /// entry.
    pub(super) fn at_end() -> Self {
        Self(vec![String::new(); bucket_index(BUCKETS)])
    }

    /// Returns `None` if another store has written the cursor.
    pub(super) fn parse(cursor: &Cursor) -> Option<Self> {
        let ids: Vec<_> = cursor.0.split(',').map(str::to_owned).collect();
        let is_valid = ids.len() == bucket_index(BUCKETS) && ids.iter().all(|id| is_entry_id(id));
        is_valid.then_some(Self(ids))
    }

    pub(super) fn last_id(&mut self, bucket: u64) -> &mut String {
        &mut self.0[bucket_index(bucket)]
    }

    /// Returns the ids in the order of the buckets.
    pub(super) fn ids(&self) -> &[String] {
        &self.0
    }

    pub(super) fn encode(&self) -> Cursor {
        Cursor(self.0.join(","))
    }
}

/// Whether this is an entry id in the canonical form: milliseconds, a hyphen, a sequence number.
fn is_entry_id(text: &str) -> bool {
    let is_number = |text: &str| text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    text.split_once('-').is_some_and(|(millis, sequence)| is_number(millis) && is_number(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_encoding() {
        let mut cursor = StreamCursor::at_end();
        for bucket in 0..BUCKETS {
            *cursor.last_id(bucket) = format!("{bucket}-0");
        }
        assert_eq!(StreamCursor::parse(&cursor.encode()), Some(cursor));
    }

    #[test]
    fn a_cursor_of_another_store_does_not_parse() {
        let at_end = StreamCursor::at_end().encode();
        let other_ids = ["+-0", "a-1", "1-", "01-1", "1-99999999999999999999"];
        let same_count = other_ids.map(|id| Cursor(vec![id; bucket_index(BUCKETS)].join(",")));
        for cursor in [Cursor(String::new()), Cursor("17-3".into()), at_end].iter().chain(&same_count) {
            assert_eq!(StreamCursor::parse(cursor), None, "{cursor:?}");
        }
    }
}
