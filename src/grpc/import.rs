//! `AccountService.ImportAccounts`: reads a stream of accounts, message by message.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Instrument as _;

use super::{call::Call, convert, pb, status};
use crate::domain::{
    Engine, Error, Violation,
    import::{ImportOutcome, NewAccount},
    password::PasswordHash,
    ports::Disabled,
    types::{Role, Timestamp, UserId},
    username::Username,
};

/// Maximum number of accounts in a message. They are one transaction, and other writes wait for it.
const MAX_BATCH: usize = 1000;
/// Maximum number of refused accounts in the response.
const MAX_REFUSALS: usize = 1000;
/// The last second of the year 9999, the maximum of `google.protobuf.Timestamp`.
const MAX_SECONDS: i64 = 253_402_300_799;

/// Stores the accounts of a message before it reads the next message, so that the store slows down the client and
/// memory holds one message.
#[derive(Clone)]
pub(super) struct Import {
    pub(super) engine: Arc<Engine>,
    /// The timeout for a message to arrive, and for its accounts to be stored.
    pub(super) timeout: Duration,
    /// Ends the stream between two messages. Otherwise the import would delay the shutdown.
    pub(super) shutdown: CancellationToken,
}

impl Import {
    pub(super) async fn run(
        &self,
        mut messages: Streaming<pb::ImportAccountsRequest>,
        call: &Call,
    ) -> Result<pb::ImportAccountsResponse, Status> {
        let mut response = pb::ImportAccountsResponse::default();
        loop {
            let next = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(status::shutting_down()),
                next = timeout(self.timeout, messages.message()) => next,
            };
            let next = next.map_err(|_| status::stalled())?.map_err(status::from_decode_error)?;
            let Some(message) = next else { return Ok(response) };
            if message.accounts.len() > MAX_BATCH {
                let violation = Violation::new("accounts", "must be at most 1,000 in a message");
                return Err(call.status(violation.into()));
            }
            let accounts: Vec<_> = message.accounts.iter().map(identify).collect();
            let outcomes = self.import(message, call).await?;
            for (account, outcome) in accounts.into_iter().zip(outcomes) {
                count(&mut response, account, outcome);
            }
        }
    }

    /// Imports a message in a task of its own, so that a client that disconnects interrupts neither the transaction nor
    /// the audit trail.
    async fn import(
        &self,
        message: pb::ImportAccountsRequest,
        call: &Call,
    ) -> Result<Vec<ImportOutcome>, Status> {
        let (engine, origin) = (Arc::clone(&self.engine), call.origin.clone());
        let import = async move {
            let accounts = message.accounts.into_iter().map(account).collect();
            if message.validate_only {
                engine.check_import(accounts).await
            } else {
                engine.import_accounts(accounts, &origin).await
            }
        };
        let task = tokio::spawn(import.in_current_span());
        let joined = timeout(self.timeout, task).await.map_err(|_| status::deadline_exceeded())?;
        joined
            .unwrap_or_else(|error| Err(Error::Internal(format!("the import task failed: {error}"))))
            .map_err(|error| call.status(error))
    }
}

/// Returns the line and the username by which the response names an account.
fn identify(account: &pb::ImportedAccount) -> (u64, String) {
    (account.line, account.username.chars().take(Username::MAX_LEN).collect())
}

fn count(response: &mut pb::ImportAccountsResponse, (line, username): (u64, String), outcome: ImportOutcome) {
    match outcome {
        ImportOutcome::Added => response.added += 1,
        ImportOutcome::Present => response.present += 1,
        ImportOutcome::Refused(Violation { field, description }) => {
            response.refused += 1;
            if response.refusals.len() < MAX_REFUSALS {
                let field = field.to_owned();
                response.refusals.push(pb::RefusedAccount { line, username, field, description });
            }
        }
    }
}

fn account(account: pb::ImportedAccount) -> Result<NewAccount, Violation> {
    let user_id = Some(account.user_id).filter(|id| !id.is_empty());
    let disabled_until = timestamp("disabled_until", account.disabled_until)?;
    Ok(NewAccount {
        line: account.line,
        user_id: user_id.as_deref().map(UserId::parse).transpose()?,
        username: Username::parse(&account.username)?,
        password: PasswordHash::new(account.password_hash),
        roles: Role::parse_all(&account.roles)?,
        disabled: match (account.disabled, disabled_until) {
            (_, Some(until)) => Disabled::Until(until),
            (true, None) => Disabled::Yes,
            (false, None) => Disabled::No,
        },
        created_at: timestamp("created_at", account.created_at)?,
    })
}

/// Converts a time. Rejects a wrong unit, such as milliseconds for seconds, which would be a date far in the future.
fn timestamp(
    field: &'static str,
    timestamp: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Violation> {
    match timestamp {
        Some(timestamp) if !(0..=MAX_SECONDS).contains(&timestamp.seconds) => {
            Err(Violation::new(field, "must be between the years 1970 and 9999"))
        }
        timestamp => Ok(timestamp.map(convert::from_timestamp)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_of_the_years_1970_to_9999_are_violations() {
        let at = |seconds| timestamp("created_at", Some(prost_types::Timestamp { seconds, nanos: 0 }));
        assert_eq!(at(0).unwrap().unwrap().as_secs(), 0);
        assert!(at(MAX_SECONDS).is_ok());
        for seconds in [-1, MAX_SECONDS + 1, 1_700_000_000_000] {
            assert_eq!(at(seconds).unwrap_err().field, "created_at");
        }
    }

    #[test]
    fn the_response_lists_the_first_thousand_refusals_and_counts_all() {
        let mut response = pb::ImportAccountsResponse::default();
        for line in 1..=1500 {
            count(
                &mut response,
                (line, String::new()),
                ImportOutcome::Refused(Violation::new("roles", "are wrong")),
            );
        }
        assert_eq!(
            (response.refused, response.refusals.len(), response.refusals[999].line),
            (1500, 1000, 1000)
        );
    }
}
