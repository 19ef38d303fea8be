//! How many writes of one row, or of rows with the same value of a lookup, may be under way in this process at the same time.
//!
//! A key lists the intents of its writers, and the list is bounded. Beyond the bound a store can only remember that there
//! were more, and keeps the row out of the cache until the last intent has expired. The database executes the writes of a
//! row one after the other anyway, so a write that waits here instead loses nothing.
//!
//! 1. A write of one row that commits by itself enters the gates of its keys, in the order of the keys, before it announces
//!    itself.
//! 2. It leaves when it has ended.
//! 3. A write that is executed together with others enters the gate of its row only, and only if it is the first there: the group
//!    has one intent for all.
//!
//! Invariant: a write waits here only while it holds no connection and no lock. So transactions and batches, which may hold
//! some, do not enter.
//! Not here: the list of intents (`state`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::protocol::key::Key;

/// The maximum number of announced writes of one row. It is a fraction of the intents that a key can list
/// (`state::MAX_INTENTS`), because other processes write the row too.
const MAX_WRITERS: usize = 16;

/// The gates of one repository, one for each key at which writes are announced.
#[derive(Default)]
pub(crate) struct RowGates(Mutex<HashMap<Key, Gate>>);

struct Gate {
    /// The writes inside and before the gate.
    writers: usize,
    places: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self {
            writers: 0,
            places: Arc::new(Semaphore::new(MAX_WRITERS)),
        }
    }
}

/// A write that has entered. It leaves when this is dropped.
pub(crate) struct Entered<'a> {
    place: Option<OwnedSemaphorePermit>,
    gates: &'a RowGates,
    key: Key,
}

impl RowGates {
    /// Enters the gates of several keys. All writers enter them in the same order, so that none waits for another that waits
    /// for it.
    pub(crate) async fn enter_all(&self, key: &Key, others: &[Key]) -> SmallVec<[Entered<'_>; 1]> {
        if others.is_empty() {
            return SmallVec::from_iter([self.enter(key.clone()).await]);
        }
        let mut keys: Vec<_> = std::iter::once(key).chain(others).collect();
        keys.sort_unstable_by_key(|key| key.as_bytes());
        keys.dedup();
        let mut entered = SmallVec::new();
        for key in keys {
            entered.push(self.enter(key.clone()).await);
        }
        entered
    }

    /// Enters the gate of a key if no other write of the row is under way.
    pub(crate) fn enter_first(&self, key: Key) -> Option<Entered<'_>> {
        let mut gates = self.lock();
        if gates.contains_key(&key) {
            return None;
        }
        let mut gate = Gate::new();
        gate.writers = 1;
        let place = Arc::clone(&gate.places).try_acquire_owned().ok()?;
        gates.insert(key.clone(), gate);
        Some(Entered {
            place: Some(place),
            gates: self,
            key,
        })
    }

    /// Enters the gate of a key. Waits while too many writes of the row are under way.
    pub(crate) async fn enter(&self, key: Key) -> Entered<'_> {
        let places = {
            let mut gates = self.lock();
            let gate = gates.entry(key.clone()).or_insert_with(Gate::new);
            gate.writers += 1;
            Arc::clone(&gate.places)
        };
        // Made before the wait, so that a write that is dropped here is not counted any more.
        let mut entered = Entered {
            place: None,
            gates: self,
            key,
        };
        let place = places.acquire_owned().await;
        entered.place = Some(place.expect("the semaphore is never closed"));
        entered
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Gate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        drop(self.place.take());
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get_mut(&self.key) {
            gate.writers -= 1;
            if gate.writers == 0 {
                gates.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::protocol::state::MAX_INTENTS;

    const _: () = assert!(MAX_WRITERS * 16 <= MAX_INTENTS);

    fn key(number: u8) -> Key {
        Key::from_bytes(&[number])
    }

    #[tokio::test]
    async fn writes_of_one_row_beyond_the_maximum_wait_for_one_to_end() {
        let gates = RowGates::default();
        let mut inside = Vec::new();
        for _ in 0..MAX_WRITERS {
            inside.push(gates.enter(key(1)).await);
        }
        let mut next = pin!(gates.enter(key(1)));
        assert!(next.as_mut().now_or_never().is_none());
        let _other_row = gates.enter(key(2)).await;
        inside.pop();
        let _next = next.await;
        let mut one_more = pin!(gates.enter(key(1)));
        assert!(
            one_more.as_mut().now_or_never().is_none(),
            "the others are still inside"
        );
    }

    #[tokio::test]
    async fn writes_that_share_keys_in_any_order_do_not_block_each_other() {
        let gates = RowGates::default();
        let keys: Vec<_> = (0..4).map(key).collect();
        let write = |number: usize| {
            let (gates, mut keys) = (&gates, keys.clone());
            async move {
                keys.rotate_left(number % 4);
                if number.is_multiple_of(3) {
                    keys.reverse();
                }
                let _entered = gates.enter_all(&keys[0], &keys[1..]).await;
                tokio::task::yield_now().await;
            }
        };
        let writes = futures_util::future::join_all((0..20 * MAX_WRITERS).map(write));
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), writes).await;
        assert!(ended.is_ok());
        assert!(gates.lock().is_empty());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_writes_that_have_ended_or_were_dropped() {
        let gates = RowGates::default();
        let mut inside = Vec::new();
        for _ in 0..MAX_WRITERS {
            inside.push(gates.enter(key(1)).await);
        }
        {
            let mut waiting = pin!(gates.enter(key(1)));
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(inside);
        assert!(gates.lock().is_empty());
    }
}
