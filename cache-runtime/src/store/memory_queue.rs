//! The queue of one partition in the memory of this process.
//!
//! It says what the scripts of Redis say: a log per incarnation, the number of the last write, and up to where the log was
//! cut off. There is no index of pending rows, because the in-process store drops none.
//!
//! Invariant: the queue's lock is taken before the lock of a key's shard, never after it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    behind::mark::{Incarnation, Mark},
    store::queue::{Fetch, Fetched, Logged},
};

/// One queue.
#[derive(Debug, Default)]
pub(crate) struct MemoryQueue(Mutex<Queue>);

/// What is in it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) current: Option<Incarnation>,
    /// The number of the last write.
    last: u64,
    /// Up to which number the log was cut off.
    cut: u64,
    logs: HashMap<Incarnation, VecDeque<Logged>>,
}

impl MemoryQueue {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The mark of the next write, if there is an incarnation to write to.
    pub(super) fn next(&self) -> Option<Mark> {
        Some(Mark {
            incarnation: self.current?,
            number: self.last + 1,
        })
    }

    /// How many writes wait.
    pub(super) fn waiting(&self) -> u64 {
        self.last - self.cut
    }

    /// Appends the write that was given the next mark.
    pub(super) fn append(&mut self, write: Logged) {
        let mark = write.pending.mark;
        self.last = mark.number;
        self.logs
            .entry(mark.incarnation)
            .or_default()
            .push_back(write);
    }

    /// Puts back a write of an earlier process.
    pub(super) fn restore(&mut self, write: Logged) {
        self.logs
            .entry(write.pending.mark.incarnation)
            .or_default()
            .push_back(write);
    }

    /// Begins an incarnation if the current one is still `from`.
    pub(super) fn rotate(&mut self, from: Option<Incarnation>, to: Incarnation) -> bool {
        if self.current != from {
            return false;
        }
        self.current = Some(to);
        self.last = 0;
        self.cut = 0;
        self.logs.entry(to).or_default();
        true
    }

    pub(super) fn fetch(&self, fetch: &Fetch, now_ms: u64) -> Fetched {
        let log = self.logs.get(&fetch.incarnation);
        let writes = log.map(|log| {
            let first = log.partition_point(|write| write.pending.mark.number <= fetch.after);
            let count = usize::try_from(fetch.count).unwrap_or(usize::MAX);
            log.iter().skip(first).take(count).cloned().collect()
        });
        let last = log.and_then(VecDeque::back);
        Fetched {
            is_claimed: true,
            current: self.current,
            current_last: self.last,
            log_last: last.map_or(0, |write| write.pending.mark.number),
            now_ms,
            writes: writes.unwrap_or_default(),
        }
    }

    /// Cuts a log off behind a number.
    pub(super) fn cut(&mut self, incarnation: Incarnation, up_to: u64) {
        if let Some(log) = self.logs.get_mut(&incarnation) {
            let kept = log.partition_point(|write| write.pending.mark.number <= up_to);
            log.drain(..kept);
        }
        if self.current == Some(incarnation) {
            self.cut = self.cut.max(up_to);
        }
    }

    pub(super) fn logs(&self) -> Vec<Incarnation> {
        self.logs.keys().copied().collect()
    }

    pub(super) fn drop_log(&mut self, incarnation: Incarnation) {
        self.logs.remove(&incarnation);
    }
}
