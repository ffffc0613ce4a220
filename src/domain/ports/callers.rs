//! Who may call what needs a permission.

use std::fmt;

use async_trait::async_trait;

use super::StoreError;
use crate::domain::types::Timestamp;

/// The SHA-256 of a caller's key. The key is 256 random bits, so a plain hash is enough; still a secret to
/// those who may not see who calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallerKeyHash(pub [u8; 32]);

impl fmt::Debug for CallerKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKeyHash([redacted])")
    }
}

/// A service that may call what needs a permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Names it, to operators and in the audit trail: unique, chosen by the operator.
    pub name: String,
    /// The hash of its key.
    pub key: CallerKeyHash,
    /// Names of its roles, sorted: `admin`, `issuer`, `operator`, `validator`.
    pub roles: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used, as far as is recorded; some minutes may be missing.
    pub last_used_at: Option<Timestamp>,
}

/// Who may call what needs a permission.
#[async_trait]
pub trait Callers: Send + Sync {
    /// Adds a caller; false if the name is taken.
    async fn create(&self, caller: &Caller) -> Result<bool, StoreError>;

    /// All of them, in the order of their names.
    async fn list(&self) -> Result<Vec<Caller>, StoreError>;

    /// Removes a caller; false if there was none of this name.
    async fn revoke(&self, name: &str) -> Result<bool, StoreError>;

    /// It was used at this moment. Never moves the record back.
    async fn used(&self, name: &str, at: Timestamp) -> Result<(), StoreError>;
}
