//! What the targets of write-behind share: a save through any of its repositories.

use sqlx::Postgres;

use crate::{
    Failure,
    entity::{
        Flight, FsyncFlightRepository, JournaledFlightRepository, MemoryFlightRepository,
        OneQueueFlightRepository, QueuedFlightRepository,
    },
    measure::Operation,
    targets::write::{Table, changed},
};

/// A repository of queued flights.
pub(crate) trait Queues: Clone + Send + Sync + 'static {
    /// Returns when the write is acknowledged.
    fn put(&self, row: Flight) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns when all that was acknowledged is in the database.
    fn drain(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What it has counted.
    fn counted(&self) -> larder::Stats;
}

macro_rules! queues {
    ($($repository:ident),*) => {
        $(
            impl Queues for $repository<Postgres> {
                async fn put(&self, row: Flight) -> Result<(), Failure> {
                    self.save(&row.into()).await?;
                    Ok(())
                }

                async fn drain(&self) -> Result<(), Failure> {
                    Ok(self.flush().await?)
                }

                fn counted(&self) -> larder::Stats {
                    self.stats()
                }
            }
        )*
    };
}

queues!(
    MemoryFlightRepository,
    FsyncFlightRepository,
    JournaledFlightRepository,
    OneQueueFlightRepository,
    QueuedFlightRepository
);

/// `save` of larder, until it is acknowledged.
#[derive(Clone)]
pub(crate) struct Put<R> {
    pub(crate) repository: R,
    pub(crate) rows: Table,
}

impl<R: Queues> Operation for Put<R> {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.repository.put(changed(&self.rows, id)?).await
    }
}

/// Fails if a write met anything but its queue.
pub(crate) fn check_errors(repository: &impl Queues) -> Result<(), Failure> {
    let stats = repository.counted();
    if stats.store_errors > 0 || stats.write_errors > 0 || stats.lost_writes > 0 {
        return Err(format!("larder's queued writes met errors: {stats:?}").into());
    }
    Ok(())
}
