//! One moment of write-behind: what the database holds, what each server holds, how far everybody is, and what is true of
//! each write.
//!
//! A row is told by the write that made it: its payload is the number of that write, in the order in which they were put.
//! What happened to each write is kept beside the world, so that claims can be checked that nobody inside it could check.

use std::{collections::BTreeMap, fmt};

use larder::{
    queue_position::{Incarnation, QueuePosition},
    token::Token,
};

use crate::store::Key;

/// How many rows there are at most.
pub(crate) const KEYS: usize = 2;

/// One moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) database: Database,
    /// The servers in the order in which they became the primary. The last one is it; those before are cut off.
    pub(crate) servers: Vec<Server>,
    /// What the server may come back with, or a replica holds: a copy of some earlier moment.
    pub(crate) copy: Option<Server>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) flushers: Vec<Flusher>,
    /// How many faults of the server may still happen.
    pub(crate) faults_left: u8,
    /// How many histories the servers have had.
    pub(crate) histories: u8,
    /// All writes that were put, the first one numbered one.
    pub(crate) written: Vec<Written>,
    pub(crate) wrong: Wrong,
}

/// What is true of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Written {
    pub(crate) key: usize,
    pub(crate) epoch: u8,
    pub(crate) number: u8,
    pub(crate) exists: bool,
    /// Whether the database refuses it.
    pub(crate) poison: bool,
    pub(crate) fate: Fate,
}

/// What has become of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// It waits in the queue of the primary.
    Queued,
    /// It is in the database, or was overwritten there.
    Applied,
    /// It is a dead letter.
    Dead,
    /// The primary does not have it, and never had or has lost it.
    Lost,
}

/// What must never happen, and is noticed when it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wrong {
    /// A write was applied or put aside that had been applied or put aside.
    pub(crate) repeated: bool,
    /// A write was applied after a later one of the same row.
    pub(crate) reordered: bool,
    /// A read returned something older than what had been acknowledged when it began.
    pub(crate) stale: bool,
    /// A row was changed that was not the latest one.
    pub(crate) overwritten: bool,
    /// A good write of a server that has lost nothing was put aside.
    pub(crate) buried: bool,
}

/// What the database holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub(crate) rows: [Image; KEYS],
    /// The incarnations, the first one of epoch one.
    pub(crate) offsets: Vec<Offset>,
}

/// What a row is: which write made it, and whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Image {
    pub(crate) write: u8,
    pub(crate) exists: bool,
}

/// One incarnation as the database knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Offset {
    pub(crate) position: u8,
    pub(crate) closed: bool,
    pub(crate) lost: u8,
}

/// What a server holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// Which history it is in.
    pub(crate) stamp: u8,
    pub(crate) state: Option<Queue>,
    pub(crate) keys: [Key; KEYS],
    pub(crate) pending_index: [Option<QueuePosition>; KEYS],
    /// The log of each epoch; an empty one is none.
    pub(crate) logs: BTreeMap<u8, Vec<Entry>>,
}

/// What a server knows of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Queue {
    pub(crate) epoch: u8,
    pub(crate) stamp: u8,
    pub(crate) last: u8,
    /// Whether all earlier incarnations are known to be closed.
    pub(crate) alone: bool,
}

/// One write in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) number: u8,
    pub(crate) key: usize,
    pub(crate) image: Image,
    /// The history in which it was put.
    pub(crate) stamp: u8,
}

/// Reads the first row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    pub(crate) server: usize,
    /// Reads left.
    pub(crate) left: u8,
    pub(crate) read: Read,
}

/// How far a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Read {
    Idle,
    /// Has the lease of this history, and began when there were so many writes.
    Leased {
        stamp: u8,
        since: u8,
    },
    /// Has read the row under the lease.
    Loaded {
        stamp: u8,
        image: Image,
    },
    /// Is to read the database and to store nothing.
    Bypassing {
        since: u8,
    },
    /// Has found a queued write of another history.
    StalePending {
        position: QueuePosition,
        image: Image,
        since: u8,
    },
    /// Has learnt that this queued write is in the database.
    Settled {
        position: QueuePosition,
    },
}

/// A process that writes, with what it remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Writer {
    pub(crate) server: usize,
    /// How many of its operations are done.
    pub(crate) done: usize,
    /// Tries left of a modification.
    pub(crate) left: u8,
    pub(crate) step: WriterStep,
    /// The latest number of each epoch that was acknowledged, until it is known what became of it.
    pub(crate) memory: BTreeMap<u8, u8>,
}

/// How far a writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WriterStep {
    /// About to put, or to read what it modifies.
    Ready,
    Reading(Read),
    /// Has read a row with this token, and is about to put what it makes of it.
    Changed(Image, Token),
    /// Was told to begin another incarnation, by a server in this history that had this one.
    Rotating {
        seen: Option<u8>,
        stamp: u8,
    },
    /// Has registered it.
    Registered {
        seen: Option<u8>,
        stamp: u8,
        epoch: u8,
    },
    Dead,
}

/// A process that flushes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flusher {
    pub(crate) server: usize,
    pub(crate) step: FlusherStep,
}

/// How far a flusher is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FlusherStep {
    Idle,
    /// Believes that this incarnation stands here, and is closed or the first open one.
    Believing {
        epoch: u8,
        position: u8,
        closed: bool,
    },
    /// Has read these writes behind the position.
    Fetched {
        epoch: u8,
        position: u8,
        closed: bool,
        entries: Vec<Entry>,
    },
    /// Has read that there are none, and that the server writes to another incarnation.
    Ended {
        epoch: u8,
        position: u8,
    },
    /// These writes were committed, by it or another one, each with whether its row may be kept.
    Committed {
        epoch: u8,
        entries: Vec<(Entry, bool)>,
    },
    /// Is to begin another incarnation, as the server is in another history than the one it has.
    Rotating {
        seen: Option<u8>,
        stamp: u8,
    },
    /// Has registered it.
    Registered {
        seen: Option<u8>,
        stamp: u8,
        epoch: u8,
    },
    Dead,
}

/// One step of somebody, or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The next step of a reader, a writer or a flusher, and what it is, for people.
    Reader(usize, &'static str),
    Writer(usize, &'static str),
    Flusher(usize, &'static str),
    /// A process tells the database how many of its acknowledged writes are missing.
    Tell(usize),
    /// A process finds the new server.
    MoveReader(usize),
    MoveWriter(usize),
    MoveFlusher(usize),
    CrashWriter(usize),
    CrashFlusher(usize),
    /// A row is evicted, or its entry or lease expires.
    Drop(usize),
    /// The server saves its data, or the replica catches up.
    Copy,
    Fault(Fault),
}

/// What may happen to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It restarts and has lost nothing.
    Restart,
    /// It restarts with the copy.
    Rollback,
    /// It restarts empty.
    Empty,
    /// It is emptied and goes on.
    Flushall,
    /// A replica that holds the copy becomes the primary; whoever is linked to the old one may go on there.
    Promote,
}

impl World {
    /// The primary.
    pub(crate) fn primary(&self) -> usize {
        self.servers.len() - 1
    }

    /// The place of a write in the order of all queues; zero is what the rows are at the beginning.
    pub(crate) fn rank(&self, write: u8) -> (u8, u8) {
        match write.checked_sub(1) {
            None => (0, 0),
            Some(index) => {
                let written = &self.written[usize::from(index)];
                (written.epoch, written.number)
            }
        }
    }

    /// The latest of the first so many writes of a row that have not died and were not lost.
    pub(crate) fn latest(&self, key: usize, since: u8) -> (u8, u8) {
        let first = self.written.iter().take(since.into());
        let alive = first.filter(|written| {
            written.key == key && matches!(written.fate, Fate::Queued | Fate::Applied)
        });
        alive
            .map(|written| (written.epoch, written.number))
            .max()
            .unwrap_or_default()
    }

    /// How many writes have been put.
    pub(crate) fn now(&self) -> u8 {
        u8::try_from(self.written.len()).expect("a model has few writes")
    }

    /// Notices that a read of the primary has returned this.
    pub(crate) fn serve(&mut self, server: usize, key: usize, image: Image, since: u8) {
        if server == self.primary() {
            self.wrong.stale |= self.rank(image.write) < self.latest(key, since);
        }
    }
}

/// The place of a write as the state machine knows it.
pub(crate) fn position(epoch: u8, number: u8) -> QueuePosition {
    QueuePosition {
        incarnation: Incarnation {
            epoch: epoch.into(),
            nonce: 0,
        },
        number: number.into(),
    }
}

/// The epoch and the number of a mark.
pub(crate) fn place(position: QueuePosition) -> (u8, u8) {
    let small = |number: u64| u8::try_from(number).expect("a model counts few things");
    (small(position.incarnation.epoch), small(position.number))
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader(number, step) => write!(f, "R{number} {step}"),
            Self::Writer(number, step) => write!(f, "W{number} {step}"),
            Self::Flusher(number, step) => write!(f, "F{number} {step}"),
            Self::Tell(number) => write!(f, "W{number} tells what it misses"),
            Self::MoveReader(number) => write!(f, "R{number} finds the new server"),
            Self::MoveWriter(number) => write!(f, "W{number} finds the new server"),
            Self::MoveFlusher(number) => write!(f, "F{number} finds the new server"),
            Self::CrashWriter(number) => write!(f, "W{number} dies"),
            Self::CrashFlusher(number) => write!(f, "F{number} dies"),
            Self::Drop(key) => write!(f, "row {key} is dropped from the store"),
            Self::Copy => f.write_str("the server is copied"),
            Self::Fault(Fault::Restart) => f.write_str("the server restarts and has lost nothing"),
            Self::Fault(Fault::Rollback) => f.write_str("the server restarts with the copy"),
            Self::Fault(Fault::Empty) => f.write_str("the server restarts empty"),
            Self::Fault(Fault::Flushall) => f.write_str("the server is emptied"),
            Self::Fault(Fault::Promote) => f.write_str("a replica with the copy is promoted"),
        }
    }
}
