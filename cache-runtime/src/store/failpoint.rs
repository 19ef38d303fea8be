//! How a test interferes with a store and with writes: it stops a write at a point, or disables a mechanism.
//!
//! A test that passes does not show that it would fail without a mechanism. Disabling the mechanism shows it.
//!
//! Both are methods of [`Store`](super::Store). They do nothing, and are constant, without the feature `internal-faults`.
//! With it, the store is a `faulty` one, which a test controls.

/// A point of a write, a flush or an audit at which a test may do something else, pause, or end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Before the intent is placed.
    BeforeBegin,
    /// After the attempt to place the intent.
    AfterBegin,
    /// Before the commit is sent.
    BeforeCommit,
    /// After the commit succeeded.
    AfterCommit,
    /// Before the intent is taken back.
    BeforeEnd,
    /// After the intent was taken back, and before the caller has its answer.
    AfterEnd,
    /// After the write was queued, and before the caller has its answer.
    AfterPut,
    /// After queued writes were read, and before they are in the database.
    BeforeFlush,
    /// After the statements of a flush, and before its commit.
    InFlushTransaction,
    /// After the commit of a flush, and before the writes are settled.
    AfterFlushCommit,
    /// Before the log is trimmed.
    BeforeTrim,
    /// After the log was trimmed.
    AfterTrim,
    /// After an audit has looked at keys, and before it reads the database.
    BeforeAuditRead,
    /// After an audit has read the database, and before it looks at the keys that differ again.
    AfterAuditRead,
}

/// A mechanism that a negative control disables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// The comparison of the lease when a row is filled. Without it, any late fill is stored.
    FillCompare,
    /// The announcement of a write before its commit. Without it, keys are dropped only after the commit.
    Intent,
    /// The rule that a writer stores its cache update only if it was alone. Without it, the last writer to end stores its
    /// own.
    Contended,
    /// The end of a write. Without it, a row that was filled after a lost intent stays.
    End,
    /// The rule that a caller shares a load only if the load began after the call, or its fill was accepted.
    AcceptedFill,
    /// The tracking of undelivered invalidations. Without it, they are forgotten.
    Repair,
    /// The history id in an entry. Without it, entries that a store has restored are served. Disable it before the cache is
    /// built.
    History,
    /// The primary lease, which ends when the primary accepts no writes. Without it, a primary that was cut off is used.
    /// Disable it before the cache is built.
    TrustLease,
    /// The index of pending rows. Without it, a queued row that the store has evicted is read from the database.
    PendingIndex,
    /// The circuit breaker. Without it, every command waits for a server that does not reply. Disable it before the cache is
    /// built.
    Breaker,
    /// The comparison of the position when a flush advances it. Without it, every flusher that has a batch applies it.
    OffsetCompare,
    /// The order of the queue when a flush takes one write of each row. Without it, the first write wins.
    QueueOrder,
    /// The count of the numbers that are missing in a log. Without it, lost writes are not reported.
    GapCount,
    /// The check whether a queued write of an earlier history was flushed. Without it, the write is served.
    StalePending,
    /// The binding of a namespace to a database and of an entity to a table. Without it, programs with different databases
    /// share rows and queues.
    Binding,
    /// The comparison of a flushed row with what the database stored. Without it, the row as it was written is served.
    FlushedRow,
    /// The comparison of the row when a dead letter is replayed. Without it, a replay overwrites later writes.
    LetterFound,
    /// The distinct names of in-process queues. Without it, two stores use one name in the database. Disable it before the
    /// repository is made.
    OwnQueue,
    /// The check that the codec reproduces a row. Without it, rows that the codec changes are cached and queued, and the
    /// in-process store keeps them unchanged.
    RoundTrip,
    /// The separate connection for messages of Redis. Without it, they arrive on the data connection. Disable it before the
    /// cache is built.
    OwnMessages,
    /// The separate connection for large entries. Without it, small ones wait for their bytes. Disable it before the cache is
    /// built.
    LargeConnection,
    /// The limit on the bytes of a batch of queued writes. Without it, only the count limits a read.
    ReadBound,
    /// The comparison of a row with the values of the lookup that found it. Without it, a row is returned that has left.
    LookupCheck,
    /// The announcement of a write at the unique lookups of the row. Without it, cached absences hide the row.
    PointerIntent,
    /// The announcement of a write at the lists of the row. Without it, cached lists miss the row.
    ListIntent,
    /// The comparison of an entry with the clock of its tags. Without it, invalidations of tags are not noticed.
    TagClock,
    /// The rule that a load reads the clock of the tags before it reads the database, and that a row is written through with a
    /// stamp from before its statement. Without it, the clock is read afterwards.
    TagStamp,
    /// The rule that a row is written through only with a stamp of the store's present history. Without it, the stamp may be
    /// later than the clock of a store that was turned back.
    TagHistory,
    /// The rule that readers share a reading of the clock that was asked for after they began. Without it, they take the one of
    /// the readers before them.
    SharedClock,
    /// The comparison of the incarnations of a clock. Without it, a lost clock is continued by its successor.
    TagIncarnation,
    /// The floor of a clock. Without it, entries whose mark was dropped are served.
    TagFloor,
    /// The rule that a caller shares a load only if no tag was invalidated since it began. Without it, an accepted fill is
    /// enough.
    TagFlight,
    /// The announcement of a write of many rows at their tags. Without it, their entries are invalidated only after the commit.
    TagIntent,
    /// The announcement of a write to the cached queries that depend on the rows. Without it, their answers stay.
    Dependents,
    /// The announcement of a delete to the entities whose rows the database deletes with it. Without it, those rows stay cached.
    Cascade,
    /// The announcement of a write at the keys of other entities over the same table. Without it, their entries stay.
    SameTable,
    /// The announcement of a write at the entities over the same table that the store names. Without it, only those of
    /// `same_table` are announced.
    Family,
    /// The rule that an entity is not cached while it may be written by programs that cannot announce it. Without it, its entries
    /// may be old.
    FamilyHold,
    /// The store's own limit on the size of a row. Without it, larger rows are sent.
    StoreBound,
    /// The comparison of the end of a row (`ttl_from`) with the clock when its entry is read. Without it, only the store ends it.
    RowEnd,
    /// The rule that what a write is announced at beside its own keys is as strict as the entity that is written. Without it, a
    /// `consistent` entity is written although the cached queries could not hear of it. Disable it before the repository is made.
    StrictBeside,
    /// The version of the namespace in what an entry is stored under. Without it, two versions of a program share entries.
    /// Disable it before the repository is made.
    NamespaceVersion,
    /// The remarks of `check_schema` on foreign keys. Without it, nothing tells that the database deletes rows that stay cached.
    CascadeRemarks,
    /// The `timeout` of a call. Without it, the caller waits for the load.
    CallTimeout,
    /// The second look of an audit at a key. Without it, a row that is just being written counts as stale.
    SecondLook,
    /// The comparison of the age of an entry with the `max_age` of a call. Without it, entries of any age are served.
    MaxAge,
    /// Looking at the time to live of an entry that should have expired.
    Overdue,
    /// Reading loads that meet by one statement, and executing writes that meet by one. Without it, each has its own.
    SharedStatement,
    /// Executing a write that meets nobody by itself. Without it, it is a group of one, and those that come meanwhile are the next.
    LoneWrite,
    /// The announcement of every write of a group that is committed together. Without it, only the first of them is announced.
    GroupIntent,
    /// The comparison of a queued write with its place in the log. Without it, a number that somebody else has made up moves the position.
    QueuePlace,
    /// The comparison of the id of a cached row with its key.
    OwnKey,
    /// The tags of entries. Without it, an entry with a wrong tag is believed, or one without.
    Seal,
    /// The emptying of fields whose columns are `omit`. A repository asks once, when it is created.
    Omit,
}

/// The mechanisms that are disabled in one cache. Without the feature `internal-faults` there are none, and the type is
/// empty.
#[derive(Clone, Debug, Default)]
pub struct Disabled {
    #[cfg(feature = "internal-faults")]
    faults: Option<super::faulty::Faults>,
}

impl Disabled {
    /// Returns the mechanisms that a test has disabled, or will disable.
    #[cfg(feature = "internal-faults")]
    pub(crate) fn by(faults: Option<super::faulty::Faults>) -> Self {
        Self { faults }
    }

    /// Returns whether a mechanism is disabled.
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
