//! The way to the server: calls of a bounded size, each repeated until it is answered. Repeating is safe.

use std::time::{Duration, Instant};

use prost::Message as _;
use tonic::Request;

use super::{Failure, account::FieldError, progress::Progress};
use crate::{
    cli::{Common, client},
    grpc::pb::{ImportAccountsRequest, ImportAccountsResponse, ImportedAccount},
};

/// How many accounts go into a call: what has been done is known after each, and the answer lists every
/// refusal.
const MAX_ACCOUNTS: usize = 1000;
/// How much goes into a call, in bytes; it is held in memory until it is answered.
const MAX_CALL: usize = 512 * 1024;
/// How much goes into a message, in bytes. The server takes 64 KiB.
const MAX_MESSAGE: usize = 48 * 1024;
/// How long to wait before a call is repeated, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The accounts of the next call.
#[derive(Default)]
pub(super) struct Batch {
    messages: Vec<ImportAccountsRequest>,
    accounts: usize,
    bytes: usize,
    /// Of the last message.
    last: usize,
}

impl Batch {
    /// Whether an account can be sent at all.
    pub(super) fn takes(account: &ImportedAccount) -> Result<(), FieldError> {
        if size(account) > MAX_MESSAGE { Err(FieldError::too_long()) } else { Ok(()) }
    }

    /// Adds an account that it takes.
    pub(super) fn add(&mut self, account: ImportedAccount, validate_only: bool) {
        let bytes = size(&account);
        self.last += bytes;
        if self.messages.is_empty() || self.last > MAX_MESSAGE {
            self.messages.push(ImportAccountsRequest { accounts: Vec::new(), validate_only });
            self.last = bytes;
        }
        if let Some(message) = self.messages.last_mut() {
            message.accounts.push(account);
        }
        self.accounts += 1;
        self.bytes += bytes;
    }

    pub(super) const fn is_full(&self) -> bool {
        self.accounts >= MAX_ACCOUNTS || self.bytes >= MAX_CALL
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.accounts == 0
    }
}

/// In a message; a field costs its tag and its length besides.
fn size(account: &ImportedAccount) -> usize {
    account.encoded_len() + 8
}

/// The connection.
pub(super) struct Upload {
    client: client::Accounts,
    /// How long to repeat a call that is not answered.
    patience: Duration,
}

impl Upload {
    pub(super) async fn new(common: &Common, patience: Duration) -> Result<Self, Failure> {
        Ok(Self { client: client::accounts(common).await?, patience })
    }

    /// Sends a batch: what became of it.
    pub(super) async fn send(
        &mut self,
        batch: Batch,
        progress: &Progress,
    ) -> Result<ImportAccountsResponse, Failure> {
        let begun = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            let messages = futures_util::stream::iter(batch.messages.clone());
            let status = match self.client.import_accounts(Request::new(messages)).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            if !client::is_transient(&status) || begun.elapsed() + pause > self.patience {
                return Err(client::given_up(status));
            }
            if pause == PAUSES.0 {
                let message = status.message();
                progress.remark(&format!("the server does not answer ({message}): trying again"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}
