//! Login in comparison with its bare password hash, on the same number of threads.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use argon2::{Argon2, Block};
use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    processes::LatchkeyServer,
    statistics::{Spread, median, round},
    support::client::{Client, login_request},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Plan;

/// Number of users who log in again and again, for each hashing thread; enough to keep it busy.
const USERS_PER_THREAD: usize = 4;

/// The cores of the server, or of the bare hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cores {
    /// All cores; passwords are hashed on all but one, as recommended.
    All,
    /// One core, for hashes and everything else.
    One,
}

pub(crate) async fn measure(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    Ok(json!([row(plan, pinning, Cores::All).await?, row(plan, pinning, Cores::One).await?]))
}

async fn row(plan: &Plan, pinning: &CorePinning, cores: Cores) -> Result<Value> {
    let threads = if cores == Cores::One { 1 } else { pinning.core_count().saturating_sub(1).max(1) };
    let hash_threads = threads.to_string();
    let settings = [("PASSWORD__THREADS", hash_threads.as_str()), ("SESSION__KICK_WAR_CHANGES", "0")];
    let latchkey = match cores {
        Cores::All => LatchkeyServer::start_on_all_cores(pinning, &settings).await?,
        Cores::One => LatchkeyServer::start(pinning, false, &settings).await?,
    };
    let users = USERS_PER_THREAD * threads;
    for number in 0..users {
        latchkey.client.user(&format!("user{number}")).await;
    }
    logins_per_second(&latchkey.client, users, plan.warm_up).await?;
    let mut pairs = Vec::new();
    for _ in 0..plan.login_turns {
        let hashes = hashes_in_own_process(pinning, cores, threads, plan.turn)?;
        pairs.push((hashes, logins_per_second(&latchkey.client, users, plan.turn).await?));
    }
    let side = |values: Vec<f64>| {
        json!({
            "per_second": round(median(values.iter().copied()), 1),
            "runs": values.iter().map(|value| round(*value, 1)).collect::<Vec<_>>(),
        })
    };
    Ok(json!({
        "threads": threads,
        "placement": match cores {
            Cores::All => "the server has all cores",
            Cores::One => "the server has one core",
        },
        "goal": (cores == Cores::All).then_some(0.95),
        "cost": "Argon2id, 19456 KiB, 2 passes, 1 lane (the defaults)",
        "ratio": Spread::of(pairs.iter().map(|(hashes, logins)| logins / hashes)).json(),
        "raw_hashes": side(pairs.iter().map(|(hashes, _)| *hashes).collect()),
        "logins": side(pairs.iter().map(|(_, logins)| *logins).collect()),
        "resident_bytes_after_logins": latchkey.process.resident_bytes(),
    }))
}

/// Logs users in for this long. Each login must displace exactly the one before it.
async fn logins_per_second(client: &Client, users: usize, duration: Duration) -> Result<f64> {
    let count = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut running = JoinSet::<Result<()>>::new();
    for number in 0..users {
        let (client, count) = (client.clone(), Arc::clone(&count));
        running.spawn(async move {
            let name = format!("user{number}");
            let mut last = None;
            while begun.elapsed() < duration {
                let login = client.try_login(login_request(&name, "bench")).await;
                let login = login.map_err(|status| format!("a login failed: {status}"))?;
                let session = login.session.ok_or("a login returned no session")?;
                let displaced: Vec<_> = login.displaced.iter().map(|old| &old.session_id).collect();
                if session.username != name || last.as_ref().is_some_and(|last| displaced != [last]) {
                    return Err(format!("a login of {name} after {last:?} displaced {displaced:?}").into());
                }
                last = Some(session.session_id);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(per_second(count.load(Ordering::Relaxed), begun))
}

/// Runs [`hashes_per_second`] in a process of its own, on the cores of the server.
fn hashes_in_own_process(
    pinning: &CorePinning,
    cores: Cores,
    threads: usize,
    duration: Duration,
) -> Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["hash", &duration.as_millis().to_string(), &threads.to_string()]).stdout(Stdio::piped());
    let child = match cores {
        Cores::All => pinning.on_all_cores(|| command.spawn()),
        Cores::One => pinning.on_server_core(|| command.spawn()),
    };
    let output = child?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| format!("hashing without Latchkey failed: {text}").into())
}

/// Hashes passwords at the default cost on this many threads.
pub(crate) fn hashes_per_second(duration: Duration, threads: usize) -> f64 {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| hashes_per_second_of_one_thread(duration))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

fn hashes_per_second_of_one_thread(duration: Duration) -> f64 {
    let hasher = Argon2::default();
    let mut memory = vec![Block::new(); hasher.params().block_count()];
    let mut hash = || {
        let (password, salt, mut hash) = (b"correct horse battery staple", b"a salt of 16 byt", [0; 32]);
        hasher.hash_password_into_with_memory(password, salt, &mut hash, &mut memory).unwrap();
        std::hint::black_box(hash);
    };
    // The first hash pays for page faults.
    hash();
    let begun = Instant::now();
    let mut count = 0_u64;
    while begun.elapsed() < duration {
        hash();
        count += 1;
    }
    per_second(count, begun)
}

#[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
fn per_second(count: u64, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}
