//! Single flight inside a process: of all callers that miss a key at the same time, one loads, and the others share its
//! load.
//!
//! Without it, every task that misses a hot key would read the same row from the database. Without care, a caller that
//! joins late would get a row that was read before a write which had finished before the caller asked.
//!
//! 1. The first caller that misses is the leader. A task of its own runs the load, so that the load continues if the
//!    leader's future is dropped.
//! 2. Before each store command and each SELECT, the flight starts a new *generation*. A caller that joins records the
//!    current generation.
//! 3. A result may be shared with callers that joined before the generation of the command or SELECT that produced it.
//!    A row whose fill was accepted may be shared with all callers, because the flight is closed before its fill is
//!    sent.
//! 4. A load that will fill nothing (a write is under way, or the store cannot be reached) is *sealed* before its
//!    SELECT. No later caller could share it. So the next caller opens a successor, which starts when the sealed load
//!    ends, and which later callers join.
//! 5. A caller that may not share the result looks at the key again, and if that serves nothing, joins or leads another flight.
//!
//! Invariant: a shared result was read after all callers that get it had asked.
//! Not here: the loads of other processes (the lease, in `load`), and how a row is loaded (`load`).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::watch;

use crate::{error::Error, protocol::key::Key, read::outcome::Outcome};

/// Above every generation: all callers may share.
pub(crate) const ALL: u32 = u32::MAX;

/// How a flight ended.
pub(crate) enum LoadResult<E> {
    /// With an outcome, for callers that joined below this generation.
    Shared { outcome: Outcome<E>, below: u32 },
    /// With an error.
    Failed(Error),
}

impl<E> Clone for LoadResult<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Shared { outcome, below } => Self::Shared {
                outcome: outcome.clone(),
                below: *below,
            },
            Self::Failed(error) => Self::Failed(error.clone()),
        }
    }
}

/// The flights of one repository.
pub(crate) struct Flights<E>(Mutex<HashMap<Key, Slot<E>>>);

/// The flight of a key that callers join now.
struct Slot<E> {
    flight: Arc<Flight<E>>,
    sealed: bool,
}

/// One load under way.
pub(crate) struct Flight<E> {
    generation: AtomicU32,
    result: watch::Sender<Option<LoadResult<E>>>,
}

/// A caller's place in a flight.
pub(crate) enum Joined<E> {
    /// The caller leads. It must begin when the flight before it has ended, and finish its own.
    Leader(Arc<Flight<E>>, Option<Follower<E>>),
    /// Another caller leads.
    Follower(Follower<E>),
}

/// A caller that joined.
pub(crate) struct Follower<E> {
    joined_at: u32,
    result: watch::Receiver<Option<LoadResult<E>>>,
}

impl<E> Default for Flights<E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<E> Flights<E> {
    /// Joins the flight of a key, or opens one.
    pub(crate) fn join(&self, key: &Key) -> Joined<E> {
        let mut flights = self.lock();
        let before = match flights.get(key) {
            Some(Slot { flight, sealed }) => {
                let follower = Follower {
                    joined_at: flight.generation.load(Ordering::SeqCst),
                    result: flight.result.subscribe(),
                };
                if !sealed {
                    return Joined::Follower(follower);
                }
                Some(follower)
            }
            None => None,
        };
        let flight = Arc::new(Flight::default());
        let slot = Slot {
            flight: Arc::clone(&flight),
            sealed: false,
        };
        flights.insert(key.clone(), slot);
        Joined::Leader(flight, before)
    }

    /// From now on, new callers open a successor.
    pub(crate) fn seal(&self, key: &Key, flight: &Arc<Flight<E>>) {
        if let Some(slot) = self.lock().get_mut(key)
            && Arc::ptr_eq(&slot.flight, flight)
        {
            slot.sealed = true;
        }
    }

    /// Closes a flight: no caller can join it any longer. Those that have joined stay.
    pub(crate) fn close(&self, key: &Key, flight: &Arc<Flight<E>>) {
        let mut flights = self.lock();
        if flights
            .get(key)
            .is_some_and(|slot| Arc::ptr_eq(&slot.flight, flight))
        {
            flights.remove(key);
        }
    }

    /// Closes a flight that nobody follows. Returns whether nobody does: then nobody ever will.
    pub(crate) fn close_unfollowed(&self, key: &Key, flight: &Arc<Flight<E>>) -> bool {
        let mut flights = self.lock();
        // Callers join under the same lock.
        let is_unfollowed = flight.result.receiver_count() == 0;
        if is_unfollowed
            && flights
                .get(key)
                .is_some_and(|slot| Arc::ptr_eq(&slot.flight, flight))
        {
            flights.remove(key);
        }
        is_unfollowed
    }

    /// Closes the flight of a key, if there is one.
    pub(crate) fn close_current(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot<E>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Default for Flight<E> {
    fn default() -> Self {
        Self {
            generation: AtomicU32::new(0),
            result: watch::Sender::new(None),
        }
    }
}

impl<E> Flight<E> {
    /// Starts a new generation and returns it. Call it before every store command and SELECT.
    pub(crate) fn next_generation(&self) -> u32 {
        self.generation.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Waits until nobody follows. Somebody may join afterwards.
    pub(crate) async fn unfollowed(&self) {
        self.result.closed().await;
    }

    /// Sends the result to all callers that joined.
    pub(crate) fn finish(&self, result: LoadResult<E>) {
        self.result.send_replace(Some(result));
    }
}

impl<E> Follower<E> {
    /// Waits for the result. Returns `None` if the flight was lost: its task panicked or was stopped.
    pub(crate) async fn result(mut self) -> Option<LoadResult<E>> {
        match self.result.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        }
    }

    /// Returns the generation in which the caller joined.
    pub(crate) fn joined_at(&self) -> u32 {
        self.joined_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn key(number: u8) -> Key {
        Key::from_bytes(&[number])
    }

    fn lead(flights: &Flights<u8>, key: &Key) -> (Arc<Flight<u8>>, Option<Follower<u8>>) {
        match flights.join(key) {
            Joined::Leader(flight, before) => (flight, before),
            Joined::Follower(_) => panic!("another caller leads"),
        }
    }

    fn follow(flights: &Flights<u8>, key: &Key) -> Follower<u8> {
        match flights.join(key) {
            Joined::Follower(follower) => follower,
            Joined::Leader(..) => panic!("nobody else leads"),
        }
    }

    fn row(row: u8) -> LoadResult<u8> {
        LoadResult::Shared {
            outcome: Outcome::fresh(Some(Arc::new(row))),
            below: ALL,
        }
    }

    async fn result(follower: Follower<u8>) -> Option<u8> {
        match follower.result().await? {
            LoadResult::Shared { outcome, .. } => outcome.row.map(|row| *row),
            LoadResult::Failed(_) => None,
        }
    }

    #[tokio::test]
    async fn callers_of_one_key_share_one_flight() {
        let flights = Flights::default();
        let (flight, before) = lead(&flights, &key(1));
        assert!(before.is_none());
        let followers = [follow(&flights, &key(1)), follow(&flights, &key(1))];
        let (_other, _) = lead(&flights, &key(2));
        flight.finish(row(7));
        for follower in followers {
            assert_eq!(result(follower).await, Some(7));
        }
    }

    #[tokio::test]
    async fn caller_joins_in_the_current_generation() {
        let flights = Flights::default();
        let (flight, _) = lead(&flights, &key(1));
        let early = follow(&flights, &key(1));
        assert_eq!(flight.next_generation(), 1);
        let late = follow(&flights, &key(1));
        assert_eq!(flight.next_generation(), 2);
        assert_eq!((early.joined_at(), late.joined_at()), (0, 1));
    }

    #[tokio::test]
    async fn sealed_flight_has_a_successor_that_waits_for_it() {
        let flights = Flights::default();
        let (sealed, _) = lead(&flights, &key(1));
        let joined = follow(&flights, &key(1));
        flights.seal(&key(1), &sealed);
        let (successor, before) = lead(&flights, &key(1));
        let later = follow(&flights, &key(1));
        sealed.finish(row(1));
        successor.finish(row(2));
        assert_eq!(result(before.unwrap()).await, Some(1));
        assert_eq!(result(joined).await, Some(1));
        assert_eq!(result(later).await, Some(2));
    }

    #[tokio::test]
    async fn sealing_or_closing_a_former_flight_leaves_its_successor_open() {
        let flights = Flights::default();
        let (former, _) = lead(&flights, &key(1));
        flights.close(&key(1), &former);
        let (_current, before) = lead(&flights, &key(1));
        assert!(before.is_none(), "a closed flight has no successor");
        flights.seal(&key(1), &former);
        flights.close(&key(1), &former);
        flights.seal(&key(2), &former);
        let _follower = follow(&flights, &key(1));
    }

    #[tokio::test]
    async fn closed_flight_still_answers_those_who_joined() {
        let flights = Flights::default();
        let (flight, _) = lead(&flights, &key(1));
        let joined = follow(&flights, &key(1));
        flights.close(&key(1), &flight);
        let (_next, _) = lead(&flights, &key(1));
        flight.finish(row(3));
        assert_eq!(result(joined).await, Some(3));
    }

    #[tokio::test]
    async fn current_flight_of_a_key_can_be_closed_by_key() {
        let flights = Flights::default();
        let (_flight, _) = lead(&flights, &key(1));
        let (_other, _) = lead(&flights, &key(2));
        flights.close_current(&key(1));
        let (_next, before) = lead(&flights, &key(1));
        assert!(before.is_none());
        let _follower = follow(&flights, &key(2));
    }

    #[tokio::test]
    async fn flight_that_nobody_follows_is_closed_for_good() {
        let flights = Flights::default();
        let (flight, _) = lead(&flights, &key(1));
        let follower = follow(&flights, &key(1));
        assert!(!flights.close_unfollowed(&key(1), &flight));
        drop(follower);
        flight.unfollowed().await;
        let again = follow(&flights, &key(1));
        assert!(!flights.close_unfollowed(&key(1), &flight), "one came back");
        drop(again);
        assert!(flights.close_unfollowed(&key(1), &flight));
        let (next, before) = lead(&flights, &key(1));
        assert!(before.is_none());
        assert!(
            flights.close_unfollowed(&key(1), &flight),
            "it stays closed"
        );
        let _follower = follow(&flights, &key(1));
        assert!(!flights.close_unfollowed(&key(1), &next));
    }

    #[tokio::test]
    async fn lost_flight_differs_from_failed_load() {
        let flights = Flights::default();
        let (flight, _) = lead(&flights, &key(1));
        let (lost, failed) = (follow(&flights, &key(1)), follow(&flights, &key(1)));
        flight.finish(LoadResult::Failed(Error::new(ErrorKind::Database, "no")));
        assert!(matches!(failed.result().await, Some(LoadResult::Failed(_))));
        drop(lost);
        let (flight, _) = lead(&flights, &key(2));
        let lost = follow(&flights, &key(2));
        flights.close(&key(2), &flight);
        drop(flight);
        assert!(lost.result().await.is_none());
    }
}
