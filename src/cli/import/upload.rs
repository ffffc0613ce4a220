//! Sends accounts to the server in calls of a bounded size, and repeats a call that gets no response. Repeating is safe: an
//! account that is there is counted as present.
//!
//! An import is a stream in which each message is one transaction, so a call that breaks off leaves whole messages. A file is
//! cut into calls, so that the client knows after each how much is imported.

use std::time::{Duration, Instant};

use prost::Message as _;
use tonic::Request;

use super::{CommandError, account::Violation, progress::Progress};
use crate::{
    cli::{Common, client},
    grpc::pb::{ImportAccountsRequest, ImportAccountsResponse, ImportedAccount},
};

/// Accounts per call. The response lists every refused account of a call.
const MAX_ACCOUNTS: usize = 1000;
/// Size of a call in bytes. It is kept in memory until the response.
const MAX_CALL: usize = 512 * 1024;
/// Size of a message in bytes. The server accepts 64 KiB.
const MAX_MESSAGE: usize = 48 * 1024;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The accounts of the next call.
#[derive(Default)]
pub(super) struct Batch {
    messages: Vec<ImportAccountsRequest>,
    accounts: usize,
    bytes: usize,
    last_message_bytes: usize,
}

impl Batch {
    /// Checks that an account fits into a message.
    pub(super) fn check_size(account: &ImportedAccount) -> Result<(), Violation> {
        if size(account) > MAX_MESSAGE { Err(Violation::too_long()) } else { Ok(()) }
    }

    /// Adds an account that fits into a message.
    pub(super) fn add(&mut self, account: ImportedAccount, validate_only: bool) {
        let bytes = size(&account);
        self.last_message_bytes += bytes;
        if self.messages.is_empty() || self.last_message_bytes > MAX_MESSAGE {
            self.messages.push(ImportAccountsRequest { accounts: Vec::new(), validate_only });
            self.last_message_bytes = bytes;
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

/// The size in a message, with tag and length.
fn size(account: &ImportedAccount) -> usize {
    account.encoded_len() + 8
}

pub(super) struct Upload {
    client: client::Accounts,
    /// How long to repeat a call that gets no response.
    retry_for: Duration,
}

impl Upload {
    pub(super) async fn new(common: &Common, retry_for: Duration) -> Result<Self, CommandError> {
        Ok(Self { client: client::accounts(common).await?, retry_for })
    }

    pub(super) async fn send(
        &mut self,
        batch: Batch,
        progress: &Progress,
    ) -> Result<ImportAccountsResponse, CommandError> {
        let begun = Instant::now();
        let mut backoff = FIRST_BACKOFF;
        loop {
            let messages = futures_util::stream::iter(batch.messages.clone());
            let status = match self.client.import_accounts(Request::new(messages)).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            if !client::is_transient(&status) || begun.elapsed() + backoff > self.retry_for {
                return Err(client::command_error_after_retries(status));
            }
            if backoff == FIRST_BACKOFF {
                let message = status.message();
                progress.note(&format!("the server does not answer ({message}): trying again"));
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }
}
