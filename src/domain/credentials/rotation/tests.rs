//! Reads of the directory for unknown keys.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::domain::keyring::KeyAlgorithm;

/// Long enough that half of it can be the interval between reads in a test.
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
            return Err("not available".into());
        }
        let algorithm = KeyAlgorithm::EdDSA;
        let key = Key::read(algorithm.format(), algorithm.generate().unwrap().as_bytes()).unwrap();
        let file = KeyFile { name: "1.pem".into(), key, written: Timestamp::from_secs(1), created: None };
        Ok(KeyFiles { keys: vec![file], errors: Vec::new() })
    }
}

/// A rotation that reads the directory only on request.
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

/// Requests a read from many tasks at once. Returns how many of them succeed.
async fn wait_for_reads(rotation: &Arc<Rotation>) -> usize {
    let reads = (0..1000).map(|_| {
        let rotation = Arc::clone(rotation);
        tokio::spawn(async move { rotation.wait_for_read().await.is_ok() })
    });
    futures_util::future::join_all(reads).await.into_iter().filter(|read| *read.as_ref().unwrap()).count()
}

#[tokio::test]
async fn many_unknown_keys_cause_one_read_of_the_directory() {
    let (directory, rotation) = rotation();
    let reads = || directory.reads.load(Ordering::SeqCst);
    assert!(rotation.is_up_to_date(), "the directory was just read");
    assert_eq!((wait_for_reads(&rotation).await, reads()), (1000, 1), "no further read");

    tokio::time::sleep(DELAY).await;
    assert!(!rotation.is_up_to_date());
    assert_eq!(wait_for_reads(&rotation).await, 1000);
    assert!(rotation.is_up_to_date());
    // Requests during the read may have caused another one.
    assert!((2..=3).contains(&reads()), "{} reads", reads());

    // A failed read is an error and is not repeated more often.
    tokio::time::sleep(DELAY).await;
    directory.fails.store(true, Ordering::SeqCst);
    let before = reads();
    assert_eq!(wait_for_reads(&rotation).await, 0);
    assert_eq!(wait_for_reads(&rotation).await, 0);
    assert!(reads() - before <= 2, "{} reads", reads() - before);
    assert!(!rotation.is_up_to_date());
}
