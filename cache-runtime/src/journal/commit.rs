//! Group commit: callers append records here, and wait until they are on disk.
//!
//! A sync of a thousand records takes as long as a sync of one. So callers do not sync. While the writer syncs one group,
//! the next group gathers here. When a group is on disk, its callers are woken once (group commit: `DeWitt` et al., 1984).
//!
//! 1. [`Commit::append`] numbers a record and copies it into the group that gathers.
//! 2. The writer takes the whole group ([`Commit::take`]), writes and syncs it, and announces it ([`Commit::announce`]).
//! 3. [`Commit::durable`] returns.
//!
//! Invariant: the order of the numbers is the order of the calls and the order in the file.
//! Invariant: at most two groups exist, one that is being written and one that gathers. So two `Notify`s are enough, and no
//! caller is woken for another group.
//! Invariant: after [`Commit::fail`], no record is accepted and none is announced.
//! Not here: a bound on the memory. A group holds the records that its callers wait for, and a waiting caller appends
//! nothing.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

use super::{
    error::JournalError,
    format::{self, MAX_RECORD},
};

/// The largest buffer that is kept for the next group, in bytes.
const KEPT_CAPACITY: usize = 1 << 20;

/// What callers and the writer share.
pub(crate) struct Commit {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Everything up to this record is on disk.
    durable: AtomicU64,
    /// Where callers wait for their group: even groups at one, odd groups at the other.
    done: [Notify; 2],
}

struct State {
    /// The group that gathers.
    group: Vec<u8>,
    /// The index in `done` at which the callers of that group wait.
    gathering: usize,
    /// The last record that was numbered.
    last: u64,
    /// The last record that the writer has taken.
    taken: u64,
    /// Records up to this one are no longer needed.
    released: u64,
    /// The value of `released` that the writer has seen.
    heard: u64,
    is_closing: bool,
    writer_sleeps: bool,
    failed: Option<JournalError>,
}

/// What the writer has to do.
pub(crate) struct Task {
    /// The last record of the group, if there is a group.
    pub(crate) last: Option<u64>,
    /// Records up to this one are no longer needed.
    pub(crate) released: u64,
    /// Whether the journal is closing, so that no task follows.
    pub(crate) is_last: bool,
}

impl Commit {
    /// Continues after a record that is on disk.
    pub(crate) fn new(last: u64) -> Self {
        Self {
            state: Mutex::new(State {
                group: Vec::new(),
                gathering: 0,
                last,
                taken: last,
                released: 0,
                heard: 0,
                is_closing: false,
                writer_sleeps: false,
                failed: None,
            }),
            work: Condvar::new(),
            durable: AtomicU64::new(last),
            done: [Notify::new(), Notify::new()],
        }
    }

    pub(crate) fn append(&self, record: &[u8]) -> Result<u64, JournalError> {
        if record.len() > MAX_RECORD {
            return Err(JournalError::TooLong {
                length: record.len(),
            });
        }
        let mut state = self.lock();
        if let Some(failure) = &state.failed {
            return Err(failure.clone());
        }
        state.last += 1;
        let sequence = state.last;
        format::push(&mut state.group, sequence, record);
        self.call(state);
        Ok(sequence)
    }

    /// Returns the number of the last record that was appended.
    pub(crate) fn last(&self) -> u64 {
        self.lock().last
    }

    pub(crate) fn is_durable(&self, sequence: u64) -> bool {
        sequence <= self.durable.load(Ordering::Acquire)
    }

    pub(crate) async fn durable(&self, sequence: u64) -> Result<(), JournalError> {
        while !self.is_durable(sequence) {
            let done = {
                let state = self.lock();
                // `announce` holds the lock, so no announcement falls between this check and the wait.
                if self.is_durable(sequence) {
                    return Ok(());
                }
                if let Some(failure) = &state.failed {
                    return Err(failure.clone());
                }
                let group = match sequence > state.taken {
                    true => state.gathering,
                    false => 1 - state.gathering,
                };
                // It receives every announcement from now on, even before its first poll.
                self.done[group].notified()
            };
            done.await;
        }
        Ok(())
    }

    pub(crate) fn release(&self, sequence: u64) {
        let mut state = self.lock();
        if sequence > state.released {
            state.released = sequence;
            self.call(state);
        }
    }

    /// Lets the writer finish the records that are left, and end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        self.call(state);
    }

    /// For the writer: waits for work. Returns the group that has gathered, and leaves an empty buffer in its place.
    pub(crate) fn take(&self, buffer: &mut Vec<u8>) -> Task {
        buffer.clear();
        buffer.shrink_to(KEPT_CAPACITY);
        let mut state = self.lock();
        while state.group.is_empty() && state.released == state.heard && !state.is_closing {
            state.writer_sleeps = true;
            let woken = self.work.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.group, buffer);
        let is_group = state.last > state.taken;
        if is_group {
            state.taken = state.last;
            state.gathering = 1 - state.gathering;
        }
        state.heard = state.released;
        Task {
            last: is_group.then_some(state.last),
            released: state.released,
            is_last: state.is_closing,
        }
    }

    /// For the writer: announces that everything up to a record, the last one of its group, is on disk.
    pub(crate) fn announce(&self, sequence: u64) {
        let group = {
            let state = self.lock();
            self.durable.store(sequence, Ordering::Release);
            1 - state.gathering
        };
        self.done[group].notify_waiters();
    }

    /// For the writer: reports that no further record will be on disk.
    pub(crate) fn fail(&self, failure: JournalError) {
        self.lock().failed.get_or_insert(failure);
        for group in &self.done {
            group.notify_waiters();
        }
    }

    /// Wakes the writer if it sleeps.
    fn call(&self, mut state: MutexGuard<'_, State>) {
        let sleeps = std::mem::take(&mut state.writer_sleeps);
        drop(state);
        if sleeps {
            self.work.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
