//! When queues are flushed: the background tasks, the `flush` barrier, and the shutdown.
//!
//! 1. One task per partition takes steps (`flush`). While batches are full it takes the next step immediately, and
//!    after a smaller batch it waits for the linger. On an empty queue it waits until a put wakes it, or for a pause.
//! 2. A task whose partition is claimed by another process checks again from time to time. It takes over the partition
//!    when the claim of a crashed flusher ends.
//! 3. When the database or the store fails, a task retries with exponential backoff and full jitter (Brooker,
//!    "Exponential Backoff And Jitter", AWS Architecture Blog 2015). It continues in the same order.
//! 4. A database or store that is unreachable when flushing starts is a failure like any other: the tasks retry.
//!
//! Invariant: a task can be stopped at any await, and loses nothing.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::{
    behind::{
        flush::{CLAIM_MS, FlushMode, StepResult},
        offsets::{self, OpenIncarnation},
        partition::PartitionContext,
    },
    clock::Deadline,
    context::Context,
    database::{backend::Backend, entity::Entity},
    detached,
    error::{Error, ErrorKind},
    printed,
    protocol::{
        queue_position::QueuePosition,
        token::{Token, random_fraction_of},
    },
    store::{
        Store,
        queue::{Fetch, QueueStore},
    },
};

/// How long an idle task waits before it checks for puts whose wake-up it did not receive.
const IDLE: Duration = Duration::from_secs(1);
/// The bounds of the pause after a failure.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How long `start_flushing` checks for mistakes in the configuration.
const ASKED: Duration = Duration::from_secs(5);
/// How long `pending` waits for the positions in the database, before it counts by the store alone.
const ANSWERS: Duration = Duration::from_secs(1);
/// How often `flush` retries a partition after a deadlock or another transient failure.
const MAX_FAILURES: u32 = 5;

/// The background tasks that flush the queue of one repository. Dropping it stops them. Queued writes stay queued.
#[must_use = "the tasks stop when this is dropped"]
pub struct Flusher {
    tasks: Vec<JoinHandle<()>>,
    drain: Box<dyn Fn() -> Draining + Send + Sync>,
}

type Draining = std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// The pending writes of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// How many acknowledged writes are not in the database yet.
    pub count: u64,
    /// How long the oldest of them has been queued, by the store's clock.
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
    /// Flushes the queued writes and stops the tasks. A flush that fails is retried until it succeeds or `deadline` has
    /// passed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] is returned without a retry. If `deadline` passes before all writes are flushed,
    /// the last error of the database or the store, or [`ErrorKind::DeadlineExceeded`] if there was none.
    ///
    /// The tasks are stopped in any case. The remaining writes stay queued until another process flushes, or this one
    /// starts to flush again.
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
                ErrorKind::DeadlineExceeded,
                format!(
                    "failed to flush the queue within {deadline:?}; the remaining writes stay queued: start flushing again to \
                     flush them"
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

/// The pauses after failures: exponential, with full jitter.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(MIN_BACKOFF)
    }
}

impl Backoff {
    async fn pause(&mut self) {
        let pause = self.0.mul_f64(random_fraction());
        self.0 = (self.0 * 2).min(MAX_BACKOFF);
        tokio::time::sleep(pause).await;
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Starts one task per partition.
    pub(crate) async fn start_flushing(self: &Arc<Self>) -> Result<Flusher, Error> {
        let queue = self.queue();
        let asked = Deadline::after(ASKED).bound(self.prepare()).await;
        if let Some(Err(error)) = asked
            && error.kind() == ErrorKind::Configuration
        {
            return Err(error);
        }
        self.warn_of_loss();
        let failing = Arc::new(Failing::default());
        let partitions = 0..queue.policy.partitions;
        let tasks = partitions
            .map(|number| detached::spawn(run(Arc::clone(self), number, Arc::clone(&failing))));
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

    /// Flushes every write that was acknowledged before this call.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        self.bind_for_queue("flush").await?;
        let partitions = self.partitions();
        let flushed = partitions.map(|partition| async move { partition.flush().await });
        let flushed = futures_util::future::join_all(flushed).await;
        flushed.into_iter().collect()
    }

    /// Returns how many acknowledged writes are pending, and how old the oldest is.
    pub(crate) async fn pending(&self) -> Result<Pending, Error> {
        self.bind_now().await?;
        let partitions = self.pending_by_partition().await?;
        let mut pending = Pending::default();
        for (_, Pending { count, oldest }) in partitions {
            pending.count += count;
            pending.oldest = pending.oldest.max(oldest);
        }
        Ok(pending)
    }

    /// Returns what is pending in each open incarnation, with the number of its partition. The repository is bound.
    pub(super) async fn pending_by_partition(&self) -> Result<Vec<(u16, Pending)>, Error> {
        let asked = Deadline::after(ANSWERS).bound(self.open_of()).await;
        let open = match asked {
            Some(Ok(open)) => open,
            Some(Err(error)) if is_database_away(&error) => self.logged().await?,
            Some(Err(error)) => return Err(error),
            None => self.logged().await?,
        };
        let mut pending = Vec::with_capacity(open.len());
        for (number, at) in open {
            let Some(partition) = self.partition(number) else {
                continue;
            };
            let fetch = Fetch::read(at.incarnation, at.position, 1);
            let fetched = partition.fetch(fetch).await?;
            let first = fetched.writes.first();
            let count = fetched.log_last.saturating_sub(at.position);
            let oldest = first.map(|write| {
                let waited = fetched.now_ms.saturating_sub(write.at_ms);
                Duration::from_millis(waited)
            });
            pending.push((number, Pending { count, oldest }));
        }
        Ok(pending)
    }

    /// Warns that a crash loses queued writes, if the entity has no journal on an in-process store.
    fn warn_of_loss(&self) {
        let queue = self.queue();
        let keeps_rows = self.cache.store.keeps() == crate::store::Representation::Rows;
        if keeps_rows && queue.policy.journal.is_none() {
            tracing::warn!(
                entity = E::SPEC.name,
                queue = &*queue.name,
                "queued writes are kept in the memory of this process, so a crash loses them; set `journal` to keep them on disk"
            );
        }
    }

    /// Checks the store and the tables, and starts an incarnation in each partition that has none.
    async fn prepare(&self) -> Result<(), Error> {
        let queue = self.queue();
        let verified = self.verified(queue).await.map(drop);
        // If the store is unreachable, check the tables anyway.
        if verified
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::CacheUnavailable)
        {
            self.check_tables(queue).await?;
        }
        verified?;
        for partition in self.partitions() {
            partition.begin().await?;
        }
        Ok(())
    }

    /// Returns the open incarnations by the database, each with its partition.
    async fn open_of(&self) -> Result<Vec<(u16, OpenIncarnation)>, Error> {
        let open = offsets::open_of_queue(&self.database.pool, &self.queue().name).await?;
        self.none_is_missing(&open).await?;
        Ok(open)
    }

    /// As [`Context::open_of`], but by the store: writes that have left a log are in the database.
    async fn logged(&self) -> Result<Vec<(u16, OpenIncarnation)>, Error> {
        let mut open = Vec::new();
        for partition in self.partitions() {
            for incarnation in partition.logs("look for").await? {
                let fetch = Fetch::read(incarnation, 0, 1);
                let fetched = partition.fetch(fetch).await?;
                if let Some(first) = fetched.writes.first() {
                    let position = first.pending.position.number - 1;
                    let at = OpenIncarnation {
                        incarnation,
                        position,
                    };
                    open.push((partition.number(), at));
                }
            }
        }
        Ok(open)
    }

    /// Releases the claims of this process, so that others need not wait until they expire.
    async fn disclaim(&self) {
        for partition in &self.queue().partitions {
            // If this fails, the claim expires by itself.
            let _given_up = self.cache.store.disclaim(&partition.keys).await;
        }
    }
}

impl<E: Entity, DB: Backend> PartitionContext<'_, E, DB> {
    /// Flushes the writes that are in the partition now.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        let fetched = self.fetch(Fetch::PEEK).await?;
        // Without a queue there may be earlier ones, or none.
        let target = fetched.current.map(|incarnation| QueuePosition {
            incarnation,
            number: fetched.current_last,
        });
        let mut retries = 0..MAX_FAILURES;
        loop {
            match self.flush_up_to(target).await {
                Err(error) if is_passing(&error) && retries.next().is_some() => {}
                flushed => return flushed,
            }
        }
    }
}

/// The shared failure state of the tasks of one `Flusher`, so that one of them logs for all.
#[derive(Default)]
struct Failing {
    /// How many of them are failing.
    tasks: AtomicUsize,
    /// Whether a mistake in the configuration was logged. It is logged even if the tasks were already failing for a
    /// transient reason.
    is_mistake_logged: AtomicBool,
}

/// The task of one partition.
async fn run<E: Entity, DB: Backend>(
    inner: Arc<Context<E, DB>>,
    number: u16,
    failing: Arc<Failing>,
) {
    let queue = inner.queue();
    let partition = inner.partition(number);
    let partition = partition.expect("flushing starts one task per partition of the queue");
    let linger = queue.policy.linger;
    let mut backoff = Backoff::default();
    let mut is_failing = false;
    let mut is_prepared = false;
    loop {
        // Listen before looking at the queue, so that a put in between wakes this task.
        let listener = inner
            .cache
            .store
            .wakeups()
            .listen(&partition.state.keys.flusher);
        let stepped = async {
            if !is_prepared {
                inner.verified(queue).await?;
                partition.begin().await?;
                is_prepared = true;
            }
            partition.flush_step(FlushMode::Background).await
        };
        let stepped = stepped.await;
        if stepped.is_ok() {
            backoff = Backoff::default();
            if std::mem::take(&mut is_failing) && failing.tasks.fetch_sub(1, Ordering::AcqRel) == 1
            {
                failing.is_mistake_logged.store(false, Ordering::Release);
                tracing::info!(
                    entity = E::SPEC.name,
                    queue = &*queue.name,
                    "flushing again"
                );
            }
        }
        match stepped {
            Ok(StepResult::Flushed { full: true } | StepResult::Retry) => {}
            Ok(StepResult::Flushed { full: false }) => tokio::time::sleep(linger).await,
            Ok(StepResult::Idle) => {
                if Deadline::after(IDLE)
                    .bound(listener.woken())
                    .await
                    .is_some()
                {
                    tokio::time::sleep(linger).await;
                }
            }
            Ok(StepResult::ClaimedElsewhere) => {
                let pause = Duration::from_millis(CLAIM_MS / 2);
                tokio::time::sleep(pause.mul_f64(random_fraction())).await;
            }
            Err(error) => {
                inner.counters.flush_retries.add_one();
                let is_first = !std::mem::replace(&mut is_failing, true)
                    && failing.tasks.fetch_add(1, Ordering::AcqRel) == 0;
                if error.kind() == ErrorKind::Configuration {
                    if !failing.is_mistake_logged.swap(true, Ordering::AcqRel) {
                        tracing::error!(
                            entity = E::SPEC.name,
                            queue = &*queue.name,
                            partition = number,
                            error = printed::chain(&error),
                            "flushing cannot continue until the cause of this error is corrected; the writes wait in their order"
                        );
                    }
                } else if is_first {
                    tracing::warn!(
                        entity = E::SPEC.name,
                        queue = &*queue.name,
                        partition = number,
                        error = printed::chain(&error),
                        "flushing fails and is tried again; the writes wait in their order"
                    );
                }
                backoff.pause().await;
            }
        }
    }
}

/// Returns whether an error means that the database failed or is unreachable, and not that it is set up wrongly.
fn is_database_away(error: &Error) -> bool {
    error.kind() != ErrorKind::Configuration && error.database_error().is_some()
}

/// Returns whether a failure is transient: another transaction interfered.
fn is_passing(error: &Error) -> bool {
    error
        .database_error()
        .is_some_and(super::row_error::is_transient)
}

/// Returns a random number in 0..1.
fn random_fraction() -> f64 {
    let token = Token::draw();
    let (process, number) = token.0.split_at(8);
    let half =
        |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("a token is twice eight bytes"));
    random_fraction_of(half(process) ^ half(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_of_the_database_means_that_it_is_away() {
        let caused = |kind| Error::with_source(kind, "no", sqlx::Error::PoolTimedOut);
        assert!(is_database_away(&caused(ErrorKind::Database)));
        assert!(is_database_away(&caused(ErrorKind::OutcomeUnknown)));
        assert!(!is_database_away(&caused(ErrorKind::Configuration)));
        let other = Error::new(ErrorKind::CacheUnavailable, "no");
        assert!(!is_database_away(&other));
    }
}
