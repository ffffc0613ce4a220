//! Login against nothing but its hash, on the same number of threads.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use argon2::Argon2;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    Plan,
    client::{Client, login_request},
    numbers::{Spread, median, round},
    place::Place,
    server::Latchkey,
};

/// Passwords that are hashed at a time, by Latchkey and without it: those of one core.
const THREADS: u64 = 1;
/// Users who log in again and again: enough that the hashing never waits for the network.
const USERS: usize = 4;

pub async fn measure(plan: &Plan, place: &Place) -> Result<Value, String> {
    let threads = THREADS.to_string();
    let settings = [("PASSWORD__THREADS", threads.as_str()), ("SESSION__KICK_WAR_CHANGES", "0")];
    let latchkey = Latchkey::start(place, false, &settings).await?;
    let resident = latchkey.server.resident();
    for number in 0..USERS {
        latchkey.client.user(&format!("user{number}")).await;
    }
    logins(&latchkey.client, plan.warm_up).await?;
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        pairs.push((hashes_apart(place, plan.each)?, logins(&latchkey.client, plan.each).await?));
    }
    let all = |values: Vec<f64>| {
        json!({
            "per_second": round(median(values.iter().copied()), 1),
            "runs": values.iter().map(|value| round(*value, 1)).collect::<Vec<_>>(),
        })
    };
    Ok(json!({
        "threads": THREADS,
        "cost": "Argon2id, 19456 KiB, 2 passes, 1 lane (the defaults)",
        "ratio": Spread::of(pairs.iter().map(|(raw, logins)| logins / raw)).json(),
        "raw_hashes": all(pairs.iter().map(|(raw, _)| *raw).collect()),
        "logins": all(pairs.iter().map(|(_, logins)| *logins).collect()),
        "resident_bytes_after_start": resident,
    }))
}

/// Logins a second, each of which must displace the one before it, and nothing else.
async fn logins(client: &Client, duration: Duration) -> Result<f64, String> {
    let count = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let mut users = JoinSet::new();
    for number in 0..USERS {
        let (client, count) = (client.clone(), Arc::clone(&count));
        users.spawn(async move {
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
    while let Some(done) = users.join_next().await {
        done.map_err(|error| error.to_string())??;
    }
    Ok(per_second(count.load(Ordering::Relaxed), begin))
}

/// [`hashes`] in a process of its own, which runs where the server does.
fn hashes_apart(place: &Place, duration: Duration) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(me);
    command.args(["hash", &duration.as_millis().to_string()]).stdout(Stdio::piped());
    let child = place.on_servers_core(|| command.spawn()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| format!("hashing without Latchkey failed: {text}"))
}

/// Hashes a second, at the default cost.
pub fn hashes(duration: Duration) -> f64 {
    let hasher = Argon2::default();
    let hash_one = || {
        let mut hash = [0; 32];
        hasher.hash_password_into(b"correct horse battery staple", b"a salt of 16 byt", &mut hash).unwrap();
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
