//! What can go wrong with a journal, each with the file it is about and what can be done.

use std::{
    error::Error as StdError,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::format::LONGEST_RECORD;

/// An error of a journal. Cheap to clone: all who wait for one group share its error.
#[derive(Clone, Debug)]
pub enum JournalError {
    /// An operation on a file failed. From an open journal it means that the journal has failed for good.
    Io {
        /// What was attempted, with the path.
        attempted: Arc<str>,
        /// What the operating system said.
        cause: Arc<io::Error>,
    },
    /// Another process, or another part of this one, has the journal open.
    InUse {
        /// The directory of the journal.
        directory: PathBuf,
    },
    /// The journal holds something that a crash cannot have left behind.
    Damaged {
        /// The file that cannot be read.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: Arc<str>,
    },
    /// The record is longer than a record can be. The journal goes on.
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl JournalError {
    pub(crate) fn io(attempted: impl Into<Arc<str>>, cause: io::Error) -> Self {
        Self::Io {
            attempted: attempted.into(),
            cause: Arc::new(cause),
        }
    }

    pub(crate) fn damaged(file: &Path, offset: usize, what: impl Into<Arc<str>>) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            offset: u64::try_from(offset).unwrap_or(u64::MAX),
            what: what.into(),
        }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { attempted, cause } => write!(f, "failed to {attempted}: {cause}"),
            Self::InUse { directory } => write!(
                f,
                "the journal {} is open already; every process needs a journal of its own",
                directory.display()
            ),
            Self::Damaged { file, offset, what } => write!(
                f,
                "the journal file {} is damaged at byte {offset}: {what}; restore the file, or move the directory of the \
                 journal away and lose what is in it",
                file.display()
            ),
            Self::TooLong { length } => write!(
                f,
                "a record of {length} bytes is too long for the journal, which takes up to {LONGEST_RECORD}"
            ),
        }
    }
}

impl StdError for JournalError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io { cause, .. } => Some(&**cause),
            Self::InUse { .. } | Self::Damaged { .. } | Self::TooLong { .. } => None,
        }
    }
}
