//! The named points of a write and of a flush, at which a worker stops or kills itself when it is told to.
//! From outside a process can be hit only at random, and the moments that matter last microseconds.
//!
//! Invariant: a signal is sent once, at the first point of its name after it was asked for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder::store::{Point, faulty::Faults};
use rustix::process::Signal;

/// The named points, and what this process does to itself at the next one.
#[derive(Clone, Default)]
pub struct Points(Arc<Mutex<Option<(Point, Signal)>>>);

impl Points {
    /// Watches the points of this process.
    pub fn watch(faults: &Faults) -> Self {
        let points = Self::default();
        for (_, point) in POINTS.iter().chain(QUEUE_POINTS) {
            let points = points.clone();
            faults.at(*point, move || points.reach(*point));
        }
        points
    }

    /// Signals this process at the next point of this name.
    pub fn arm(&self, name: &str, signal: Signal) {
        let (_, point) = POINTS
            .iter()
            .chain(QUEUE_POINTS)
            .find(|(known, _)| *known == name)
            .expect("the harness knows the points");
        *self.lock() = Some((*point, signal));
    }

    /// Takes back what was asked for.
    pub fn disarm(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Point, Signal)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, point: Point) {
        let signal = {
            let mut armed = self.lock();
            match *armed {
                Some((wanted, signal)) if wanted == point => {
                    *armed = None;
                    signal
                }
                _ => return,
            }
        };
        rustix::process::kill_process(rustix::process::getpid(), signal)
            .expect("a process may signal itself");
    }
}

/// The points of a write by name.
pub const POINTS: &[(&str, Point)] = &[
    ("before_begin", Point::BeforeBegin),
    ("after_begin", Point::AfterBegin),
    ("before_commit", Point::BeforeCommit),
    ("after_commit", Point::AfterCommit),
    ("before_end", Point::BeforeEnd),
    ("after_end", Point::AfterEnd),
];

/// The points of a queued write and of its flush by name.
pub const QUEUE_POINTS: &[(&str, Point)] = &[
    ("after_put", Point::AfterPut),
    ("before_flush", Point::BeforeFlush),
    ("in_flush_transaction", Point::InFlushTransaction),
    ("after_flush_commit", Point::AfterFlushCommit),
    ("before_trim", Point::BeforeTrim),
    ("after_trim", Point::AfterTrim),
];
