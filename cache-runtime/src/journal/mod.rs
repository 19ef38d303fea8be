//! An append-only journal in files: records that survive the death of the process, and the loss of power.
//!
//! Without it, the writes that the in-process store has acknowledged and not yet applied are gone when the process dies. A
//! record is a string of bytes with a number; what is in it is the caller's business.
//!
//! 1. [`Journal::append`] numbers a record and hands it to a thread (`commit`). 2. The thread writes all records that have
//!    gathered with one write, syncs them, and announces that (`writer`). 3. [`Journal::durable`] returns: the record is
//!    acknowledged. 4. The files are segments of bounded size (`segments`); [`Journal::release`] removes those whose
//!    records are not needed any more. 5. [`Journal::open`] reads what is there, cuts off what was being written when the
//!    process died, and refuses anything else that cannot be read (`recover`).
//!
//! Invariant: what [`Journal::open`] returns is a prefix of what was appended, without what was released in whole segments,
//! and with every record that was acknowledged.
//! Invariant: an acknowledgement is true. A journal that could not write fails for good, and says so to everybody.
//!
//! The parts are old and proven ones: numbered records with checksums in segments, as in the logs of `LevelDB` and `RocksDB`
//! and in SQLite's WAL; group commit as in the systems that ARIES describes; the rules after a failed sync follow Rebello et
//! al., "Can Applications Recover from fsync Failures?" (USENIX ATC 2020).
//!
//! Not here: what a record means, and whether it was applied. The number of a record that was not acknowledged is given
//! again after a crash. So nobody may act on a record, or write down its number elsewhere, before [`Journal::is_durable`].
//! Not here: files that are removed by hand while the journal is open; a sync does not notice that.

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

/// How large a segment becomes before the next one is begun, in bytes.
pub const SEGMENT_SIZE: u64 = 64 << 20;

/// An open journal. Cheap to clone; the last one that is dropped waits until what was appended is on disk.
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
    /// Opens the journal in a directory, creating both if need be, and returns the records that are in it. Blocks: to be
    /// called before anything is served.
    ///
    /// # Errors
    ///
    /// When the journal is open elsewhere, when it is damaged, and when an operation on a file fails.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        Self::open_with(directory, SEGMENT_SIZE)
    }

    /// Opens a journal whose segments become so many bytes large.
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

    /// A number drawn when the journal was created. A directory that was lost, and created again, has another one; its
    /// records are numbered from one again.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.0.identity
    }

    /// Changes what is written about whose records these are: `decide` is given that, and answers with what replaces it, if
    /// anything does. Blocks, and returns when it is on disk.
    ///
    /// # Errors
    ///
    /// When `decide` fails, or an operation on a file.
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

    /// Queues a record and returns its number: the order of the calls is the order of the records. Does no I/O.
    ///
    /// # Errors
    ///
    /// When the journal has failed, or the record is too long ([`format::LONGEST_RECORD`]).
    pub fn append(&self, record: &[u8]) -> Result<u64, JournalError> {
        self.0.commit.append(record)
    }

    /// Returns when everything up to a record that was appended is on disk: at once if it is.
    ///
    /// # Errors
    ///
    /// When the journal has failed. The record may or may not be there when it is opened again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: the record is written all the same.
    pub async fn durable(&self, sequence: u64) -> Result<(), JournalError> {
        self.0.commit.durable(sequence).await
    }

    /// Whether everything up to a record is on disk.
    #[must_use]
    pub fn is_durable(&self, sequence: u64) -> bool {
        self.0.commit.is_durable(sequence)
    }

    /// The number of the last record that was appended, zero before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.commit.last()
    }

    /// Says that records up to this one are not needed any more. The segments that hold no others are removed soon; until
    /// then, [`Journal::open`] returns them again.
    pub fn release(&self, sequence: u64) {
        self.0.commit.release(sequence);
    }

    /// How often the journal was synced since it was opened.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.files.syncs()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commit.close();
        if let Some(thread) = self.thread.take() {
            // If it has panicked, the panic was printed, and whoever waited for a record has heard of it.
            let _ended = thread.join();
        }
    }
}
