//! Inserts that meet and whose ids the database generates: those of several callers are one batch.
//!
//! Their keys are known only after the statement, so they are announced like a batch of one caller (`bulk`): after the statement, and
//! before the commit. Otherwise they meet as other writes do (`together`), and one that fails does not take the others with it.
//!
//! Only on Postgres, where one statement generates the ids of many rows in their order.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use tokio::runtime::Handle;

use crate::{
    context::{Context, stopped_message},
    database::{Write, backend::Backend, entity::Entity, together::Kind},
    error::{Error, ErrorKind},
    units::{self, Slot, Unit, Units},
    write::{
        bulk::{Batch, Done},
        together::Told,
    },
};

/// An insert until its group has ended.
struct Waiting<E: Entity, DB: Backend> {
    context: Arc<Context<E, DB>>,
    row: E,
    outcome: Slot<Outcome<E>>,
}

/// What became of an insert in its group.
enum Outcome<E> {
    Inserted(Arc<E>),
    /// It is not known whether it was committed.
    Failed(Error),
    /// Nothing was done.
    Alone,
    /// The task of the group has ended before the group.
    Stopped,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Inserts a row together with others. The caller runs it to its end.
    pub(super) async fn insert_together(self: &Arc<Self>, units: &Arc<Units>, row: E) -> Told<E> {
        let waiting = Arc::new(Waiting {
            context: Arc::clone(self),
            row,
            outcome: Slot::new(Outcome::Stopped),
        });
        let unit: Arc<dyn Unit> = Arc::clone(&waiting) as _;
        units.call_in_group(&Handle::current(), unit).await;
        let written = match waiting.outcome.replace(Outcome::Stopped) {
            Outcome::Inserted(row) => Ok(Some(row)),
            Outcome::Failed(error) => Err(error),
            Outcome::Alone => {
                let waiting = Arc::try_unwrap(waiting);
                let row = waiting.map_or_else(|waiting| waiting.row.clone(), |waiting| waiting.row);
                return Told::Alone(Write::Insert(row), None);
            }
            Outcome::Stopped => Err(Error::new(
                ErrorKind::TaskFailed,
                stopped_message::<E>(Kind::InsertGenerated.verb()),
            )),
        };
        self.count(&written);
        Told::Written(written)
    }
}

impl<E: Entity, DB: Backend> Unit for Waiting<E, DB> {
    fn rows(&self) -> usize {
        1
    }

    fn run(&self, all: Vec<Arc<dyn Unit>>) -> BoxFuture<'static, ()> {
        let (context, all) = (Arc::clone(&self.context), units::of_type::<Self>(all));
        async move { insert(&context, &all).await }.boxed()
    }
}

/// Inserts rows together.
async fn insert<E: Entity, DB: Backend>(
    context: &Arc<Context<E, DB>>,
    all: &[Arc<Waiting<E, DB>>],
) {
    let rows = all.iter().map(|waiting| waiting.row.clone()).collect();
    match context.write_shared_batch(Batch::Insert(rows)).await {
        Ok(Done::Rows(rows)) => {
            for (waiting, row) in all.iter().zip(rows) {
                if all.len() > 1 {
                    context.counters.gathered_writes.add_one();
                }
                waiting.outcome.replace(Outcome::Inserted(row));
            }
        }
        Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {
            for waiting in all {
                waiting.outcome.replace(Outcome::Failed(error.clone()));
            }
        }
        // Nothing was committed, and one of them may be the cause.
        Ok(Done::Count(_)) | Err(_) => {
            for waiting in all {
                waiting.outcome.replace(Outcome::Alone);
            }
        }
    }
}
