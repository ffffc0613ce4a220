//! The most common passwords. `scripts/common-passwords.py` generates the list; `NOTICE` names its source.

/// One password per line, normalized as in `policy` and sorted by bytes.
pub(super) const LIST: &str = include_str!("common.txt");

/// Whether a normalized password is in the list. A binary search over the text needs no additional memory.
pub(super) fn contains(text: &str) -> bool {
    // A line break would match across two lines.
    if text.is_empty() || text.contains('\n') {
        return false;
    }
    let mut list = LIST.as_bytes();
    // Compares with the line in the middle of the remaining list.
    while !list.is_empty() {
        let middle = list.len() / 2;
        let begin = list[..middle].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = list[begin..].iter().position(|byte| *byte == b'\n').map_or(list.len(), |at| begin + at);
        match text.as_bytes().cmp(&list[begin..end]) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => list = &list[..begin],
            std::cmp::Ordering::Greater => list = list.get(end + 1..).unwrap_or_default(),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{super::policy::compared, LIST, contains};

    #[test]
    fn exactly_the_listed_passwords_are_found() {
        let known: HashSet<&str> = LIST.lines().collect();
        assert!(known.len() > 10_000);
        for line in LIST.lines() {
            assert!(contains(line), "{line:?}");
            for other in [format!("{line}\u{10ffff}"), format!(" {line}"), line[1..].to_owned()] {
                assert_eq!(contains(&other), known.contains(other.as_str()), "{other:?}");
            }
        }
        for other in ["", "\n", "password\n", "correct horse battery staple", "\u{10ffff}"] {
            assert!(!contains(other), "{other:?}");
        }
    }

    #[test]
    fn the_list_is_sorted_and_normalized() {
        for (one, next) in LIST.lines().zip(LIST.lines().skip(1)) {
            assert!(one < next, "{one:?} precedes {next:?}");
        }
        for line in LIST.lines() {
            assert_eq!(*compared(line), line);
            assert!(line.chars().count() >= 8, "{line:?} is too short for any policy that is allowed");
        }
    }
}
