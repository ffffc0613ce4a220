//! Which of the keys signs: pure, the times are parameters.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::KeyFile;
use crate::domain::{keyring::Keyring, types::Timestamp};

/// The keys of the directory, and from when each of them may sign.
pub struct Choice {
    /// The file that signs, where the settings name one.
    signing: Option<String>,
    delay: Duration,
    keys: Vec<KeyFile>,
    /// By key id. Measured by a clock that nobody sets, from the first sight of the key.
    from: HashMap<String, Instant>,
}

impl Choice {
    /// With no keys yet.
    pub fn new(signing: Option<String>, delay: Duration) -> Self {
        Self { signing, delay, keys: Vec::new(), from: HashMap::new() }
    }

    /// The keys that a server finds when it starts. Which of them others have had for long enough, only the times
    /// of the files can tell.
    pub fn see_first(&mut self, keys: Vec<KeyFile>, now: Timestamp, begun: Instant) {
        let ages = ages(&keys, now, self.delay);
        self.from = keys
            .iter()
            .zip(ages)
            .map(|(file, age)| {
                (file.key.kid.clone(), if age >= self.delay { begun } else { begun + self.delay })
            })
            .collect();
        self.keys = keys;
    }

    /// The keys that a server finds later. Those that are not among them any more are forgotten, unless they are to
    /// be kept.
    pub fn see(&mut self, mut keys: Vec<KeyFile>, keep: bool, begun: Instant) {
        if keep {
            let gone = |known: &&KeyFile| keys.iter().all(|file| file.key.kid != known.key.kid);
            let kept: Vec<_> = self.keys.iter().filter(gone).cloned().collect();
            keys.extend(kept);
            keys.sort_by(|one, other| one.name.cmp(&other.name));
        }
        if keys.is_empty() {
            // `ring` says so; what is in memory goes on.
            self.keys = keys;
            return;
        }
        self.from.retain(|kid, _| keys.iter().any(|file| file.key.kid == *kid));
        for file in &keys {
            self.from.entry(file.key.kid.clone()).or_insert(begun + self.delay);
        }
        self.keys = keys;
    }

    /// The keys in use at a time: all of them verify, and the last by name signs whose time has come. Where that of
    /// none has come, such as on the first day, the one signs that was there first.
    pub fn ring(&self, now: Instant) -> Result<Keyring, String> {
        let from = |file: &KeyFile| self.from.get(&file.key.kid).copied();
        let index = if let Some(name) = &self.signing {
            self.keys.iter().position(|file| file.name == *name)
        } else {
            let is_due = |file: &KeyFile| from(file).is_some_and(|from| from <= now);
            let first = || {
                let times = |index: &usize| {
                    let file = &self.keys[*index];
                    (from(file), file.written, file.name.clone())
                };
                (0..self.keys.len()).min_by_key(times)
            };
            self.keys.iter().rposition(is_due).or_else(first)
        };
        let keys = self.keys.iter().map(|file| file.key.clone()).collect();
        index.and_then(|index| Keyring::new(keys, index)).ok_or_else(|| match &self.signing {
            Some(name) => format!("token.signing_key: there is no key file {name} in the key directory"),
            None => "there is no key in the key directory: run `latchkey key generate`".to_owned(),
        })
    }
}

/// From when on the last key signs, by the times of the files: `None` where it does already.
pub fn signs_from(keys: &[KeyFile], now: Timestamp, delay: Duration) -> Option<Timestamp> {
    let last = ages(keys, now, delay).pop()?;
    (keys.len() > 1 && last < delay).then(|| now.after(delay.saturating_sub(last)))
}

/// For how long the keys have been there. Where all have come at one time, as with a volume that was mounted, that
/// tells nothing, and the times count at which they were made.
fn ages(keys: &[KeyFile], now: Timestamp, delay: Duration) -> Vec<Duration> {
    let written: Vec<_> = keys.iter().map(|file| now.since(file.written)).collect();
    if written.iter().any(|age| *age >= delay) {
        return written;
    }
    let made = |file: &KeyFile| file.made.map(|made| now.since(made));
    keys.iter().zip(written).map(|(file, written)| made(file).unwrap_or(written)).collect()
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::domain::keyring::{Key, KeyAlgorithm};

    const DELAY: Duration = Duration::from_secs(10);
    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    /// A key file that was written so many seconds ago.
    fn file(name: &str, age: u64) -> KeyFile {
        let algorithm = KeyAlgorithm::EdDSA;
        let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
        let written = NOW.before(Duration::from_secs(age));
        KeyFile { name: name.into(), key, written, made: None }
    }

    struct Server {
        choice: Choice,
        start: Instant,
    }

    impl Server {
        fn start(keys: &[KeyFile]) -> Self {
            let start = Instant::now();
            let mut choice = Choice::new(None, DELAY);
            choice.see_first(keys.to_vec(), NOW, start);
            Self { choice, start }
        }

        fn sees(&mut self, keys: &[KeyFile], after: u64) {
            self.choice.see(keys.to_vec(), false, self.start + Duration::from_secs(after));
        }

        /// The key that signs so many seconds after the start.
        fn signs(&self, after: u64) -> String {
            let ring = self.choice.ring(self.start + Duration::from_secs(after)).unwrap();
            ring.signing().kid.clone()
        }
    }

    #[test]
    fn a_new_key_signs_only_after_every_server_has_read_it() {
        let (old, new) = (file("1", 100), file("2", 0));
        let (mut early, mut late) =
            (Server::start(slice::from_ref(&old)), Server::start(slice::from_ref(&old)));
        early.sees(&[old.clone(), new.clone()], 1);
        // The other one reads the directory an interval later, of at most half the delay.
        late.sees(&[old.clone(), new.clone()], 6);
        let verifies = |server: &Server| server.choice.keys.iter().any(|file| file.key.kid == new.key.kid);
        assert!(verifies(&early) && verifies(&late));
        assert_eq!(early.signs(10), old.key.kid);
        assert_eq!(early.signs(11), new.key.kid);
        assert_eq!(late.signs(15), old.key.kid);
        assert_eq!(late.signs(16), new.key.kid);
        // A server that starts meanwhile does not jump ahead, and one that starts later does not fall behind.
        let started = Server::start(&[
            old.clone(),
            KeyFile { written: NOW.before(Duration::from_secs(3)), ..new.clone() },
        ]);
        assert_eq!(started.signs(0), old.key.kid);
        assert_eq!(started.signs(10), new.key.kid);
        let started = Server::start(&[old, KeyFile { written: NOW.before(DELAY), ..new.clone() }]);
        assert_eq!(started.signs(0), new.key.kid);
    }

    #[test]
    fn the_first_key_signs_at_once_and_goes_on_until_another_one_may() {
        let first = file("2", 0);
        let mut server = Server::start(slice::from_ref(&first));
        assert_eq!(server.signs(0), first.key.kid);
        // By name before it, and after it.
        server.sees(&[file("1", 0), first.clone(), file("3", 0)], 1);
        assert_eq!(server.signs(2), first.key.kid);
        assert_ne!(server.signs(11), first.key.kid, "the last by name");
        // Two that start at the same moment on the same new keys agree.
        let keys = [file("a", 0), file("b", 0)];
        assert_eq!(Server::start(&keys).signs(0), Server::start(&keys).signs(5));
    }

    #[test]
    fn keys_that_were_mounted_together_are_as_old_as_their_names_say() {
        let made = |file: KeyFile, age| KeyFile { made: Some(NOW.before(Duration::from_secs(age))), ..file };
        let (old, new) = (made(file("1", 0), 5000), made(file("2", 0), 50));
        let keys = [old.clone(), new.clone()];
        assert_eq!(Server::start(&keys).signs(0), new.key.kid);
        let keys = [old.clone(), made(new, 3)];
        assert_eq!(Server::start(&keys).signs(0), old.key.kid);
    }

    #[test]
    fn a_clock_that_is_set_does_not_make_a_key_older() {
        let (old, mut new) = (file("1", 100), file("2", 0));
        let mut server = Server::start(slice::from_ref(&old));
        new.written = NOW.before(Duration::from_hours(24));
        server.sees(&[old.clone(), new], 1);
        assert_eq!(server.signs(2), old.key.kid, "it was first seen a second ago");
        let future = KeyFile { written: NOW.after(Duration::from_hours(1)), ..file("3", 0) };
        assert_eq!(Server::start(&[old.clone(), future]).signs(0), old.key.kid);
    }

    #[test]
    fn a_directory_without_the_key_that_signs_is_an_error_and_nothing_is_forgotten_beside_a_wrong_file() {
        let (old, new) = (file("1", 100), file("2", 0));
        let mut server = Server::start(slice::from_ref(&old));
        server.choice.see(vec![new.clone()], true, server.start);
        assert_eq!(server.choice.keys.len(), 2);
        assert_eq!(server.signs(1), old.key.kid);
        server.sees(&[], 1);
        assert!(server.choice.ring(server.start).is_err());
        let mut named = Choice::new(Some("1".into()), DELAY);
        named.see_first(vec![old.clone(), new.clone()], NOW, server.start);
        assert_eq!(named.ring(server.start + DELAY * 2).unwrap().signing().kid, old.key.kid);
        named.see(vec![new], false, server.start);
        assert!(named.ring(server.start).is_err());
    }
}
