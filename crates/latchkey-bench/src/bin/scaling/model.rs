//! The model: rates from the behaviour of users, processor time from rates, servers from processor time.

use clap::Parser;

use crate::constants::Constants;

const SECONDS_PER_DAY: f64 = 86_400.0;
/// The numbers of buckets that were measured.
const BUCKETS: [f64; 3] = [64.0, 1024.0, 4096.0];
/// Fewer buckets on each node spread the load unevenly.
const MIN_BUCKETS_PER_NODE: f64 = 6.0;
/// Events that the stream of a bucket keeps.
const STREAM_LENGTH: f64 = 4096.0;
/// The number of masters of the cluster that was measured.
const MEASURED_MASTERS: f64 = 3.0;
/// Each Latchkey server asks each master this many times per second for the primaries.
const POLLS_PER_SECOND: f64 = 10.0;
/// A follower reads at most about this often, and then several events at once.
const READS_PER_SECOND: f64 = 500.0;
/// Beyond this the number of servers no longer converges.
const TOO_MANY: f64 = 1e6;

/// Estimates what a number of users needs. Without options, updates the tables in docs/scaling.md.
#[derive(Parser)]
pub(crate) struct Assumptions {
    /// Numbers of users.
    #[arg(long, value_delimiter = ',', default_value = "1e6,1e8,1e9")]
    pub(crate) users: Vec<f64>,
    /// Share of the users who log in on a day.
    #[arg(long, default_value_t = 0.2)]
    pub(crate) daily_active: f64,
    /// Logins of an active user on a day.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) logins: f64,
    /// Share of the logins that displace a live session.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) displacing: f64,
    /// Share of the logins that are followed by a logout.
    #[arg(long, default_value_t = 0.3)]
    pub(crate) logouts: f64,
    /// Minutes on a day in which an active user sends requests.
    #[arg(long, default_value_t = 30.0)]
    pub(crate) minutes: f64,
    /// Validates in such a minute.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) validates: f64,
    /// The rate in the busiest second, as a multiple of the mean.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) peak: f64,
    /// Share of the Validates that are answered from the near-cache (`max_staleness` above 0).
    #[arg(long, default_value_t = 0.0)]
    pub(crate) from_memory: f64,
    /// Load of a core in the busiest second.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) load: f64,
    /// Cores of a Latchkey server, besides those that hash passwords.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) cores: f64,
    /// Number of buckets; by default the smallest measured one that is enough for the nodes.
    #[arg(long)]
    pub(crate) buckets: Option<f64>,
}

/// The needs of a number of users in the busiest second.
pub(crate) struct Needs {
    pub(crate) registers: f64,
    /// Bytes of one copy.
    pub(crate) memory: f64,
    pub(crate) event_memory: f64,
    pub(crate) validates: f64,
    pub(crate) logins: f64,
    pub(crate) touches: f64,
    pub(crate) commits: f64,
    pub(crate) events: f64,
    pub(crate) buckets: f64,
    pub(crate) hashing_cores: f64,
    /// Cores for requests, over all Latchkey servers.
    pub(crate) request_cores: f64,
    /// The load of one core on each Latchkey server by following events.
    pub(crate) follower_load: f64,
    pub(crate) servers: f64,
    pub(crate) redis_request_cores: f64,
    /// Redis cores for the followers of all servers.
    pub(crate) redis_follower_cores: f64,
    /// The load of each node by the polls of all servers.
    pub(crate) poll_load: f64,
    pub(crate) nodes: f64,
    pub(crate) connections_of_a_node: f64,
    pub(crate) connections_of_a_server: f64,
}

impl Needs {
    /// Whether the servers that the followers need grow without end.
    pub(crate) fn is_impossible(&self) -> bool {
        self.servers >= TOO_MANY || self.nodes >= TOO_MANY
    }
}

pub(crate) fn needs(constants: &Constants, assumptions: &Assumptions, users: f64) -> Needs {
    if let Some(buckets) = assumptions.buckets {
        return needs_with(constants, assumptions, users, buckets);
    }
    let choices = BUCKETS.map(|buckets| needs_with(constants, assumptions, users, buckets));
    let [.., largest] = BUCKETS;
    let enough = choices.into_iter().find(|needs| needs.nodes * MIN_BUCKETS_PER_NODE <= needs.buckets);
    enough.unwrap_or_else(|| needs_with(constants, assumptions, users, largest))
}

fn needs_with(constants: &Constants, assumptions: &Assumptions, users: f64, buckets: f64) -> Needs {
    let a = assumptions;
    let micros = |name: &str| constants.get(name) / 1e6;
    let active = users * a.daily_active;
    let peak_of = |per_day: f64| active * per_day / SECONDS_PER_DAY * a.peak;

    let validates = peak_of(a.minutes * a.validates);
    // A session records a use once a minute.
    let touches = peak_of(a.minutes * a.validates.min(1.0));
    let logins = peak_of(a.logins);
    let logouts = logins * a.logouts;
    let commits =
        logins * constants.get("commits_per_login") + logouts * constants.get("commits_per_logout") + touches;
    let events = logins * a.displacing + logouts;

    let strict = validates * (1.0 - a.from_memory);
    let request_cores = strict * micros("validate_latchkey_us")
        + validates * a.from_memory * micros("validate_from_memory_us")
        + commits * micros("commit_latchkey_us");
    let hashing_cores = logins / constants.get("logins_per_core") / a.load;
    let redis_request_cores = strict * micros("validate_redis_us") + commits * micros("commit_redis_us");

    let by_buckets = |name: &str| constants.get(&format!("{name}_{buckets}"));
    let reads = events.min(READS_PER_SECOND);
    let of_follower = |name: &str| {
        (reads * by_buckets(&format!("read_{name}")) + events * by_buckets(&format!("event_{name}"))) / 1e6
    };
    let follower_load = of_follower("latchkey_us") + by_buckets("idle_latchkey");
    let redis_event = of_follower("redis_us");
    // Each poll answers with all masters.
    let poll = |masters: f64| masters.mul_add(micros("poll_us_per_master"), micros("poll_us"));
    // The polls of three masters are part of what an idle server costs.
    let idle_redis = by_buckets("idle_redis") - MEASURED_MASTERS * POLLS_PER_SECOND * poll(MEASURED_MASTERS);

    // A server follows all events for itself, which leaves it less for requests.
    let for_requests = a.cores.mul_add(a.load, -follower_load);
    let servers = if for_requests > 0.0 { (request_cores / for_requests).ceil().max(2.0) } else { TOO_MANY };
    let redis_follower_cores = servers * (redis_event + idle_redis.max(0.0));
    let mut nodes = 1.0_f64;
    let mut poll_load = 0.0;
    for _ in 0..100 {
        poll_load = servers * POLLS_PER_SECOND * poll(nodes);
        let for_requests = a.load - poll_load;
        if for_requests <= 0.0 {
            nodes = TOO_MANY;
            break;
        }
        nodes = ((redis_request_cores + redis_follower_cores) / for_requests).ceil().max(3.0);
    }

    let mean_events = events / a.peak;
    let kept_events = (mean_events * SECONDS_PER_DAY).min(buckets * STREAM_LENGTH);
    let event_memory = kept_events * constants.get("bytes_per_event");
    let connections = constants.get("connections");
    Needs {
        registers: active,
        memory: active * constants.get("bytes_per_user") + event_memory,
        event_memory,
        validates,
        logins,
        touches,
        commits,
        events,
        buckets,
        hashing_cores,
        request_cores,
        follower_load,
        servers,
        redis_request_cores,
        redis_follower_cores,
        poll_load,
        nodes,
        connections_of_a_node: servers * connections,
        connections_of_a_server: nodes * connections,
    }
}

/// The number of users from which on a condition holds.
pub(crate) fn users_until(
    constants: &Constants,
    assumptions: &Assumptions,
    reached: impl Fn(&Needs) -> bool,
) -> Option<f64> {
    // In steps of a tenth of a percent of the exponent: it is no more exact than that.
    (0..=800).map(|step| 10_f64.powf(4.0 + f64::from(step) / 100.0)).find(|users| {
        let needs = needs(constants, assumptions, *users);
        reached(&needs)
    })
}
