//! The composition root: builds, starts and stops a server. It is the only module that knows all others.
//!
//! Tests and production start the same [`App`], with different settings and clocks.

mod background;
pub mod backup;
mod components;
mod descriptors;
pub mod doctor;
mod gateways;
mod limits;
mod memory;
mod security_warnings;
mod tls;

use std::{fs::File, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::Router;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    background::{Reload, serve_port},
    components::{
        CheckedComponents, Errors, SessionStore, access_settings, accounts_and_callers, admin_key,
        audit_trail, check_config, check_missing_keys, login_limiter, prepare_data_dir, scheme,
        session_store, tokens, webhook_receiver,
    },
};
use crate::{
    admission::{Admission, ConnectionLimiter, Resource},
    config::Config,
    domain::{
        self, Engine, Error, Metrics,
        audit::{Audit, LimitedAudit},
        callers::KnownCallers,
        health::Probes,
        password_service::PasswordService,
        ports::Clock,
        session_events::SessionEvents,
        session_repository::SessionRepository,
        token_service::TokenService,
        webhook::Webhook,
    },
    grpc::{
        self,
        access::Access,
        browser::{Browsers, Pages},
        dispatch::Dispatcher,
        health::Health,
        origin::Origins,
    },
    http::{self, Sources, forward_auth::ForwardAuth},
    isolation::supervisor::{Importance, supervise},
    json::{Json, port::WithJson},
    metrics::store::StoreMetrics,
    store::{audit::AuditTrail, embedded::Database},
    telemetry::MetricsExport,
    transport::{
        connection,
        server::{ConnectionLimits, serve},
        tls::Tls,
    },
};

const DEBT_INTERVAL: Duration = Duration::from_secs(2);
const AUDIT_SUMMARY_INTERVAL: Duration = Duration::from_secs(5);
/// Time to record the latest uses of sessions at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The server could not start, for at least one reason. Each is one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct StartError(pub Vec<String>);

impl From<String> for StartError {
    fn from(sentence: String) -> Self {
        Self(vec![sentence])
    }
}

impl From<&str> for StartError {
    fn from(sentence: &str) -> Self {
        sentence.to_owned().into()
    }
}

/// A running server.
pub struct App {
    /// The address of the gRPC port.
    pub grpc: SocketAddr,
    /// The address of the HTTP port.
    pub http: SocketAddr,
    /// The domain.
    pub engine: Arc<Engine>,
    health: Health,
    grace: Duration,
    shutdown: CancellationToken,
    /// Cancelled when a port has closed although the server is not stopping.
    failed: CancellationToken,
    reload: Reload,
    /// The two ports and the webhook, which end after `shutdown`.
    serving: JoinSet<()>,
    /// The other background tasks, which are aborted at shutdown.
    background: JoinSet<()>,
    /// The write-behind of uses, which ends when all are recorded.
    recording: JoinHandle<()>,
    database: Database,
    audit: Arc<AuditTrail>,
    _lock: Option<File>,
}

impl App {
    /// Starts a server. It accepts requests at once and is healthy once its stores are.
    pub async fn start(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let (CheckedComponents { slots, passwords }, lock) = prepare(config).await?;
        let admin_key = admin_key(config)?;
        let encryption = tls::encryption(config, &clock)?;
        let webhook = webhook_receiver(config, &clock)?;
        let (tokens, rotation) = tokens(config, &*clock)?;
        let database = database(config).await?;
        let metrics = Metrics::default();
        let store_metrics = Arc::<StoreMetrics>::default();
        let SessionStore { sessions, throttle, epoch, deliveries, probe, events } =
            session_store(config, &database, &clock, &metrics, &store_metrics)?
                .cached(config, &store_metrics);
        let (accounts, callers) = accounts_and_callers(config, &database, &store_metrics).await?;

        let audit = Arc::new(audit_trail(config)?);
        let audit_log = LimitedAudit::new(Arc::clone(&audit) as Arc<dyn Audit>);
        let (leeway, tombstone_ttl) = (config.token.leeway, config.session.tombstone_ttl);
        let engine = Arc::new(Engine::new(domain::Services {
            sessions: SessionRepository::new(sessions, epoch, Arc::clone(&clock), leeway, tombstone_ttl),
            passwords: PasswordService::new(
                passwords,
                login_limiter(config, throttle, &clock),
                Arc::clone(&accounts),
                audit_log.clone(),
                Arc::clone(&clock),
            ),
            accounts,
            tokens: TokenService::new(tokens, rotation, Arc::clone(&clock), audit_log.clone()),
            callers: KnownCallers::new(callers, Arc::clone(&clock), config.access.outage_grace),
            events: SessionEvents::new(events, limits::watches(config)),
            slots,
            metrics,
            audit: audit_log,
            clock: Arc::clone(&clock),
            max_staleness: config.validate.max_staleness,
        }));
        let health = Health::not_serving().await;
        let origins = Origins::new(config.trusted_proxies().map_err(|error| error.to_string())?);
        let access = || access(config, &admin_key, &engine, &origins);
        let gateway = gateways::gateway(config, &engine);
        let forward_auth = gateways::forward_auth(config, &gateway, access()?);
        let shutdown = CancellationToken::new();
        let services = grpc::services(
            &gateway,
            access()?,
            &origins,
            &health,
            limits::requests(config),
            config.server.reflection,
            &shutdown,
        )?;
        let rpc_metrics = Arc::clone(services.metrics());
        let services = Services::new(config, services)?;
        let json = services.http(config);

        let (grpc_listener, grpc) = bind("listen.grpc", config.listen.grpc).await?;
        let (http_listener, http) = bind("listen.http", config.listen.http).await?;

        let mut serving = JoinSet::new();
        let tls = encryption.as_ref().map(|encryption| Arc::clone(&encryption.tls));
        let failed = CancellationToken::new();
        let connections = descriptors::connections(config);
        let admission = limits::admission(config, connections.per_port)?;
        let port = serve_grpc(config, &admission, grpc_listener, tls, services, shutdown.clone());
        serving.spawn(serve_port("gRPC port", port, shutdown.clone(), failed.clone()));
        let sources = Sources { admission: Arc::clone(&admission), rpc: rpc_metrics, store: store_metrics };
        let registry = http::registry(&engine, sources);
        start_metrics_export(config, &mut serving, &registry, shutdown.clone())?;
        let limiter = ConnectionLimiter::new(Arc::clone(&admission), Resource::HttpConnections);
        let port =
            serve_http(limiter, http_listener, forward_auth, json, &health, registry, shutdown.clone());
        serving.spawn(serve_port("HTTP port", port, shutdown.clone(), failed.clone()));
        if let Some(receiver) = webhook {
            start_webhook(&mut serving, receiver.webhook(config, &engine, deliveries), shutdown.clone());
        }

        connections.warn();
        security_warnings::log(config, grpc, http);
        let reload = Reload::new();
        let probes = Probes::new(probe, Arc::clone(engine.accounts()), Arc::clone(&clock));
        let certificates =
            encryption.map(|encryption| tls::CertificateReload::new(encryption, config, clock));
        let background = background::start(&engine, &health, probes, &admission, certificates, &reload);
        let recording = start_write_behind(&engine);

        log_start(config, grpc, http);
        Ok(Self {
            grpc,
            http,
            engine,
            health,
            grace: config.server.shutdown_grace,
            shutdown,
            failed,
            reload,
            serving,
            background,
            recording,
            database,
            audit,
            _lock: lock,
        })
    }

    /// Checks a configuration as [`App::start`] does before it opens a store or a port, and returns all errors. Changes
    /// nothing. `found` are the errors of the configuration itself. If keys are missing, it checks whether there are accounts.
    pub async fn check(config: &Config, found: Vec<String>) -> Vec<String> {
        let mut errors = Errors(found);
        check_config(config, &mut errors);
        check_missing_keys(config, false, &mut errors).await;
        errors.0
    }

    /// Reads signing keys and certificates now instead of after their intervals.
    pub fn reload(&self) {
        self.reload.request();
    }

    /// Waits until a port closes although the server is not stopping.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Drains and stops: health reports NOT_SERVING, no connections are accepted, and requests in progress may finish
    /// within `server.shutdown_grace`. Returns false if they did not.
    pub async fn stop(mut self) -> bool {
        self.background.shutdown().await;
        self.health.drain().await;
        self.shutdown.cancel();
        let drained =
            tokio::time::timeout(self.grace, async { while self.serving.join_next().await.is_some() {} })
                .await;
        if drained.is_err() {
            tracing::warn!("requests in progress did not finish within server.shutdown_grace");
        }
        self.serving.shutdown().await;
        self.engine.uses().close();
        if tokio::time::timeout(FLUSH_TIMEOUT, &mut self.recording).await.is_err() {
            self.recording.abort();
            tracing::warn!(
                "failed to record the latest uses of some sessions; these sessions may time out early"
            );
        }
        // Records the last uses of callers.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.engine.callers().flush()).await;
        // Writes the write-ahead log of the database into its file.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.database.close()).await;
        self.engine.audit().close(self.engine.now());
        let audit = self.audit;
        let _ = tokio::task::spawn_blocking(move || audit.flush(Duration::from_secs(1))).await;
        drained.is_ok()
    }
}

/// Checks the configuration and creates the data directory.
async fn prepare(config: &Config) -> Result<(CheckedComponents, Option<File>), StartError> {
    let mut errors = Errors::default();
    let components = check_config(config, &mut errors);
    check_missing_keys(config, true, &mut errors).await;
    match components {
        Some(components) if errors.0.is_empty() => Ok((components, prepare_data_dir(config)?)),
        _ => Err(StartError(errors.0)),
    }
}

async fn database(config: &Config) -> Result<Database, String> {
    let dir = &config.data_dir;
    let opened = Database::open(&dir.join("latchkey.db")).await;
    opened.map_err(|error| format!("cannot open the database in {}: {error}", dir.display()))
}

fn log_start(config: &Config, grpc: SocketAddr, http: SocketAddr) {
    tracing::info!(
        listen.grpc = %grpc,
        listen.http = %http,
        sessions.store = scheme(&config.sessions.url),
        accounts.store = scheme(&config.accounts.url),
        data_dir = %config.data_dir.display(),
        access.admin_key_file = %config.admin_key_file().display(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
}

/// Returns the listener and its address, in which the port is not 0.
async fn bind(key: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let failed = |error| format!("{key}: cannot listen on {address}: {error}");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn access(
    config: &Config,
    admin_key: &[u8],
    engine: &Arc<Engine>,
    origins: &Origins,
) -> Result<Access, String> {
    let settings = access_settings(config)?;
    Ok(Access::new(admin_key, settings, Arc::clone(engine), origins.clone()))
}

fn start_write_behind(engine: &Arc<Engine>) -> JoinHandle<()> {
    let engine = Arc::clone(engine);
    let recording = async move || engine.record_uses().await;
    tokio::spawn(supervise("write-behind of uses", Importance::Deferrable, recording))
}

fn start_webhook(serving: &mut JoinSet<()>, webhook: Webhook, stop: CancellationToken) {
    let delivering = async move || webhook.run(&stop).await;
    serving.spawn(supervise("webhook delivery", Importance::Deferrable, delivering));
}

async fn settle_debts(engine: Arc<Engine>) {
    loop {
        match engine.settle_debts().await {
            Ok(_) => {}
            // Health logs outages.
            Err(Error::Store(error)) if error.is_transient() => {}
            Err(error) => {
                tracing::error!(error.message = %error, "failed to settle debts of account changes");
            }
        }
        tokio::time::sleep(DEBT_INTERVAL).await;
    }
}

fn start_metrics_export(
    config: &Config,
    serving: &mut JoinSet<()>,
    registry: &Arc<Registry>,
    stop: CancellationToken,
) -> Result<(), String> {
    if let Some(export) = MetricsExport::new(&config.otlp)? {
        let registry = Arc::clone(registry);
        let gather = move || http::text(&registry).unwrap_or_default();
        let exporting = async move || export.run(&gather, &stop).await;
        serving.spawn(supervise("metrics export", Importance::Deferrable, exporting));
    }
    Ok(())
}

fn serve_http(
    limiter: ConnectionLimiter,
    listener: TcpListener,
    forward_auth: ForwardAuth,
    json: Option<Router>,
    health: &Health,
    registry: Arc<Registry>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let condition = health.condition();
    async move { http::serve(listener, forward_auth, json, condition, &limiter, registry, shutdown).await }
}

/// Serves the gRPC port, for browsers too if `browser.origins` is set, and with JSON too if it is given.
fn serve_grpc(
    config: &Config,
    admission: &Arc<Admission>,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    services: Services,
    shutdown: CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let Services { dispatcher, pages, json } = services;
    let limits = limits::connections(config);
    let limiter = ConnectionLimiter::new(Arc::clone(admission), Resource::GrpcConnections);
    let json = json.filter(|_| config.listen.grpc_json);
    let browsers = (!pages.is_empty()).then(|| Arc::new(Browsers::new(Arc::clone(&dispatcher), pages)));
    let port = Port { listener, limiter, tls, limits, shutdown };
    match (browsers, json) {
        (None, None) => Box::pin(port.serve(dispatcher)),
        (Some(browsers), None) => Box::pin(port.serve(browsers)),
        (None, Some(json)) => Box::pin(port.serve(Arc::new(WithJson::new(dispatcher, json)))),
        (Some(browsers), Some(json)) => Box::pin(port.serve(Arc::new(WithJson::new(browsers, json)))),
    }
}

/// The services of the two ports.
struct Services {
    dispatcher: Arc<Dispatcher>,
    pages: Arc<Pages>,
    /// If a port serves JSON.
    json: Option<Arc<Json>>,
}

impl Services {
    fn new(config: &Config, dispatcher: Dispatcher) -> Result<Self, String> {
        let (dispatcher, pages) = (Arc::new(dispatcher), Arc::new(gateways::pages(config)?));
        let json = (config.listen.json || config.listen.grpc_json)
            .then(|| Json::new(Arc::clone(&dispatcher), Arc::clone(&pages), gateways::oauth(config)))
            .map(|json| json.map(Arc::new));
        Ok(Self { json: json.transpose()?, dispatcher, pages })
    }

    /// The router of the HTTP port for JSON.
    fn http(&self, config: &Config) -> Option<Router> {
        self.json.clone().filter(|_| config.listen.json).map(Json::router)
    }
}

/// The gRPC port.
struct Port {
    listener: TcpListener,
    limiter: ConnectionLimiter,
    tls: Option<Arc<Tls>>,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
}

impl Port {
    async fn serve<S: connection::Services>(self, services: Arc<S>) {
        serve(self.listener, &self.limiter, self.tls, services, self.limits, self.shutdown).await;
    }
}

async fn record_audit_summaries(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(AUDIT_SUMMARY_INTERVAL).await;
        engine.audit().record_summaries(engine.now());
    }
}
