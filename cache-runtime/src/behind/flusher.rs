//! When queues are flushed: the tasks in the background, the barrier, and the end.
//!
//! 1. One task per partition takes steps (`flush`): at once while batches are full, after the linger while there is
//!    something, and otherwise when it is woken by a put to an empty queue, or after a pause.
//! 2. A task whose partition is claimed by another process looks again from time to time, so that a partition whose flusher
//!    has died is taken over when its claim ends.
//! 3. When the database or the store fails, a task waits longer and longer, by chance (full jitter: Brooker, "Exponential
//!    Backoff And Jitter", AWS Architecture Blog 2015), and goes on in the same order.
//!
//! 4. What is not there when flushing starts (the database, the store) is a failure like any other: the tasks wait for it.
//!
//! Invariant: a task can be stopped between any two awaits, and loses nothing.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{
    behind::{
        flush::{CLAIM_MS, NOTHING, Stepped, Turn},
        offsets::{self, OpenIncarnation},
        queue::Lane,
    },
    clock::Deadline,
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    protocol::{
        mark::Mark,
        token::{Token, random_share},
    },
    store::{
        Store,
        queue::{Fetch, QueueStore},
    },
};

/// How long an idle task waits for a put that nobody told it about.
const IDLE: Duration = Duration::from_secs(1);
/// The bounds of the pause after a failure.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// How long a start waits to hear of mistakes in the configuration.
const ASKED: Duration = Duration::from_secs(5);
/// How long the database may take to tell how far queues were applied, before the store alone tells what waits.
const ANSWERS: Duration = Duration::from_secs(1);
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
    /// Flushes what is queued and stops the tasks. What fails is tried again until it works or `deadline` has passed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] at once. When `deadline` has passed before everything was flushed, the last error of the
    /// database or the store, or [`ErrorKind::Aborted`] if there was none. The tasks are stopped in any case; what is left in
    /// the queue is flushed by another process, or by the next one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the tasks and loses nothing.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), Error> {
        let ends = Deadline::after(deadline);
        let mut backoff = Backoff::default();
        let mut last = None;
        loop {
            match ends.bound((self.drain)()).await {
                Some(Err(error)) if error.kind() != ErrorKind::Configuration => last = Some(error),
                // The tasks stop with `self`.
                Some(drained) => return drained,
                None => break,
            }
            if ends.bound(backoff.pause()).await.is_none() {
                break;
            }
        }
        Err(last.unwrap_or_else(|| {
            Error::new(
                ErrorKind::Aborted,
                format!(
                    "the queue was not empty after {deadline:?}; what is left in it will be flushed by whoever flushes next"
                ),
            )
        }))
    }

    fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// How long it is waited after failures: longer and longer, by chance.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(SHORTEST_BACKOFF)
    }
}

impl Backoff {
    async fn pause(&mut self) {
        let pause = self.0.mul_f64(by_chance());
        self.0 = (self.0 * 2).min(LONGEST_BACKOFF);
        tokio::time::sleep(pause).await;
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Starts one task per partition.
    pub(crate) async fn start_flushing(self: &Arc<Self>) -> Result<Flusher, Error> {
        let queue = self.queue();
        let asked = Deadline::after(ASKED).bound(self.prepare(queue)).await;
        if let Some(Err(error)) = asked
            && error.kind() == ErrorKind::Configuration
        {
            return Err(error);
        }
        self.warn_of_loss(queue);
        let failing = Arc::new(Failing::default());
        let lanes = 0..queue.lanes.len();
        let tasks = lanes.map(|lane| {
            let task = run(Arc::clone(self), lane, Arc::clone(&failing));
            tokio::spawn(task.in_current_span())
        });
        let drained = Arc::clone(self);
        Ok(Flusher {
            tasks: tasks.collect(),
            drain: Box::new(move || {
                let repository = Arc::clone(&drained);
                Box::pin(async move {
                    repository.flush().await?;
                    repository.disclaim().await;
                    Ok(())
                })
            }),
        })
    }

    /// Brings every write to the database that was acknowledged before this call.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        self.bind_for_queue("flush").await?;
        let lanes = self.queue().lanes.iter();
        let flushed = lanes.map(|lane| self.flush_lane(lane));
        let flushed = futures_util::future::join_all(flushed).await;
        flushed.into_iter().collect()
    }

    /// How many acknowledged writes wait, and for how long.
    pub(crate) async fn pending(&self) -> Result<Pending, Error> {
        let queue = self.queue();
        self.bind_now().await?;
        let asked = Deadline::after(ANSWERS).bound(self.open_of(queue)).await;
        let open = match asked {
            Some(Ok(open)) => open,
            Some(Err(error)) if is_database_away(&error) => self.logged(queue).await?,
            Some(Err(error)) => return Err(error),
            None => self.logged(queue).await?,
        };
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
            let fetched = self.fetch(lane, fetch).await?;
            let first = fetched.writes.first();
            pending.count += fetched.log_last.saturating_sub(at.position);
            let oldest = first.map(|write| {
                let waited = fetched.now_ms.saturating_sub(write.at_ms);
                Duration::from_millis(waited)
            });
            pending.oldest = pending.oldest.max(oldest);
        }
        Ok(pending)
    }

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

    /// Makes sure that there is everything that flushing needs, and begins the queue where it has not begun.
    async fn prepare(&self, queue: &super::Queue) -> Result<(), Error> {
        let verified = self.verified(queue).await.map(drop);
        // Whichever of the two is away, the other one may have something to say.
        if verified
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Store)
        {
            self.check_tables(queue).await?;
        }
        verified?;
        for lane in &queue.lanes {
            self.begin(queue, lane).await?;
        }
        Ok(())
    }

    /// The incarnations that have writes to apply, each with its partition, as the database tells it.
    async fn open_of(&self, queue: &super::Queue) -> Result<Vec<(u16, OpenIncarnation)>, Error> {
        let open = offsets::open_of_queue(&self.database.pool, &queue.name).await?;
        self.none_is_missing(queue, &open).await?;
        Ok(open)
    }

    /// As [`Context::open_of`], by what is in the store: what has left a log is in the database.
    async fn logged(&self, queue: &super::Queue) -> Result<Vec<(u16, OpenIncarnation)>, Error> {
        let mut open = Vec::new();
        for lane in &queue.lanes {
            let logs = self.cache.store.logs(&lane.partition).await;
            for incarnation in logs.map_err(|error| self.queue_away("look for", error))? {
                let fetch = Fetch {
                    incarnation,
                    count: 1,
                    ..NOTHING
                };
                let fetched = self.fetch(lane, fetch).await?;
                if let Some(first) = fetched.writes.first() {
                    let position = first.pending.mark.number - 1;
                    let at = OpenIncarnation {
                        incarnation,
                        position,
                    };
                    open.push((lane.partition.number, at));
                }
            }
        }
        Ok(open)
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

/// What is known of the tasks that began together. One of them tells for all.
#[derive(Default)]
struct Failing {
    /// How many of them are failing.
    tasks: AtomicUsize,
    /// Whether a mistake in the configuration was told. It is told also where they were failing before of something that passes.
    is_mistake_told: AtomicBool,
}

/// The task of one partition.
async fn run<E: Entity, DB: Backend>(
    inner: Arc<Context<E, DB>>,
    lane: usize,
    failing: Arc<Failing>,
) {
    let queue = inner.queue();
    let lane = &queue.lanes[lane];
    let linger = queue.policy.linger;
    let mut backoff = Backoff::default();
    let mut is_failing = false;
    let mut is_prepared = false;
    loop {
        // Before the queue is looked at: a put in between is told.
        let listener = inner.cache.store.wakeups().listen(&lane.partition.flusher);
        let stepped = async {
            if !is_prepared {
                inner.verified(queue).await?;
                inner.begin(queue, lane).await?;
                is_prepared = true;
            }
            inner.flush_step(lane, Turn::Task).await
        };
        let stepped = stepped.await;
        if stepped.is_ok() {
            backoff = Backoff::default();
            if std::mem::take(&mut is_failing) && failing.tasks.fetch_sub(1, Ordering::AcqRel) == 1
            {
                failing.is_mistake_told.store(false, Ordering::Release);
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
                let is_first = !std::mem::replace(&mut is_failing, true)
                    && failing.tasks.fetch_add(1, Ordering::AcqRel) == 0;
                if error.kind() == ErrorKind::Configuration {
                    if !failing.is_mistake_told.swap(true, Ordering::AcqRel) {
                        tracing::error!(
                            entity = E::SPEC.name,
                            queue = &*queue.name,
                            partition = lane.partition.number,
                            error = &error as &dyn std::error::Error,
                            "flushing cannot go on until this is mended; the writes wait in their order"
                        );
                    }
                } else if is_first {
                    tracing::warn!(
                        entity = E::SPEC.name,
                        queue = &*queue.name,
                        partition = lane.partition.number,
                        error = &error as &dyn std::error::Error,
                        "flushing fails and is tried again; the writes wait in their order"
                    );
                }
                backoff.pause().await;
            }
        }
    }
}

/// Whether an error says that the database failed or was not reached, and nothing about how it is set up.
fn is_database_away(error: &Error) -> bool {
    error.kind() != ErrorKind::Configuration && error.database_error().is_some()
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
