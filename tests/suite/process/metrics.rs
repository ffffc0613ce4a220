//! Metrics in the OpenMetrics format.

use std::time::Duration;

use crate::support::process::Process;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_what_happened_in_the_openmetrics_format() {
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(data.path(), &[("SESSION__KICK_WAR_CHANGES", "2")]);
    let client = process.serving_client().await;
    let value = async |name: &str| {
        let (status, text) = process.get("/metrics").await;
        assert!(status == 200 && text.ends_with("# EOF\n"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<u64>().unwrap()
    };
    let counters = [
        "sessions_displaced_total",
        "kick_wars_total",
        "store_rollbacks_total",
        "log_lines_lost_total",
        "audit_entries_lost_total",
        "panics_total",
        "task_restarts_total",
    ];
    for name in counters {
        assert_eq!(value(&format!("latchkey_{name}")).await, 0, "{name}");
    }
    client.user("alice").await;
    for _ in 0..3 {
        client.login("alice", "").await;
    }
    assert_eq!(value("latchkey_sessions_displaced_total").await, 2);
    assert_eq!(value("latchkey_kick_wars_total").await, 1);

    client.user("bob").await;
    let token = client.login("bob", "").await.token;
    let (watch, feed) = (client.watch(&token).await, client.feed("").await);
    assert_eq!(value("latchkey_session_watches").await, 1);
    assert_eq!(value("latchkey_feed_readers").await, 1);
    drop((watch, feed));
    while value("latchkey_session_watches").await + value("latchkey_feed_readers").await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
