//! The position of a reader in the event log: an entry id in the stream of every bucket.

use data_encoding::BASE64URL_NOPAD;

use crate::domain::ports::Cursor;

/// The time and the sequence number of an entry; `None` for the end of the stream.
type EntryId = Option<(u64, u64)>;

/// The id of the last entry read, by bucket.
///
/// A [`Cursor`] holds them in binary, as base64: the number of buckets and the latest time of all ids, then for each
/// bucket how much earlier its id is and the sequence number, all of them in LEB128. With 4096 buckets that is about 20
/// KiB, while a request may have 64 KiB. It is parsed for each page of events, so ids are text only where Redis needs
/// it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamCursor(Vec<EntryId>);

impl StreamCursor {
    /// Returns the cursor of a reader that has none yet: `tail.lua` answers the empty id with that of the newest
    /// entry.
    pub(super) fn at_end(buckets: u16) -> Self {
        Self(vec![None; usize::from(buckets)])
    }

    /// Returns `None` if another store has written the cursor.
    pub(super) fn parse(cursor: &Cursor, buckets: u16) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(cursor.0.as_bytes()).ok()?;
        let mut rest = &bytes[..];
        if read_number(&mut rest)? != u64::from(buckets) {
            return None;
        }
        let latest = read_number(&mut rest)?;
        let mut ids = Vec::with_capacity(usize::from(buckets));
        for _ in 0..buckets {
            let millis = latest.checked_sub(read_number(&mut rest)?)?;
            ids.push(Some((millis, read_number(&mut rest)?)));
        }
        rest.is_empty().then_some(Self(ids))
    }

    /// Returns the id of the last entry read, as Redis writes it.
    pub(super) fn last_id(&self, bucket: u16) -> String {
        text(self.0[usize::from(bucket)])
    }

    /// Sets the id of the last entry read, as Redis writes it.
    pub(super) fn set_last_id(&mut self, bucket: u16, id: &str) {
        self.0[usize::from(bucket)] = Some(parse_id(id));
    }

    /// Returns the ids in the order of the buckets.
    pub(super) fn ids(&self) -> Vec<String> {
        self.0.iter().copied().map(text).collect()
    }

    pub(super) fn encode(&self) -> Cursor {
        let ids = || self.0.iter().map(|id| id.unwrap_or_default());
        let latest = ids().map(|(millis, _)| millis).max().unwrap_or_default();
        let mut bytes = Vec::with_capacity(6 * self.0.len() + 12);
        write_number(self.0.len() as u64, &mut bytes);
        write_number(latest, &mut bytes);
        for (millis, sequence) in ids() {
            write_number(latest - millis, &mut bytes);
            write_number(sequence, &mut bytes);
        }
        Cursor(BASE64URL_NOPAD.encode(&bytes))
    }
}

fn text(id: EntryId) -> String {
    id.map_or_else(String::new, |(millis, sequence)| format!("{millis}-{sequence}"))
}

/// Parses an entry id: milliseconds, a hyphen, a sequence number.
fn parse_id(id: &str) -> (u64, u64) {
    let parsed =
        id.split_once('-').and_then(|(millis, sequence)| millis.parse().ok().zip(sequence.parse().ok()));
    // An id that no stream has is answered with a gap.
    parsed.unwrap_or_default()
}

fn write_number(number: u64, to: &mut Vec<u8>) {
    prost::encoding::encode_varint(number, to);
}

fn read_number(from: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(from).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_encoding() {
        for buckets in [1, 64, 4096] {
            let mut cursor = StreamCursor::at_end(buckets);
            for bucket in 0..buckets {
                let millis = 1_700_000_000_000 + u64::from(bucket) * 86_400;
                cursor.set_last_id(bucket, &format!("{millis}-{}", bucket % 3));
            }
            let encoded = cursor.encode();
            assert!(encoded.0.len() <= 8 * usize::from(buckets) + 16, "{} bytes", encoded.0.len());
            assert_eq!(StreamCursor::parse(&encoded, buckets), Some(cursor));
        }
    }

    #[test]
    fn a_cursor_of_another_store_does_not_parse() {
        let mut cursor = StreamCursor::at_end(64);
        (0..64).for_each(|bucket| cursor.set_last_id(bucket, &format!("{bucket}-0")));
        let encoded = cursor.encode().0;
        assert!(StreamCursor::parse(&Cursor(encoded.clone()), 64).is_some());
        assert_eq!(StreamCursor::parse(&Cursor(encoded.clone()), 65), None);
        let old = vec!["17-3"; 64].join(",");
        for other in [String::new(), "17-3".into(), old, encoded[..encoded.len() - 2].into(), encoded + "AA"]
        {
            assert_eq!(StreamCursor::parse(&Cursor(other.clone()), 64), None, "{other}");
        }
    }
}
