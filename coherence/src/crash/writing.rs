//! What the tasks of a writer do: write a few rows of their own, raise counters that all raise, and read.
//!
//! 1. A task has a few rows at a time. Each write is logged before it is asked for and when it was acknowledged; then the next
//!    one may be asked for. 2. After an error that leaves open whether the write was queued, the row is given up for a new one.
//! 3. Readers have a cache of their own, as other processes have.
//!
//! Invariant: a row of one writer has one write under way at a time.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use larder::{Error, ErrorKind, Repository};
use larder_coherence::{
    harness::{leaving::leaving, site::Site},
    queue::log::{Deed, FIRST_REFUSABLE, Log},
    random::Random,
};
use larder_testing::clock::now;

use crate::{
    orders::Orders,
    rows::{Row, UNFAITHFUL},
};

/// How many counters there are.
pub(crate) const COUNTERS: i64 = 3;
/// How many tasks write.
pub(crate) const WRITERS: u64 = 3;
/// How many rows a task has at a time.
const ROWS: u64 = 2;
/// Of a thousand operations, how many are given up by their caller, after any number of polls.
pub(crate) const LEAVING: u64 = 20;
/// Of a thousand writes of a row, how many the codec changes. A batch hides a change behind a later one of the same row, so
/// there are enough of them for a few rounds to show one.
const CHANGED: u64 = 40;
/// How long a task waits after an error, which mostly means that a server is away.
const REST: Duration = Duration::from_millis(20);

/// What the tasks of one writer share.
pub(crate) struct Shared<E: Row, DB: Site> {
    pub(crate) orders: Orders,
    pub(crate) rows: Repository<E, DB>,
    /// The same rows through another cache.
    pub(crate) elsewhere: Repository<E, DB>,
    pub(crate) log: Log,
    next_own: AtomicI64,
    next_refusable: AtomicI64,
    /// The rows that are written now, for the readers.
    live: Mutex<BTreeMap<u64, i64>>,
    stopped: AtomicBool,
}

/// A row that a task writes.
#[derive(Clone, Copy)]
struct Own {
    id: i64,
    /// The number of its last write.
    number: i64,
    exists: bool,
}

impl<E: Row, DB: Site> Shared<E, DB> {
    pub(crate) fn new(
        orders: Orders,
        rows: Repository<E, DB>,
        elsewhere: Repository<E, DB>,
    ) -> Self {
        Self {
            log: Log::open(&orders.log).expect("the log can be written"),
            next_own: AtomicI64::new(orders.first_id),
            next_refusable: AtomicI64::new(orders.first_id + FIRST_REFUSABLE),
            live: Mutex::default(),
            stopped: AtomicBool::new(false),
            orders,
            rows,
            elsewhere,
        }
    }

    /// Lets the tasks end after what they are doing.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Acquire)
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, i64>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_row(&self, slot: u64, refusable: bool) -> Own {
        let next = if refusable {
            &self.next_refusable
        } else {
            &self.next_own
        };
        let id = next.fetch_add(1, Ordering::AcqRel);
        if !refusable {
            self.live().insert(slot, id);
        }
        Own {
            id,
            number: 0,
            exists: false,
        }
    }

    /// Writes until it is told to stop.
    pub(crate) async fn write(&self, task: u64) {
        let mut random = Random::seeded(self.orders.seed.wrapping_add(task));
        let slot = |row: u64| task * ROWS + row;
        let mut own: Vec<_> = (0..ROWS)
            .map(|row| self.new_row(slot(row), false))
            .collect();
        let mut refusable = self.new_row(0, true);
        while self.goes_on() {
            let went_well = if random.per_mille(150) {
                self.raise(&mut random).await
            } else if random.per_mille(100) {
                let went_well = self.write_refusable(&mut refusable, &mut random).await;
                if !went_well {
                    refusable = self.new_row(0, true);
                }
                went_well
            } else {
                let row = random.below(ROWS);
                let at = usize::try_from(row).expect("rows are few");
                let went_well = self.write_own(&mut own[at], &mut random).await;
                if !went_well {
                    own[at] = self.new_row(slot(row), false);
                }
                went_well
            };
            let pause = if went_well { random.millis(0..4) } else { REST };
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes one write of a row of this task's own. Whether the row can be written again.
    async fn write_own(&self, own: &mut Own, random: &mut Random) -> bool {
        let number = own.number + 1;
        let weight = if random.per_mille(CHANGED) {
            UNFAITHFUL
        } else {
            1
        };
        let row = E::image(own.id, number, weight);
        let is_deletion = own.exists && random.per_mille(120);
        let deed = if is_deletion {
            Deed::Deletion
        } else {
            Deed::Row
        };
        self.log.asked(own.id, number, deed, now());
        let choice = random.below(10);
        let write = async {
            match (own.exists, choice) {
                _ if is_deletion => self.rows.delete(own.id).await,
                (true, 0..3) => self.rows.update(&row).await.map(drop),
                (true, 3..5) => {
                    let modified = self.rows.modify(own.id, |row| row.set_number(number));
                    modified.await.map(drop)
                }
                (false, 0..4) => self.rows.insert(&row).await.map(drop),
                _ => self.rows.save(&row).await.map(drop),
            }
        };
        let done = leaving(random, LEAVING).run(write).await;
        own.number = number;
        own.exists = !is_deletion;
        self.answered(own.id, number, done)
    }

    /// Makes one write that the database may refuse.
    async fn write_refusable(&self, own: &mut Own, random: &mut Random) -> bool {
        own.number += 1;
        let is_poison = random.per_mille(400);
        let weight = if is_poison { -1 } else { 1 };
        let row = E::image(own.id, own.number, weight);
        let deed = if is_poison { Deed::Poison } else { Deed::Row };
        self.log.asked(own.id, own.number, deed, now());
        let saved = leaving(random, LEAVING).run(self.rows.save(&row)).await;
        self.answered(own.id, own.number, saved.map(|saved| saved.map(drop)))
    }

    async fn raise(&self, random: &mut Random) -> bool {
        let counter = i64::try_from(random.below(COUNTERS.unsigned_abs())).expect("they are few");
        let id = self.orders.counters + counter;
        self.log.asked(id, 0, Deed::Raise, now());
        let raised = self.rows.modify(id, |row| row.set_number(row.number() + 1));
        let raised = leaving(random, LEAVING).run(raised).await;
        let number = match &raised {
            Some(Ok(row)) => row.number(),
            _ => 0,
        };
        self.answered(id, number, raised.map(|raised| raised.map(drop)))
    }

    /// Notes what became of a write, if its caller has not left. Whether it was acknowledged.
    fn answered(&self, id: i64, number: i64, done: Option<Result<(), Error>>) -> bool {
        let Some(done) = done else {
            self.log.failed(id, number, "its caller has left");
            return false;
        };
        match done {
            Ok(()) => {
                self.log.acknowledged(id, number, now());
                true
            }
            Err(error) => {
                // The writer knows what there is: nobody else writes its rows, and nobody deletes counters.
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Duplicate) {
                    self.log.denied(id, number, &error.to_string());
                } else {
                    let why = format!("{:?} {error}", error.kind());
                    self.log.failed(id, number, &why.replace('\n', " "));
                }
                false
            }
        }
    }

    /// Reads until it is told to stop.
    pub(crate) async fn read(&self) {
        let mut random = Random::seeded(self.orders.seed.wrapping_add(1_000));
        while self.goes_on() {
            let counter = random.below(COUNTERS.unsigned_abs());
            let id = if random.per_mille(200) {
                self.orders.counters + i64::try_from(counter).expect("counters are few")
            } else {
                let live: Vec<i64> = self.live().values().copied().collect();
                if live.is_empty() {
                    tokio::time::sleep(REST).await;
                    continue;
                }
                *random.pick(&live)
            };
            let failures = self.elsewhere.stats().store_errors;
            let start = now();
            let found = leaving(&mut random, LEAVING).run(self.elsewhere.find(id));
            let Some(found) = found.await else {
                continue;
            };
            let end = now();
            // A read that the store could not answer is one of the database, and promises no more than that.
            let was_away = self.elsewhere.stats().store_errors > failures;
            match found {
                Ok(row) if !was_away => {
                    let number = row.map(|row| row.number());
                    self.log.read(id, (start, end), number);
                }
                _ => tokio::time::sleep(REST).await,
            }
            tokio::time::sleep(random.millis(0..3)).await;
        }
    }
}
