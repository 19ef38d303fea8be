//! The operations on files that a journal uses. Each names itself in its error, and tests can record it or let it fail.
//!
//! A crash can come between any two operations. What was not synced by then may be on disk or not, in any order. So the
//! operations are few and all in this file: a test records them and tries the crashes (`tests::crashes`).

use std::{
    fmt,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

#[cfg(test)]
use super::tests::tape::Tape;
use super::{access, error::JournalError};

/// One operation.
#[derive(Clone, Copy)]
pub(crate) enum Step<'a> {
    Create(&'a Path),
    Write {
        path: &'a Path,
        offset: u64,
        bytes: &'a [u8],
    },
    Cut {
        path: &'a Path,
        length: u64,
    },
    Sync(&'a Path),
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Remove(&'a Path),
    SyncDirectory(&'a Path),
}

/// Performs operations.
#[derive(Clone, Default)]
pub(crate) struct Files {
    syncs: Arc<AtomicU64>,
    #[cfg(test)]
    pub(crate) tape: Tape,
}

impl Files {
    /// Creates an empty file. A name that is left from before goes away, and what it leads to stays.
    pub(crate) fn create(&self, path: &Path) -> Result<File, JournalError> {
        self.perform(Step::Create(path), || match access::create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(path)?;
                access::create(path)
            }
            created => created,
        })
    }

    /// Opens an existing file for writing.
    pub(crate) fn open(path: &Path) -> Result<File, JournalError> {
        access::open_to_write(path)?.ok_or_else(|| {
            let attempted = format!("open {}", path.display());
            JournalError::io(attempted, io::ErrorKind::NotFound.into())
        })
    }

    pub(crate) fn write(
        &self,
        mut file: &File,
        path: &Path,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), JournalError> {
        let step = Step::Write {
            path,
            offset,
            bytes,
        };
        self.perform(step, || {
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        })
    }

    /// Shortens a file.
    pub(crate) fn cut(&self, file: &File, path: &Path, length: u64) -> Result<(), JournalError> {
        self.perform(Step::Cut { path, length }, || file.set_len(length))
    }

    /// Returns when the contents and the length of a file are on disk.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<(), JournalError> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.perform(Step::Sync(path), || file.sync_data())
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), JournalError> {
        self.perform(Step::Rename { from, to }, || fs::rename(from, to))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<(), JournalError> {
        self.perform(Step::Remove(path), || fs::remove_file(path))
    }

    /// Returns when the names in a directory are on disk. Only Unix has this operation and needs it.
    pub(crate) fn sync_directory(&self, path: &Path) -> Result<(), JournalError> {
        self.perform(Step::SyncDirectory(path), || match cfg!(unix) {
            true => File::open(path)?.sync_all(),
            false => Ok(()),
        })
    }

    /// Returns how often contents were synced.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn perform<T>(
        &self,
        step: Step<'_>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, JournalError> {
        #[cfg(test)]
        let done = self.tape.record(step, operation);
        #[cfg(not(test))]
        let done = operation();
        done.map_err(|cause| JournalError::io(step.to_string(), cause))
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path) => write!(f, "create {}", path.display()),
            Self::Write {
                path,
                offset,
                bytes,
            } => {
                let (path, length) = (path.display(), bytes.len());
                write!(f, "write {length} bytes at {offset} to {path}")
            }
            Self::Cut { path, length } => write!(f, "cut {} to {length} bytes", path.display()),
            Self::Sync(path) | Self::SyncDirectory(path) => write!(f, "sync {}", path.display()),
            Self::Rename { from, to } => {
                write!(f, "rename {} to {}", from.display(), to.display())
            }
            Self::Remove(path) => write!(f, "remove {}", path.display()),
        }
    }
}
