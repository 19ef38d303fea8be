//! An append-only journal in files: its records survive a crash of the process, and a power failure.
//!
//! Without it, a crash loses the writes that the in-process store has acknowledged and not yet applied. A record is a
//! string of bytes with a number. Its content is defined by the caller.
//!
//! 1. [`Journal::append`] numbers a record and hands it to a thread (`commit`).
//! 2. The thread writes all waiting records with one write, syncs them, and announces that (`writer`).
//! 3. [`Journal::durable`] returns: the record is acknowledged.
//! 4. The files are segments of limited size (`segments`). [`Journal::release`] removes those whose records are no
//!    longer needed.
//! 5. [`Journal::open`] reads the records. It cuts off an end that was being written during a crash, and fails on
//!    anything else that cannot be read (`recover`).
//!
//! Invariant: [`Journal::open`] returns a prefix of the appended records, without those that were released in whole
//! segments, and with every acknowledged record.
//! Invariant: an acknowledged record is on disk. A journal that failed to write has failed permanently, and returns
//! that error to all callers.
//!
//! The design is well known: numbered records with checksums in segments, as in the logs of `LevelDB` and `RocksDB` and
//! in SQLite's WAL. Group commit is as in the systems that ARIES describes. The rules after a failed sync follow
//! Rebello et al., "Can Applications Recover from fsync Failures?" (USENIX ATC 2020).
//!
//! Not here: what a record means, and whether it was applied. After a crash, the number of a record that was not
//! acknowledged is used again. So a caller must not act on a record, or store its number elsewhere, before
//! [`Journal::is_durable`].
//! Not here: files that are removed by hand while the journal is open. A sync does not detect that.

mod access;
mod binding;
mod commit;
mod error;
mod files;
pub mod format;
mod recover;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use self::{binding::Binding, commit::Commit, files::Files, segments::Segments};
pub use self::{error::JournalError, recover::Record};

/// The size of a segment, in bytes, after which the next one is begun.
pub const SEGMENT_SIZE: u64 = 64 << 20;

/// An open journal. Cloning is cheap. Dropping the last clone waits until all appended records are on disk.
#[derive(Clone)]
pub struct Journal(Arc<Handle>);

struct Handle {
    commit: Arc<Commit>,
    identity: u64,
    files: Files,
    binding: Mutex<Binding>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the journal in a directory, creating both if needed, and returns its records. Blocks, so call it before
    /// serving requests.
    ///
    /// # Errors
    ///
    /// If the journal is already open, if it is damaged, if other users can write in the directory or one of its files is a link,
    /// or if an operation on a file fails.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        Self::open_with(directory, SEGMENT_SIZE)
    }

    /// Opens a journal with this segment size in bytes.
    ///
    /// # Errors
    ///
    /// As [`Journal::open`].
    pub fn open_with(
        directory: &Path,
        segment_size: u64,
    ) -> Result<(Self, Vec<Record>), JournalError> {
        Self::open_on(directory, segment_size, Files::default())
    }

    fn open_on(
        directory: &Path,
        segment_size: u64,
        files: Files,
    ) -> Result<(Self, Vec<Record>), JournalError> {
        let (segments, records) = Segments::open(directory, segment_size, files.clone())?;
        let identity = segments.identity();
        let binding = Binding::read(directory)?;
        let commit = Arc::new(Commit::new(segments.last()));
        let thread = writer::start(Arc::clone(&commit), segments).map_err(|cause| {
            let attempted = format!("start a thread for the journal {}", directory.display());
            JournalError::io(attempted, cause)
        })?;
        let handle = Handle {
            commit,
            identity,
            files,
            binding: Mutex::new(binding),
            thread: Some(thread),
        };
        Ok((Self(Arc::new(handle)), records))
    }

    /// Returns a random number that was drawn when the journal was created. A directory that was lost and created again
    /// has another one, and its records are numbered from one again.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.0.identity
    }

    /// Changes the binding text of the journal, which says whose records these are. `decide` gets the current text and
    /// returns its replacement, if any. Blocks, and returns when the text is on disk.
    ///
    /// # Errors
    ///
    /// If `decide` fails, or an operation on a file.
    pub fn bind<T>(
        &self,
        decide: impl FnOnce(Option<&str>) -> Result<(Option<String>, T), String>,
    ) -> Result<T, JournalError> {
        let binding = self.0.binding.lock();
        let mut binding = binding.unwrap_or_else(PoisonError::into_inner);
        let (replaced, decided) = decide(binding.text()).map_err(|why| binding.damaged(&why))?;
        if let Some(text) = replaced {
            binding.write(text, &self.0.files)?;
        }
        Ok(decided)
    }

    /// Queues a record and returns its number. Records are in the order of the calls. Does no I/O.
    ///
    /// # Errors
    ///
    /// If the journal has failed, or the record is too long ([`format::MAX_RECORD`]).
    pub fn append(&self, record: &[u8]) -> Result<u64, JournalError> {
        self.0.commit.append(record)
    }

    /// Returns when all records up to this one are on disk.
    ///
    /// # Errors
    ///
    /// If the journal has failed. The record may or may not exist when the journal is opened again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: the record is still written.
    pub async fn durable(&self, sequence: u64) -> Result<(), JournalError> {
        self.0.commit.durable(sequence).await
    }

    /// Returns whether all records up to this one are on disk.
    #[must_use]
    pub fn is_durable(&self, sequence: u64) -> bool {
        self.0.commit.is_durable(sequence)
    }

    /// Returns the number of the last appended record, or zero if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.commit.last()
    }

    /// Declares that records up to this one are no longer needed. Segments with only such records are removed soon.
    /// Until then, [`Journal::open`] returns these records again.
    pub fn release(&self, sequence: u64) {
        self.0.commit.release(sequence);
    }

    /// Returns how often the journal was synced since it was opened.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.files.syncs()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commit.close();
        if let Some(thread) = self.thread.take() {
            // If it has panicked, the panic was printed, and all waiting callers got an error.
            let _ended = thread.join();
        }
    }
}
