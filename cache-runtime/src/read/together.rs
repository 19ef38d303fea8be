//! Loads that meet: the keys of several callers are read by one statement.
//!
//! A database needs about as long for one row by its id as for a hundred. So while some loads of an entity run, others wait, and are
//! read together when one of those returns (`gathering`). A load that meets nobody is sent at once.
//!
//! 1. Each key keeps its own lease, flight and callers; only the statement is shared. A key is marked as sent when the statement of
//!    its group is sent, so a caller joins only a statement that is not sent yet.
//! 2. A load whose callers have all left leaves the group, as long as its statement has not begun.
//! 3. If a statement for several loads fails, and one row or id may be the cause, each is repeated by itself, so that it fails alone.
//!    If the database cannot be reached, all fail at once.
//!
//! Only rows of tables whose ids are equal in one spelling alone are read together (`Dialect::is_exact`): a statement for several ids
//! does not say which of them a row was found by.
//!
//! Invariant: a load that leaves, or that fails, takes nothing from the others.
//! Not here: the steps of one load (`load`).

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use tokio::runtime::Handle;

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    read::{
        content::{self, Content},
        load::{self, Callers, Failed, Ready},
    },
    store::{Store, failpoint::Mechanism},
    units::{self, Unit},
};

/// The keys of one load, until their statement begins or their callers have left.
struct Waiting<E: Entity, DB: Backend, C: Content<E, DB>> {
    keys: usize,
    ready: Mutex<Option<Vec<Ready<E, DB, C>>>>,
}

impl<E: Entity, DB: Backend, C: Content<E, DB>> Waiting<E, DB, C> {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Ready<E, DB, C>>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the keys if no caller waits for them any more.
    fn given_up(&self) -> Option<Vec<Ready<E, DB, C>>> {
        let mut ready = self.lock();
        load::are_given_up(ready.as_mut()?).then(|| ready.take())?
    }

    /// Waits until nobody waits for any of the keys, while they wait for their statement. A caller may join afterwards.
    async fn callers_left(&self, callers: &[Callers<C::Value>]) {
        let mut left = std::pin::pin!(async {
            for callers in callers {
                callers.left().await;
            }
        });
        poll_fn(|context| {
            // Held while it is polled: the sender of an answer wakes one task only, and that is the group's as soon as it has them.
            let ready = self.lock();
            match ready.is_some() {
                true => left.as_mut().poll(context),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

impl<E: Entity, DB: Backend, C: Content<E, DB>> Unit for Waiting<E, DB, C> {
    fn rows(&self) -> usize {
        self.keys
    }

    fn run(&self, all: Vec<Arc<dyn Unit>>) -> BoxFuture<'static, ()> {
        let units = units::of_type::<Self>(all).into_iter();
        read(units.filter_map(|unit| unit.lock().take()).collect()).boxed()
    }
}

/// Reads the keys of a load, alone or with others that wait.
pub(super) async fn load<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: &Arc<Context<E, DB>>,
    ready: Vec<Ready<E, DB, C>>,
) {
    let units = context.units.as_ref().filter(|_| {
        let are_gathered = ready.iter().all(|ready| ready.content().is_gathered());
        are_gathered && !context.cache.store.disables(Mechanism::SharedStatement)
    });
    let Some(units) = units else {
        return alone(context, ready).await;
    };
    if let Some(full) = context.turns.full(units.waiting()) {
        let described = content::describe(context, &load::wanted(&ready));
        let error = context.overloaded(full, &described, ready.len() as u64);
        return Failed { ready, error }.answer().await;
    }
    let callers: Vec<_> = ready.iter().map(Ready::callers).collect();
    let waiting = Arc::new(Waiting {
        keys: ready.len(),
        ready: Mutex::new(Some(ready)),
    });
    let unit: Arc<dyn Unit> = Arc::clone(&waiting) as _;
    let runtime = Handle::current();
    let mut done = std::pin::pin!(units.call(&runtime, unit));
    loop {
        tokio::select! {
            () = &mut done => return,
            () = waiting.callers_left(&callers) => {}
        }
        if let Some(ready) = waiting.given_up() {
            return load::release_all(&ready).await;
        }
    }
}

/// Reads the keys of loads by one statement.
async fn read<E: Entity, DB: Backend, C: Content<E, DB>>(mut loads: Vec<Vec<Ready<E, DB, C>>>) {
    let first = loads.iter().flatten().next();
    let Some(context) = first.map(|ready| Arc::clone(ready.context())) else {
        return;
    };
    let sizes: Vec<_> = loads.iter().map(Vec::len).collect();
    if let [_only] = sizes[..] {
        let only = loads.pop().unwrap_or_default();
        return alone(&context, only).await;
    }
    let all = loads.into_iter().flatten().collect();
    let Err(mut failed) = load::load(&context, all).await else {
        return;
    };
    if !may_be_about_one(&failed.error) {
        return failed.answer().await;
    }
    let each = sizes.into_iter().map(|size| {
        let rest = failed.ready.split_off(size.min(failed.ready.len()));
        std::mem::replace(&mut failed.ready, rest)
    });
    let each: Vec<_> = each.collect();
    join_all(each.into_iter().map(|ready| alone(&context, ready))).await;
}

async fn alone<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: &Arc<Context<E, DB>>,
    ready: Vec<Ready<E, DB, C>>,
) {
    if let Err(failed) = load::load(context, ready).await {
        failed.answer().await;
    }
}

/// Returns whether one row or id may have made a statement for several fail.
fn may_be_about_one(error: &Error) -> bool {
    matches!(
        error.database_error(),
        Some(
            sqlx::Error::Database(_)
                | sqlx::Error::Encode(_)
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnDecode { .. }
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_all_loads_share_is_not_repeated_for_each() {
        let caused = |source| Error::with_source(ErrorKind::Database, "no", source);
        let decode = || sqlx::Error::Decode("a value is too large".into());
        assert!(may_be_about_one(&caused(decode())));
        for shared in [sqlx::Error::PoolTimedOut, sqlx::Error::PoolClosed] {
            assert!(!may_be_about_one(&caused(shared)));
        }
        let refused = Error::new(ErrorKind::Configuration, "another database");
        assert!(!may_be_about_one(&refused));
    }
}
