//! The ends of sessions whose streams run.
//!
//! One task a session, for as long as a stream of it runs, however many there are. Where the guard has the revocation
//! feed, that tells; otherwise the session is watched (`WatchSession`), or, where as many are watched as may be, asked
//! about every ten seconds. What breaks says nothing of the session: then it is asked about, too. None of it is a use
//! of the session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{log_limit::LogLimit, stream::Asker, wall_clock};
use crate::proto::{WatchSessionRequest, watch_session_response::Verdict as Told};
use crate::{Identity, Rejection, ValidateOptions};

/// How old the news of a session is at most that can neither be watched nor is told by the feed.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long to wait before asking again, the first time. Then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Sessions that are watched at a time over the connection, on which every other call needs room, too.
const MOST_WATCHED: usize = 100;
/// How long a watch is trusted: a connection can be dead and not say so.
const WATCH_FOR: Duration = Duration::from_mins(1);
/// Those who have to look again at the same moment do so within this.
const SPREAD: Duration = Duration::from_secs(1);

/// How a stream ends before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Its session has ended.
    Rejected(Rejection),
    /// Latchkey has been away for longer than streams may outlive.
    Outage,
}

type Ended = Option<End>;

/// The sessions whose streams run.
pub(super) struct SessionWatchers {
    running: Mutex<HashMap<Arc<str>, Arc<watch::Sender<Ended>>>>,
    sight: watch::Sender<Sight>,
    places: Semaphore,
}

/// What can be seen of all sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sight {
    /// The feed tells of every end.
    sees: bool,
    /// How often everybody had to look again.
    looks: u64,
}

/// A session whose streams run.
struct Running {
    asker: Arc<Asker>,
    token: Arc<str>,
    /// How long streams go on while Latchkey is away.
    grace: Duration,
    sight: watch::Receiver<Sight>,
}

impl SessionWatchers {
    pub(super) fn new() -> Self {
        let sight = watch::Sender::new(Sight::default());
        Self { running: Mutex::default(), sight, places: Semaphore::new(MOST_WATCHED) }
    }

    /// From where the end of a session comes. It is looked for as long as somebody holds this.
    pub(super) fn watch(
        self: &Arc<Self>,
        asker: &Arc<Asker>,
        token: &Arc<str>,
        session_id: &Arc<str>,
        grace: Duration,
    ) -> watch::Receiver<Ended> {
        let mut running = self.lock();
        if let Some(sender) = running.get(session_id) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        running.insert(Arc::clone(session_id), Arc::clone(&sender));
        drop(running);
        let session = Running {
            asker: Arc::clone(asker),
            token: Arc::clone(token),
            grace,
            sight: self.sight.subscribe(),
        };
        tokio::spawn(look_after(Arc::clone(self), Arc::clone(session_id), session, sender));
        receiver
    }

    /// A session has ended: its streams do.
    pub(super) fn end(&self, session_id: &str, end: &End) {
        if let Some(sender) = self.lock().remove(session_id) {
            sender.send_replace(Some(end.clone()));
        }
    }

    /// Whether the feed tells of every end from now on.
    pub(super) fn sees(&self, sees: bool) {
        self.sight.send_if_modified(|sight| std::mem::replace(&mut sight.sees, sees) != sees);
    }

    /// Something may have been missed.
    pub(super) fn look_again(&self) {
        self.sight.send_modify(|sight| sight.looks += 1);
    }

    /// Forgets a session of which no stream runs any more. False where one has begun meanwhile.
    fn forget(&self, session_id: &Arc<str>, sender: &Arc<watch::Sender<Ended>>) -> bool {
        let mut running = self.lock();
        if sender.receiver_count() > 0 {
            return false;
        }
        // After an end there may be another one of the same name.
        if running.get(session_id).is_some_and(|held| Arc::ptr_eq(held, sender)) {
            running.remove(session_id);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<watch::Sender<Ended>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a session, or for that of its last stream.
async fn look_after(
    endings: Arc<SessionWatchers>,
    session_id: Arc<str>,
    session: Running,
    sender: Arc<watch::Sender<Ended>>,
) {
    let gone = async {
        loop {
            sender.closed().await;
            if endings.forget(&session_id, &sender) {
                return;
            }
        }
    };
    tokio::select! {
        () = gone => {}
        end = session.until_end(&endings.places) => endings.end(&session_id, &end),
    }
}

impl Running {
    async fn until_end(mut self, places: &Semaphore) -> End {
        let mut failing: Option<Instant> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let sees = self.sight.borrow_and_update().sees;
            if !sees && let Ok(_place) = places.try_acquire() {
                match self.watch().await {
                    Watched::Ended(rejection) => return End::Rejected(rejection),
                    Watched::ForAWhile => (failing, pause) = (None, FIRST_PAUSE),
                    Watched::Not => {}
                }
            }
            let wait = match self
                .asker
                .ask(&self.token, ValidateOptions { peek: true, max_staleness: None })
                .await
            {
                Ok(Err(rejection)) => return End::Rejected(rejection),
                Ok(Ok(identity)) => {
                    failing = None;
                    if sees { until_deadline(&identity) } else { shortened(pause) }
                }
                Err(unavailable) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    let left = self.grace.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        static OUTAGE: LogLimit = LogLimit::new();
                        if OUTAGE.admits(std::time::Instant::now()) {
                            tracing::warn!(error.message = %unavailable, "a stream ends, because Latchkey is away");
                        }
                        return End::Outage;
                    }
                    shortened(pause).min(left)
                }
            };
            pause = (pause * 2).min(ASK_EVERY);
            tokio::select! {
                () = sleep(wait) => {}
                _ = self.sight.changed() => sleep(SPREAD.mul_f64(rand::random_range(0.0..1.0))).await,
            }
        }
    }

    /// Watches the session until that breaks, or the feed tells of it, and for a minute at the most.
    async fn watch(&mut self) -> Watched {
        let Self { asker, token, sight, .. } = self;
        let limit = asker.client().timeout;
        let mut auth = asker.client().auth();
        let mut live = false;
        let conversation = async {
            let late = |_| Status::deadline_exceeded("the watch does not begin");
            let request = WatchSessionRequest { token: token.to_string() };
            // It answers at once how the session stands; then it may be silent.
            let opened = timeout(limit, auth.watch_session(request)).await;
            let mut news = opened.map_err(late)??.into_inner();
            let mut told = timeout(limit, news.message()).await.map_err(late)??;
            loop {
                match told.and_then(|told| told.verdict) {
                    Some(Told::Session(_)) => live = true,
                    Some(Told::Rejection(rejection)) => return Ok(Some(rejection)),
                    None => return Ok(None),
                }
                told = news.message().await?;
            }
        };
        let told: Result<_, Status> = tokio::select! {
            told = conversation => told,
            _ = sight.wait_for(|sight| sight.sees) => Ok(None),
            () = sleep(shortened(WATCH_FOR)) => Ok(None),
        };
        match told {
            Ok(Some(rejection)) => Watched::Ended(rejection.into()),
            _ if live => Watched::ForAWhile,
            _ => Watched::Not,
        }
    }
}

/// How a watch went.
enum Watched {
    /// It told of the end.
    Ended(Rejection),
    /// It broke, after it had told that the session is live.
    ForAWhile,
    /// It did not come about.
    Not,
}

/// How long it takes until time may have ended a session. Where a use was recorded late it lives on for a while, and
/// is asked about again.
fn until_deadline(identity: &Identity) -> Duration {
    let deadline = identity.idle_expires_at.min(identity.expires_at);
    deadline.duration_since(wall_clock()).unwrap_or_default() + Duration::from_secs(1)
}

/// A pause of which a part is left to chance, so that not all ask at the same moment.
fn shortened(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}
