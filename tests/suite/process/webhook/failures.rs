//! Deliveries while servers stop, crash or freeze, and stores lose data.

use std::time::{Duration, Instant};

use tonic_health::pb::health_check_response::ServingStatus::NotServing;

use super::{
    DELIVERS, SOON, displace,
    receiver::{Answer, Receiver},
    settings, told, url,
};
use crate::support::{
    process::Process,
    redis::{Flavour, RedisServer},
};

/// How long another server may take to continue after a crash: the lease and its poll interval.
const TAKEN_OVER: Duration = Duration::from_secs(20);
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_no_undelivered_event() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let url = url(receiver.address);
    let settings = settings(&url, &[]);
    let mut process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    let mut ended = displace(&client, "alice", 3).await;
    receiver.until_delivered(&ended, SOON).await;

    // The kill interrupts a POST while more events are waiting.
    receiver.always(Some(Answer::Never));
    let before = receiver.posts().len();
    ended.extend(displace(&client, "alice", 20).await);
    receiver.until(SOON, "one is under way", |receiver| receiver.posts().len() > before).await;
    process.kill();
    receiver.always(Some(Answer::Status(500)));
    let before = receiver.posts().len();
    let mut process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    ended.extend(displace(&client, "alice", 3).await);
    receiver.until(TAKEN_OVER, "one has failed", |receiver| receiver.posts().len() > before).await;
    process.kill();

    receiver.always(None);
    let process = Process::start(data.path(), &settings);
    process.serving_client().await;
    receiver.until_delivered(&ended, TAKEN_OVER).await;
    assert_eq!(told(&receiver.events()), ended);
    let resyncs = receiver.events().iter().filter(|event| event["type"] == "resync").count();
    assert_eq!(resyncs, 1, "a resync although no event was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_finishes_its_delivery_without_retries_and_releases_the_lease() {
    let receiver = Receiver::start().await;
    let data = tempfile::tempdir().unwrap();
    let url = url(receiver.address);
    let settings = settings(&url, &[]);
    let process = Process::start(data.path(), &settings);
    let client = process.serving_client().await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    receiver.answer(&[Answer::Slowly(1000)]);
    let mut ended = displace(&client, "alice", 2).await;
    receiver.until(SOON, "one is under way", |receiver| receiver.posts().len() == 2).await;
    process.terminate();
    let (code, log) = process.wait(SOON);
    assert_eq!(code, Some(0), "{log}");

    let process = Process::start(data.path(), &settings);
    let begun = Instant::now();
    process.output_until(DELIVERS);
    assert!(begun.elapsed() < Duration::from_secs(5), "the lease was not released");
    let client = process.serving_client().await;
    receiver.answer(&[Answer::Later(503, 300)]);
    ended.extend(displace(&client, "alice", 1).await);
    process.output_until("failed to deliver webhook events");
    assert_eq!(receiver.posts().len(), 3, "an accepted delivery was repeated");
    process.terminate();
    let begun = Instant::now();
    let (code, log) = process.wait(SOON);
    assert_eq!(code, Some(0), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());

    let process = Process::start(data.path(), &settings);
    process.serving_client().await;
    receiver.until_delivered(&ended, SOON).await;
    assert_eq!(told(&receiver.events()), ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_replicas_delivers_and_the_other_takes_over_when_it_is_killed() {
    let receiver = Receiver::start().await;
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let (url, store) = (url(receiver.address), redis.url());
    let settings = settings(&url, &[("SESSIONS__URL", &store), ("SESSIONS__RESPONSE_TIMEOUT", "10s")]);
    let mut first = Process::start(data.path(), &settings);
    let client = first.serving_client().await;
    first.output_until(DELIVERS);
    let second = Process::start(data.path(), &settings);
    let other = second.serving_client().await;
    client.user("alice").await;
    client.user("bob").await;

    let mut alice = Vec::new();
    for _ in 0..10 {
        alice.extend(displace(&client, "alice", 5).await);
        alice.extend(displace(&other, "alice", 5).await);
    }
    receiver.until_delivered(&alice, SOON).await;
    assert!(!second.output().contains(DELIVERS), "both deliver");
    let told_before = told(&receiver.events());
    assert_eq!(told_before, alice);

    receiver.always(Some(Answer::Never));
    let before = receiver.posts().len();
    let mut bob = displace(&client, "bob", 5).await;
    receiver.until(SOON, "one is under way", |receiver| receiver.posts().len() > before).await;
    first.kill();
    receiver.always(None);
    bob.extend(displace(&other, "bob", 5).await);
    receiver.until_delivered(&bob, TAKEN_OVER).await;
    second.output_until(DELIVERS);
    assert_eq!(told(&receiver.events())[alice.len()..], bob);

    // A server that stops releases its lease, so the other continues at once.
    let third = Process::start(data.path(), &settings);
    let client = third.serving_client().await;
    second.terminate();
    let (code, log) = second.wait(SOON);
    assert_eq!(code, Some(0), "{log}");
    let begun = Instant::now();
    third.output_until(DELIVERS);
    assert!(begun.elapsed() < Duration::from_secs(5), "the lease was not released");
    let more = displace(&client, "alice", 3).await;
    receiver.until_delivered(&more, SOON).await;
    assert_eq!(receiver.most_under_way(), 1, "two have delivered at a time");
    let resyncs = receiver.events().iter().filter(|event| event["type"] == "resync").count();
    assert_eq!(resyncs, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_sends_nothing_after_another_has_taken_over() {
    let receiver = Receiver::start().await;
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let (url, store) = (url(receiver.address), redis.url());
    let settings = settings(&url, &[("SESSIONS__URL", &store), ("SESSIONS__RESPONSE_TIMEOUT", "10s")]);
    let first = Process::start(data.path(), &settings);
    let client = first.serving_client().await;
    client.user("alice").await;
    receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
    receiver.always(Some(Answer::Status(500)));
    let ended = displace(&client, "alice", 3).await;
    first.output_until("failed to deliver webhook events");
    first.signal("STOP");
    let its_own = receiver.posts().len();
    let second = Process::start(data.path(), &settings);
    let begun = Instant::now();
    while !second.output().contains(DELIVERS) {
        assert!(begun.elapsed() < TAKEN_OVER, "no other server took over: {}", second.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.signal("CONT");
    first.output_until("no longer delivers the webhook");
    receiver.always(None);
    receiver.until_delivered(&ended, SOON).await;
    let posts = receiver.posts();
    let (before, after) = posts.split_at(its_own);
    let again = after.iter().find(|post| before.iter().any(|before| before.id == post.id));
    assert!(again.is_none(), "{again:?}");
    assert_eq!(receiver.most_under_way(), 1);
    assert_eq!(told(&receiver.events()), ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_store_that_lost_events_causes_a_resync() {
    for (arguments, resyncs) in [(&["--appendonly", "yes", "--appendfsync", "always"][..], 1), (&[], 2)] {
        let receiver = Receiver::start().await;
        let mut redis = RedisServer::with(Flavour::Redis, arguments);
        let data = tempfile::tempdir().unwrap();
        let (url, store) = (url(receiver.address), redis.url());
        let process = Process::start(data.path(), &settings(&url, &[("SESSIONS__URL", &store)]));
        let client = process.serving_client().await;
        client.user("alice").await;
        receiver.until(SOON, "greeted", |receiver| receiver.events().len() == 1).await;
        receiver.answer(&[Answer::Status(500)]);
        let before = displace(&client, "alice", 3).await;
        process.output_until("failed to deliver webhook events");
        redis.kill();
        client.until(NotServing, SOON).await;
        redis.restart();
        client.until_serving().await;
        let resyncs_told =
            |receiver: &Receiver| receiver.events().iter().filter(|event| event["type"] == "resync").count();
        receiver.until(SOON, "resynced", |receiver| resyncs_told(receiver) == resyncs).await;
        let after = displace(&client, "alice", 3).await;
        receiver.until_delivered(&after, SOON).await;
        assert_eq!(resyncs_told(&receiver), resyncs, "{arguments:?}");
        if resyncs == 1 {
            assert_eq!(told(&receiver.events()), [before, after].concat());
        }
    }
}
