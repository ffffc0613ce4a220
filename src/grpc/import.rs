//! `AccountService.ImportAccounts`: a stream of accounts, a message at a time.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use super::{convert, pb, request_id::RequestId, status};
use crate::domain::{
    Engine, Error, Violation,
    import::{ImportOutcome, NewAccount},
    origin::Origin,
    password::PasswordHash,
    ports::Disabled,
    types::{Role, Timestamp, UserId},
    username::Username,
};

/// How many accounts a message may hold: what one transaction does while others wait to write.
const MAX_BATCH: usize = 1000;
/// How many refusals an answer lists.
const MAX_REFUSALS: usize = 1000;
/// The last second of the year 9999, as `google.protobuf.Timestamp` has it.
const LAST_SECOND: i64 = 253_402_300_799;

/// Whether what a method takes is a stream that it answers at its end. Such a call takes as long as it takes;
/// the method itself bounds the time between two messages.
pub(super) fn is_upload(path: &str) -> bool {
    path == "/latchkey.v1.AccountService/ImportAccounts"
}

/// Takes accounts as they come. What has been read of a stream has been stored before more is read, so
/// a client can be no faster than the store, and memory holds one message.
#[derive(Clone)]
pub(super) struct Import {
    pub(super) engine: Arc<Engine>,
    /// How long the next message may take, and how long its accounts.
    pub(super) patience: Duration,
    /// Ends a stream between two messages: it would hold up the end of the server.
    pub(super) shutdown: CancellationToken,
}

impl Import {
    pub(super) async fn run(
        &self,
        request: Request<Streaming<pb::ImportAccountsRequest>>,
        origin: Origin,
    ) -> Result<pb::ImportAccountsResponse, Status> {
        let id = RequestId::from_extensions(request.extensions());
        let mut stream = request.into_inner();
        let mut answer = pb::ImportAccountsResponse::default();
        loop {
            let next = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(status::shutting_down()),
                next = timeout(self.patience, stream.message()) => next,
            };
            let next = next.map_err(|_| status::stalled())?.map_err(status::of_message)?;
            let Some(message) = next else { return Ok(answer) };
            if message.accounts.len() > MAX_BATCH {
                let violation = Violation::new("accounts", "must be at most 1,000 in a message");
                return Err(status::of(violation.into(), &id));
            }
            let names: Vec<_> = message.accounts.iter().map(name).collect();
            let fates = self.import(message, &origin).await?.map_err(|error| status::of(error, &id))?;
            for (name, fate) in names.into_iter().zip(fates) {
                count(&mut answer, name, fate);
            }
        }
    }

    /// In a task of its own: a client that hangs up stops neither the transaction half-way nor what is
    /// to be recorded of it.
    async fn import(
        &self,
        message: pb::ImportAccountsRequest,
        origin: &Origin,
    ) -> Result<Result<Vec<ImportOutcome>, Error>, Status> {
        let (engine, origin) = (Arc::clone(&self.engine), origin.clone());
        let task = tokio::spawn(async move {
            let accounts = message.accounts.into_iter().map(account).collect();
            if message.validate_only {
                engine.check_import(accounts).await
            } else {
                engine.import_accounts(accounts, &origin).await
            }
        });
        let done = timeout(self.patience, task).await.map_err(|_| status::deadline_exceeded())?;
        Ok(done.unwrap_or_else(|error| Err(Error::Internal(format!("an import failed: {error}")))))
    }
}

/// What a refusal names an account by; many may stand in one line.
fn name(account: &pb::ImportedAccount) -> (u64, String) {
    (account.line, account.username.chars().take(Username::MAX_LEN).collect())
}

fn count(answer: &mut pb::ImportAccountsResponse, (line, username): (u64, String), fate: ImportOutcome) {
    match fate {
        ImportOutcome::Added => answer.added += 1,
        ImportOutcome::Present => answer.present += 1,
        ImportOutcome::Refused(Violation { field, description }) => {
            answer.refused += 1;
            if answer.refusals.len() < MAX_REFUSALS {
                let field = field.to_owned();
                answer.refusals.push(pb::RefusedAccount { line, username, field, description });
            }
        }
    }
}

fn account(account: pb::ImportedAccount) -> Result<NewAccount, Violation> {
    let user_id = Some(account.user_id).filter(|id| !id.is_empty());
    let disabled_until = moment("disabled_until", account.disabled_until)?;
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
        created_at: moment("created_at", account.created_at)?,
    })
}

/// A mistaken unit, such as milliseconds for seconds, must not become a date that nobody will ever see.
fn moment(
    field: &'static str,
    timestamp: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Violation> {
    match timestamp {
        Some(timestamp) if !(0..=LAST_SECOND).contains(&timestamp.seconds) => {
            Err(Violation::new(field, "must lie between the years 1970 and 9999"))
        }
        timestamp => Ok(timestamp.map(convert::moment)),
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    #[test]
    fn every_method_that_takes_a_stream_and_answers_once_is_known_as_an_upload() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let mut uploads = 0;
        for method in methods {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let upload = method.is_client_streaming() && !method.is_server_streaming();
            assert_eq!(is_upload(&path), upload, "{path}");
            uploads += u32::from(upload);
        }
        assert!(uploads > 0);
    }

    #[test]
    fn the_time_of_an_account_is_one_that_can_be_shown() {
        let at = |seconds| moment("created_at", Some(prost_types::Timestamp { seconds, nanos: 0 }));
        assert_eq!(at(0).unwrap().unwrap().as_secs(), 0);
        assert!(at(LAST_SECOND).is_ok());
        for seconds in [-1, LAST_SECOND + 1, 1_700_000_000_000] {
            assert_eq!(at(seconds).unwrap_err().field, "created_at");
        }
    }

    #[test]
    fn an_answer_lists_the_first_refusals_and_counts_all() {
        let mut answer = pb::ImportAccountsResponse::default();
        for line in 1..=1500 {
            count(
                &mut answer,
                (line, String::new()),
                ImportOutcome::Refused(Violation::new("roles", "are wrong")),
            );
        }
        assert_eq!((answer.refused, answer.refusals.len(), answer.refusals[999].line), (1500, 1000, 1000));
    }
}
