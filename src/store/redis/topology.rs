//! The servers of a store, and which of them is the primary of a bucket.
//!
//! A single server is the primary of all buckets. Sentinels (`sentinel`) name the primary of all buckets; in a cluster
//! (`cluster`) each hash slot has a primary. For both a thread keeps the table of [`Routes`] up to date.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use arc_swap::ArcSwap;
use tokio::{
    runtime::{self, Handle},
    sync::{Notify, oneshot},
};

use super::{
    NAME,
    agreement::Agreed,
    cluster::ClusterWatch,
    connect::{Connector, PushHandler},
    connection::{ConnectionKind, SupervisedConnection},
    preparation::Preparation,
    sentinel::SentinelWatch,
    settings::RedisSettings,
    url::{Endpoint, Servers},
};
use crate::{
    domain::ports::StoreError,
    isolation::supervisor::{Importance, supervise},
};

/// The kinds of topologies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopologyKind {
    Single,
    Sentinel,
    Cluster,
}

/// The servers of a store.
pub(super) struct Topology {
    pub(super) kind: TopologyKind,
    routes: Arc<Routes>,
    nodes: Arc<Nodes>,
    /// Nodes that a hash slot is being moved to and that have none yet.
    importing: Mutex<HashMap<Endpoint, Arc<Node>>>,
    /// Wakes the thread that keeps the routes up to date.
    refresh: Arc<Notify>,
    _watching: Option<Watching>,
}

/// A thread that keeps the routes up to date until this is dropped. A lease ends if it is not renewed in time, so the
/// watch does not wait for a turn among the requests of the server.
struct Watching {
    _stop: oneshot::Sender<()>,
}

impl Watching {
    fn start(watch: impl AsyncFnMut() + Send + 'static) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("failed to start a thread that watches Redis: {error}");
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = supervise("redis watch", Importance::Deferrable, watch) => {}
                    _ = stopped => {}
                }
            });
        };
        thread::Builder::new().name("redis-watch".into()).spawn(run).map_err(failed)?;
        Ok(Self { _stop: stop })
    }
}

impl Topology {
    /// Starts to connect in the background.
    pub(super) fn start(
        settings: &RedisSettings,
        preparation: impl FnOnce(Weak<Routes>) -> Preparation,
    ) -> Result<Self, String> {
        settings.check()?;
        let settings = Arc::new(settings.clone());
        let routes = Arc::new(Routes::default());
        let preparation = Arc::new(preparation(Arc::downgrade(&routes)));
        let hash_slots = preparation.layout.hash_slots();
        let nodes =
            Arc::new(Nodes { settings: Arc::clone(&settings), preparation, runtime: Handle::current() });
        let refresh = Arc::new(Notify::new());
        let (kind, watching) = match settings.parse_url()?.servers {
            Servers::Single(endpoint) => {
                let node = Some(nodes.node(&endpoint));
                routes.set(vec![Route { node, ..Route::default() }]);
                (TopologyKind::Single, None)
            }
            Servers::Sentinel { sentinels, master } => {
                let watch = SentinelWatch::new(
                    settings,
                    sentinels,
                    master,
                    Arc::clone(&routes),
                    Arc::clone(&nodes),
                    Arc::clone(&refresh),
                );
                (TopologyKind::Sentinel, Some(Watching::start(async move || watch.run().await)?))
            }
            Servers::Cluster { seeds } => {
                let watch = ClusterWatch::new(
                    settings,
                    seeds,
                    hash_slots,
                    Arc::clone(&routes),
                    Arc::clone(&nodes),
                    Arc::clone(&refresh),
                );
                (TopologyKind::Cluster, Some(Watching::start(async move || watch.run().await)?))
            }
        };
        Ok(Self { kind, routes, nodes, importing: Mutex::default(), refresh, _watching: watching })
    }

    /// Returns the primary of a bucket if it may be used.
    pub(super) fn primary(&self, bucket: u16) -> Result<Arc<Node>, StoreError> {
        self.routes.primary(bucket)
    }

    /// Returns the number of the node of a bucket. Registers with the same number are read together.
    pub(super) fn node_index(&self, bucket: u16) -> usize {
        usize::from(route(&self.routes.table.load(), bucket).index)
    }

    /// Returns the nodes with the buckets that they are the primaries of, whether or not they may be used.
    pub(super) fn buckets_by_node(&self, buckets: u16) -> Vec<(Arc<Node>, Vec<u16>)> {
        let table = self.routes.table.load();
        let mut nodes: Vec<(Arc<Node>, Vec<u16>)> = Vec::new();
        for bucket in 0..buckets {
            let Some(node) = &route(&table, bucket).node else { continue };
            match nodes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, node)) {
                Some((_, buckets)) => buckets.push(bucket),
                None => nodes.push((Arc::clone(node), vec![bucket])),
            }
        }
        nodes
    }

    /// Returns the node at the other end of an `ASK` redirection.
    pub(super) async fn importing(&self, endpoint: &Endpoint) -> Arc<Node> {
        let table = self.routes.table.load_full();
        let known = table.iter().filter_map(|route| route.node.as_ref());
        if let Some(node) = known.into_iter().find(|node| node.endpoint == *endpoint) {
            return Arc::clone(node);
        }
        let node = {
            let mut importing = self.importing.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that have finished are in the table.
            if !importing.contains_key(endpoint) {
                importing.retain(|endpoint, _| {
                    table
                        .iter()
                        .all(|route| route.node.as_ref().is_none_or(|node| node.endpoint != *endpoint))
                });
            }
            Arc::clone(importing.entry(endpoint.clone()).or_insert_with(|| self.nodes.node(endpoint)))
        };
        node.requests.permit();
        node.requests.first_attempt().await;
        node
    }

    /// Returns the connection for events of a node.
    pub(super) fn events<'a>(
        &self,
        node: &'a Node,
        push_handler: impl FnOnce() -> Option<PushHandler>,
    ) -> &'a SupervisedConnection {
        node.events.get_or_init(|| {
            let connector = self.nodes.connector(&node.endpoint, ConnectionKind::Events, push_handler());
            let connection = SupervisedConnection::start(connector, &self.nodes.runtime);
            connection.permit();
            connection
        })
    }

    /// Has the routes checked soon, because a server has sent a request elsewhere.
    pub(super) fn refresh(&self) {
        self.refresh.notify_one();
    }
}

/// The primary of each bucket.
pub(super) struct Routes {
    /// By bucket. A table of one route is for all buckets.
    table: ArcSwap<Vec<Route>>,
    /// The number of buckets was found to be that of the store.
    verified: AtomicBool,
    /// Why there is no primary that may be used, for messages.
    problem: ArcSwap<String>,
}

/// The primary of a bucket.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) node: Option<Arc<Node>>,
    /// When the node may be used; `None` means always.
    pub(super) agreed: Option<Agreed>,
    /// The number of the node in this table.
    pub(super) index: u16,
}

impl Route {
    const NONE: Self = Self { node: None, agreed: None, index: 0 };
}

impl Default for Route {
    fn default() -> Self {
        Self::NONE
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            verified: AtomicBool::new(false),
            problem: ArcSwap::from_pointee("no server has answered yet".to_owned()),
        }
    }
}

impl Routes {
    /// Replaces the table. Nodes connect only once they are in it, because it says what has to be prepared.
    pub(super) fn set(&self, table: Vec<Route>) {
        let table = Arc::new(table);
        self.table.store(Arc::clone(&table));
        table.iter().filter_map(|route| route.node.as_ref()).for_each(|node| node.requests.permit());
    }

    /// The routes as they are, to reuse their nodes.
    pub(super) fn table(&self) -> Arc<Vec<Route>> {
        self.table.load_full()
    }

    /// Sets the reason why there is no primary that may be used.
    pub(super) fn set_problem(&self, problem: &str) {
        if **self.problem.load() != problem {
            self.problem.store(Arc::new(problem.to_owned()));
        }
    }

    pub(super) fn set_verified(&self) {
        self.verified.store(true, Ordering::Release);
    }

    /// Whether this server is the primary of a bucket, whether or not it may be used yet.
    pub(super) fn is_primary(&self, endpoint: &Endpoint, bucket: u16) -> bool {
        route(&self.table.load(), bucket).node.as_ref().is_some_and(|node| node.endpoint == *endpoint)
    }

    fn primary(&self, bucket: u16) -> Result<Arc<Node>, StoreError> {
        let table = self.table.load();
        let Route { node, agreed, .. } = route(&table, bucket);
        let Some(node) = node else { return Err(self.unavailable("there is no primary")) };
        if let Some(agreed) = agreed {
            if !agreed.is_usable(Instant::now()) {
                return Err(self.unavailable(&format!("{} may not be used as the primary", node.endpoint)));
            }
            // Only the primary of the first bucket can verify it. The others do not wait for it before they connect.
            if !self.verified.load(Ordering::Acquire) && bucket != 0 {
                return Err(self.unavailable("the number of buckets was not verified"));
            }
        }
        Ok(Arc::clone(node))
    }

    fn unavailable(&self, what: &str) -> StoreError {
        StoreError::Unavailable { store: NAME, cause: format!("{what}: {}", self.problem.load()) }
    }
}

fn route(table: &[Route], bucket: u16) -> &Route {
    static NONE: Route = Route::NONE;
    table.get(usize::from(bucket)).or(table.first()).unwrap_or(&NONE)
}

/// A server that is the primary of buckets.
pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    pub(super) requests: SupervisedConnection,
    events: OnceLock<SupervisedConnection>,
}

/// Makes nodes.
pub(super) struct Nodes {
    settings: Arc<RedisSettings>,
    preparation: Arc<Preparation>,
    /// Runs the connections. The watch that makes nodes has a runtime of its own.
    runtime: Handle,
}

impl Nodes {
    /// Makes a node, which connects once it is in the table.
    pub(super) fn node(&self, endpoint: &Endpoint) -> Arc<Node> {
        let connector = self.connector(endpoint, ConnectionKind::Requests, None);
        let requests = SupervisedConnection::start(connector, &self.runtime);
        Arc::new(Node { endpoint: endpoint.clone(), requests, events: OnceLock::new() })
    }

    fn connector(
        &self,
        endpoint: &Endpoint,
        kind: ConnectionKind,
        push_handler: Option<PushHandler>,
    ) -> Connector {
        Connector {
            settings: Arc::clone(&self.settings),
            endpoint: endpoint.clone(),
            kind,
            preparation: Arc::clone(&self.preparation),
            push_handler,
        }
    }
}
