//! Staleness: the bounds on the age of verdicts, and answers from the near-cache.

use std::time::{Duration, Instant};

use latchkey::domain::validate::{self, Judged, Lookup};
use latchkey::{
    grpc::pb::{self, RejectionReason, validate_response::Verdict},
    store::embedded::Database,
};

use super::{assert_invalid, disable, watch_session::Replicas};
use crate::support::{
    client::{Client, is_live, login_request},
    redis::RedisServer,
    server::{Server, Store},
};

fn within(token: &str, staleness: Duration) -> pb::ValidateRequest {
    let max_staleness = Some(staleness.try_into().unwrap());
    pb::ValidateRequest { token: token.into(), max_staleness, ..Default::default() }
}

async fn verdict(client: &Client, message: pb::ValidateRequest) -> Verdict {
    client.auth.clone().validate(message).await.unwrap().into_inner().verdict.unwrap()
}

const SECOND: Duration = Duration::from_secs(1);

/// Counts the reads of the register of this user during `act`.
async fn reads<F: Future<Output = ()>>(redis: &RedisServer, user_id: &str, act: F) -> usize {
    let mut monitor = redis.monitor();
    act.await;
    let theirs = |command: &&String| command.contains(&format!(":s:{user_id}"));
    monitor.commands().iter().filter(theirs).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_a_request_that_allows_it_is_answered_from_memory_and_others_are_not() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    // The server follows the log from here on.
    client.feed("").await;
    // The first call finds nothing in the near-cache.
    verdict(client, within(&token, 5 * SECOND)).await;
    let asked = reads(redis, &user_id, async {
        for _ in 0..100 {
            assert!(is_live(&verdict(client, within(&token, 5 * SECOND)).await));
        }
    });
    assert_eq!(asked.await, 0);
    let asked = reads(redis, &user_id, async {
        for _ in 0..10 {
            client.session(&token).await;
            assert!(is_live(&verdict(client, within(&token, Duration::ZERO)).await));
        }
    });
    assert_eq!(asked.await, 20, "what says nothing, or zero, is answered by the store");
    let negative = pb::ValidateRequest {
        max_staleness: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..within(&token, SECOND)
    };
    assert_invalid(&client.auth.clone().validate(negative).await.unwrap_err(), "max_staleness");
}

/// The staleness that the documentation recommends.
const RECOMMENDED: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recommended_staleness_is_answered_from_memory_while_the_log_is_quiet() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.feed("").await;
    // The first request that allows staleness enables the near-cache.
    let begun = Instant::now();
    while begun.elapsed() < 2 * SECOND {
        verdict(client, within(&token, RECOMMENDED)).await;
    }
    let (begun, mut asked) = (Instant::now(), 0);
    let read = reads(redis, &user_id, async {
        while begun.elapsed() < 4 * SECOND || asked < 2000 {
            assert!(is_live(&verdict(client, within(&token, RECOMMENDED)).await));
            asked += 1;
        }
    });
    let read = read.await;
    println!("{read} reads for {asked} answers");
    assert!(read * 20 < asked, "{read} reads for {asked} answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_displacement_on_another_replica_is_seen_within_the_staleness() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.servers;
    let mut token = here.client.login("alice", "").await.token;
    for number in 0..20 {
        assert!(is_live(&verdict(&here.client, within(&token, RECOMMENDED)).await));
        let next = there.client.login("alice", &number.to_string()).await.token;
        let displaced = Instant::now();
        loop {
            let asked = displaced.elapsed();
            if !is_live(&verdict(&here.client, within(&token, RECOMMENDED)).await) {
                break;
            }
            assert!(asked <= RECOMMENDED, "live after {asked:?}");
        }
        token = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_the_log_beyond_the_staleness_is_an_outage() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.feed("").await;
    let begun = Instant::now();
    while begun.elapsed() < 2 * SECOND {
        verdict(client, within(&token, RECOMMENDED)).await;
    }
    redis.pause();
    let paused = Instant::now();
    let status = loop {
        let asked = paused.elapsed();
        match client.auth.clone().validate(within(&token, RECOMMENDED)).await {
            Ok(_) => assert!(asked <= RECOMMENDED, "a verdict after {asked:?}"),
            Err(status) => break status,
        }
    };
    redis.resume();
    assert_eq!(super::parts(&status).1, "STORE_UNAVAILABLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_on_another_replica_reaches_memory_with_the_log() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.servers;
    for number in 0..20 {
        let token = here.client.login("alice", "").await.token;
        assert!(is_live(&verdict(&here.client, within(&token, 5 * SECOND)).await));
        there.client.login("alice", &number.to_string()).await;
        let ended = Instant::now();
        loop {
            match verdict(&here.client, within(&token, 5 * SECOND)).await {
                Verdict::Rejection(rejection) => {
                    assert_eq!(rejection.reason(), RejectionReason::Replaced);
                    break;
                }
                Verdict::Session(_) => assert!(ended.elapsed() < SECOND, "it is told within milliseconds"),
            }
        }
        // P7: a bound of zero always reads the store.
        assert!(!is_live(&verdict(&here.client, within(&token, Duration::ZERO)).await));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_session_in_memory_is_checked_in_the_store() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.servers;
    // The near-cache here has the state of alice before the login on the other replica.
    let old = here.client.login("alice", "").await.token;
    assert!(is_live(&verdict(&here.client, within(&old, 5 * SECOND)).await));
    let new = there.client.login("alice", "").await.token;
    assert!(is_live(&verdict(&here.client, within(&new, 5 * SECOND)).await));
    // The session is used on the other replica and timed out by the near-cache here.
    for replica in &replicas.servers {
        replica.clock.advance(Duration::from_mins(50));
    }
    assert!(is_live(&verdict(&there.client, within(&new, Duration::ZERO)).await));
    there.until_recorded().await;
    for replica in &replicas.servers {
        replica.clock.advance(Duration::from_mins(50));
    }
    assert!(is_live(&verdict(&here.client, within(&new, 5 * SECOND)).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_roles_reach_the_near_cache() {
    let replicas = Replicas::start().await;
    let [here, there] = &replicas.servers;
    let login = here.client.login("alice", "").await;
    let user_id = login.session.unwrap().user_id;
    assert!(is_live(&verdict(&here.client, within(&login.token, 5 * SECOND)).await));
    let roles = vec!["staff".into()];
    there.client.update(pb::UpdateAccountRequest { user_id, roles, ..Default::default() }).await;
    let changed = Instant::now();
    loop {
        let Verdict::Session(session) = verdict(&here.client, within(&login.token, 5 * SECOND)).await else {
            panic!("rejected")
        };
        if session.roles == ["staff"] {
            break;
        }
        assert!(changed.elapsed() < SECOND);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_read_while_the_log_is_silent_beyond_the_bound() {
    let mut server = Server::start(Store::Redis).await;
    let client = server.client.clone();
    client.user("alice").await;
    let token = client.login("alice", "").await.token;
    // The server follows the log from here on.
    client.feed("").await;
    verdict(&client, within(&token, 5 * SECOND)).await;
    server.redis.as_mut().unwrap().kill();
    // Memory counts as of the last read of the log, and then no longer: an outage is an error and never a verdict.
    let outage = Instant::now();
    let told = loop {
        match client.auth.clone().validate(within(&token, 3 * SECOND)).await {
            Ok(answer) => assert!(is_live(&answer.into_inner().verdict.unwrap())),
            Err(status) => break status,
        }
        assert!(outage.elapsed() < 4 * SECOND, "older than it may be");
    };
    assert_eq!(super::parts(&told).1, "STORE_UNAVAILABLE");
    server.redis.as_mut().unwrap().restart();
    // Redis is back without data, and the server makes its commits again before it answers.
    loop {
        if let Ok(answer) = client.auth.clone().validate(within(&token, Duration::ZERO)).await {
            break assert!(is_live(&answer.into_inner().verdict.unwrap()));
        }
        assert!(outage.elapsed() < 30 * SECOND, "the outage does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_that_is_gone_without_an_event_is_in_memory_for_no_longer_than_five_seconds() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.feed("").await;
    assert!(is_live(&verdict(client, within(&token, 5 * SECOND)).await));
    let keys: Vec<String> = redis.query(redis::cmd("KEYS").arg(format!("*:s:{user_id}")));
    let gone: u64 = redis.query(redis::cmd("DEL").arg(&keys));
    assert_eq!(gone, 1);
    let since = Instant::now();
    while is_live(&verdict(client, within(&token, 5 * SECOND)).await) {
        assert!(since.elapsed() < 7 * SECOND, "it is still in memory");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The session stays unknown: the earlier state does not come back.
    assert!(!is_live(&verdict(client, within(&token, 5 * SECOND)).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_on_a_busy_user_come_mostly_from_memory() {
    let server = Server::start(Store::Redis).await;
    let (client, redis) = (&server.client, server.redis.as_ref().unwrap());
    let user_id = client.user("alice").await;
    let token = client.login("alice", "").await.token;
    client.feed("").await;
    verdict(client, within(&token, 5 * SECOND)).await;
    let (begun, mut asked) = (Instant::now(), 0);
    let read = reads(redis, &user_id, async {
        while begun.elapsed() < 12 * SECOND {
            assert!(is_live(&verdict(client, within(&token, 5 * SECOND)).await));
            asked += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let read = read.await;
    println!("{read} reads for {asked} answers");
    assert!((1..=4).contains(&read), "once in five seconds: {read} of {asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_never_stale_on_the_embedded_store() {
    let server = Server::start(Store::Embedded).await;
    let client = &server.client;
    let user_id = client.user("alice").await;
    let mut token = client.login("alice", "").await.token;
    for number in 0..50 {
        client.session(&token).await;
        client.session(&token).await;
        let next = client.login("alice", &number.to_string()).await.token;
        assert_eq!(client.rejection(&token).await.reason(), RejectionReason::Replaced);
        token = next;
    }
    client.session(&token).await;
    client.update(disable(&user_id)).await;
    assert_eq!(client.rejection(&token).await.reason(), RejectionReason::AccountDisabled);
    client.try_login(login_request("alice", "")).await.unwrap_err();
}

/// The runtime has one thread, so the whole server stalls when it is blocked.
#[tokio::test]
async fn after_a_stall_of_the_process_a_batch_reads_the_epoch_and_no_registers() {
    let server = Server::start(Store::Embedded).await;
    let mut tokens = Vec::new();
    for name in ["alice", "bob", "carol"] {
        server.client.user(name).await;
        tokens.push(server.client.login(name, "").await.token);
    }
    for token in &tokens {
        server.client.session(token).await;
    }
    server.until_recorded().await;
    // The registers of the users are deleted, so their verdicts can come only from memory.
    let database = Database::open(&server.data.path().join("latchkey.db")).await.unwrap();
    let forget = sqlx::query("DELETE FROM registers WHERE key LIKE '__________________________'");
    let forgotten = forget.execute(&database.writer).await.unwrap().rows_affected();
    assert_eq!(forgotten, 3);
    let engine = &server.app.engine;
    // This is longer than a reading of the epoch counts.
    std::thread::sleep(Duration::from_millis(1100));
    let pending = tokens.iter().map(|token| match engine.validate_from_memory(token, false, None) {
        Lookup::Miss(pending) => pending,
        Lookup::Hit(verdict) => panic!("memory gave {verdict:?}"),
    });
    let judged = engine.resolve_all(pending.collect()).await;
    assert_eq!(judged.len(), 3);
    for (judged, name) in judged.into_iter().zip(["alice", "bob", "carol"]) {
        let Ok(Judged::Done(validate::Verdict::Live(session))) = judged else { panic!("{judged:?}") };
        assert_eq!(session.username(), name);
    }
}
