//! The stores: reachable, of a version that works, durable, and with a clock like that of this machine.

use std::time::Duration;

use super::{Findings, machine::Server};
use crate::{
    app::components::{accounts as settings, is_embedded, redis_settings},
    config::Config,
    domain::{ports::StoreError, types::Timestamp},
    store::{
        embedded,
        redis::{self, Durability, ServerFacts},
        sql::{self, DatabaseFacts, ExternalUsers, Settings},
    },
};

/// The oldest version of Redis that has everything that Latchkey needs.
const MIN_REDIS: u32 = 7;
/// A clock that differs by more is reported. It needs attention before it exceeds `token.leeway`.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

pub(super) async fn sessions(config: &Config, server: Server, found: &mut Findings) {
    if is_embedded(config) {
        return embedded_store(config, server, found).await;
    }
    // An invalid setting is an error of the configuration.
    let Ok(settings) = redis_settings(config) else {
        return found.not_checked("sessions", "its settings are invalid", "correct them");
    };
    let inspection = match redis::inspect(&settings, &config.sessions.key_prefix).await {
        Ok(inspection) => inspection,
        Err(error) => return found.error("sessions", error, "correct sessions.url"),
    };
    let has_failover = inspection.has_failover;
    for problem in inspection.problems {
        found.warning(
            "sessions",
            problem,
            "look at the Sentinels or the cluster, and list all of them in sessions.url",
        );
    }
    if inspection.primaries.is_empty() {
        found.outage(
            "sessions",
            "no server of sessions.url names a primary",
            "start Redis, or correct sessions.url",
        );
    }
    for (address, facts) in inspection.primaries {
        match facts {
            Err(error) => {
                let remedy =
                    "start Redis, let this machine reach it, or correct sessions.url and its password";
                let what = format!("{address}: {error}");
                if error.is_outage {
                    found.outage("sessions", what, remedy);
                } else {
                    found.error("sessions", what, remedy);
                }
            }
            Ok(facts) => redis_server(config, &address, &facts, settings.durability, has_failover, found),
        }
    }
}

async fn embedded_store(config: &Config, server: Server, found: &mut Findings) {
    let path = config.data_dir.join("latchkey.db");
    if !path.exists() {
        return found
            .ok("sessions", format!("there is no {} yet: the first start creates it", path.display()));
    }
    match embedded::has_accounts(&path).await {
        Ok(_) => {
            let what = if server == Server::Running { "is in use by a server, and" } else { "exists, and" };
            found.ok("sessions", format!("{} {what} can be read", path.display()));
        }
        Err(error) => found.error("sessions", error.to_string(), "restore it from a backup"),
    }
}

fn redis_server(
    config: &Config,
    address: &str,
    facts: &ServerFacts,
    durability: Durability,
    has_failover: bool,
    found: &mut Findings,
) {
    clock(config, "sessions.clock", address, facts.clocks, found);
    match facts.buckets {
        Some(recorded) if recorded != 0 && recorded != config.sessions.buckets => found.error(
            "sessions.buckets",
            format!(
                "{address}: sessions.buckets is {}, but the store was made with {recorded}",
                config.sessions.buckets
            ),
            format!("set sessions.buckets = {recorded}"),
        ),
        Some(0) => found.ok("sessions.buckets", format!("{address}: the store is new")),
        _ => {}
    }
    let Some(info) = &facts.info else {
        let remedy = "allow it with `ACL SETUSER <user> +info`, or look at Redis yourself: maxmemory-policy must be noeviction";
        for check in ["sessions.version", "sessions.eviction", "sessions.persistence", "sessions.replicas"] {
            found.not_checked(check, format!("{address}: the Redis user may not send INFO"), remedy);
        }
        return;
    };
    let field = |name: &str| info.get(name).map(String::as_str);
    let (name, version) = match field("valkey_version") {
        Some(version) => ("Valkey", version),
        None => ("Redis", field("redis_version").unwrap_or_default()),
    };
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major < MIN_REDIS => found.error(
            "sessions.version",
            format!("{address}: {name} {version} is too old"),
            "use Redis 7 or later, or Valkey",
        ),
        Some(_) => found.ok("sessions.version", format!("{address}: {name} {version}")),
        None => found.not_checked(
            "sessions.version",
            format!("{address}: INFO has no version"),
            "use Redis 7 or later, or Valkey",
        ),
    }
    eviction(address, &field, found);
    persistence(address, facts, &field, found);
    replicas(address, durability, has_failover, &field, found);
}

type Field<'a> = dyn Fn(&str) -> Option<&'a str> + 'a;

fn eviction(address: &str, field: &Field<'_>, found: &mut Findings) {
    let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
    match field("maxmemory_policy") {
        Some("noeviction") => match (number("used_memory"), number("maxmemory")) {
            (Some(used), Some(limit @ 1..)) if used > limit / 10 * 9 => found.warning(
                "sessions.eviction",
                format!(
                    "{address}: {} of {} MiB are used; at the limit logins and logouts fail",
                    used >> 20,
                    limit >> 20
                ),
                "raise maxmemory",
            ),
            _ => found.ok("sessions.eviction", format!("{address}: maxmemory-policy is noeviction")),
        },
        Some(policy) => found.error(
            "sessions.eviction",
            format!(
                "{address}: with maxmemory-policy {policy} Redis may drop sessions when its memory is full"
            ),
            "run `CONFIG SET maxmemory-policy noeviction`, and set it in redis.conf",
        ),
        None => found.not_checked(
            "sessions.eviction",
            format!("{address}: INFO has no maxmemory_policy"),
            "set maxmemory-policy noeviction",
        ),
    }
}

fn persistence(address: &str, facts: &ServerFacts, field: &Field<'_>, found: &mut Findings) {
    let setting = |name: &str| facts.configuration.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let check = "sessions.persistence";
    for (what, name) in
        [("append-only file", "aof_last_write_status"), ("snapshot", "rdb_last_bgsave_status")]
    {
        if field(name) == Some("err") {
            let message = format!("{address}: the last write of the {what} has failed");
            found.error(check, message, "look into the log of Redis: its disk may be full or not writable");
        }
    }
    if field("aof_enabled") == Some("1") {
        match setting("appendfsync") {
            Some("no") => found.warning(
                check,
                format!("{address}: with appendfsync no, a crash of the machine loses what the system has not written yet"),
                "set appendfsync everysec or always",
            ),
            Some(policy) => found.ok(check, format!("{address}: appendonly yes, appendfsync {policy}")),
            None => {
                let why = format!("{address}: appendonly is yes, but the Redis user may not read appendfsync (CONFIG GET)");
                found.not_checked(check, why, "set appendfsync everysec or always");
            }
        }
        return;
    }
    let remedy = "set appendonly yes";
    match setting("save") {
        Some("") => found.warning(check, format!("{address}: nothing is stored on disk: after a restart of Redis every session is gone"), remedy),
        Some(points) => found.warning(
            check,
            format!("{address}: only snapshots are stored (save {points}): a restart of Redis loses the logins and logouts since the last one"),
            remedy,
        ),
        None => found.warning(
            check,
            format!("{address}: appendonly is no: a restart of Redis loses at least the logins and logouts since the last snapshot"),
            remedy,
        ),
    }
}

fn replicas(
    address: &str,
    durability: Durability,
    has_failover: bool,
    field: &Field<'_>,
    found: &mut Findings,
) {
    let check = "sessions.replicas";
    let listed = field("connected_slaves").and_then(|count| count.parse::<u32>().ok()).unwrap_or_default();
    // A replica that still copies the data can neither confirm a commit nor be promoted.
    let is_online =
        |number| field(&format!("slave{number}")).is_some_and(|replica| replica.contains("state=online"));
    let online = u32::try_from((0..listed).filter(|number| is_online(*number)).count()).unwrap_or(u32::MAX);
    let what = format!("{address}: replicas online: {online}");
    let Durability::Replicas { count, .. } = durability else {
        if has_failover && online == 0 {
            let remedy = "start a replica: without one nothing can be promoted if this server fails";
            return found.warning(check, what, remedy);
        }
        return found.ok(check, what);
    };
    if online < count {
        let remedy = "start replicas, or lower N in sessions.durability = \"replicas:N\"";
        found.error(check, format!("{what}, and logins fail with fewer than {count}"), remedy);
    } else {
        found.ok(check, format!("{what}, of which sessions.durability needs {count}"));
    }
    // The field exists only if min-replicas-to-write is set.
    if field("min_slaves_good_slaves").is_none() {
        found.warning(
            check,
            format!("{address}: a primary that is cut off from its replicas goes on accepting writes"),
            format!("set min-replicas-to-write to {count}"),
        );
    }
}

fn clock(
    config: &Config,
    check: &'static str,
    address: &str,
    clocks: Option<(Timestamp, Timestamp)>,
    found: &mut Findings,
) {
    let Some((theirs, ours)) = clocks else {
        return found.not_checked(
            check,
            format!("{address}: it does not tell its time"),
            "synchronise all clocks with NTP",
        );
    };
    let (skew, direction) =
        if theirs > ours { (theirs.since(ours), "ahead of") } else { (ours.since(theirs), "behind") };
    let millis = Duration::from_millis(u64::try_from(skew.as_millis()).unwrap_or(u64::MAX));
    let what = format!(
        "{address}: its clock is {} {direction} that of this machine",
        humantime::format_duration(millis)
    );
    let remedy = "synchronise both clocks with NTP: tokens, timeouts and expiries depend on them";
    if skew > config.token.leeway.max(CLOCK_TOLERANCE) {
        found.error(check, what, remedy);
    } else if skew > CLOCK_TOLERANCE {
        found.warning(check, what, remedy);
    } else {
        found.ok(check, format!("{address}: its clock agrees with that of this machine"));
    }
}

pub(super) async fn accounts(config: &Config, found: &mut Findings) {
    if let Some(settings) = settings::external_settings(config) {
        match settings {
            Ok(settings) => {
                let is_reachable = database(
                    config,
                    "accounts",
                    "accounts.url",
                    &settings,
                    settings::lookup(config).is_none(),
                    found,
                )
                .await;
                if let (true, Some(lookup)) = (is_reachable, settings::lookup(config))
                    && let Err(error) = ExternalUsers::open(&settings, &lookup).await
                {
                    found.error(
                        "accounts",
                        error,
                        "correct the statement, or the rights of the database user",
                    );
                }
            }
            Err(error) => return found.not_checked("accounts", error, "correct the setting"),
        }
    }
    match settings::exist(config).await {
        Ok(Some(true)) => found.ok("accounts", "there are accounts"),
        Ok(Some(false)) => {
            found.ok("accounts", "there are no accounts yet: `latchkey account add` creates one");
        }
        Ok(None) => found.ok("accounts", "accounts belong to another system"),
        // A database that does not answer was reported above, and a damaged file with the sessions.
        Err(_) => {}
    }
}

pub(super) async fn callers(config: &Config, found: &mut Findings) {
    let Some(settings) = settings::external_callers_settings(config) else { return };
    database(config, "callers", "access.callers_url", &settings, true, found).await;
}

/// Returns whether the database answers.
async fn database(
    config: &Config,
    check: &'static str,
    setting: &str,
    settings: &Settings,
    has_own_tables: bool,
    found: &mut Findings,
) -> bool {
    let facts = match sql::inspect(settings).await {
        Ok(Some(facts)) => facts,
        Ok(None) => {
            found.ok(check, format!("{setting}: the file does not exist yet: the first start creates it"));
            return false;
        }
        Err(StoreError::Unavailable { cause, .. }) => {
            let remedy = format!(
                "start the database, let this machine reach it, or correct {setting} and its password"
            );
            found.outage(check, format!("{setting}: {cause}"), remedy);
            return false;
        }
        Err(StoreError::Corrupt { cause, .. }) => {
            let remedy = format!("correct {setting}, or the rights of its user");
            found.error(check, format!("{setting}: {cause}"), remedy);
            return false;
        }
    };
    let DatabaseFacts { address, version, schema, needed_schema, clocks } = facts;
    found.ok(check, format!("{address} answers{}{version}", if version.is_empty() { "" } else { ": " }));
    if clocks.is_some() {
        clock(
            config,
            if check == "accounts" { "accounts.clock" } else { "callers.clock" },
            &address,
            clocks,
            found,
        );
    }
    if has_own_tables {
        let name = if check == "accounts" { "accounts.schema" } else { "callers.schema" };
        match schema {
            None => found
                .ok(name, format!("{address}: the tables do not exist yet: the first start creates them")),
            Some(schema) if schema > needed_schema => found.error(
                name,
                format!(
                    "{address}: the tables have version {schema}, and this program knows only {needed_schema}"
                ),
                "start the newer version of Latchkey",
            ),
            Some(schema) if schema < needed_schema => found.warning(
                name,
                format!(
                    "{address}: the tables have version {schema}, and this program needs {needed_schema}"
                ),
                "the next start upgrades them: make a backup before",
            ),
            Some(schema) => found.ok(name, format!("{address}: the tables have version {schema}")),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::doctor::Severity;

    #[test]
    fn a_clock_that_differs_is_reported() {
        let config = Config::load(None, []).unwrap();
        let ours = Timestamp::from_secs(1_800_000_000);
        let severity = |theirs| {
            let mut found = Findings::default();
            clock(&config, "sessions.clock", "redis", Some((theirs, ours)), &mut found);
            (found.0[0].severity, found.0[0].message.clone())
        };
        let after = |millis| severity(ours.after(Duration::from_millis(millis)));
        assert_eq!(after(900).0, Severity::Ok);
        assert_eq!(
            after(1500),
            (Severity::Warning, "redis: its clock is 1s 500ms ahead of that of this machine".into())
        );
        assert_eq!(after(5500).0, Severity::Error, "token.leeway is 5s");
        let behind = severity(ours.before(Duration::from_mins(10)));
        assert_eq!(behind, (Severity::Error, "redis: its clock is 10m behind that of this machine".into()));
    }
}
