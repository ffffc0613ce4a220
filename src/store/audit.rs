//! Where the audit trail goes.

use crate::domain::audit::{Audit, Entry, Outcome};

/// The audit trail in the log, under the target `audit`.
pub struct AuditLog;

impl Audit for AuditLog {
    fn record(&self, entry: Entry) {
        let (outcome, reason) = match entry.outcome {
            Outcome::Done => ("done", None),
            Outcome::Refused(reason) => ("refused", Some(reason)),
            Outcome::Failed(reason) => ("failed", Some(reason)),
        };
        tracing::event!(
            target: "audit",
            tracing::Level::INFO,
            audit.action = entry.action.name(),
            audit.outcome = outcome,
            audit.reason = reason,
            request.id = entry.origin.request_id,
            "audit"
        );
    }
}
