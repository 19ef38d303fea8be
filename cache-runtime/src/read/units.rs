//! What of a repository waits to be read by one statement: the loads that meet, whatever they load.
//!
//! A repository holds them, and what they load is known to the steps above it only. So they are here without their types.
//!
//! Not here: which loads meet, and what one statement reads (`together`).

use std::{any::Any, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::gathering::{Bounds, Gathering, Transport};

/// The maximum number of loads that are read alone at the same time, while none are read together.
const MAX_SINGLE: usize = 4;
/// The maximum number of statements in flight that read loads together.
const MAX_GROUPS: usize = 2;
/// The maximum number of loads that one statement reads, and of their keys.
const MAX_LOADS: usize = 256;
const MAX_KEYS: usize = 512;

/// The keys of one load.
pub(crate) trait Unit: Any + Send + Sync {
    /// Returns how many they are.
    fn keys(&self) -> usize;

    /// Reads them together with those of the others, which are of the same type. This one is among them.
    fn read(&self, all: Vec<Arc<dyn Unit>>) -> BoxFuture<'static, ()>;
}

/// The loads of one repository.
pub(crate) type Units = Gathering<Statements>;

/// Sends statements.
pub(crate) struct Statements;

impl Statements {
    /// Returns the loads of a repository that is being created.
    pub(crate) fn gathered() -> Arc<Units> {
        let bounds = Bounds {
            alone: MAX_SINGLE,
            at_once: MAX_GROUPS,
            together: MAX_LOADS,
            size: MAX_KEYS,
            // A statement has the time-outs of the pool and of the database.
            timeout: None,
        };
        Gathering::new(Self, bounds)
    }
}

impl Transport for Statements {
    type Call = Arc<dyn Unit>;
    type Answer = ();

    fn size(call: &Arc<dyn Unit>) -> usize {
        call.keys()
    }

    async fn carry(&self, calls: Vec<Arc<dyn Unit>>) -> Vec<()> {
        let count = calls.len();
        if let Some(first) = calls.first().cloned() {
            first.read(calls).await;
        }
        vec![(); count]
    }

    /// Callers whose runtime stops have no answer either, and are told so.
    fn unanswered(_waited: Option<Duration>) {}
}
