//! Group commit: where callers leave their records, and learn that they are on disk.
//!
//! A sync takes as long for a thousand records as for one. So nobody syncs his own: while the writer syncs one group, the
//! next one gathers here, and whoever waits for a group is woken once, when it is done (the group commit of `DeWitt` et al.,
//! 1984, as in every database since).
//!
//! 1. [`Commit::append`] numbers a record and copies it into the group that gathers. 2. The writer takes the whole group
//!    ([`Commit::take`]), writes and syncs it, and says so ([`Commit::announce`]). 3. [`Commit::durable`] returns.
//!
//! Invariant: the order of the numbers is the order of the calls and the order in the file.
//! Invariant: at most two groups exist, one that is being written and one that gathers, so two places to wait at are
//! enough, and nobody is woken for a group that is not his.
//! Invariant: after [`Commit::fail`], nothing more is accepted and nothing more is announced.
//! Not here: a bound on the memory. A group holds what its callers wait for, and nobody appends again before that.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

use super::{
    error::JournalError,
    format::{self, MAX_RECORD},
};

/// A buffer that a large group has left behind is given back beyond this.
const KEPT_CAPACITY: usize = 1 << 20;

/// What callers and the writer share.
pub(crate) struct Commit {
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Everything up to this record is on disk. Never ahead of the truth.
    durable: AtomicU64,
    /// Where callers wait for their group: all even groups at one, all odd ones at the other.
    done: [Notify; 2],
}

struct State {
    /// The group that gathers.
    group: Vec<u8>,
    /// Where the callers of that group wait.
    gathering: usize,
    /// The last record that was numbered.
    last: u64,
    /// The last record that the writer has taken.
    taken: u64,
    /// Up to where records are not needed any more.
    released: u64,
    /// Up to where the writer knows that.
    heard: u64,
    is_closing: bool,
    writer_sleeps: bool,
    failed: Option<JournalError>,
}

/// What the writer has to do.
pub(crate) struct Task {
    /// The last record of the group that was taken, if one was.
    pub(crate) last: Option<u64>,
    /// Up to where records are not needed any more.
    pub(crate) released: u64,
    /// Nothing will follow.
    pub(crate) is_last: bool,
}

impl Commit {
    /// Continues behind a record that is on disk.
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

    /// The last record that was appended.
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
                // Announcements are made under the lock, so none is missed between this look and the wait.
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
                // It hears of every announcement from now on, polled or not.
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

    /// Lets the writer finish what is there and end.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        self.call(state);
    }

    /// For the writer: waits for work, and takes the group that has gathered in exchange for an empty buffer.
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

    /// For the writer: everything up to a record, the last one of the group it has taken, is on disk.
    pub(crate) fn announce(&self, sequence: u64) {
        let group = {
            let state = self.lock();
            self.durable.store(sequence, Ordering::Release);
            1 - state.gathering
        };
        self.done[group].notify_waiters();
    }

    /// For the writer: no record will reach the disk any more.
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
