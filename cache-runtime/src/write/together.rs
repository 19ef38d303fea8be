//! Writes that meet: those of several callers are announced, executed and committed together.
//!
//! A database needs about as long to commit one row as to commit a hundred. So while some writes of an entity are under way, others
//! wait, and are executed together when one of those has ended (`gathering`). A write that meets nobody is executed at once, and
//! none waits for a timer.
//!
//! 1. The writes of a group are announced with one intent, executed with one commit (`database::together`), and end together.
//! 2. Each gets the result of its own row. A row that the statement did not match is refused, and its neighbours are written.
//! 3. If the statement fails and one of the writes may be the cause, each is executed by itself, so that it fails alone. So it is when
//!    one of them would have to wait for the lock of its row: the group gives up soon.
//! 4. A write of a row that another caller of this process is writing is executed by itself, because it would wait for that one.
//!
//! Invariant: the announcement of each write lies around the shared commit.
//! Invariant: a write that fails takes nothing from the others. A group ends in a task of its own, and each of its writes is in one,
//! so all run to their end when their callers have left.
//! Not here: the statements (`database::together`), and the announcement (`announce`).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::runtime::Handle;

use crate::{
    context::{Context, stopped_message},
    database::{
        self, Write, WriteOutcome, Written,
        backend::Backend,
        entity::Entity,
        together::{Answer, Answers, Kind},
    },
    error::{Error, ErrorKind},
    gathering::SinglePermit,
    protocol::{key::Key, token::Token},
    store::{Store, failpoint::Mechanism},
    units::{self, Slot, Statements, Unit},
    write::{
        announce::{Announcement, PendingWrites, WriteEnd},
        target::WriteTarget,
    },
};

/// What became of a write that could meet others.
pub(crate) enum Told<E: Entity> {
    /// It was executed together with others.
    Written(Result<Option<Arc<E>>, Error>),
    /// Nothing was done. The caller must execute it by itself, and keep the permit until then.
    Alone(Write<E>, Option<SinglePermit<Statements>>),
}

/// A write until its group has ended.
struct Waiting<E: Entity, DB: Backend> {
    context: Arc<Context<E, DB>>,
    kind: Kind,
    key: Key,
    lookups: Vec<Key>,
    write: Write<E>,
    outcome: Slot<Outcome<E>>,
}

/// What became of a write in its group.
enum Outcome<E> {
    Written(Option<Arc<E>>),
    /// The statement matched no row.
    Refused,
    Failed(sqlx::Error, WriteOutcome),
    /// Nothing was done.
    Alone,
    /// The task of the group has ended before the group.
    Stopped,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Executes a write together with others of its kind, if it meets some. Returns the row as written, or `None` for a delete. The
    /// caller runs it to its end.
    pub(crate) async fn write_together(self: &Arc<Self>, write: Write<E>) -> Told<E> {
        let store = &self.cache.store;
        let gathering = self.gathering_of(&write);
        let gathering = gathering.filter(|_| !store.disables(Mechanism::SharedStatement));
        let Some((kind, units)) = gathering else {
            return Told::Alone(write, None);
        };
        if !store.disables(Mechanism::LoneWrite)
            && let Some(permit) = units.try_alone()
        {
            return Told::Alone(write, Some(permit));
        }
        let write = match write {
            Write::Insert(row) if kind == Kind::InsertGenerated => {
                return Box::pin(self.insert_together(units, row)).await;
            }
            other => other,
        };
        let (Ok(key), Ok(lookups)) = (self.key(&write.id()), self.announced_lookups(&write)) else {
            // It fails with the reason when it is executed by itself.
            return Told::Alone(write, None);
        };
        let Some(entered) = self.row_gates.enter_first(key.clone()) else {
            return Told::Alone(write, None);
        };
        let waiting = Arc::new(Waiting {
            context: Arc::clone(self),
            kind,
            key,
            lookups,
            write,
            outcome: Slot::new(Outcome::Stopped),
        });
        let unit: Arc<dyn Unit> = Arc::clone(&waiting) as _;
        units.call_in_group(&Handle::current(), unit).await;
        drop(entered);
        let outcome = waiting.outcome.replace(Outcome::Stopped);
        let (key, write) = match Arc::try_unwrap(waiting) {
            Ok(waiting) => (waiting.key, waiting.write),
            Err(waiting) => (waiting.key.clone(), waiting.write.clone()),
        };
        let written = match outcome {
            Outcome::Written(row) => Ok(row.or_else(|| self.row_of(write))),
            Outcome::Refused => Err(Box::pin(self.refused_in_group(&write, &key)).await),
            Outcome::Failed(error, fate) => Err(self.failed_in_group(&write, &key, error, fate)),
            Outcome::Alone => return Told::Alone(write, None),
            Outcome::Stopped => Err(Error::new(
                ErrorKind::TaskFailed,
                stopped_message::<E>(write.verb()),
            )),
        };
        self.count(&written);
        Told::Written(written)
    }

    /// Returns the error of a write that was executed together with others and matched no row.
    async fn refused_in_group(&self, write: &Write<E>, key: &Key) -> Error {
        match self.database.acquire().await {
            Ok(mut connection) => self.refused(&mut connection, write, key).await,
            Err(error) => self.failed_in_group(write, key, error, WriteOutcome::Nothing),
        }
    }

    fn failed_in_group(
        &self,
        write: &Write<E>,
        key: &Key,
        error: sqlx::Error,
        fate: WriteOutcome,
    ) -> Error {
        database::describe(write.verb(), &self.describe_row(key), error, fate)
    }
}

impl<E: Entity, DB: Backend> Unit for Waiting<E, DB> {
    fn rows(&self) -> usize {
        1
    }

    fn run(&self, all: Vec<Arc<dyn Unit>>) -> BoxFuture<'static, ()> {
        let (context, kind) = (Arc::clone(&self.context), self.kind);
        let mut all = units::of_type::<Self>(all);
        // All processes give their rows in this order.
        all.sort_by(|one, other| one.key.as_bytes().cmp(other.key.as_bytes()));
        all.dedup_by(|later, first| {
            // A row cannot be written twice by one statement.
            let is_same = later.key == first.key;
            if is_same {
                later.outcome.replace(Outcome::Alone);
            }
            is_same
        });
        async move { write(&context, kind, &all).await }.boxed()
    }
}

/// Executes writes of different rows together.
async fn write<E: Entity, DB: Backend>(
    context: &Arc<Context<E, DB>>,
    kind: Kind,
    all: &[Arc<Waiting<E, DB>>],
) {
    let mut staging = PendingWrites::default();
    let announced = match context.cache.store.disables(Mechanism::GroupIntent) {
        true => 1,
        false => all.len(),
    };
    for waiting in &all[..announced] {
        for key in std::iter::once(&waiting.key).chain(&waiting.lookups) {
            staging.mark_changed(
                Arc::clone(context) as Arc<dyn WriteTarget>,
                key.clone(),
                None,
            );
        }
        context.mark_beside(&mut staging, &waiting.write);
    }
    let mut announcement = Announcement::new(Token::draw(), staging);
    let (opened, ()) = tokio::join!(
        context.database.open_shared(context.policy.intent_ttl),
        announcement.begin()
    );
    let writes: Vec<_> = all.iter().map(|waiting| &waiting.write).collect();
    // Before the statement, which commits: afterwards, others may change the rows again and advance the clock of their tags.
    let stamp = *context.last_stamp();
    let statement = context.database.write_together(opened, kind, &writes);
    let verb = kind.verb();
    let Ok((Answers { each, untold }, mut announcement)) =
        announcement.attempt(verb, statement).await
    else {
        // It must be announced and cannot be. Each is told why when it is executed by itself.
        for waiting in all {
            waiting.outcome.replace(Outcome::Alone);
        }
        return;
    };
    let stamp = context.stamp_of_write(stamp).await;
    let mut ending = WriteEnd::Undone;
    let (mut updates, mut others) = (HashMap::new(), Vec::new());
    let mut outcomes = Vec::with_capacity(all.len());
    for row in untold {
        // A trigger has given it another id. What was cached of that one is old.
        others.extend(context.key(&row.id()));
        others.extend(context.lookup_keys(&row).unwrap_or_default());
    }
    for (waiting, answer) in all.iter().zip(each) {
        outcomes.push(match answer {
            Answer::Written(Written { rows: 0, .. }) => Outcome::Refused,
            Answer::Written(written) => {
                ending = ending.max(WriteEnd::Committed);
                if all.len() > 1 {
                    context.counters.gathered_writes.add_one();
                }
                let row = written.row.map(Arc::new);
                let Waiting {
                    key,
                    lookups,
                    write,
                    ..
                } = &**waiting;
                others.extend(context.keys_of_other(write, key, lookups, row.as_ref()));
                // The types of the row encode it. If one panics, this row is not stored, and its neighbours are.
                let update = || context.update(write, key, row.as_ref(), stamp);
                if let Ok(Some(update)) = catch_unwind(AssertUnwindSafe(update)) {
                    updates.insert(key.clone(), update);
                }
                Outcome::Written(row)
            }
            Answer::Failed(error, fate) => {
                ending = ending.max(fate.into());
                Outcome::Failed(error, fate)
            }
            Answer::Alone => Outcome::Alone,
        });
    }
    context.drop_others(others).await;
    announcement.set_updates(updates);
    announcement.end(ending).await;
    for (waiting, outcome) in all.iter().zip(outcomes) {
        waiting.outcome.replace(outcome);
    }
}
