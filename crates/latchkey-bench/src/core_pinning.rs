//! The cores that processes run on: the servers on one, the load on another.

use std::process::{Command, Stdio};

/// The cores of the servers and of the load, or the reason why they share all of them.
pub enum CorePinning {
    Pinned { server_core: u32, load_core: u32, all_cores: Vec<u32> },
    Unpinned { reason: &'static str },
}

impl CorePinning {
    /// Pins this process to the core of the load. Processes inherit the core that they are started on.
    pub fn set_up() -> Self {
        let all_cores = allowed_cores();
        let &[server_core, load_core, ..] = all_cores.as_slice() else {
            return Self::Unpinned { reason: "this machine has one core, or does not tell" };
        };
        if !pin(&[load_core]) {
            return Self::Unpinned { reason: "there is no taskset" };
        }
        Self::Pinned { server_core, load_core, all_cores }
    }

    /// Runs `start` on the core of the servers.
    pub fn on_server_core<T>(&self, start: impl FnOnce() -> T) -> T {
        match self {
            Self::Pinned { server_core, .. } => self.on(&[*server_core], start),
            Self::Unpinned { .. } => start(),
        }
    }

    /// Runs `start` on all cores.
    pub fn on_all_cores<T>(&self, start: impl FnOnce() -> T) -> T {
        match self {
            Self::Pinned { all_cores, .. } => self.on(all_cores, start),
            Self::Unpinned { .. } => start(),
        }
    }

    fn on<T>(&self, cores: &[u32], start: impl FnOnce() -> T) -> T {
        assert!(pin(cores), "taskset fails");
        let started = start();
        self.pin_load();
        started
    }

    /// Lets the load, and what is started from now on, run on all cores.
    pub fn unpin_load(&self) {
        if let Self::Pinned { all_cores, .. } = self {
            assert!(pin(all_cores), "taskset fails");
        }
    }

    /// Pins the load to its core again.
    pub fn pin_load(&self) {
        if let Self::Pinned { load_core, .. } = self {
            assert!(pin(&[*load_core]), "taskset fails");
        }
    }

    pub fn core_count(&self) -> usize {
        match self {
            Self::Pinned { all_cores, .. } => all_cores.len(),
            Self::Unpinned { .. } => allowed_cores().len(),
        }
    }

    /// A sentence for the results.
    pub fn description(&self) -> String {
        match self {
            Self::Pinned { .. } => "servers (and Redis) pinned to one core, the load to another".to_owned(),
            Self::Unpinned { reason } => format!("not pinned ({reason}): servers and load share all cores"),
        }
    }
}

/// Pins this process with all its threads. Tries again, because taskset fails if a thread ends meanwhile.
fn pin(cores: &[u32]) -> bool {
    (0..10).any(|_| try_to_pin(cores))
}

fn try_to_pin(cores: &[u32]) -> bool {
    let cores: Vec<_> = cores.iter().map(u32::to_string).collect();
    let pid = std::process::id().to_string();
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", &cores.join(","), &pid]);
    taskset.stdout(Stdio::null()).stderr(Stdio::null());
    taskset.status().is_ok_and(|status| status.success())
}

/// Parses `Cpus_allowed_list: 0-1,4`.
fn allowed_cores() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some(from.parse::<u32>().ok()?..=to.parse().ok()?)
    });
    ranges.flatten().collect()
}
