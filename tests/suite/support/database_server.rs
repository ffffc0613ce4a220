//! The process of a database server that belongs to the tests, and its directory.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{address::free_port, child_server::ChildServer};

pub struct DatabaseServer {
    pub port: u16,
    pub dir: PathBuf,
    process: Option<ChildServer>,
    shared: bool,
}

impl DatabaseServer {
    /// Makes the directory of a server. A static holds a shared server and never drops it, so its guard deletes the
    /// directory.
    pub fn new(prefix: &str, shared: bool) -> Self {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir().unwrap().keep();
        Self { port: 0, dir, process: None, shared }
    }

    /// Starts the server on a free port. Another process may take the port first, so several ports are tried.
    pub fn start(&mut self, serve: impl Fn(&mut Self) -> bool) {
        let started = (0..10).any(|_| {
            self.port = free_port();
            serve(self)
        });
        assert!(started, "the server in {} did not start", self.dir.display());
    }

    /// Runs a command that `signal` ends at once. Returns whether the server became ready.
    pub fn serve(&mut self, command: &Command, signal: &str, is_ready: impl Fn(&Self) -> bool) -> bool {
        let remove = self.shared.then_some(&*self.dir);
        self.process = ChildServer::start_ready(command, signal, remove, || is_ready(self));
        self.process.is_some()
    }

    /// Ends the server at once, as a power failure would.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Sends a signal to the server by its name.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().unwrap().signal(name);
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Returns a name for a new database that no other test uses.
pub fn database_name() -> String {
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed))
}
