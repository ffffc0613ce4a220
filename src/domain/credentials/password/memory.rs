//! What Argon2 computes in: 19 MiB by default, a tenth of the time of a hash if the system has to map them anew.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use argon2::Block;

/// The most that is kept of a hash, in blocks of 1 KiB: hashes that ask for more are somebody else's, and rare.
const MAX_KEPT: usize = 1 << 16;

/// Kept for the next hashes, for good: as much at most as was ever computed in at a time.
#[derive(Default)]
pub(super) struct Memory(Mutex<Vec<Vec<Block>>>);

impl Memory {
    /// Has something computed in so many blocks, whatever was in them before: in those that were used last, which
    /// the processor's cache may still hold.
    pub(super) fn lend<T>(&self, count: usize, compute: impl FnOnce(&mut [Block]) -> T) -> T {
        let mut blocks = self.kept().pop().unwrap_or_default();
        if blocks.len() < count {
            blocks.resize(count, Block::new());
        }
        let computed = compute(&mut blocks[..count]);
        if blocks.len() <= MAX_KEPT {
            self.kept().push(blocks);
        }
        computed
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(memory: &Memory) -> Vec<usize> {
        memory.kept().iter().map(Vec::len).collect()
    }

    #[test]
    fn what_was_used_last_is_used_next_and_too_much_is_not_kept() {
        let memory = Memory::default();
        memory.lend(8, |_| memory.lend(16, |blocks| assert_eq!(blocks.len(), 16)));
        assert_eq!(kept(&memory), [16, 8], "two at a time");
        memory.lend(4, |blocks| assert_eq!(blocks.len(), 4));
        assert_eq!(kept(&memory), [16, 8]);
        memory.lend(MAX_KEPT + 1, |_| ());
        assert_eq!(kept(&memory), [16]);
    }
}
