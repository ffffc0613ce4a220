//! How often the directory is read for keys that nobody knows.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::domain::keyring::KeyAlgorithm;

/// Long enough for a test, and for the pause to be half of it.
const DELAY: Duration = Duration::from_millis(400);

#[derive(Default)]
struct Directory {
    reads: AtomicUsize,
    fails: AtomicBool,
}

impl KeyDirectory for Directory {
    fn read(&self) -> Result<KeyFiles, String> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            return Err("it is away".into());
        }
        let algorithm = KeyAlgorithm::EdDSA;
        let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
        let file = KeyFile { name: "1.pem".into(), key, written: Timestamp::from_secs(1), made: None };
        Ok(KeyFiles { keys: vec![file], wrong: Vec::new() })
    }
}

/// A rotation that looks only when it is asked to.
fn rotation() -> (Arc<Directory>, Arc<Rotation>) {
    let directory = Arc::new(Directory::default());
    let now = Timestamp::from_secs(1_000_000);
    let shared = Arc::clone(&directory) as Arc<dyn KeyDirectory>;
    let (rotation, _) = Rotation::start(shared, None, Duration::from_hours(1), DELAY, now).unwrap();
    let rotation = Arc::new(rotation);
    tokio::spawn({
        let rotation = Arc::clone(&rotation);
        async move {
            loop {
                let (begun, read) = rotation.read_next().await;
                rotation.note_read(begun, read.is_ok());
            }
        }
    });
    (directory, rotation)
}

/// Many who ask at the same time: how many are told that the directory was looked at.
async fn ask(rotation: &Arc<Rotation>) -> usize {
    let asked = (0..1000).map(|_| {
        let rotation = Arc::clone(rotation);
        tokio::spawn(async move { rotation.wait_for_read().await.is_ok() })
    });
    futures_util::future::join_all(asked).await.into_iter().filter(|looked| *looked.as_ref().unwrap()).count()
}

#[tokio::test]
async fn a_flood_of_unknown_keys_reads_the_directory_once_in_a_pause() {
    let (directory, rotation) = rotation();
    let reads = || directory.reads.load(Ordering::SeqCst);
    assert!(rotation.is_up_to_date(), "it has just started");
    assert_eq!((ask(&rotation).await, reads()), (1000, 1), "and need not look again");

    tokio::time::sleep(DELAY).await;
    assert!(!rotation.is_up_to_date());
    assert_eq!(ask(&rotation).await, 1000);
    assert!(rotation.is_up_to_date());
    // Whoever asked during the look may have asked for one more.
    assert!((2..=3).contains(&reads()), "{} reads", reads());

    // What cannot be read is no answer, and is not tried more often.
    tokio::time::sleep(DELAY).await;
    directory.fails.store(true, Ordering::SeqCst);
    let before = reads();
    assert_eq!(ask(&rotation).await, 0);
    assert_eq!(ask(&rotation).await, 0);
    assert!(reads() - before <= 2, "{} reads", reads() - before);
    assert!(!rotation.is_up_to_date());
}
