//! When queues are flushed: the tasks in the background, the barrier, and the end.
//!
//! 1. One task per partition takes steps (`flush`): at once while batches are full, after the linger while there is
//!    something, and otherwise when it is woken by a put to an empty queue, or after a pause.
//! 2. A task whose partition is claimed by another process looks again from time to time, so that a partition whose flusher
//!    has died is taken over when its claim ends.
//! 3. When the database or the store fails, a task waits longer and longer, by chance (full jitter: Brooker, "Exponential
//!    Backoff And Jitter", AWS Architecture Blog 2015), and goes on in the same order.
//!
//! Invariant: a task can be stopped between any two awaits, and loses nothing.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{
    backend::Backend,
    behind::{
        flush::{CLAIM_MS, NOTHING, Stepped, Turn},
        mark::Mark,
        offsets,
        queue::Lane,
    },
    clock::Deadline,
    entity::Entity,
    error::{Error, ErrorKind},
    load::random_share,
    repository::{Inner, Repository, queued},
    store::{
        Store,
        queue::{Fetch, QueueStore},
    },
    token::Token,
};

/// How long an idle task waits for a put that nobody told it about.
const IDLE: Duration = Duration::from_secs(1);
/// The bounds of the pause after a failure.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// How often a barrier is tried again after a deadlock or another failure that passes.
const MOST_FAILURES: u32 = 5;

/// The background tasks that flush the queue of one repository. Dropped, it stops them; what is queued stays queued.
#[must_use = "the tasks stop when this is dropped"]
pub struct Flusher {
    tasks: Vec<JoinHandle<()>>,
    drain: Box<dyn Fn() -> Draining + Send + Sync>,
}

type Draining = std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// How much waits in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// How many acknowledged writes are not in the database yet.
    pub count: u64,
    /// How long the oldest of them has waited, by the store's clock.
    pub oldest: Option<Duration>,
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher")
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Flusher {
    /// Flushes what is queued and stops the tasks.
    ///
    /// # Errors
    ///
    /// Errors of the database and of the store, and [`ErrorKind::Aborted`] when `deadline` has passed before everything was
    /// flushed. The tasks are stopped in any case; what is left in the queue is flushed by another process, or by the next
    /// one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the tasks and loses nothing.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), Error> {
        let drained = Deadline::after(deadline).bound((self.drain)()).await;
        self.stop();
        drained.unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Aborted,
                format!(
                    "the queue was not empty after {deadline:?}; what is left in it will be flushed by whoever flushes next"
                ),
            ))
        })
    }

    fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Starts flushing the queue in the background, one task per partition. Any number of processes may do so; one at a time
    /// works on a partition, and when it ends another takes over.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] when the store does not keep acknowledged writes as the entity demands, when the tables
    /// are missing, or when writes are queued under another number of partitions. Errors of the database and the store.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future starts nothing.
    pub async fn start_flushing(&self) -> Result<Flusher, Error> {
        const { queued::<E>() };
        let inner = &self.0;
        let queue = inner.queue();
        inner.verified(queue).await?;
        inner.warn_of_loss(queue);
        for lane in &queue.lanes {
            inner.begin(queue, lane).await?;
        }
        let lanes = 0..queue.lanes.len();
        let tasks = lanes.map(|lane| {
            let task = run(Arc::clone(inner), lane);
            tokio::spawn(task.in_current_span())
        });
        let drained = self.clone();
        Ok(Flusher {
            tasks: tasks.collect(),
            drain: Box::new(move || {
                let repository = drained.clone();
                Box::pin(async move {
                    repository.flush().await?;
                    repository.0.disclaim().await;
                    Ok(())
                })
            }),
        })
    }

    /// Brings every write to the database that was acknowledged before this call. Returns when they are committed, or dead
    /// letters, and have left the queue. It does the work itself where nobody else does.
    ///
    /// # Errors
    ///
    /// Errors of the database and the store. Nothing is lost then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; what was not flushed stays queued.
    pub async fn flush(&self) -> Result<(), Error> {
        const { queued::<E>() };
        let inner = &self.0;
        inner.bind_for_queue("flush").await?;
        let lanes = inner.queue().lanes.iter();
        let flushed = lanes.map(|lane| inner.flush_lane(lane));
        let flushed = futures_util::future::join_all(flushed).await;
        flushed.into_iter().collect()
    }

    /// How many acknowledged writes wait, and for how long.
    ///
    /// # Errors
    ///
    /// Errors of the database and the store.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn pending(&self) -> Result<Pending, Error> {
        const { queued::<E>() };
        let inner = &self.0;
        let queue = inner.queue();
        inner.bind_now().await?;
        let open = offsets::open_of_queue(&inner.database.pool, &queue.name).await?;
        inner.none_is_missing(queue, &open).await?;
        let mut pending = Pending::default();
        for (part, at) in open {
            let Some(lane) = queue.lanes.get(usize::from(part)) else {
                continue;
            };
            let fetch = Fetch {
                incarnation: at.incarnation,
                after: at.position,
                count: 1,
                claim_ms: 0,
                is_first: false,
            };
            let fetched = inner.fetch(lane, fetch).await?;
            pending.count += fetched.log_last.saturating_sub(at.position);
            let oldest = fetched.writes.first().map(|write| {
                let waited = fetched.now_ms.saturating_sub(write.at_ms);
                Duration::from_millis(waited)
            });
            pending.oldest = pending.oldest.max(oldest);
        }
        Ok(pending)
    }
}

impl<E: Entity, DB: Backend> Inner<E, DB> {
    /// Says what a crash takes, where the entity has not said so itself.
    fn warn_of_loss(&self, queue: &super::Queue) {
        let keeps_rows = self.cache.store.keeps() == crate::store::Keeps::Rows;
        if keeps_rows && queue.policy.journal.is_none() {
            tracing::warn!(
                entity = E::SPEC.name,
                queue = &*queue.name,
                "queued writes are kept in the memory of this process: a crash loses them; a `journal` keeps them on disk"
            );
        }
    }

    /// Begins an incarnation of a partition if there is none of the store's present history, so that no put has to wait for
    /// the database.
    pub(crate) async fn begin(&self, queue: &super::Queue, lane: &Lane) -> Result<(), Error> {
        let rotations = lane.rotations.load(Ordering::Acquire);
        let fetched = self.fetch(lane, NOTHING).await?;
        if fetched.is_present {
            return Ok(());
        }
        let (from, stamp) = (fetched.current, fetched.stamp);
        self.rotate(queue, lane, from, stamp, rotations).await
    }

    /// Flushes what is in a partition now.
    pub(crate) async fn flush_lane(&self, lane: &Lane) -> Result<(), Error> {
        let fetched = self.fetch(lane, NOTHING).await?;
        let mark = Mark {
            // Without a queue there may be earlier ones, or none.
            incarnation: fetched.current.unwrap_or(NOTHING.incarnation),
            number: fetched.current_last,
        };
        let mut failures = 0;
        loop {
            match self.flush_up_to(lane, mark).await {
                Err(error) if failures < MOST_FAILURES && is_passing(&error) => failures += 1,
                flushed => return flushed,
            }
        }
    }

    /// Gives up the claims of this process, so that others need not wait for their end.
    async fn disclaim(&self) {
        for lane in &self.queue().lanes {
            // If this fails the claim ends by itself.
            let _given_up = self.cache.store.disclaim(&lane.partition).await;
        }
    }
}

/// The task of one partition.
async fn run<E: Entity, DB: Backend>(inner: Arc<Inner<E, DB>>, lane: usize) {
    let queue = inner.queue();
    let lane = &queue.lanes[lane];
    let linger = queue.policy.linger;
    let mut backoff = SHORTEST_BACKOFF;
    let mut is_failing = false;
    loop {
        // Before the queue is looked at: a put in between is told.
        let listener = inner.cache.store.wakeups().listen(&lane.partition.flusher);
        let stepped = inner.flush_step(lane, Turn::Task).await;
        if stepped.is_ok() {
            backoff = SHORTEST_BACKOFF;
            if std::mem::take(&mut is_failing) {
                tracing::info!(
                    entity = E::SPEC.name,
                    queue = &*queue.name,
                    "flushing again"
                );
            }
        }
        match stepped {
            Ok(Stepped::Flushed { full: true } | Stepped::Moved) => {}
            Ok(Stepped::Flushed { full: false }) => tokio::time::sleep(linger).await,
            Ok(Stepped::Idle) => {
                if Deadline::after(IDLE)
                    .bound(listener.woken())
                    .await
                    .is_some()
                {
                    tokio::time::sleep(linger).await;
                }
            }
            Ok(Stepped::Claimed) => {
                let pause = Duration::from_millis(CLAIM_MS / 2);
                tokio::time::sleep(pause.mul_f64(by_chance())).await;
            }
            Err(error) => {
                inner.counters.flush_retries.add_one();
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(
                        entity = E::SPEC.name,
                        queue = &*queue.name,
                        partition = lane.partition.number,
                        error = &error as &dyn std::error::Error,
                        "flushing fails and is tried again; the writes wait in their order"
                    );
                }
                tokio::time::sleep(backoff.mul_f64(by_chance())).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
        }
    }
}

/// Whether a failure is one of the moment: another transaction was in the way.
fn is_passing(error: &Error) -> bool {
    error
        .database_error()
        .is_some_and(super::refusal::is_of_the_moment)
}

/// A number in 0..1.
fn by_chance() -> f64 {
    let token = Token::draw();
    let (process, number) = token.0.split_at(8);
    let half =
        |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("a token is twice eight bytes"));
    random_share(half(process) ^ half(number))
}
