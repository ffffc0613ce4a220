//! Checks that a configuration works and is safe.

mod browser;
mod gateway;
mod otlp;

use std::time::Duration;

use humantime::format_duration;

use super::{CacheSize, ClientCertificate, Config, ConfigError, base_url};
use crate::domain::{password::Argon2Params, sessions::MAX_TOMBSTONES, webhook::secret::Secret};

/// The errors of a configuration, each once.
#[derive(Default)]
pub(super) struct Errors(pub(super) Vec<ConfigError>);

impl Errors {
    pub(super) fn add(&mut self, message: impl Into<String>) {
        let error = ConfigError(message.into());
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    /// Adds the error of a result, or returns its value.
    pub(super) fn take<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|ConfigError(message)| self.add(message)).ok()
    }
}

/// Adds the reasons why the configuration cannot work or is not safe.
pub(super) fn check(config: &Config, errors: &mut Errors) {
    let listen = &config.listen;
    if listen.grpc == listen.http && listen.grpc.port() != 0 {
        errors.add(format!("listen.grpc and listen.http are both {}: choose two ports", listen.grpc));
    }
    if !listen.http_url.is_empty() && base_url(&listen.http_url).is_none() {
        errors.add(
            "listen.http_url is not a URL such as https://auth.example.com, without user, query and fragment",
        );
    }
    sessions(config, errors);
    accounts(config, errors);
    if !config.sessions.password.is_empty() && !config.sessions.password_file.is_empty() {
        errors.add("sessions.password and sessions.password_file are both set: remove one");
    }
    if !config.sessions.sentinel_password.is_empty() && !config.sessions.sentinel_password_file.is_empty() {
        errors.add("sessions.sentinel_password and sessions.sentinel_password_file are both set: remove one");
    }
    if !(Duration::from_millis(1)..=Duration::from_mins(1)).contains(&config.sessions.durability_timeout) {
        errors.add("sessions.durability_timeout must be 1ms to 1m");
    }
    if config.sessions.key_prefix.is_empty() || config.sessions.key_prefix.contains(['{', '}']) {
        errors.add("sessions.key_prefix must not be empty or contain braces");
    }
    if config.token.issuer.is_empty() || config.token.audience.is_empty() {
        errors.add("token.issuer and token.audience must not be empty");
    }
    if config.token.leeway > Duration::from_mins(5) {
        errors.add(format!(
            "token.leeway must be at most 5m, not {}: synchronise the clocks instead",
            format_duration(config.token.leeway)
        ));
    }
    if config.token.reload_interval.is_zero() || config.server.connection_age.is_zero() {
        errors.add("token.reload_interval and server.connection_age must not be 0s");
    }
    if config.token.reload_interval > Duration::from_hours(24) {
        errors.add(format!(
            "token.reload_interval must be at most 24h, not {}",
            format_duration(config.token.reload_interval)
        ));
    }
    if config.token.activation_delay() < config.token.reload_interval
        || config.token.activation_delay() > Duration::from_hours(24 * 30)
    {
        errors.add(
            "token.activation_delay must be at least token.reload_interval, so that every server has read a key before it signs, and at most 30d",
        );
    }
    let server = &config.server;
    let limits = [
        server.max_connections,
        server.max_requests,
        server.max_streams as usize,
        server.max_open_streams,
        server.max_watches,
        server.max_watches_per_session,
        server.max_watches_per_user,
        server.max_unfinished_mib,
    ];
    if limits.contains(&0) {
        errors.add("the limits server.max_... must not be 0: raise the one that is");
    }
    if !(1..=100).contains(&server.client_share_percent) {
        errors.add(format!(
            "server.client_share_percent must be 1 to 100, not {}",
            server.client_share_percent
        ));
    }
    if server.body_timeout.is_zero() {
        errors.add("server.body_timeout must not be 0s");
    }
    if let CacheSize::Mib(mib @ 1_048_577..) = config.validate.cache_mib {
        errors.add(format!("validate.cache_mib must be at most 1048576, not {mib}"));
    }
    throttle(config, errors);
    tls(config, errors);
    webhook(config, errors);
    errors.take(otlp::check(&config.otlp));
    errors.take(gateway::check(&config.gateway));
    errors.take(browser::check(&config.browser));
    errors.take(browser::cookie(&config.browser, &config.gateway.cookie));
    password(config, errors);
}

fn sessions(config: &Config, errors: &mut Errors) {
    let session = &config.session;
    if session.slots.is_empty() {
        errors.add("session.slots must name at least one slot");
    }
    let Some(policies) = errors.take(config.slot_policies()) else { return };
    for (index, (slot, policy)) in policies.iter().enumerate() {
        if policies[..index].iter().any(|(other, _)| other == slot) {
            errors.add(format!("session.slots lists \"{}\" twice: remove one", slot.as_str()));
            continue;
        }
        let own = config.slot.get(slot.as_str());
        // The key that takes effect.
        let key = |name: &str, is_own: bool| {
            if is_own { format!("slot.{}.{name}", slot.as_str()) } else { format!("session.{name}") }
        };
        let idle = key("idle_timeout", own.is_some_and(|own| own.idle_timeout.is_some()));
        let absolute = key("absolute_timeout", own.is_some_and(|own| own.absolute_timeout.is_some()));
        let limit = key("limit", own.is_some_and(|own| own.limit.is_some()));
        if policy.idle_timeout > policy.absolute_timeout {
            errors.add(format!(
                "{idle} is longer than {absolute}, so it could never take effect: shorten it or lengthen the other"
            ));
        }
        if policy.idle_timeout < Duration::from_millis(100)
            || policy.absolute_timeout < Duration::from_secs(1)
        {
            errors.add(format!(
                "{idle} must be at least 100ms and {absolute} at least 1s, not {} and {}",
                format_duration(policy.idle_timeout),
                format_duration(policy.absolute_timeout)
            ));
        }
        if policy.absolute_timeout > Duration::from_hours(24 * 400) {
            errors.add(format!(
                "{absolute} must be at most 400d, not {}",
                format_duration(policy.absolute_timeout)
            ));
        }
        if policy.limit.get() > 16 {
            errors.add(format!("{limit} must be 1 to 16, not {}", policy.limit));
        }
    }
    if let Some(unknown) = config.slot.keys().find(|name| !session.slots.contains(name)) {
        errors.add(format!(
            "slot.{unknown} has rules, but session.slots does not list it: add it there, or remove the rules; session.slots is: {}",
            session.slots.join(", ")
        ));
    }
    if session.kick_war_changes > MAX_TOMBSTONES {
        errors.add(format!(
            "session.kick_war_changes must be 0 to {MAX_TOMBSTONES}, not {}",
            session.kick_war_changes
        ));
    }
    if session.kick_war_changes > 0
        && (session.kick_war_window.is_zero() || session.kick_war_window > session.tombstone_ttl)
    {
        errors.add(
            "session.kick_war_window must be more than 0s and at most session.tombstone_ttl, for which changes are remembered"
                ,
        );
    }
}

fn tls(config: &Config, errors: &mut Errors) {
    let tls = &config.tls;
    if tls.certificate_file.is_empty() != tls.key_file.is_empty() {
        errors.add("tls.certificate_file and tls.key_file go together: set both, or neither");
    }
    if !tls.client_ca_file.is_empty() && !tls.is_on() {
        errors.add("tls.client_ca_file needs TLS: set tls.certificate_file and tls.key_file");
    }
    if tls.client_certificate == ClientCertificate::Required && tls.client_ca_file.is_empty() {
        errors.add(
            "tls.client_certificate is \"required\", so tls.client_ca_file must name the certificate authority to trust: set it",
        );
    }
    if errors.take(config.certificates()).is_some_and(|certificates| !certificates.is_empty())
        && tls.client_ca_file.is_empty()
    {
        errors.add(
            "access.certificates lists client certificates, so tls.client_ca_file must name the certificate authority to trust: set it",
        );
    }
    if tls.reload_interval.is_zero() {
        errors.add("tls.reload_interval must not be 0s");
    }
    if config.access.outage_grace > Duration::from_hours(24) {
        errors.add(format!(
            "access.outage_grace must be at most 24h, not {}",
            format_duration(config.access.outage_grace)
        ));
    }
}

fn accounts(config: &Config, errors: &mut Errors) {
    let accounts = &config.accounts;
    if !accounts.password.is_empty() && !accounts.password_file.is_empty() {
        errors.add("accounts.password and accounts.password_file are both set: remove one");
    }
    if accounts.max_connections.get() > 10_000 {
        errors.add(format!("accounts.max_connections must be 1 to 10000, not {}", accounts.max_connections));
    }
    let allowed = Duration::from_millis(10)..=Duration::from_hours(1);
    if !allowed.contains(&accounts.connect_timeout) || !allowed.contains(&accounts.query_timeout) {
        errors.add(format!(
            "accounts.connect_timeout and accounts.query_timeout must be 10ms to 1h, not {} and {}",
            format_duration(accounts.connect_timeout),
            format_duration(accounts.query_timeout)
        ));
    }
    if accounts.lookup.trim().is_empty() {
        if !accounts.lookup_by_id.is_empty() || !accounts.update_hash.is_empty() {
            errors.add(
                "accounts.lookup_by_id and accounts.update_hash need accounts.lookup: set it, or remove them",
            );
        }
    } else if accounts.url == "embedded:" {
        errors.add(
            "accounts.lookup needs accounts.url: set the URL of the database with the table, such as postgres://latchkey@db/shop",
        );
    }
}

/// The largest number of entries of `password.blocklist`, which are kept in memory.
const MAX_BLOCKLIST: usize = 10_000;

fn password(config: &Config, errors: &mut Errors) {
    let password = &config.password;
    let weak = password.memory_kib < 19456 || password.iterations < 2 || password.parallelism < 1;
    if weak && !password.allow_weak {
        errors.add(
            "password.memory_kib, password.iterations and password.parallelism are below 19456, 2 and 1: raise them, or set password.allow_weak = true for tests"
                ,
        );
    }
    let shortest = if password.allow_weak { 0 } else { 8 };
    if !(shortest..=64).contains(&password.min_length) {
        errors.add(
            "password.min_length must be 8 to 64; below 8 only with password.allow_weak = true, for tests",
        );
    }
    if password.blocklist.len() > MAX_BLOCKLIST {
        errors.add("password.blocklist must have at most 10,000 entries");
    }
    if password.blocklist.iter().any(|entry| entry.trim().is_empty()) {
        errors.add("password.blocklist has an empty entry: remove it");
    }
    let params = Argon2Params {
        memory_kib: password.memory_kib,
        iterations: password.iterations,
        parallelism: password.parallelism,
    };
    let is_valid = params.is_affordable()
        && params.iterations >= 1
        && params.parallelism >= 1
        && params.memory_kib >= 8 * params.parallelism;
    if !is_valid || password.threads > 1024 || password.queue > 1_000_000 {
        errors.add(
            "password: memory_kib must be 8 to 1048576 and at least 8 times parallelism, iterations and parallelism 1 to 64, memory_kib times iterations at most 4194304, threads at most 1024, queue at most 1000000"
                ,
        );
    }
}

fn webhook(config: &Config, errors: &mut Errors) {
    let webhook = &config.webhook;
    let secret = webhook.secret.0.as_str();
    if !secret.is_empty() && !webhook.secret_file.is_empty() {
        errors.add("webhook.secret and webhook.secret_file are both set: remove one");
    }
    if !secret.is_empty() {
        errors.take(Secret::parse(secret).map_err(|error| ConfigError(format!("webhook.secret {error}"))));
    }
    if errors.take(config.webhook_url()).flatten().is_some()
        && secret.is_empty()
        && webhook.secret_file.is_empty()
    {
        errors.add(
            "webhook.url needs a secret to sign with, which the receiver shares: set webhook.secret or webhook.secret_file",
        );
    }
    if !(Duration::from_millis(100)..=Duration::from_mins(5)).contains(&webhook.timeout) {
        errors.add(format!("webhook.timeout must be 100ms to 5m, not {}", format_duration(webhook.timeout)));
    }
    if !(1..=1000).contains(&webhook.batch) {
        errors.add(format!("webhook.batch must be 1 to 1000, not {}", webhook.batch));
    }
}

fn throttle(config: &Config, errors: &mut Errors) {
    let throttle = &config.throttle;
    if !(1..=100).contains(&throttle.max_failures) {
        errors.add("throttle.max_failures must be 1 to 100: NIST SP 800-63B-4 allows no more");
    }
    if throttle.free_attempts == 0 || throttle.free_attempts > throttle.max_failures {
        errors.add("throttle.free_attempts must be at least 1 and at most throttle.max_failures");
    }
    if throttle.first_wait.is_zero() || throttle.first_wait > throttle.longest_wait {
        errors.add("throttle.first_wait must be above 0s and at most throttle.longest_wait");
    }
    if throttle.longest_wait > Duration::from_hours(24) {
        errors.add("throttle.longest_wait must be at most 24h");
    }
    let window = throttle.address_window;
    if throttle.address_failures > 1_000_000
        || !(Duration::from_secs(1)..=Duration::from_hours(24 * 30)).contains(&window)
    {
        errors.add("throttle.address_failures must be at most 1000000 and throttle.address_window 1s to 30d");
    }
    errors.take(config.trusted_proxies());
}
