//! The memory that the process may use, and the size of the near-cache that follows from it.

use std::{fs, path::Path};

use crate::config::CacheSize;

const MIB: u64 = 1024 * 1024;
/// The part of the memory for the near-cache: one of this many.
const SHARES: u64 = 4;
/// The largest near-cache that nobody has asked for. It holds almost two million users. On Redis an entry is used for
/// five seconds only, so that more of them than are validated meanwhile gain nothing.
const MOST: u64 = 512 * MIB;
/// The size where the memory of the machine is not known.
const UNKNOWN: u64 = 64 * MIB;

/// The size of the near-cache in bytes; 0 means none.
pub(super) fn near_cache_bytes(size: CacheSize) -> u64 {
    match size {
        CacheSize::Mib(mib) => mib * MIB,
        CacheSize::Auto => available_bytes().map_or(UNKNOWN, |bytes| (bytes / SHARES).min(MOST)),
    }
}

/// The memory that the process may use, if it is known.
pub(super) fn available_bytes() -> Option<u64> {
    available(Path::new("/"))
}

/// The smallest of the limits of the process's control groups and the memory of the machine. `root` is the root of the
/// file system.
fn available(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|group| group_limits(root, group));
    limits.chain(machine(root)).min()
}

/// The limits of a control group and those above it. A line is `0::<path>` in version 2, and
/// `<number>:<controllers>:<path>` in version 1. In a container the path may be the one on the host, of which only the
/// root is visible.
fn group_limits(root: &Path, line: &str) -> Vec<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    let path = Path::new(path.trim_start_matches('/'));
    // No limit is `max`, or a number that is larger than any memory.
    let limit =
        |group: &Path| fs::read_to_string(root.join(mount).join(group).join(file)).ok()?.trim().parse().ok();
    path.ancestors().filter_map(limit).collect()
}

/// The memory of the machine on Linux.
fn machine(root: &Path) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The available memory in MiB with these files.
    fn with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        available(root.path()).map(|bytes| bytes / MIB)
    }

    const MACHINE: (&str, &str) =
        ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree:           1024 kB\n");

    #[test]
    fn the_smallest_limit_counts() {
        let group = |line| ("proc/self/cgroup", line);
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[MACHINE]), Some(8192));
        let v2 = group("0::/user.slice/latchkey.service\n");
        assert_eq!(with(&[MACHINE, v2]), Some(8192), "no limit is visible");
        let outer = ("sys/fs/cgroup/user.slice/memory.max", "536870912\n");
        let inner = ("sys/fs/cgroup/user.slice/latchkey.service/memory.max", "max\n");
        assert_eq!(with(&[MACHINE, v2, inner]), Some(8192), "no limit");
        assert_eq!(with(&[MACHINE, v2, inner, outer]), Some(512), "a group above has one");
        let container = [MACHINE, group("0::/\n"), ("sys/fs/cgroup/memory.max", "268435456\n")];
        assert_eq!(with(&container), Some(256));
        let v1 = group("12:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n");
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n");
        assert_eq!(with(&[MACHINE, v1, limit]), Some(128), "only the root of the hierarchy is visible");
        let none = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(with(&[MACHINE, v1, none]), Some(8192));
    }

    #[test]
    fn a_size_that_is_set_is_used_as_it_is() {
        assert_eq!(near_cache_bytes(CacheSize::Mib(0)), 0);
        assert_eq!(near_cache_bytes(CacheSize::Mib(4096)), 4096 * MIB);
        assert!((MIB..=MOST).contains(&near_cache_bytes(CacheSize::Auto)));
    }
}
