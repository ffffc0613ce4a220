//! The port to the callers that have a key.

use std::fmt;

use async_trait::async_trait;

use super::StoreError;
use crate::domain::types::Timestamp;

/// The SHA-256 of a caller key.
///
/// A key is 256 random bits, so a plain hash protects it. `Debug` hides the hash, because it identifies a caller.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallerKeyHash(pub [u8; 32]);

impl fmt::Debug for CallerKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKeyHash([redacted])")
    }
}

/// A service that authenticates with a caller key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The unique name that an operator has chosen; it appears in the audit trail.
    pub name: String,
    /// The hash of the key.
    pub key: CallerKeyHash,
    /// The names of its roles, sorted: `admin`, `issuer`, `operator`, `validator`.
    pub roles: Vec<String>,
    /// The time at which it was created.
    pub created_at: Timestamp,
    /// The last recorded use; later uses may not be recorded yet.
    pub last_used_at: Option<Timestamp>,
}

/// A store of callers.
#[async_trait]
pub trait Callers: Send + Sync {
    /// Adds a caller. Returns false if the name is taken.
    async fn create(&self, caller: &Caller) -> Result<bool, StoreError>;

    /// Returns all callers, in the order of their names.
    async fn list(&self) -> Result<Vec<Caller>, StoreError>;

    /// Removes a caller. Returns false if no caller has this name.
    async fn revoke(&self, name: &str) -> Result<bool, StoreError>;

    /// Records a use of a caller. A later recorded use stays.
    async fn used(&self, name: &str, at: Timestamp) -> Result<(), StoreError>;
}
