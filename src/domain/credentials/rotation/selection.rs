//! The selection of the key that signs. Times are parameters.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::KeyFile;
use crate::domain::{keyring::Keyring, types::Timestamp};

/// The keys of the directory, and when each of them may sign.
pub(super) struct KeySelection {
    /// The name of the file that signs, if one is configured.
    signing: Option<String>,
    delay: Duration,
    keys: Vec<KeyFile>,
    /// When each key may sign, by key id. The monotonic clock starts at the first sight of the key.
    activation: HashMap<String, Instant>,
}

impl KeySelection {
    pub(super) fn new(signing: Option<String>, delay: Duration) -> Self {
        Self { signing, delay, keys: Vec::new(), activation: HashMap::new() }
    }

    /// Takes the keys of the first read. Only the times of the files tell which of them other servers have had for the
    /// activation delay.
    pub(super) fn init(&mut self, keys: Vec<KeyFile>, now: Timestamp, begun: Instant) {
        let ages = ages(&keys, now, self.delay);
        self.activation = keys
            .iter()
            .zip(ages)
            .map(|(file, age)| {
                (file.key.kid.clone(), if age >= self.delay { begun } else { begun + self.delay })
            })
            .collect();
        self.keys = keys;
    }

    /// Takes the keys of a later read. With `keep`, keys that are missing from it stay in the selection.
    pub(super) fn update(&mut self, mut keys: Vec<KeyFile>, keep: bool, begun: Instant) {
        if keep {
            let gone = |known: &&KeyFile| keys.iter().all(|file| file.key.kid != known.key.kid);
            let kept: Vec<_> = self.keys.iter().filter(gone).cloned().collect();
            keys.extend(kept);
            keys.sort_by(|one, other| one.name.cmp(&other.name));
        }
        if keys.is_empty() {
            // `ring` reports this; the ring in memory stays in use.
            self.keys = keys;
            return;
        }
        self.activation.retain(|kid, _| keys.iter().any(|file| file.key.kid == *kid));
        for file in &keys {
            self.activation.entry(file.key.kid.clone()).or_insert(begun + self.delay);
        }
        self.keys = keys;
    }

    /// The key ring at a given time. All keys verify. Of the active keys, the last by name signs; if none is active,
    /// such as on the first day, the oldest key signs.
    pub(super) fn ring(&self, now: Instant) -> Result<Keyring, String> {
        let activation = |file: &KeyFile| self.activation.get(&file.key.kid).copied();
        let index = if let Some(name) = &self.signing {
            self.keys.iter().position(|file| file.name == *name)
        } else {
            let is_active = |file: &KeyFile| activation(file).is_some_and(|activation| activation <= now);
            let oldest = || {
                let age = |index: &usize| {
                    let file = &self.keys[*index];
                    (activation(file), file.written, file.name.clone())
                };
                (0..self.keys.len()).min_by_key(age)
            };
            self.keys.iter().rposition(is_active).or_else(oldest)
        };
        let keys = self.keys.iter().map(|file| file.key.clone()).collect();
        index.and_then(|index| Keyring::new(keys, index)).ok_or_else(|| match &self.signing {
            Some(name) => format!("token.signing_key: there is no key file {name} in the key directory"),
            None => "there is no key in the key directory: run `latchkey key generate`".to_owned(),
        })
    }
}

/// Activation delays after which no server signs with the key that a new one replaces: until the file reaches the last
/// server, until that server has published it, and once more if it is restarted meanwhile.
const DELAYS_UNTIL_REPLACED: u32 = 3;

/// When a key signs, by the times of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SigningPeriod {
    /// When the first server begins to sign with it.
    pub(crate) from: Timestamp,
    /// When the last server has ceased to sign with it. `None` if no other key replaces it.
    pub(crate) until: Option<Timestamp>,
}

/// The periods in which the keys sign. The last key by name whose period has begun signs now.
pub(crate) fn signing_periods(keys: &[KeyFile], now: Timestamp, delay: Duration) -> Vec<SigningPeriod> {
    let arrived: Vec<_> = ages(keys, now, delay).into_iter().map(|age| now.before(age)).collect();
    let first = (0..keys.len()).min_by_key(|index| arrived[*index]);
    let period = |index: usize| SigningPeriod {
        from: if Some(index) == first { arrived[index] } else { arrived[index].after(delay) },
        until: arrived[index + 1..].iter().min().map(|next| next.after(delay * DELAYS_UNTIL_REPLACED)),
    };
    (0..keys.len()).map(period).collect()
}

/// How long the keys have been in the directory. If all of them are new, as on a volume that was just mounted, the
/// times at which they were created count.
fn ages(keys: &[KeyFile], now: Timestamp, delay: Duration) -> Vec<Duration> {
    let written: Vec<_> = keys.iter().map(|file| now.since(file.written)).collect();
    if written.iter().any(|age| *age >= delay) {
        return written;
    }
    let created = |file: &KeyFile| file.created.map(|created| now.since(created));
    keys.iter().zip(written).map(|(file, written)| created(file).unwrap_or(written)).collect()
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::domain::keyring::{Key, KeyAlgorithm};

    const DELAY: Duration = Duration::from_secs(10);
    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    /// A key file of this age in seconds.
    fn file(name: &str, age: u64) -> KeyFile {
        let algorithm = KeyAlgorithm::EdDSA;
        let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
        let written = NOW.before(Duration::from_secs(age));
        KeyFile { name: name.into(), key, written, created: None }
    }

    struct TestServer {
        selection: KeySelection,
        start: Instant,
    }

    impl TestServer {
        fn start(keys: &[KeyFile]) -> Self {
            let start = Instant::now();
            let mut selection = KeySelection::new(None, DELAY);
            selection.init(keys.to_vec(), NOW, start);
            Self { selection, start }
        }

        fn update(&mut self, keys: &[KeyFile], after: u64) {
            self.selection.update(keys.to_vec(), false, self.start + Duration::from_secs(after));
        }

        /// The id of the key that signs this many seconds after the start.
        fn signing(&self, after: u64) -> String {
            let ring = self.selection.ring(self.start + Duration::from_secs(after)).unwrap();
            ring.signing().kid.clone()
        }
    }

    #[test]
    fn a_new_key_signs_only_after_every_server_has_read_it() {
        let (old, new) = (file("1", 100), file("2", 0));
        let (mut early, mut late) =
            (TestServer::start(slice::from_ref(&old)), TestServer::start(slice::from_ref(&old)));
        early.update(&[old.clone(), new.clone()], 1);
        // The other server reads the directory one interval later, which is at most half the delay.
        late.update(&[old.clone(), new.clone()], 6);
        let verifies =
            |server: &TestServer| server.selection.keys.iter().any(|file| file.key.kid == new.key.kid);
        assert!(verifies(&early) && verifies(&late));
        assert_eq!(early.signing(10), old.key.kid);
        assert_eq!(early.signing(11), new.key.kid);
        assert_eq!(late.signing(15), old.key.kid);
        assert_eq!(late.signing(16), new.key.kid);
        // A server that starts meanwhile signs with neither a too new nor a too old key.
        let started = TestServer::start(&[
            old.clone(),
            KeyFile { written: NOW.before(Duration::from_secs(3)), ..new.clone() },
        ]);
        assert_eq!(started.signing(0), old.key.kid);
        assert_eq!(started.signing(10), new.key.kid);
        let started = TestServer::start(&[old, KeyFile { written: NOW.before(DELAY), ..new.clone() }]);
        assert_eq!(started.signing(0), new.key.kid);
    }

    #[test]
    fn the_first_key_signs_at_once_until_another_key_is_active() {
        let first = file("2", 0);
        let mut server = TestServer::start(slice::from_ref(&first));
        assert_eq!(server.signing(0), first.key.kid);
        // New keys before and after it by name.
        server.update(&[file("1", 0), first.clone(), file("3", 0)], 1);
        assert_eq!(server.signing(2), first.key.kid);
        assert_ne!(server.signing(11), first.key.kid, "the last key by name signs");
        // Two servers that start with the same new keys agree.
        let keys = [file("a", 0), file("b", 0)];
        assert_eq!(TestServer::start(&keys).signing(0), TestServer::start(&keys).signing(5));
    }

    #[test]
    fn keys_on_a_new_volume_are_as_old_as_their_names_say() {
        let created =
            |file: KeyFile, age| KeyFile { created: Some(NOW.before(Duration::from_secs(age))), ..file };
        let (old, new) = (created(file("1", 0), 5000), created(file("2", 0), 50));
        let keys = [old.clone(), new.clone()];
        assert_eq!(TestServer::start(&keys).signing(0), new.key.kid);
        let keys = [old.clone(), created(new, 3)];
        assert_eq!(TestServer::start(&keys).signing(0), old.key.kid);
    }

    #[test]
    fn a_key_signs_from_its_activation_until_every_server_uses_the_next() {
        let seconds_ago = |seconds| NOW.before(Duration::from_secs(seconds));
        let keys = [file("1", 100), file("2", 50), file("3", 4)];
        let periods = signing_periods(&keys, NOW, DELAY);
        let expected = [
            (seconds_ago(100), Some(seconds_ago(50).after(DELAY * 3))),
            (seconds_ago(50).after(DELAY), Some(seconds_ago(4).after(DELAY * 3))),
            (seconds_ago(4).after(DELAY), None),
        ];
        assert_eq!(expected.map(|(from, until)| SigningPeriod { from, until }), periods[..]);
        assert_eq!(TestServer::start(&keys).signing(0), keys[1].key.kid);
        // A key whose name comes before an older one never signs.
        let periods = signing_periods(&[file("1", 50), file("2", 100)], NOW, DELAY);
        assert_eq!(periods[0].until, Some(seconds_ago(100).after(DELAY * 3)));
        assert_eq!(periods[1], SigningPeriod { from: seconds_ago(100), until: None });
    }

    #[test]
    fn every_server_stops_signing_with_a_key_before_its_period_ends() {
        let (old, new) = (file("1", 1000), file("2", 0));
        let until = signing_periods(&[old.clone(), new.clone()], NOW, DELAY)[0].until.unwrap();
        // The new file reaches the server, and is read, after a delay; and the server is restarted just before it would
        // sign with it.
        let late = NOW.after(DELAY);
        let mut selection = KeySelection::new(None, DELAY);
        let start = Instant::now();
        let restarted = late.after(DELAY).before(Duration::from_millis(1));
        selection.init(vec![old, KeyFile { written: late, ..new.clone() }], restarted, start);
        let ring = selection.ring(start + until.since(restarted)).unwrap();
        assert_eq!(ring.signing().kid, new.key.kid);
    }

    #[test]
    fn setting_the_clock_does_not_activate_a_key() {
        let (old, mut new) = (file("1", 100), file("2", 0));
        let mut server = TestServer::start(slice::from_ref(&old));
        new.written = NOW.before(Duration::from_hours(24));
        server.update(&[old.clone(), new], 1);
        assert_eq!(server.signing(2), old.key.kid, "the key was first seen a second ago");
        let future = KeyFile { written: NOW.after(Duration::from_hours(1)), ..file("3", 0) };
        assert_eq!(TestServer::start(&[old.clone(), future]).signing(0), old.key.kid);
    }

    #[test]
    fn a_missing_signing_key_is_an_error_and_unusable_files_remove_no_key() {
        let (old, new) = (file("1", 100), file("2", 0));
        let mut server = TestServer::start(slice::from_ref(&old));
        server.selection.update(vec![new.clone()], true, server.start);
        assert_eq!(server.selection.keys.len(), 2);
        assert_eq!(server.signing(1), old.key.kid);
        server.update(&[], 1);
        assert!(server.selection.ring(server.start).is_err());
        let mut named = KeySelection::new(Some("1".into()), DELAY);
        named.init(vec![old.clone(), new.clone()], NOW, server.start);
        assert_eq!(named.ring(server.start + DELAY * 2).unwrap().signing().kid, old.key.kid);
        named.update(vec![new], false, server.start);
        assert!(named.ring(server.start).is_err());
    }
}
