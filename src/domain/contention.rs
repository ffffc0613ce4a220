//! Queues for changes that compete for the same register.

use std::hash::{BuildHasher as _, RandomState};

use tokio::sync::Mutex;

/// Number of queues; each is shared by many keys.
const QUEUES: usize = 256;

/// Queues of this process for registers under contention.
///
/// Compare-and-set alone decides every race, but of a thousand competitors that retry at once nearly all conflict. In a
/// queue each needs one attempt, and only other processes can win against it.
pub(super) struct ContentionQueues {
    queues: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Default for ContentionQueues {
    fn default() -> Self {
        Self { queues: (0..QUEUES).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl ContentionQueues {
    /// The queue for a register.
    pub(super) fn of(&self, key: &str) -> &Mutex<()> {
        let hash = self.hasher.hash_one(key);
        &self.queues[usize::try_from(hash % QUEUES as u64).unwrap_or_default()]
    }
}
