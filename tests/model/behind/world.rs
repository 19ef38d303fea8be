//! One state of write-behind: the database, each server, each process, and what is true of each write.
//!
//! A row is identified by the write that made it. Its payload is the number of that write, in the order of the puts. The
//! fate of each write is recorded outside the processes, so that claims can use what no process knows.

use std::{collections::BTreeMap, fmt};

use larder::{
    queue_position::{Incarnation, QueuePosition},
    token::Token,
};

use crate::store::Key;

/// The number of rows.
pub(crate) const KEYS: usize = 2;

/// One state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) database: Database,
    /// The servers, in the order in which they became the primary. The last one is the primary. The others are cut off.
    pub(crate) servers: Vec<Server>,
    /// A copy of an earlier state, which a restart may restore or a replica may have.
    pub(crate) copy: Option<Server>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) flushers: Vec<Flusher>,
    /// How many faults of the server may still happen.
    pub(crate) faults_left: u8,
    /// How many histories the servers have had.
    pub(crate) histories: u8,
    /// All writes that were put. The first one has the number one.
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
    /// Whether the database rejects it.
    pub(crate) poison: bool,
    pub(crate) fate: Fate,
}

/// The fate of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// It is in the queue of the primary.
    Queued,
    /// It is in the database, or was overwritten there.
    Applied,
    /// It is a dead letter.
    Dead,
    /// The primary does not have it, and never had or has lost it.
    Lost,
}

/// What must never happen, recorded when it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Wrong {
    /// A write was applied or became a dead letter twice.
    pub(crate) repeated: bool,
    /// A write was applied after a later one of the same row.
    pub(crate) reordered: bool,
    /// A read returned something older than what had been acknowledged when it began.
    pub(crate) stale: bool,
    /// A modification was made to a row that was not the latest one.
    pub(crate) overwritten: bool,
    /// A good write of a server that has lost nothing became a dead letter.
    pub(crate) wrongly_dead: bool,
}

/// The content of the database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub(crate) rows: [Image; KEYS],
    /// The incarnations, in the order of their epochs from one.
    pub(crate) offsets: Vec<Offset>,
}

/// A version of a row: the write that made it, and whether the row exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Image {
    pub(crate) write: u8,
    pub(crate) exists: bool,
}

/// An incarnation in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Offset {
    pub(crate) position: u8,
    pub(crate) closed: bool,
    pub(crate) lost: u8,
}

/// The content of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// Its history.
    pub(crate) stamp: u8,
    pub(crate) state: Option<Queue>,
    pub(crate) keys: [Key; KEYS],
    pub(crate) pending_index: [Option<QueuePosition>; KEYS],
    /// The logs by epoch. An empty log is not listed.
    pub(crate) logs: BTreeMap<u8, Vec<Entry>>,
}

/// The state of a server's queue.
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

/// The state of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Read {
    Idle,
    /// Has the lease of this history. It began when `since` writes had been put.
    Leased {
        stamp: u8,
        since: u8,
    },
    /// Has read the row under the lease.
    Loaded {
        stamp: u8,
        image: Image,
    },
    /// Will read the database and cache nothing.
    Bypassing {
        since: u8,
    },
    /// Has found a queued write of another history.
    StalePending {
        position: QueuePosition,
        image: Image,
        since: u8,
    },
    /// Knows that this queued write is in the database.
    Settled {
        position: QueuePosition,
    },
}

/// A process that writes, and what it remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Writer {
    pub(crate) server: usize,
    /// The number of its operations that are done.
    pub(crate) done: usize,
    /// The tries that are left for a modification.
    pub(crate) left: u8,
    pub(crate) step: WriterStep,
    /// The latest acknowledged number of each epoch, until its fate is known.
    pub(crate) memory: BTreeMap<u8, u8>,
}

/// The state of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WriterStep {
    /// About to put, or to read what it modifies.
    Ready,
    Reading(Read),
    /// Has read a row with this token, and is about to put the changed row.
    Changed(Image, Token),
    /// Must begin another incarnation: a server in this history had this one.
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

/// The state of a flusher.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FlusherStep {
    Idle,
    /// Has read that this incarnation has this position, and is closed or the first open one.
    Believing {
        epoch: u8,
        position: u8,
        closed: bool,
    },
    /// Has read these writes after the position.
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
    /// These writes were committed, by it or another flusher. For each, whether its row may stay cached.
    Committed {
        epoch: u8,
        entries: Vec<(Entry, bool)>,
    },
    /// Will begin another incarnation, because the server is in another history than the current one.
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

/// A step of a process, or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The next step of a reader, a writer or a flusher, and its name for the output.
    Reader(usize, &'static str),
    Writer(usize, &'static str),
    Flusher(usize, &'static str),
    /// A process counts its missing acknowledged writes in the database.
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

/// A fault of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It restarts without a loss.
    Restart,
    /// It restarts with the copy.
    Rollback,
    /// It restarts empty.
    Empty,
    /// It is emptied and continues.
    Flushall,
    /// A replica with the copy becomes the primary. Processes that are connected to the old server may continue there.
    Promote,
}

impl World {
    /// Returns the index of the primary.
    pub(crate) fn primary(&self) -> usize {
        self.servers.len() - 1
    }

    /// Returns the place of a write in the order of all queues. Zero is the row at the beginning.
    pub(crate) fn rank(&self, write: u8) -> (u8, u8) {
        match write.checked_sub(1) {
            None => (0, 0),
            Some(index) => {
                let written = &self.written[usize::from(index)];
                (written.epoch, written.number)
            }
        }
    }

    /// Returns the latest of the first `since` writes of a row that are neither dead letters nor lost.
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

    /// Returns how many writes were put.
    pub(crate) fn now(&self) -> u8 {
        u8::try_from(self.written.len()).expect("a model has few writes")
    }

    /// Records that a read from the primary has returned this version.
    pub(crate) fn serve(&mut self, server: usize, key: usize, image: Image, since: u8) {
        if server == self.primary() {
            self.wrong.stale |= self.rank(image.write) < self.latest(key, since);
        }
    }
}

/// Returns the queue position of a write.
pub(crate) fn position(epoch: u8, number: u8) -> QueuePosition {
    QueuePosition {
        incarnation: Incarnation {
            epoch: epoch.into(),
            nonce: 0,
        },
        number: number.into(),
    }
}

/// Returns the epoch and the number of a queue position.
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
            Self::Tell(number) => write!(f, "W{number} counts its missing writes"),
            Self::MoveReader(number) => write!(f, "R{number} finds the new server"),
            Self::MoveWriter(number) => write!(f, "W{number} finds the new server"),
            Self::MoveFlusher(number) => write!(f, "F{number} finds the new server"),
            Self::CrashWriter(number) => write!(f, "W{number} dies"),
            Self::CrashFlusher(number) => write!(f, "F{number} dies"),
            Self::Drop(key) => write!(f, "row {key} is evicted"),
            Self::Copy => f.write_str("the server is copied"),
            Self::Fault(Fault::Restart) => f.write_str("the server restarts without a loss"),
            Self::Fault(Fault::Rollback) => f.write_str("the server restarts with the copy"),
            Self::Fault(Fault::Empty) => f.write_str("the server restarts empty"),
            Self::Fault(Fault::Flushall) => f.write_str("the server is emptied"),
            Self::Fault(Fault::Promote) => f.write_str("a replica with the copy is promoted"),
        }
    }
}
