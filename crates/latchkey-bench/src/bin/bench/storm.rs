//! What a storm of logins does to Validate: its latency at a steady rate, in turns without and with more logins than the
//! server can hash. The server has all cores, and hashes on all but one; and so has the load, which would otherwise have to
//! stay where the server hashes. In life it has machines of its own, so here it goes before the server, where that is allowed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    Plan,
    client::login_request,
    load::{Target, may_go_first},
    numbers::{Spread, median, round},
    place::Place,
    server::Latchkey,
};

/// By how much the latency may grow, at most.
const GOAL: f64 = 3.0;
/// Validates a second: few enough for any machine to answer at once.
const RATE: u64 = 2_000;
/// Users whose tokens are validated. Their hashes cost what they cost in production.
const USERS: usize = 50;
/// Logins at a time: far more than are hashed at a time, fewer than may wait.
const AT_A_TIME: usize = 24;

pub async fn measure(plan: &Plan, place: &Place) -> Result<Value, String> {
    let threads = place.cores().saturating_sub(1).max(1);
    let count = threads.to_string();
    let settings = [("PASSWORD__THREADS", count.as_str()), ("SESSION__KICK_WAR_CHANGES", "0")];
    let latchkey = Latchkey::start_on_all_cores(place, &settings).await?;
    let tokens = latchkey.tokens(USERS).await?;
    for number in 0..AT_A_TIME {
        latchkey.client.user(&format!("storm{number}")).await;
    }
    let first = may_go_first();
    let target = Target { address: latchkey.server.grpc, tokens: &tokens, arguments: &[], first };
    place.free_load();
    target.load(plan.warm_up, Some(RATE))?;
    let (mut pairs, mut logins) = (Vec::new(), Vec::new());
    for _ in 0..plan.login_pairs {
        let quiet = p99(&target, plan)?;
        let storm = Storm::begin(&latchkey);
        // All of them come at once in the beginning, and then as they are hashed.
        tokio::time::sleep(plan.warm_up).await;
        let stormy = p99(&target, plan);
        logins.push(storm.end().await?);
        pairs.push((quiet, stormy?));
    }
    place.hold_load();
    Ok(json!({
        "rate": RATE,
        "goal": GOAL,
        "threads": threads,
        "load_goes_first": first,
        "logins_at_a_time": AT_A_TIME,
        "logins_per_second": round(median(logins.into_iter()), 1),
        "p99_us_quiet": round(median(pairs.iter().map(|(quiet, _)| *quiet)), 0),
        "p99_us_in_the_storm": round(median(pairs.iter().map(|(_, stormy)| *stormy)), 0),
        "ratio": Spread::of(pairs.iter().map(|(quiet, stormy)| stormy / quiet)).json(),
    }))
}

fn p99(target: &Target<'_>, plan: &Plan) -> Result<f64, String> {
    let found = target.load(plan.storm, Some(RATE))?;
    found.latency_us["p99"].as_f64().ok_or_else(|| "there is no latency".to_owned())
}

/// Users who log in again and again.
struct Storm {
    users: JoinSet<Result<(), String>>,
    over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    begin: Instant,
}

impl Storm {
    fn begin(latchkey: &Latchkey) -> Self {
        let (over, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut users = JoinSet::new();
        for number in 0..AT_A_TIME {
            let (client, over, count) = (latchkey.client.clone(), Arc::clone(&over), Arc::clone(&count));
            users.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let login = client.try_login(login_request(&format!("storm{number}"), "bench")).await;
                    login.map_err(|status| format!("a login failed: {status}"))?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Self { users, over, count, begin: Instant::now() }
    }

    /// Logins a second.
    #[expect(clippy::cast_precision_loss, reason = "a count of some hundreds")]
    async fn end(mut self) -> Result<f64, String> {
        let per_second = self.count.load(Ordering::Relaxed) as f64 / self.begin.elapsed().as_secs_f64();
        self.over.store(true, Ordering::Relaxed);
        while let Some(done) = self.users.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok(per_second)
    }
}
