//! The mutants: what each leaves out or does differently.

/// The mechanism that a mutant leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A flush advances the position whatever its value is.
    Compare,
    /// No reader checks the index of pending rows when a row is missing.
    Marks,
    /// Flushers share the queue, as a consumer group does, and each commits its own part.
    Group,
    /// The log is trimmed when it is read.
    TrimFirst,
    /// A settled row is not compared with the write that was flushed.
    SettleCompare,
    /// A batch that was committed by a dead flusher is not settled by the next one.
    Leftovers,
    /// A put does not check in which history its queue was begun.
    Stamp,
    /// A new incarnation starts with the position of the one before it.
    Positions,
    /// Later incarnations are flushed before earlier ones are closed.
    Epochs,
    /// An incarnation is closed although the server writes to it.
    CloseCurrent,
    /// An incarnation is closed although the server writes to an earlier one.
    CloseLater,
    /// An incarnation is closed although the server writes to none.
    CloseUnused,
    /// A flusher begins another incarnation on a server that writes to a closed one.
    Reopen,
    /// An incarnation is begun in a later history than the one it was requested in.
    LateSwitch,
    /// A queued write of another history is served without asking the database.
    Believe,
    /// A queued write of another history is dropped without asking the database.
    Dismiss,
    /// Rows are cached although an earlier incarnation may still be flushed.
    EarlyFill,
    /// The same, and a flush drops the entries at its keys.
    DropInstead,
    /// A batch with a rejected write takes the last write of each row before it is split.
    Coalesce,
    /// An acknowledgement is forgotten as soon as the store was seen to have the write.
    Forget,
    /// A modification does not check whether the row is still the one it read.
    Unchanged,
}
