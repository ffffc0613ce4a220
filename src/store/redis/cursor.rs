//! Where a reader of the event log is: a place in the stream of every bucket.

use super::{BUCKETS, bucket_index};
use crate::domain::ports::Cursor;

/// After which entry to go on in each stream. As a cursor: their ids, separated by commas.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamCursor(Vec<String>);

impl StreamCursor {
    /// StreamCursor that are yet to be found: those of a reader that comes without a cursor.
    pub(super) fn unknown() -> Self {
        Self(vec![String::new(); bucket_index(BUCKETS)])
    }

    /// `None` where the cursor is not one of ours.
    pub(super) fn parse(cursor: &Cursor) -> Option<Self> {
        let places: Vec<_> = cursor.0.split(',').map(str::to_owned).collect();
        let ours = places.len() == bucket_index(BUCKETS) && places.iter().all(|place| is_entry_id(place));
        ours.then_some(Self(places))
    }

    pub(super) fn of(&mut self, bucket: u64) -> &mut String {
        &mut self.0[bucket_index(bucket)]
    }

    /// The ids, in the order of the buckets.
    pub(super) fn ids(&self) -> &[String] {
        &self.0
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor(self.0.join(","))
    }
}

/// As Redis writes them: milliseconds, a hyphen, a number.
fn is_entry_id(text: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    text.split_once('-').is_some_and(|(millis, sequence)| number(millis) && number(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_their_text_form() {
        let mut places = StreamCursor::unknown();
        for bucket in 0..BUCKETS {
            *places.of(bucket) = format!("{bucket}-0");
        }
        assert_eq!(StreamCursor::parse(&places.cursor()), Some(places));
    }

    #[test]
    fn the_cursor_of_another_store_is_not_taken_for_one() {
        let nowhere = StreamCursor::unknown().cursor();
        let other_ids = ["+-0", "a-1", "1-", "01-1", "1-99999999999999999999"];
        let same_number = other_ids.map(|id| Cursor(vec![id; bucket_index(BUCKETS)].join(",")));
        for cursor in [Cursor(String::new()), Cursor("17-3".into()), nowhere].iter().chain(&same_number) {
            assert_eq!(StreamCursor::parse(cursor), None, "{cursor:?}");
        }
    }
}
