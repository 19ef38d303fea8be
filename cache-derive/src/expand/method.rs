//! The description of one method of a repository: its name, its parameter, its result and its documentation.

use proc_macro2::TokenStream;

/// One asynchronous method.
pub(super) struct Method {
    pub(super) name: &'static str,
    /// The method of the runtime that it calls.
    pub(super) inner: &'static str,
    pub(super) parameter: Parameter,
    /// What it returns if it does not fail.
    pub(super) returns: TokenStream,
    pub(super) docs: String,
}

/// What a method is called with, besides the repository.
pub(super) enum Parameter {
    Nothing,
    Id,
    /// An id. What it returns has the options of the call.
    IdAndOptions,
    Ids,
    /// Ids of one type that can be passed as an id, and that can be the key of a map.
    MapIds,
    Row,
    Rows,
    /// An id and what to do with the row.
    Change,
    /// A row and what to do with the one in its place.
    RowChange,
    /// A query of the user.
    Query,
}

/// Where writes go, which decides what the repository can do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    /// To the database, which counts the changes of a row that is versioned.
    Database { versioned: bool },
    /// To a queue, and to the database later.
    Queue,
    /// Nowhere: the entity is only read.
    Nowhere,
    /// Nobody knows, after an error. The repository has every method, so that the error is the only one.
    Unknown { versioned: bool },
}

impl Writes {
    /// Whether there may be a queue.
    pub(super) fn may_queue(self) -> bool {
        matches!(self, Self::Queue | Self::Unknown { .. })
    }
}

pub(super) fn docs(does: &str, errors: &str, cancel: &str) -> String {
    format!("{does}\n\n# Errors\n\n{errors}\n\n# Cancel safety\n\n{cancel}")
}
