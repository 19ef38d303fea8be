//! Loads that meet: the keys of several callers are read by one statement.
//!
//! A database needs about as long for one row by its id as for a hundred. So while some loads of an entity run, others wait, and are
//! read together when one of those returns (`gathering`). A load that meets nobody is sent at once.
//!
//! 1. Each key keeps its own lease, flight and callers; only the statement is shared. A key is marked as sent when the statement of
//!    its group is sent, so a caller joins only a statement that is not sent yet.
//! 2. A load whose callers have all left leaves the group, as long as its statement has not begun.
//! 3. If a statement for several loads fails, each is repeated by itself, so that one bad id fails alone. If the database cannot be
//!    reached, all fail.
//!
//! Only rows of tables whose ids are equal in one spelling alone are read together (`Dialect::is_exact`): a statement for several ids
//! does not say which of them a row was found by.
//!
//! Invariant: a load that leaves, or that fails, takes nothing from the others.
//! Not here: the steps of one load (`load`).

use std::{
    any::Any,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
        units::Unit,
    },
    store::{Store, failpoint::Mechanism},
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
}

impl<E: Entity, DB: Backend, C: Content<E, DB>> Unit for Waiting<E, DB, C> {
    fn keys(&self) -> usize {
        self.keys
    }

    fn read(&self, all: Vec<Arc<dyn Unit>>) -> BoxFuture<'static, ()> {
        let mut loads = Vec::with_capacity(all.len());
        for unit in all {
            let any: Arc<dyn Any + Send + Sync> = unit;
            let Ok(unit) = any.downcast::<Self>() else {
                continue;
            };
            let ready = unit.lock().take();
            loads.extend(ready);
        }
        read(loads).boxed()
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
        let waits = waiting.lock().is_some();
        tokio::select! {
            () = &mut done => return,
            () = have_left(&callers), if waits => {}
        }
        if let Some(ready) = waiting.given_up() {
            return load::release_all(&ready).await;
        }
    }
}

/// Waits until nobody waits for any of the keys. A caller may join afterwards.
async fn have_left<V>(callers: &[Callers<V>]) {
    for callers in callers {
        callers.left().await;
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
    if is_out_of_reach(&failed.error) {
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

/// Returns whether no other statement would fare better.
fn is_out_of_reach(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<sqlx::Error>());
    matches!(
        source,
        Some(
            sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Io(_)
                | sqlx::Error::WorkerCrashed
        )
    )
}
