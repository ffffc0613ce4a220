//! `latchkey watch`

use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;
use tonic::{Status, Streaming};

use super::{
    Common, Failure,
    client::{self, Auth, Carries},
    output::{Output, rejection_json, rejection_text, session_json, session_text},
    secret,
    stream::{self, Feed, Retry},
};
use crate::grpc::pb::{self, watch_session_response::Verdict};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  echo \"$TOKEN\" | latchkey watch\n  LATCHKEY_TOKEN=$TOKEN latchkey watch --output json\n\nPrints the session, and once it has ended the rejection. Exit code 1 for a rejection, 3 where the server cannot tell any more, 0 after Ctrl-C."
)]
pub(super) struct Watch {
    #[command(flatten)]
    retry: Retry,
}

impl Watch {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let token = secret::token()?;
        let client = client::auth(common, Carries::Stream).await?;
        let mut end = End { client, token, output: common.output(), shown: false };
        stream::follow(&mut end, &self.retry).await
    }
}

/// The end of a session, as it is waited for.
struct End {
    client: Auth,
    token: String,
    output: Output,
    /// The session has been printed.
    shown: bool,
}

impl End {
    fn told(&self, rejection: &pb::Rejection) -> Failure {
        let value = json!({ "rejection": rejection_json(rejection) });
        let printed = if self.output.is_json() { self.output.print(&value, String::new) } else { Ok(()) };
        printed.err().unwrap_or_else(|| Failure::Refused(rejection_text(rejection)))
    }
}

impl Feed for End {
    type Message = pb::WatchSessionResponse;
    type Messages = Streaming<Self::Message>;

    async fn open(&mut self) -> Result<Self::Messages, Status> {
        let request = pb::WatchSessionRequest { token: self.token.clone() };
        self.client.watch_session(request).await.map(tonic::Response::into_inner)
    }

    fn take(&mut self, message: Self::Message) -> ControlFlow<Result<(), Failure>> {
        match message.verdict {
            Some(Verdict::Rejection(rejection)) => ControlFlow::Break(Err(self.told(&rejection))),
            Some(Verdict::Session(session)) if !self.shown => {
                self.shown = true;
                let value = json!({ "session": session_json(&session) });
                match self.output.print(&value, || session_text(&session)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(failure) => ControlFlow::Break(Err(failure)),
                }
            }
            // It lives as before.
            Some(Verdict::Session(_)) | None => ControlFlow::Continue(()),
        }
    }

    fn refused(&mut self, status: Status) -> Failure {
        // It ended before the stream was open, or while it was broken.
        match client::rejection(&status) {
            Some(rejection) => self.told(&rejection),
            None => client::failed_after_retries(status),
        }
    }
}
