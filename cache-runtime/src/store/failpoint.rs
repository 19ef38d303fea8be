//! What a test may do to a store and to a write from outside: stop at a point, or disable a mechanism.
//!
//! Without a way to break a mechanism, a test that passes does not show that it would notice its absence.
//!
//! Both are methods of [`Store`](super::Store), which do nothing and are constant without the feature `internal-faults`. With
//! it, the store is a `faulty` one, and a test decides.

/// A moment of a write, at which a test may let its process die or stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Its intent is about to be placed.
    BeforeBegin,
    /// Its intent was placed, or could not be.
    AfterBegin,
    /// What commits it is about to be sent.
    BeforeCommit,
    /// It is known to be committed.
    AfterCommit,
    /// Its intent is about to be taken back.
    BeforeEnd,
    /// Its intent was taken back; its caller has no answer yet.
    AfterEnd,
    /// It was queued; its caller has no answer yet.
    AfterPut,
    /// Queued writes were read; nothing of them is in the database yet.
    BeforeFlush,
    /// Queued writes are in the database, which is about to commit them.
    InFlushTransaction,
    /// Queued writes are committed; the queue still holds them.
    AfterFlushCommit,
    /// The queue is about to be cut off.
    BeforeTrim,
    /// The queue was cut off.
    AfterTrim,
}

/// A mechanism that a negative control leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// The comparison of the lease when a row is stored: without it, any late fill is stored.
    FillCompare,
    /// The announcement of a write before its commit: without it, keys are dropped only after the commit.
    Intent,
    /// The rule that a writer publishes only if it was alone: without it, the last one to end wins.
    Contended,
    /// The end of a write: without it, an intent that was lost leaves whatever was stored meanwhile.
    End,
    /// The rule that a caller shares a load only if it began after the call or its fill was accepted.
    AcceptedFill,
    /// The memory of writes that the store could not be told about: without it, they are forgotten.
    Repair,
    /// The history id in an entry: without it, what a store has resurrected is believed. To be left out before the
    /// cache is built.
    History,
    /// The trust in a primary that ends when it takes no writes any more: without it, one that was cut off is believed. To
    /// be left out before the cache is built.
    TrustLease,
    /// The index of pending rows: without it, a queued row that the store has dropped is read from the database.
    PendingIndex,
    /// The circuit breaker: without it, every command waits for a server that is silent. To be left out before the cache is
    /// built.
    Breaker,
    /// The comparison of the position when a flush moves it: without it, every flusher that has a batch applies it.
    OffsetCompare,
    /// The order of the queue when a flush takes one image of each row: without it, the first one wins.
    QueueOrder,
    /// The count of the numbers that a log lacks: without it, a loss is not told.
    GapCount,
    /// The question to the database whether a queued write of an earlier history of the store was flushed: without it, it is
    /// served.
    StalePending,
    /// The binding of a namespace to a database and of a name to a table: without it, whoever comes is served, and queues,
    /// what is there.
    Binding,
    /// The comparison of a flushed row with what the database has made of it: without it, the row that was written is served.
    FlushedRow,
    /// The comparison of the row when a dead letter is replayed: without it, a letter goes over whatever was written since.
    LetterFound,
    /// The name of its own that the queue of an in-process store has: without it, two stores take each other's for theirs. To
    /// be left out before the repository is made.
    OwnQueue,
    /// The comparison of a row with what the codec gives back: without it, rows that the codec changes are cached and queued,
    /// and the in-process store keeps them as they are.
    RoundTrip,
    /// The connection of their own that messages of Redis have: without it, they come on the one of the data. To be left out
    /// before the cache is built.
    OwnMessages,
    /// The bound on the bytes of a batch of queued writes: without it, as many are read as are asked for.
    ReadBound,
    /// The bound that the store itself has for one row: without it, what is larger is sent.
    StoreBound,
}

/// The mechanisms that are disabled in one cache. Without the feature `internal-faults` there are none, and this is nothing.
#[derive(Clone, Debug, Default)]
pub struct Disabled {
    #[cfg(feature = "internal-faults")]
    faults: Option<super::faulty::Faults>,
}

impl Disabled {
    /// Those that a test has named, or will.
    #[cfg(feature = "internal-faults")]
    pub(crate) fn by(faults: Option<super::faulty::Faults>) -> Self {
        Self { faults }
    }

    /// Whether a mechanism is one of them.
    #[cfg_attr(
        not(feature = "internal-faults"),
        expect(clippy::unused_self, reason = "there is nothing to ask")
    )]
    #[cfg(feature = "redis")]
    #[inline]
    pub(crate) fn has(&self, mechanism: Mechanism) -> bool {
        #[cfg(feature = "internal-faults")]
        return self
            .faults
            .as_ref()
            .is_some_and(|faults| faults.disables(mechanism));
        #[cfg(not(feature = "internal-faults"))]
        {
            let _ = mechanism;
            false
        }
    }
}
