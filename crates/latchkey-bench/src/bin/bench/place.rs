//! Where the processes run: the servers on one core, the load on another.

use std::process::{Command, Stdio};

/// Which core is whose; why not, where they share all of them.
pub enum Place {
    Pinned { servers: u32, load: u32, all: Vec<u32> },
    Shared(&'static str),
}

impl Place {
    /// Moves the load, which is this process, to its core. What it starts stays there.
    pub fn take() -> Self {
        let all = allowed();
        let &[servers, load, ..] = all.as_slice() else {
            return Self::Shared("this machine has one core, or does not tell");
        };
        if !pin(&[load]) {
            return Self::Shared("there is no taskset");
        }
        Self::Pinned { servers, load, all }
    }

    /// Starts something on the core of the servers: a process is born where its parent runs.
    pub fn on_servers_core<T>(&self, start: impl FnOnce() -> T) -> T {
        match self {
            Self::Pinned { servers, .. } => self.on(&[*servers], start),
            Self::Shared(_) => start(),
        }
    }

    /// Starts something on all cores.
    pub fn on_all_cores<T>(&self, start: impl FnOnce() -> T) -> T {
        match self {
            Self::Pinned { all, .. } => self.on(all, start),
            Self::Shared(_) => start(),
        }
    }

    fn on<T>(&self, cores: &[u32], start: impl FnOnce() -> T) -> T {
        assert!(pin(cores), "taskset fails");
        let started = start();
        self.hold_load();
        started
    }

    /// Lets the load, and what is started from now on, run on all cores.
    pub fn free_load(&self) {
        if let Self::Pinned { all, .. } = self {
            assert!(pin(all), "taskset fails");
        }
    }

    /// Has the load stay on its core again.
    pub fn hold_load(&self) {
        if let Self::Pinned { load, .. } = self {
            assert!(pin(&[*load]), "taskset fails");
        }
    }

    /// How many cores there are.
    pub fn cores(&self) -> usize {
        match self {
            Self::Pinned { all, .. } => all.len(),
            Self::Shared(_) => allowed().len(),
        }
    }

    /// As a sentence, for the results.
    pub fn told(&self) -> String {
        match self {
            Self::Pinned { .. } => "servers (and Redis) pinned to one core, the load to another".to_owned(),
            Self::Shared(why) => format!("not pinned ({why}): servers and load share all cores"),
        }
    }
}

/// This process with all its threads.
fn pin(cores: &[u32]) -> bool {
    let cores: Vec<_> = cores.iter().map(u32::to_string).collect();
    let cores = cores.join(",");
    let me = std::process::id().to_string();
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", &cores, &me]).stdout(Stdio::null());
    taskset.status().is_ok_and(|status| status.success())
}

/// The cores that we may use: of `Cpus_allowed_list: 0-1,4`.
fn allowed() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let ranges = list.trim().split(',').filter_map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        Some(from.parse::<u32>().ok()?..=to.parse().ok()?)
    });
    ranges.flatten().collect()
}
