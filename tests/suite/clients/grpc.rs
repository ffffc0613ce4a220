//! The player for gRPC servers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use latchkey::grpc::pb::validate_response::Verdict;

use super::{
    compare::{agrees, identified, refused},
    guarded::Guarded,
    play::Player,
    scenario::{Expect, Guard, Step},
    stage::{self, PATIENCE, Stage},
    streams::{self, Streams},
};

pub struct Grpc {
    guarded: BTreeMap<Guard, Guarded>,
    /// With the tokens that they were opened with.
    streams: BTreeMap<String, (String, Streams)>,
}

impl Player for Grpc {
    const HAS_STREAMS: bool = true;

    async fn start(stage: &Stage, command: &str) -> Self {
        let mut guarded = BTreeMap::new();
        for (guard, sample) in stage.samples(command).await {
            guarded.insert(guard, Guarded::connect(sample).await);
        }
        Self { guarded, streams: BTreeMap::new() }
    }

    async fn call(
        &mut self,
        stage: &Stage,
        guard: Guard,
        authorization: &[String],
        expect: &Expect,
    ) -> usize {
        let guarded = &self.guarded[&guard];
        let headers = stage.filled_in(authorization);
        if expect.eventually {
            guarded.until_let_in(&headers, PATIENCE).await;
        }

        let (before, begun) = (guarded.begun().await, Instant::now());
        let outcomes = guarded.call(&headers, expect.code != "OK").await;
        expect.in_time(begun.elapsed(), authorization);
        let reached = guarded.begun().await - before;
        assert_eq!(reached, if expect.code == "OK" { 4 } else { 0 }, "handlers that began: {outcomes:?}");

        // The verdict of Latchkey is compared only if it answers and there is one token.
        let native = match stage::bearer(&headers) {
            Some(token) if expect.is_verdict() && (expect.code == "OK" || stage.is_up().await) => {
                Some(stage.verdict(token).await)
            }
            _ => None,
        };
        let calls = outcomes.len();
        for (method, outcome) in outcomes {
            let context = format!("{method} with {authorization:?}");
            match (outcome, &native) {
                (Ok(answers), Some(Verdict::Session(session))) if expect.code == "OK" => {
                    identified(&answers, session, &context);
                }
                (Ok(answers), _) => panic!("{context} was let in: {answers:?}"),
                (Err(status), Some(Verdict::Rejection(rejection))) => {
                    refused(&status, expect, &context);
                    agrees(&status, rejection, &context);
                }
                (Err(status), _) => refused(&status, expect, &context),
            }
        }
        calls
    }

    async fn streams(&mut self, stage: &Stage, step: &Step) -> usize {
        let mut begun = 0;
        match step {
            Step::OpenStreams { name, token } => {
                let token = stage.tokens[token].clone();
                let streams = Streams::open(&self.guarded[&Guard::Usual], &token).await;
                self.streams.insert(name.clone(), (token, streams));
                begun = streams::KINDS.len();
                self.handlers_run().await;
            }
            Step::StreamsEnd { streams, within_ms, expect } => {
                let within = Duration::from_millis(*within_ms);
                self.streams_end(stage, streams, within, expect).await;
            }
            Step::StreamsGoOn { streams } => {
                let (_, streams) = self.streams.get_mut(streams).unwrap();
                streams.go_on().await;
            }
            _ => unreachable!("{step:?} is not about streams"),
        }
        begun
    }

    /// A disconnected client leaves no handler behind.
    async fn leave(&mut self) {
        self.streams.clear();
        self.guarded[&Guard::Usual].until_running(0).await;
    }
}

impl Grpc {
    async fn streams_end(&mut self, stage: &Stage, name: &str, within: Duration, expect: &Expect) {
        let (token, streams) = self.streams.remove(name).unwrap();
        let outcomes = streams.end(within).await;
        let Verdict::Rejection(rejection) = stage.verdict(&token).await else {
            panic!("{name} is still good")
        };
        for (method, status) in outcomes {
            let context = format!("{method} of {name}");
            refused(&status, expect, &context);
            agrees(&status, &rejection, &context);
        }
        self.handlers_run().await;
    }

    /// Checks that a handler runs for each open stream.
    async fn handlers_run(&self) {
        let open = self.streams.len() * streams::KINDS.len();
        self.guarded[&Guard::Usual].until_running(open.try_into().unwrap()).await;
    }
}
