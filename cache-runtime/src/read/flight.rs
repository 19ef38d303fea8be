//! Single flight inside a process: of all callers that miss a key at the same time, one loads, the others share.
//!
//! Without it, every task that misses a hot key asks the database for the same row. With it done carelessly, a caller that
//! joins late receives a row that was read before a write that finished before the caller even asked.
//!
//! 1. The first caller that misses leads: a task of its own runs the load, so that a leader that gives up takes nobody down.
//! 2. Before every step that observes the outside world (a store command, the statement), the flight draws a new *mark*. A
//!    caller that joins notes the mark it saw.
//! 3. The result says below which mark it may be shared: the mark drawn before the observation that produced it. A row
//!    whose fill was accepted may be shared with all, because the flight is closed before its fill is sent.
//! 4. A load that will store nothing (a write is under way, the store is away) is *sealed* before its statement: nobody who
//!    comes later could share it, so the next caller opens a successor that starts when it lands, and gathers the others.
//! 5. A caller that may not share runs again.
//!
//! Invariant: a shared result was observed after every caller that receives it had asked.
//! Not here: other processes (`lease` in `read`), and what is loaded.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::watch;

use crate::{error::Error, protocol::key::Key, read::outcome::Outcome};

/// Above every mark: everybody may share.
pub(crate) const ALL: u32 = u32::MAX;

/// How a flight ended.
pub(crate) enum Landing<E> {
    /// With an outcome, for callers that joined below the mark.
    Shared { outcome: Outcome<E>, below: u32 },
    /// With an error.
    Failed(Error),
}

impl<E> Clone for Landing<E> {
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

/// The flight of a key that callers board now.
struct Slot<E> {
    flight: Arc<Flight<E>>,
    sealed: bool,
}

/// One load under way.
pub(crate) struct Flight<E> {
    mark: AtomicU32,
    landing: watch::Sender<Option<Landing<E>>>,
}

/// A caller's place in a flight.
pub(crate) enum Boarding<E> {
    /// The caller leads; it must see to it that the flight lands, and begin when the one before it has.
    Leader(Arc<Flight<E>>, Option<Passenger<E>>),
    /// Somebody else leads.
    Follower(Passenger<E>),
}

/// A caller that joined.
pub(crate) struct Passenger<E> {
    joined_at: u32,
    landing: watch::Receiver<Option<Landing<E>>>,
}

impl<E> Default for Flights<E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<E> Flights<E> {
    /// Joins the flight of a key, or opens one.
    pub(crate) fn board(&self, key: &Key) -> Boarding<E> {
        let mut flights = self.lock();
        let before = match flights.get(key) {
            Some(Slot { flight, sealed }) => {
                let passenger = Passenger {
                    joined_at: flight.mark.load(Ordering::SeqCst),
                    landing: flight.landing.subscribe(),
                };
                if !sealed {
                    return Boarding::Follower(passenger);
                }
                Some(passenger)
            }
            None => None,
        };
        let flight = Arc::new(Flight {
            mark: AtomicU32::new(0),
            landing: watch::Sender::new(None),
        });
        let slot = Slot {
            flight: Arc::clone(&flight),
            sealed: false,
        };
        flights.insert(key.clone(), slot);
        Boarding::Leader(flight, before)
    }

    /// Sends newcomers to a successor from here on.
    pub(crate) fn seal(&self, key: &Key, flight: &Arc<Flight<E>>) {
        if let Some(slot) = self.lock().get_mut(key)
            && Arc::ptr_eq(&slot.flight, flight)
        {
            slot.sealed = true;
        }
    }

    /// Lets nobody join a flight any longer. Whoever has joined stays.
    pub(crate) fn close(&self, key: &Key, flight: &Arc<Flight<E>>) {
        let mut flights = self.lock();
        if flights
            .get(key)
            .is_some_and(|slot| Arc::ptr_eq(&slot.flight, flight))
        {
            flights.remove(key);
        }
    }

    /// Closes whatever flight a key has.
    pub(crate) fn close_current(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot<E>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Flight<E> {
    /// Draws a mark; to be called before each observation of the outside world.
    pub(crate) fn mark(&self) -> u32 {
        self.mark.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Tells everybody who joined.
    pub(crate) fn land(&self, landing: Landing<E>) {
        self.landing.send_replace(Some(landing));
    }
}

impl<E> Passenger<E> {
    /// Waits for the landing; `None` if the flight was lost (its task panicked or was stopped).
    pub(crate) async fn landed(mut self) -> Option<Landing<E>> {
        match self.landing.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone(),
            Err(_) => None,
        }
    }

    /// The mark at which the caller joined.
    pub(crate) fn joined_at(&self) -> u32 {
        self.joined_at
    }
}
