//! Measures constants of the model of `docs/scaling.md`: the commits of a login and a logout, the memory of an event, connections.

use latchkey::grpc::pb;
use latchkey_bench::{Result, core_pinning::CorePinning, processes::redis_info, statistics::round};
use serde_json::{Value, json};

use crate::{
    Plan,
    followers::Events,
    installation::{Installation, Setup, TopologyKind},
};

#[expect(clippy::print_stderr, reason = "prints the progress, because this takes minutes")]
pub(crate) async fn measure(plan: &Plan, pinning: &CorePinning) -> Result<Value> {
    eprintln!("commits, memory and connections ...");
    let cluster = Setup { topology: TopologyKind::Cluster, buckets: 64, servers: 1 };
    let connections = Installation::start(pinning, cluster).await?.connections_of_a_server();

    let setup = Setup { topology: TopologyKind::Single, buckets: 64, servers: 1 };
    let installation = Installation::start(pinning, setup).await?;
    let client = &installation.clients[0];
    let names: Vec<_> = (0..plan.logins).map(|number| format!("user{number:04}")).collect();
    for name in &names {
        client.user(name).await;
    }
    let count = || {
        let commands = installation.command_counts();
        // A commit is a script with a SET; `tail.lua`, which follows events, has none.
        commands.get("set").copied().unwrap_or_default()
    };
    #[expect(clippy::cast_precision_loss, reason = "a few hundred logins")]
    let each = |commits: u64| round(commits as f64 / plan.logins as f64, 2);

    let before = count();
    let mut tokens = Vec::new();
    for name in &names {
        tokens.push(client.login(name, "bench").await.token);
    }
    let after_logins = count();
    for token in &tokens {
        client.logout(token, pb::LogoutScope::Unspecified).await;
    }
    let after_logouts = count();

    Ok(json!({
        "commits_per_login": each(after_logins - before),
        "commits_per_logout": each(after_logouts - after_logins),
        "bytes_per_event": event_bytes(&installation).await?,
        "connections_of_a_server_to_a_master": connections,
    }))
}

/// The growth of the memory of Redis with each event.
async fn event_bytes(installation: &Installation) -> Result<f64> {
    const EVENTS: u32 = 20_000;
    let server = installation.redis.primaries()[0];
    let used = || -> Result<f64> {
        Ok(redis_info(server, "memory", "used_memory").ok_or("no used_memory")?.parse()?)
    };
    let events = Events::start(installation).await?;
    // The registers reach their final size.
    events.commit(EVENTS / 4).await?;
    let before = used()?;
    events.commit(EVENTS).await?;
    Ok(round((used()? - before) / f64::from(EVENTS), 0))
}
