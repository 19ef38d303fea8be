//! What workers do, and how often: few keys, many readers, enough writers to be in each other's way.

use std::time::Duration;

use larder_coherence::options::Broken;

/// The mix of operations of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// How many rows each table has.
    pub(crate) rows: u64,
    /// How many tasks each worker runs.
    pub(crate) tasks: u64,
    /// Of a thousand operations, how many are writes.
    pub(crate) writes: u64,
    /// Of a thousand reads, how many go past the cache: they show what the cache should have known.
    pub(crate) uncached: u64,
    /// Of a thousand reads, how many are of several rows, of a list, or by another column.
    pub(crate) lookups: u64,
    /// Of a thousand writes, how many are deletes or inserts.
    pub(crate) existence: u64,
    /// Of a thousand writes of a parent that is there, how many delete it.
    pub(crate) cascades: u64,
    /// Of a thousand writes, how many are transactions.
    pub(crate) transactions: u64,
    /// Of a thousand writes that are no transactions, how many are batches.
    pub(crate) batches: u64,
    /// Of a thousand writes that are neither, how many change rows by their tags.
    pub(crate) tagged: u64,
    /// Of a thousand of the others, how many are made together with some of other rows, so that they meet.
    pub(crate) bursts: u64,
    /// Of a thousand changes by tags, how many only invalidate.
    pub(crate) invalidations: u64,
    /// Of a thousand of the others, how many are followed by so many invalidations that the clock drops their marks.
    pub(crate) crowds: u64,
    /// Of a thousand operations of each kind, how many are given up by their caller, after any number of polls.
    pub(crate) abandoned: u64,
    /// How long a task rests after an operation.
    pub(crate) rest: Duration,
}

/// Which of the workers one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The only one.
    Alone,
    /// The first of several, which is never slowed down.
    First,
    /// Another one.
    Other,
}

impl Mix {
    /// The mix in which a mechanism is missed soonest; without a broken one, the mix of a run with all faults.
    pub(crate) fn of(broken: Option<Broken>, tags: bool, role: Role) -> Self {
        let usual = Self {
            rows: 16,
            tasks: 6,
            writes: 20,
            uncached: 30,
            lookups: 0,
            existence: 250,
            cascades: 600,
            transactions: 200,
            batches: 50,
            tagged: if tags { 40 } else { 0 },
            bursts: 80,
            invalidations: 300,
            crowds: 30,
            abandoned: 20,
            rest: Duration::ZERO,
        };
        match broken {
            // Writers that overlap all the time.
            Some(Broken::Contended) => Self {
                rows: 3,
                writes: 120,
                existence: 0,
                transactions: 0,
                batches: 0,
                ..usual
            },
            // A write without an end keeps its key off the cache for long, so writes must be rare.
            Some(Broken::End) => Self {
                rows: 4,
                writes: 12,
                existence: 0,
                ..usual
            },
            // Many callers of few keys in one process, and writes in another one, which must not read: it would store the new row
            // before anybody could join a load of the old one.
            Some(Broken::AcceptedFill) => {
                let many = Self {
                    rows: 3,
                    tasks: 12,
                    existence: 0,
                    ..usual
                };
                match role {
                    Role::Alone => Self { writes: 40, ..many },
                    Role::First => Self {
                        tasks: 2,
                        writes: 1000,
                        rest: Duration::from_millis(15),
                        ..many
                    },
                    Role::Other => Self { writes: 0, ..many },
                }
            }
            // Transactions that are all given up while they begin, and writes that follow them on their connections.
            Some(Broken::DroppedBegin) => Self {
                writes: 150,
                transactions: 300,
                abandoned: 0,
                ..usual
            },
            // Values that readers look for while they are being written.
            Some(Broken::PointerIntent) => Self {
                rows: 3,
                writes: 150,
                lookups: 950,
                ..usual
            },
            // Rows that move from list to list, and readers of these.
            Some(Broken::LookupCheck | Broken::ListIntent) => Self {
                rows: 6,
                writes: 60,
                lookups: 800,
                ..usual
            },
            // Changes by tags.
            Some(Broken::TagClock) => Self {
                rows: 6,
                transactions: 0,
                batches: 0,
                tagged: 700,
                invalidations: 0,
                crowds: 0,
                ..usual
            },
            // Readers who see past the cache that a change was committed, while its end is held up.
            Some(Broken::TagIntent) => Self {
                rows: 3,
                writes: 60,
                uncached: 300,
                transactions: 0,
                batches: 0,
                tagged: 700,
                invalidations: 0,
                crowds: 0,
                ..usual
            },
            // Changes whose marks are dropped at once, and so few readers that most entries are not read in between.
            Some(Broken::TagFloor) => Self {
                rows: 5,
                tasks: 2,
                writes: 120,
                existence: 0,
                transactions: 0,
                batches: 0,
                tagged: 500,
                invalidations: 0,
                crowds: 1_000,
                rest: Duration::from_millis(10),
                ..usual
            },
            // Deletes of parents, with children that have been read.
            Some(Broken::Cascade) => Self {
                rows: 4,
                transactions: 0,
                batches: 0,
                tagged: 0,
                ..usual
            },
            None => Self {
                lookups: 300,
                ..usual
            },
            _ => usual,
        }
    }
}
