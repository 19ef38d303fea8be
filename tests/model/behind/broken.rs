//! What is left out or done otherwise, one thing at a time.

/// A mechanism that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A flush moves the position wherever it stands.
    Compare,
    /// Nobody looks at the marks when a row is missing.
    Marks,
    /// Flushers share the queue among them, as a consumer group does, and each commits what it got.
    Group,
    /// The log is cut off when it is read.
    TrimFirst,
    /// A settled row is not compared with the write that was flushed.
    SettleCompare,
    /// What was committed by a flusher that died is not settled by the next one.
    Leftovers,
    /// A put does not look in which history its queue was begun.
    Stamp,
    /// A new incarnation takes the position of the one before it.
    Positions,
    /// Later incarnations are flushed before earlier ones are closed.
    Epochs,
    /// An incarnation is closed although the server writes to it.
    CloseCurrent,
    /// An incarnation is closed although the server writes to an earlier one.
    CloseLater,
    /// An incarnation is closed although the server writes to none.
    CloseUnused,
    /// A flusher that finds its server writing to a closed incarnation begins another one there.
    Reopen,
    /// An incarnation is begun in a later history than that in which it was asked for.
    LateSwitch,
    /// A queued write of another history is believed without asking.
    Believe,
    /// A queued write of another history is dropped without asking.
    Dismiss,
    /// Rows are stored although an earlier incarnation may still be flushed.
    EarlyFill,
    /// The same, and a flush drops what it finds at its keys.
    DropInstead,
    /// What a refused part of a batch does to a row is decided before it is split.
    Coalesce,
    /// What was acknowledged is forgotten as soon as the store was seen to have it.
    Forget,
    /// A modification does not look whether the row is still what it read.
    Unchanged,
}
