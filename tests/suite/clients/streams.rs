//! Open streams, one of each kind.

use std::time::Duration;

use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::Status;

use super::guarded::{GreetRequest, GreetResponse, Guarded, greet};

/// The methods, and whether they answer each request, send by themselves, or are silent until the end.
pub const KINDS: [(&str, Way); 3] =
    [("GreetOn", Way::GoesOn), ("GreetAll", Way::IsSilent), ("Chat", Way::Answers)];

/// How long a message of a running stream may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
pub enum Way {
    GoesOn,
    IsSilent,
    Answers,
}

/// One open stream of each kind.
pub struct Streams(Vec<Open>);

struct Open {
    method: &'static str,
    way: Way,
    /// Who has said everything has hung up: some servers wait for that.
    says: Option<UnboundedSender<GreetRequest>>,
    answers: UnboundedReceiver<GreetResponse>,
    outcome: JoinHandle<Result<(), Status>>,
}

impl Streams {
    /// Opens them with this token. Each says hello, if it is to be answered at all, and waits for an answer.
    pub async fn open(guarded: &Guarded, token: &str) -> Self {
        let authorization = [format!("Bearer {token}")];
        let mut all = Vec::new();
        for (method, way) in KINDS {
            let (says, messages) = mpsc::unbounded_channel();
            let (heard, answers) = mpsc::unbounded_channel();
            says.send(greet("Hello")).unwrap();
            let says = (!matches!(way, Way::GoesOn)).then_some(says);
            let call = guarded.answers(method, UnboundedReceiverStream::new(messages), &authorization);
            let outcome = tokio::spawn(async move {
                let mut stream = call.await?;
                while let Some(answer) = stream.next().await {
                    // The receiver is gone once the test waits for the end.
                    let _ = heard.send(answer?);
                }
                Ok(())
            });
            let mut open = Open { method, way, says, answers, outcome };
            open.hear().await;
            all.push(open);
        }
        Self(all)
    }

    /// Checks that the streams still run.
    pub async fn go_on(&mut self) {
        for open in &mut self.0 {
            // Messages that are already buffered may be old.
            while open.answers.try_recv().is_ok() {}
            if let (Way::Answers, Some(says)) = (open.way, &open.says) {
                says.send(greet("Are you there?")).unwrap();
            }
            open.hear().await;
        }
    }

    /// Waits for the status of each stream.
    pub async fn end(self, within: Duration) -> Vec<(&'static str, Status)> {
        let all = self.0.into_iter().map(|mut open| async move {
            let method = open.method;
            let outcome = timeout(within, &mut open.outcome).await;
            match outcome.unwrap_or_else(|_| panic!("{method} goes on")).unwrap() {
                Ok(()) => panic!("{method} has ended well"),
                Err(status) => (method, status),
            }
        });
        futures_util::future::join_all(all).await
    }
}

impl Open {
    /// Waits for one more answer if the method sends one.
    async fn hear(&mut self) {
        let method = self.method;
        match self.way {
            Way::IsSilent => assert!(!self.outcome.is_finished(), "{method} has ended"),
            Way::GoesOn | Way::Answers => {
                let answer = timeout(PATIENCE, self.answers.recv()).await;
                match answer.unwrap_or_else(|_| panic!("{method} does not answer")) {
                    Some(_) => {}
                    None => panic!("{method} has ended: {:?}", (&mut self.outcome).await),
                }
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Dropping the stream cancels the call.
        self.outcome.abort();
    }
}
