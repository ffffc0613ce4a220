//! Loads that share round trips.
//!
//! The first load of a batch lets the tasks that are ready have their turn, and then sends what has come
//! together by then as one command. Nobody waits for a clock, nor for an answer that is still under way;
//! a load that stays alone is a plain GET.
//!
//! A load sees every commit that was answered before it began (promise P1): it only ever joins a batch
//! that has not been sent. Joining a batch and taking it away to send it happen under one lock, so the
//! server is asked after the last of them has begun, and reads later still. The answer to a command
//! that was sent is never shared with a load that came after, not even with one of the same register.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use redis::Value;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};

use super::{MOST_AT_ONCE, NAME, link::Link, several, value};
use crate::{domain::ports::StoreError, store::raw::RawValue};

type Answer = Result<Option<RawValue>, StoreError>;

/// Gathers the loads that go out over one connection.
pub(super) struct Gather {
    link: Link,
    /// Where a batch is sent for those whose first has left.
    runtime: Handle,
    next: Mutex<Batch>,
}

/// Loads that nobody has asked the server for yet.
#[derive(Default)]
struct Batch {
    /// Tells it from those that were sent before.
    number: u64,
    /// Who wants to know, by register: each is asked for once.
    waiting: HashMap<String, Vec<oneshot::Sender<Answer>>>,
}

/// The duty to send a batch, of the load that began it. That load may be given up at any moment, with
/// the request that it belongs to; the others must not wait for ever.
struct Turn<'a> {
    gather: &'a Gather,
    number: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(batch) = self.gather.take(self.number) {
            self.gather.send(batch);
        }
    }
}

impl Gather {
    pub(super) fn new(link: Link) -> Self {
        Self { link, runtime: Handle::current(), next: Mutex::default() }
    }

    /// What stands in a register, read after this was called.
    pub(super) async fn load(&self, register: String) -> Answer {
        // Given up in the middle, the load stops waiting for an answer before its turn is taken: nobody
        // asks on its behalf.
        let (turn, answer) = self.join(register);
        if let Some(turn) = &turn {
            // Comes back once whoever is ready has been polled; where nobody is, at once.
            yield_now().await;
            if let Some(batch) = self.take(turn.number) {
                if let Some(register) = batch.alone() {
                    // As it is asked for here, giving up the load gives up the question.
                    return get(&self.link, register).await;
                }
                self.send(batch);
            }
        }
        answer.await.unwrap_or_else(|_| {
            // The runtime is going down, and has dropped the task that asked.
            Err(StoreError::Unavailable { store: NAME, cause: "shutting down".to_owned() })
        })
    }

    /// Joins the batch that is sent next. Who begins one has to send it.
    fn join(&self, register: String) -> (Option<Turn<'_>>, oneshot::Receiver<Answer>) {
        let (waiting, answer) = oneshot::channel();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = next.waiting.is_empty();
        next.waiting.entry(register).or_default().push(waiting);
        if next.waiting.len() >= MOST_AT_ONCE {
            let full = next.take();
            drop(next);
            self.send(full);
            return (None, answer);
        }
        // Not `then_some`: a turn that is made and dropped is taken, under this very lock.
        (begins.then(|| Turn { gather: self, number: next.number }), answer)
    }

    /// The batch of that number, unless it has been sent.
    fn take(&self, number: u64) -> Option<Batch> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        (next.number == number).then(|| next.take())
    }

    /// In a task of its own: no load whose client hangs up takes the others with it.
    fn send(&self, batch: Batch) {
        self.runtime.spawn(batch.send(self.link.clone()));
    }
}

impl Batch {
    /// What is in it; whoever comes from now on is in the next.
    fn take(&mut self) -> Self {
        let next = Self { number: self.number + 1, waiting: HashMap::new() };
        mem::replace(self, next)
    }

    /// The register, where a single load waits for it.
    fn alone(&self) -> Option<&str> {
        let loads = self.waiting.values().flatten().take(2).count();
        self.waiting.keys().next().filter(|_| loads == 1).map(String::as_str)
    }

    /// Asks, and tells everybody.
    async fn send(mut self, link: Link) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|load| !load.is_closed());
            !waiting.is_empty()
        });
        let mut unsure: Vec<_> = self.waiting.into_iter().collect();
        if unsure.len() > 1 {
            let registers: Vec<_> = unsure.iter().map(|(register, _)| register.as_str()).collect();
            match mget(&link, &registers).await {
                Ok(values) => {
                    let mut values = values.into_iter();
                    unsure.retain_mut(|(_, waiting)| match values.next() {
                        None | Some(Value::Nil) => true,
                        Some(found) => {
                            tell(mem::take(waiting), &value(found));
                            false
                        }
                    });
                }
                Err(error) => {
                    for (_, waiting) in unsure.drain(..) {
                        tell(waiting, &Err(error.clone()));
                    }
                }
            }
        }
        // To MGET a register of the wrong type is one that holds nothing, which to us it must never be; GET
        // tells the two apart. Seldom is there one: what is loaded in a crowd are the users of live tokens.
        let asked = unsure.into_iter().map(async |(register, waiting)| {
            tell(waiting, &get(&link, &register).await);
        });
        join_all(asked).await;
    }
}

async fn get(link: &Link, register: &str) -> Answer {
    value(link.query(redis::cmd("GET").arg(register)).await?)
}

/// What stands in these registers, in their order.
async fn mget(link: &Link, registers: &[&str]) -> Result<Vec<Value>, StoreError> {
    // Names keys of more than one hash tag, as the follower does. On a cluster a batch would be one a
    // node, and a command one a slot.
    several(link.query(redis::cmd("MGET").arg(registers)).await, registers.len())
}

fn tell(waiting: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for load in waiting {
        // Fails where nobody wants to know any more.
        let _ = load.send(answer.clone());
    }
}
