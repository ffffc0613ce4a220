//! File descriptors: raises their limit and divides them between clients and everything else.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Descriptors for everything but clients and `accounts.max_connections`: the session store, the callers, the embedded
/// database, the webhook, listeners, logs, and files that are read again.
const RESERVED: u64 = 128;
/// The fewest connections per port, however few descriptors there are.
const MIN_CONNECTIONS: u64 = 8;

/// The remedy for a shortage.
pub(super) const REMEDY: &str = "raise it (LimitNOFILE= in systemd, --ulimit nofile= for containers, ulimit -Hn), or lower server.max_connections";

/// The number of connections that each port can accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connections {
    /// At most `server.max_connections`.
    pub(super) per_port: usize,
    /// Set if there are fewer descriptors than the settings need.
    shortage: Option<Shortage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shortage {
    limit: u64,
    needed: u64,
    configured: usize,
}

/// Raises the limit of descriptors to its maximum and divides them.
pub(super) fn connections(config: &Config) -> Connections {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised =
        current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    divide(limit, config.server.max_connections, config.accounts.max_connections.get())
}

/// Divides `limit` descriptors; `None` means no limit.
fn divide(limit: Option<u64>, max_connections: usize, database_connections: u32) -> Connections {
    let reserve = RESERVED + u64::from(database_connections);
    let needed = (max_connections as u64).saturating_mul(2).saturating_add(reserve);
    let Some(limit) = limit.filter(|limit| *limit < needed) else {
        return Connections { per_port: max_connections, shortage: None };
    };
    let per_port = (limit.saturating_sub(reserve) / 2).max(MIN_CONNECTIONS).min(max_connections as u64);
    Connections {
        per_port: usize::try_from(per_port).unwrap_or(max_connections),
        shortage: Some(Shortage { limit, needed, configured: max_connections }),
    }
}

impl Connections {
    /// Logs a warning about a shortage.
    pub(super) fn warn(&self) {
        let Some(Shortage { limit, needed, configured }) = self.shortage else { return };
        tracing::warn!(
            process.open_file_limit = limit,
            process.open_file_needed = needed,
            server.max_connections = configured,
            server.effective_max_connections = self.per_port,
            "{}; {REMEDY}",
            self.shortage().unwrap_or_default()
        );
    }

    /// Returns the consequence of a shortage, if there is one.
    pub(super) fn shortage(&self) -> Option<String> {
        let Shortage { limit, needed, configured } = self.shortage?;
        Some(format!(
            "each port accepts {} connections at a time instead of {configured}: the limit of open files is {limit} and the settings need {needed}",
            self.per_port
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_stores_do_not_need() {
        assert_eq!(divide(None, 10_000, 10), Connections { per_port: 10_000, shortage: None });
        assert_eq!(divide(Some(1_048_576), 10_000, 10).shortage, None);
        assert_eq!(divide(Some(20_138), 10_000, 10).shortage, None);
        let few = divide(Some(1024), 10_000, 10);
        assert_eq!(few.per_port, (1024 - 138) / 2);
        assert_eq!(few.shortage, Some(Shortage { limit: 1024, needed: 20_138, configured: 10_000 }));
        assert_eq!(divide(Some(64), 10_000, 10).per_port, 8);
        assert_eq!(divide(Some(64), 4, 10).per_port, 4, "never more than the settings say");
        assert!(divide(Some(1024), usize::MAX, 10).shortage.is_some());
    }
}
