//! Login against nothing but its hash, on the same number of threads.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use argon2::{Argon2, Block};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    Plan,
    client::{Client, login_request},
    numbers::{Spread, median, round},
    place::Place,
    server::Latchkey,
};

/// Users who log in again and again, for each thread that hashes: enough that it never waits for the network.
const USERS_A_THREAD: usize = 4;

/// Where passwords are hashed, with Latchkey and without it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cores {
    /// The server has all cores, and hashes on all but one, as is advised.
    AllButOne,
    /// The server has one core for its hashes and everything else.
    One,
}

pub async fn measure(plan: &Plan, place: &Place) -> Result<Value, String> {
    Ok(json!([row(plan, place, Cores::AllButOne).await?, row(plan, place, Cores::One).await?]))
}

async fn row(plan: &Plan, place: &Place, cores: Cores) -> Result<Value, String> {
    let threads = if cores == Cores::One { 1 } else { place.cores().saturating_sub(1).max(1) };
    let count = threads.to_string();
    let settings = [("PASSWORD__THREADS", count.as_str()), ("SESSION__KICK_WAR_CHANGES", "0")];
    let latchkey = match cores {
        Cores::AllButOne => Latchkey::start_on_all_cores(place, &settings).await?,
        Cores::One => Latchkey::start(place, false, &settings).await?,
    };
    let users = USERS_A_THREAD * threads;
    for number in 0..users {
        latchkey.client.user(&format!("user{number}")).await;
    }
    logins(&latchkey.client, users, plan.warm_up).await?;
    let mut pairs = Vec::new();
    for _ in 0..plan.login_pairs {
        let raw = hashes_apart(place, cores, threads, plan.each)?;
        pairs.push((raw, logins(&latchkey.client, users, plan.each).await?));
    }
    let all = |values: Vec<f64>| {
        json!({
            "per_second": round(median(values.iter().copied()), 1),
            "runs": values.iter().map(|value| round(*value, 1)).collect::<Vec<_>>(),
        })
    };
    Ok(json!({
        "threads": threads,
        "placement": match cores {
            Cores::AllButOne => "the server has all cores",
            Cores::One => "the server has one core",
        },
        "goal": (cores == Cores::AllButOne).then_some(0.95),
        "cost": "Argon2id, 19456 KiB, 2 passes, 1 lane (the defaults)",
        "ratio": Spread::of(pairs.iter().map(|(raw, logins)| logins / raw)).json(),
        "raw_hashes": all(pairs.iter().map(|(raw, _)| *raw).collect()),
        "logins": all(pairs.iter().map(|(_, logins)| *logins).collect()),
        "resident_bytes_after_logins": latchkey.server.resident(),
    }))
}

/// Logins a second, each of which must displace the one before it, and nothing else.
async fn logins(client: &Client, users: usize, duration: Duration) -> Result<f64, String> {
    let count = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..users {
        let (client, count) = (client.clone(), Arc::clone(&count));
        running.spawn(async move {
            let name = format!("user{number}");
            let mut last = None;
            while begin.elapsed() < duration {
                let answer = client.try_login(login_request(&name, "bench")).await;
                let answer = answer.map_err(|status| format!("a login failed: {status}"))?;
                let session = answer.session.ok_or("a login without a session")?;
                let displaced: Vec<_> = answer.displaced.iter().map(|old| &old.session_id).collect();
                if session.username != name || last.as_ref().is_some_and(|last| displaced != [last]) {
                    return Err(format!("a login of {name} after {last:?} displaced {displaced:?}"));
                }
                last = Some(session.session_id);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(per_second(count.load(Ordering::Relaxed), begin))
}

/// [`hashes`] in a process of its own, which runs where the server does.
fn hashes_apart(place: &Place, cores: Cores, threads: usize, duration: Duration) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(me);
    command.args(["hash", &duration.as_millis().to_string(), &threads.to_string()]).stdout(Stdio::piped());
    let child = match cores {
        Cores::AllButOne => place.on_all_cores(|| command.spawn()),
        Cores::One => place.on_servers_core(|| command.spawn()),
    };
    let child = child.map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| format!("hashing without Latchkey failed: {text}"))
}

/// Hashes a second on so many threads, at the default cost.
pub fn hashes(duration: Duration, threads: usize) -> f64 {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| hashes_of_one(duration))).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    })
}

fn hashes_of_one(duration: Duration) -> f64 {
    let hasher = Argon2::default();
    let mut memory = vec![Block::new(); hasher.params().block_count()];
    let mut hash_one = || {
        let (password, salt, mut hash) = (b"correct horse battery staple", b"a salt of 16 byt", [0; 32]);
        hasher.hash_password_into_with_memory(password, salt, &mut hash, &mut memory).unwrap();
        std::hint::black_box(hash);
    };
    // The first pays for memory that those after it find.
    hash_one();
    let begin = Instant::now();
    let mut count = 0_u64;
    while begin.elapsed() < duration {
        hash_one();
        count += 1;
    }
    per_second(count, begin)
}

#[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
fn per_second(count: u64, begin: Instant) -> f64 {
    count as f64 / begin.elapsed().as_secs_f64()
}
