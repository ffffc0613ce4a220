//! The memory of Argon2, kept between hashes: 19 MiB by default. Mapping it anew would take a tenth of the time of a
//! hash.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use argon2::Block;

/// The largest memory that is kept, in blocks of 1 KiB. Hashes that need more were made elsewhere and are rare.
const MAX_KEPT: usize = 1 << 16;

/// Memory for the next hashes. It never shrinks, and holds as much as was in use at the same time.
#[derive(Default)]
pub(super) struct MemoryPool(Mutex<Vec<Vec<Block>>>);

impl MemoryPool {
    /// Computes in this many blocks, which may hold data of an earlier hash. The blocks that were used last come first,
    /// because the cache of the processor may still hold them.
    pub(super) fn with_blocks<T>(&self, count: usize, compute: impl FnOnce(&mut [Block]) -> T) -> T {
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

impl fmt::Debug for MemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryPool")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(memory: &MemoryPool) -> Vec<usize> {
        memory.kept().iter().map(Vec::len).collect()
    }

    #[test]
    fn the_memory_used_last_is_used_next_and_large_memory_is_not_kept() {
        let memory = MemoryPool::default();
        memory.with_blocks(8, |_| memory.with_blocks(16, |blocks| assert_eq!(blocks.len(), 16)));
        assert_eq!(kept(&memory), [16, 8], "two concurrent hashes");
        memory.with_blocks(4, |blocks| assert_eq!(blocks.len(), 4));
        assert_eq!(kept(&memory), [16, 8]);
        memory.with_blocks(MAX_KEPT + 1, |_| ());
        assert_eq!(kept(&memory), [16]);
    }
}
