//! `latchkey watch`: waits for the end of one session.

use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;
use tonic::{Status, Streaming};

use super::{
    CommandError, Common,
    client::{self, Auth, CallKind},
    output::{Output, rejection_json, session_json, session_text},
    secret,
    stream::{self, Retry, StreamReader},
};
use crate::grpc::pb::{self, watch_session_response::Verdict};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  echo \"$TOKEN\" | latchkey watch\n  LATCHKEY_TOKEN=$TOKEN latchkey watch --output json\n\nPrints the session, and when it has ended the rejection. Exit codes: 1 after a rejection, 3 if the server does not answer any more, 0 after Ctrl-C."
)]
pub(super) struct Watch {
    #[command(flatten)]
    retry: Retry,
}

impl Watch {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let token = secret::token()?;
        let client = client::auth(common, CallKind::Streaming).await?;
        let mut reader = SessionReader { client, token, output: common.output(), printed: false };
        stream::read_all(&mut reader, &self.retry).await
    }
}

struct SessionReader {
    client: Auth,
    token: String,
    output: Output,
    /// Whether the session has been printed.
    printed: bool,
}

impl SessionReader {
    fn rejected(&self, rejection: &pb::Rejection) -> CommandError {
        let value = json!({ "rejection": rejection_json(rejection) });
        let printed = if self.output.is_json() { self.output.print(&value, String::new) } else { Ok(()) };
        printed.err().unwrap_or_else(|| CommandError::rejected(rejection))
    }
}

impl StreamReader for SessionReader {
    type Message = pb::WatchSessionResponse;
    type Messages = Streaming<Self::Message>;

    async fn open(&mut self) -> Result<Self::Messages, Status> {
        let request = pb::WatchSessionRequest { token: self.token.clone() };
        self.client.watch_session(request).await.map(tonic::Response::into_inner)
    }

    fn handle(&mut self, message: Self::Message) -> ControlFlow<Result<(), CommandError>> {
        match message.verdict {
            Some(Verdict::Rejection(rejection)) => ControlFlow::Break(Err(self.rejected(&rejection))),
            Some(Verdict::Session(session)) if !self.printed => {
                self.printed = true;
                let value = json!({ "session": session_json(&session) });
                match self.output.print(&value, || session_text(&session)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(Err(error)),
                }
            }
            // After a reconnect, the session is still live.
            Some(Verdict::Session(_)) | None => ControlFlow::Continue(()),
        }
    }

    fn error(&mut self, status: Status) -> CommandError {
        // The session ended while no stream was open.
        match client::rejection(&status) {
            Some(rejection) => self.rejected(&rejection),
            None => client::command_error_after_retries(status),
        }
    }
}
