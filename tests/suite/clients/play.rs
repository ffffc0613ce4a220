//! The order of a play, which is the same for guards of all protocols: a stage is prepared, a guarded server is called,
//! and its answers are compared. What was played is counted.

use std::fmt;

use super::{
    scenario::{Expect, Guard, Scenarios, Step},
    stage::Stage,
};

/// The guarded servers of a protocol.
pub trait Player: Sized {
    /// Whether the protocol has streams that end with their session.
    const HAS_STREAMS: bool;

    /// Starts the servers.
    async fn start(stage: &Stage, command: &str) -> Self;

    /// Calls a server with these values of `authorization`, and returns how many calls that took.
    async fn call(&mut self, stage: &Stage, guard: Guard, authorization: &[String], expect: &Expect)
    -> usize;

    /// Does a step about streams, and returns how many calls it began.
    async fn streams(&mut self, stage: &Stage, step: &Step) -> usize;

    /// Ends a scenario.
    async fn leave(&mut self) {}

    /// Checks what only this protocol has, and stops the servers.
    async fn end(self) {}
}

/// The numbers of scenarios and calls that were played.
#[derive(Default)]
struct Tally {
    scenarios: usize,
    calls: usize,
    not_applicable: usize,
}

/// The line that `scripts/test-clients.sh` reads.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenarios, calls, not_applicable } = self;
        write!(f, "scenarios: {scenarios} scenarios, {calls} calls, ")?;
        write!(f, "{not_applicable} stream scenarios not applicable")
    }
}

/// Plays all scenarios against the servers that the command starts.
#[expect(clippy::print_stdout, reason = "the last line says in which scenario it failed, or what was played")]
pub async fn play<P: Player>(scenarios: &Scenarios, command: &str) {
    let mut stage = Stage::begin(&scenarios.settings).await;
    let mut player = P::start(&stage, command).await;
    let mut tally = Tally::default();
    for (number, scenario) in scenarios.all.iter().enumerate() {
        if !P::HAS_STREAMS && scenario.is_about_streams() {
            tally.not_applicable += 1;
            continue;
        }
        println!("{}", scenario.name);
        stage.enter(number).await;
        for step in &scenario.steps {
            tally.calls += match step {
                Step::Call { guard, authorization, expect } => {
                    player.call(&stage, *guard, authorization, expect).await
                }
                _ if step.is_about_streams() => player.streams(&stage, step).await,
                _ => {
                    stage.step(step).await;
                    0
                }
            };
        }
        player.leave().await;
        tally.scenarios += 1;
    }
    player.end().await;
    println!("{tally}");
}
