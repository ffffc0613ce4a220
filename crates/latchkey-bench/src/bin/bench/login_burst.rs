//! Validate during a login burst: its latency at a steady rate, in turns without logins and with more logins than the server
//! can hash. The server has all cores, and hashes on all but one. The load shares these cores, so it gets a real-time
//! priority where that is allowed; in production it has machines of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    load::{LoadTarget, may_use_real_time},
    processes::LatchkeyServer,
    statistics::{Spread, median, round},
    support::client::login_request,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Plan;

/// The goal for the ratio of the two latencies.
const GOAL: f64 = 1.5;
/// Validates per second, few enough for any machine to answer at once.
const RATE: u64 = 2_000;
/// Number of users whose tokens are validated. Their passwords are hashed at the default cost.
const USERS: usize = 50;
/// Number of logins at a time: far more than are hashed at a time, fewer than may wait.
const CONCURRENT_LOGINS: usize = 24;

pub(crate) async fn measure(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    let threads = pinning.core_count().saturating_sub(1).max(1);
    let hash_threads = threads.to_string();
    let settings = [("PASSWORD__THREADS", hash_threads.as_str()), ("SESSION__KICK_WAR_CHANGES", "0")];
    let latchkey = LatchkeyServer::start_on_all_cores(pinning, &settings).await?;
    let tokens = latchkey.create_tokens(USERS).await?;
    for number in 0..CONCURRENT_LOGINS {
        latchkey.client.user(&format!("burst{number}")).await;
    }
    let real_time = may_use_real_time();
    let target = LoadTarget { address: latchkey.process.grpc, tokens: &tokens, arguments: &[], real_time };
    pinning.unpin_load();
    target.run(plan.warm_up, Some(RATE))?;
    let (mut pairs, mut logins_per_second) = (Vec::new(), Vec::new());
    for _ in 0..plan.login_turns {
        let quiet = p99(&target, plan)?;
        let burst = LoginBurst::begin(&latchkey);
        // The first logins arrive all at once, later ones as they are hashed.
        tokio::time::sleep(plan.warm_up).await;
        let in_burst = p99(&target, plan);
        logins_per_second.push(burst.end().await?);
        pairs.push((quiet, in_burst?));
    }
    pinning.pin_load();
    Ok(json!({
        "rate": RATE,
        "goal": GOAL,
        "threads": threads,
        "load_goes_first": real_time,
        "logins_at_a_time": CONCURRENT_LOGINS,
        "logins_per_second": round(median(logins_per_second.into_iter()), 1),
        "p99_us_quiet": round(median(pairs.iter().map(|(quiet, _)| *quiet)), 0),
        "p99_us_in_the_burst": round(median(pairs.iter().map(|(_, in_burst)| *in_burst)), 0),
        "ratio": Spread::of(pairs.iter().map(|(quiet, in_burst)| in_burst / quiet)).json(),
    }))
}

fn p99(target: &LoadTarget<'_>, plan: &Plan) -> Result<f64> {
    let result = target.run(plan.login_burst_turn, Some(RATE))?;
    Ok(result.latency_us["p99"].as_f64().ok_or("the load reports no p99")?)
}

/// Users who log in again and again.
struct LoginBurst {
    users: JoinSet<Result<()>>,
    stopped: Arc<AtomicBool>,
    logins: Arc<AtomicU64>,
    begun: Instant,
}

impl LoginBurst {
    fn begin(latchkey: &LatchkeyServer) -> Self {
        let (stopped, logins) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut users = JoinSet::new();
        for number in 0..CONCURRENT_LOGINS {
            let (client, stopped, logins) =
                (latchkey.client.clone(), Arc::clone(&stopped), Arc::clone(&logins));
            users.spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    let login = client.try_login(login_request(&format!("burst{number}"), "bench")).await;
                    login.map_err(|status| format!("a login failed: {status}"))?;
                    logins.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Self { users, stopped, logins, begun: Instant::now() }
    }

    /// Stops the users and returns the logins per second.
    #[expect(clippy::cast_precision_loss, reason = "a count of some hundreds")]
    async fn end(mut self) -> Result<f64> {
        let per_second = self.logins.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64();
        self.stopped.store(true, Ordering::Relaxed);
        while let Some(done) = self.users.join_next().await {
            done??;
        }
        Ok(per_second)
    }
}
