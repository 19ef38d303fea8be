//! What of a repository waits to be sent with one statement: the loads that meet, or the writes, whatever they are.
//!
//! A repository holds them, and what they are is known to the steps above it only. So they are here without their types.
//!
//! Not here: which of them meet, and what one statement does (`read::together`, `write::together`).

use std::{
    any::Any,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;

use crate::gathering::{Bounds, Gathering, Transport};

/// The maximum number of loads, or of writes, that run alone at the same time, while none run together.
const MAX_SINGLE: usize = 4;
/// The maximum number of statements in flight for several.
const MAX_GROUPS: usize = 2;
/// The maximum number of loads, or of writes, in one statement, and of their rows.
const MAX_UNITS: usize = 256;
const MAX_ROWS: usize = 512;

/// One load or one write.
pub(crate) trait Unit: Any + Send + Sync {
    /// Returns how many rows it reads or writes.
    fn rows(&self) -> usize;

    /// Runs it together with the others, which are of the same type. This one is among them.
    fn run(&self, all: Vec<Arc<dyn Unit>>) -> BoxFuture<'static, ()>;
}

/// The loads of one repository, or its writes of one kind.
pub(crate) type Units = Gathering<Statements>;

/// Sends statements.
pub(crate) struct Statements;

impl Statements {
    /// Returns the loads, or the writes of one kind, of a repository that is being created.
    pub(crate) fn gathered() -> Arc<Units> {
        let bounds = Bounds {
            alone: MAX_SINGLE,
            at_once: MAX_GROUPS,
            together: MAX_UNITS,
            size: MAX_ROWS,
            // A statement has the time-outs of the pool and of the database.
            timeout: None,
        };
        Gathering::new(Self, bounds)
    }
}

/// What became of a unit: its group leaves it here, and its caller takes it.
pub(crate) struct Slot<T>(Mutex<T>);

impl<T> Slot<T> {
    pub(crate) fn new(outcome: T) -> Self {
        Self(Mutex::new(outcome))
    }

    pub(crate) fn replace(&self, outcome: T) -> T {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut *held, outcome)
    }
}

/// Returns those of one type.
pub(crate) fn of_type<U: Unit>(all: Vec<Arc<dyn Unit>>) -> Vec<Arc<U>> {
    let units = all.into_iter().map(|unit| {
        let any: Arc<dyn Any + Send + Sync> = unit;
        any.downcast::<U>()
    });
    units.flatten().collect()
}

impl Transport for Statements {
    type Call = Arc<dyn Unit>;
    type Answer = ();

    fn size(call: &Arc<dyn Unit>) -> usize {
        call.rows()
    }

    async fn carry(&self, calls: Vec<Arc<dyn Unit>>) -> Vec<()> {
        let count = calls.len();
        if let Some(first) = calls.first().cloned() {
            first.run(calls).await;
        }
        vec![(); count]
    }

    /// Callers whose runtime stops have no answer either, and are told so.
    fn unanswered(_waited: Option<Duration>) {}
}
