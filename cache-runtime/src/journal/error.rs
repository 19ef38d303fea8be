//! The errors of a journal, each with the file it concerns and what to do.

use std::{
    error::Error as StdError,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::format::MAX_RECORD;

/// An error of a journal. Cloning is cheap: all callers that wait for one group commit share its error.
#[derive(Clone, Debug)]
pub enum JournalError {
    /// An operation on a file failed. An open journal that returns it has failed permanently.
    Io {
        /// What was attempted, with the path.
        attempted: Arc<str>,
        /// The error of the operating system.
        cause: Arc<io::Error>,
    },
    /// Another process, or another part of this one, has the journal open.
    InUse {
        /// The directory of the journal.
        directory: PathBuf,
    },
    /// The journal contains something that a crash cannot have caused.
    Damaged {
        /// The file that cannot be read.
        file: PathBuf,
        /// The offset in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: Arc<str>,
    },
    /// The directory, or a file in it, cannot be used as that of a journal: others could change it, or it leads elsewhere.
    Unusable {
        /// The directory or the file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        what: Arc<str>,
    },
    /// The record is longer than the maximum. The journal continues to work.
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

    pub(crate) fn unusable(path: &Path, what: impl Into<Arc<str>>) -> Self {
        Self::Unusable {
            path: path.to_owned(),
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
                "failed to open the journal {}: it is open already; every process needs a journal of its own",
                directory.display()
            ),
            Self::Damaged { file, offset, what } => write!(
                f,
                "failed to read the journal file {}: it is damaged at byte {offset}: {what}; restore the file, or move the \
                 directory of the journal away and lose the writes in it",
                file.display()
            ),
            Self::Unusable { path, what } => {
                write!(f, "failed to open {} of a journal: {what}", path.display())
            }
            Self::TooLong { length } => write!(
                f,
                "failed to write a record of {length} bytes to the journal: it is too long, the maximum is {MAX_RECORD} bytes; make \
                 the row smaller"
            ),
        }
    }
}

impl StdError for JournalError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Io { cause, .. } => Some(&**cause),
            Self::InUse { .. }
            | Self::Damaged { .. }
            | Self::Unusable { .. }
            | Self::TooLong { .. } => None,
        }
    }
}
