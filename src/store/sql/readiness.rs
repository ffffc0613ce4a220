//! Whether a database can serve requests.

use arc_swap::ArcSwap;

use crate::{domain::ports::StoreError, store::embedded};

/// The state of a database. Requests to one that is not ready fail at once.
pub(super) struct Readiness {
    /// `Err` until the database has been prepared.
    prepared: ArcSwap<Result<(), StoreError>>,
    /// The embedded database, whose file can be deleted or replaced.
    embedded: Option<embedded::Database>,
}

impl Readiness {
    pub(super) fn ready() -> Self {
        Self { prepared: ArcSwap::from_pointee(Ok(())), embedded: None }
    }

    pub(super) fn of_embedded(database: embedded::Database) -> Self {
        Self { embedded: Some(database), ..Self::ready() }
    }

    pub(super) fn connecting(store: &'static str) -> Self {
        let error = StoreError::Unavailable { store, cause: "not yet connected".into() };
        Self { prepared: ArcSwap::from_pointee(Err(error)), embedded: None }
    }

    pub(super) fn set(&self, prepared: Result<(), StoreError>) {
        self.prepared.store(prepared.into());
    }

    /// Fails with the reason if the database is not ready.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if let Some(database) = &self.embedded {
            database.verify_file()?;
        }
        (**self.prepared.load()).clone()
    }
}
