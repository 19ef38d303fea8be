//! The tasks of a worker: reads, writes, batches and transactions over a few rows, each logged.
//!
//! Invariant: a worker deletes one row one at a time, and never again when it does not know what came of a delete; see `commits`.
//! Invariant: a child is deleted with its parent only; see `cascades`.
//! Invariant: what an error says of its write is believed, so that the judge can find it out: only an unknown outcome is one.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use larder::{Cache, Error, ErrorKind, Transaction, tags::MAX_MARKS};
use larder_coherence::{
    harness::{
        leaving::{STAYS, leaving},
        site::Site,
    },
    history::{Answer, Log, Origin, SHELVES, Sought, Value, Verb, parent, shelf},
    options::{Broken, Kin, kins, table},
    random::Random,
};
use larder_testing::{clock::now, cut::Cut};
use sqlx::Pool;

use crate::{entities::Rows, orders::Orders, workload::Mix};

/// What the tasks of a worker share.
pub(crate) struct Shared<DB: Site> {
    orders: Orders,
    mix: Mix,
    tables: Vec<Table<DB>>,
    pool: Pool<DB>,
    log: Log,
    stopping: AtomicBool,
    next_number: AtomicU64,
    /// Rows that must not be deleted now: a delete is under way, or one has ended nobody knows how.
    deleting: Mutex<HashSet<Row>>,
    /// The value that each row was last given or seen with; a hint for what to look for.
    known: Mutex<HashMap<Row, i64>>,
    /// Rows that were not there when last seen; a hint for the choice of verbs.
    absent: Mutex<HashSet<Row>>,
}

/// One task: reads and writes until the worker stops.
pub(crate) async fn work<DB: Site>(shared: Arc<Shared<DB>>, task: u64) {
    let mut random = Random::seeded(shared.orders.seed.wrapping_mul(1000).wrapping_add(task));
    while !shared.stopping.load(Ordering::SeqCst) {
        let row = shared.any_row(&mut random);
        if !random.per_mille(shared.mix.writes) {
            shared.read(&mut random, row).await;
        } else if random.per_mille(shared.mix.transactions) {
            shared.transact(&mut random).await;
        } else if random.per_mille(shared.mix.batches) {
            shared.write_batch(&mut random).await;
        } else if random.per_mille(shared.mix.tagged) {
            shared.change_by_tags(&mut random).await;
        } else if random.per_mille(shared.mix.bursts) {
            shared.write_burst(&mut random).await;
        } else {
            shared.write(&mut random, row).await;
        }
        if !shared.mix.rest.is_zero() {
            tokio::time::sleep(shared.mix.rest).await;
        }
    }
}

/// A row: which table, and its id.
type Row = (usize, i64);

/// A table of the run.
struct Table<DB: Site> {
    name: &'static str,
    kin: Kin,
    rows: Rows<DB>,
}

/// A write that was logged and has no answer yet.
struct Begun {
    row: Row,
    number: u64,
    verb: Verb,
    value: Value,
}

impl<DB: Site> Shared<DB> {
    /// What the tasks of a worker with these orders share.
    pub(crate) fn new(orders: Orders, mix: Mix, pool: Pool<DB>, cache: &Cache) -> Self {
        let each = orders.strategies.iter();
        let tables =
            each.flat_map(|&strategy| kins(orders.tags).iter().map(move |&kin| (strategy, kin)));
        Self {
            tables: tables
                .map(|(strategy, kin)| Table {
                    name: table(strategy, kin),
                    kin,
                    rows: Rows::new((strategy, kin), orders.tags, cache, &pool),
                })
                .collect(),
            pool,
            log: Log::open(&orders.log).expect("the log can be opened"),
            stopping: AtomicBool::new(false),
            next_number: AtomicU64::new(0),
            deleting: Mutex::default(),
            known: Mutex::default(),
            absent: Mutex::default(),
            mix,
            orders,
        }
    }

    /// Lets the tasks end after what they are doing.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// A row; often, one of the two hottest.
    fn any_row(&self, random: &mut Random) -> Row {
        let rows = if random.per_mille(300) {
            2.min(self.mix.rows)
        } else {
            self.mix.rows
        };
        let table = random.below(self.tables.len() as u64);
        let table = usize::try_from(table).expect("tables are few");
        (table, self.id_below(random, table, rows))
    }

    /// A row of a table.
    fn any_row_of(&self, random: &mut Random, table: usize) -> Row {
        (table, self.id_below(random, table, self.mix.rows))
    }

    fn id_below(&self, random: &mut Random, table: usize, rows: u64) -> i64 {
        let id = i64::try_from(random.below(rows)).expect("ids are small");
        match self.tables[table].kin {
            // The others have no children.
            Kin::Parent => parent(id),
            _ => id,
        }
    }

    async fn read(&self, random: &mut Random, (table, id): Row) {
        if random.per_mille(self.mix.lookups) {
            return match random.below(4) {
                0 => self.read_many(random, table).await,
                1 => self.read_list(random, table).await,
                _ => self.look_up(random, (table, id)).await,
            };
        }
        let Table { name, rows, .. } = &self.tables[table];
        let uncached = random.per_mille(self.mix.uncached);
        let start = now();
        let read = async {
            if uncached {
                let value = rows.read_uncached(id).await;
                value.map(|value| (value, Origin::Uncached))
            } else {
                rows.read(id).await
            }
        };
        let Some(result) = self.leaving(random).run(read).await else {
            return;
        };
        let end = now();
        match result {
            Ok((value, origin)) => {
                self.log.read((name, id), (start, end), value, origin);
                self.saw((table, id), value);
            }
            // The database is away, or the pool has no connection that works; a short breath, not a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }

    /// Reads several rows at once, each of which is a read of its own.
    async fn read_many(&self, random: &mut Random, table: usize) {
        let Table { name, rows, .. } = &self.tables[table];
        let ids: Vec<i64> = (0..5).map(|_| self.any_row(random).1).collect();
        let start = now();
        let Some(Ok(found)) = self.leaving(random).run(rows.read_many(&ids)).await else {
            return;
        };
        let end = now();
        for (id, value) in ids.into_iter().zip(found) {
            self.log
                .read((name, id), (start, end), value, Origin::Several);
            self.saw((table, id), value);
        }
    }

    /// Reads a list: each of its rows is a read, and each other row is missing.
    async fn read_list(&self, random: &mut Random, table: usize) {
        let Table { name, rows, .. } = &self.tables[table];
        let list = i64::try_from(random.below(SHELVES as u64)).expect("lists are few");
        let all = usize::try_from(self.mix.rows).expect("rows are few") + 1;
        let start = now();
        let found = self.leaving(random).run(rows.find_all(list, all)).await;
        let Some(Ok(found)) = found else { return };
        let end = now();
        for &(id, value) in &found {
            self.found((table, id), (start, end), value, shelf(value) == list);
        }
        for id in 0..i64::try_from(self.mix.rows).expect("rows are few") {
            if found.iter().all(|(other, _)| *other != id) {
                self.log.lack((name, id), (start, end), Sought::Shelf(list));
            }
        }
    }

    /// Looks for a row by a value that it has or had.
    async fn look_up(&self, random: &mut Random, (table, id): Row) {
        let Table { name, rows, .. } = &self.tables[table];
        let Some(value) = lock(&self.known).get(&(table, id)).copied() else {
            return;
        };
        let start = now();
        let found = self.leaving(random).run(rows.find_by_value(value)).await;
        let Some(Ok(found)) = found else { return };
        let end = now();
        match found {
            Some((found, held)) => {
                let is_it = found == id && held == value;
                self.found((table, found), (start, end), held, is_it);
            }
            None => self
                .log
                .lack((name, id), (start, end), Sought::Value(value)),
        }
    }

    /// Logs a row that a lookup returned: as a read, and as one of nothing that was ever there if it has not what it was looked
    /// for by.
    fn found(
        &self,
        (table, id): Row,
        during: (larder_testing::clock::Moment, larder_testing::clock::Moment),
        value: i64,
        is_it: bool,
    ) {
        let value = if is_it { value } else { -1 };
        let series = (self.tables[table].name, id);
        self.log.read(series, during, Some(value), Origin::Several);
    }

    async fn write(&self, random: &mut Random, row: Row) {
        let begun = self.begin(random, row);
        let leaving = self.leaving(random);
        self.finish(begun, leaving).await;
    }

    /// Single writes of several rows of one table at once.
    async fn write_burst(&self, random: &mut Random) {
        let (table, _) = self.any_row(random);
        let mut rows = HashSet::new();
        let mut next = || {
            let row = self.any_row_of(random, table);
            let begun = if rows.insert(row) {
                self.begin(random, row)
            } else {
                None
            };
            (begun, self.leaving(random))
        };
        let [one, two, three, four, five, six] = std::array::from_fn(|_| next());
        tokio::join!(
            self.finish(one.0, one.1),
            self.finish(two.0, two.1),
            self.finish(three.0, three.1),
            self.finish(four.0, four.1),
            self.finish(five.0, five.1),
            self.finish(six.0, six.1),
        );
    }

    /// Makes a write that was logged.
    async fn finish(&self, begun: Option<Begun>, leaving: Cut) {
        let Some(begun) = begun else { return };
        let Begun {
            row, verb, value, ..
        } = begun;
        let leaving = match verb {
            Verb::Delete => STAYS,
            _ => leaving,
        };
        let write = self.tables[row.0].rows.write(verb, row.1, value);
        // One that is dropped goes on without us.
        let written = leaving.run(write).await;
        let answer = written.map_or(Answer::Unknown, |written| answer(&written));
        self.answered(&begun, answer);
    }

    /// When the caller of the next operation leaves; mostly not at all.
    fn leaving(&self, random: &mut Random) -> Cut {
        leaving(random, self.mix.abandoned)
    }

    /// A batch of updates of one table.
    async fn write_batch(&self, random: &mut Random) {
        let (table, _) = self.any_row(random);
        let (begun, values) = self.begin_several(random, table);
        let batch = self.tables[table].rows.update_many(&values);
        let written = self.leaving(random).run(batch).await;
        let answer = written.map_or(Answer::Unknown, |written| answer(&written));
        self.all_answered(&begun, answer);
    }

    /// Changes rows of one table by their tags, or only invalidates some.
    async fn change_by_tags(&self, random: &mut Random) {
        let (table, _) = self.any_row(random);
        let rows = &self.tables[table].rows;
        if random.per_mille(self.mix.invalidations) {
            let shelf = i64::try_from(random.below(SHELVES as u64)).expect("lists are few");
            // It may fail, as nothing was changed.
            let shelf = std::iter::once(shelf);
            let _done = self
                .leaving(random)
                .run(rows.invalidate_shelves(shelf))
                .await;
            return;
        }
        let (begun, values) = self.begin_several(random, table);
        let write = rows.write_tagged(&values);
        match self.leaving(random).run(write).await {
            Some(Ok(found)) => {
                for (begun, is_there) in begun.iter().zip(found) {
                    let answer = match is_there {
                        true => Answer::Done,
                        false => Answer::Refused,
                    };
                    self.answered(begun, answer);
                }
            }
            Some(failed) => self.all_answered(&begun, answer(&failed)),
            None => self.all_answered(&begun, Answer::Unknown),
        }
        if random.per_mille(self.mix.crowds) {
            // Shelves that no row is on.
            let many = i64::try_from(MAX_MARKS).expect("marks are few");
            let _done = rows.invalidate_shelves(SHELVES..=SHELVES + many).await;
        }
    }

    /// A transaction over a few rows of all tables, with savepoints.
    async fn transact(&self, random: &mut Random) {
        let mut rows: Vec<Row> = (0..3).map(|_| self.any_row(random)).collect();
        // One order for all keeps most deadlocks away.
        rows.sort_unstable();
        rows.dedup();
        if self.orders.broken == Some(Broken::DroppedBegin) {
            // As larder would begin without a task of its own, for a caller that leaves.
            leaving(random, 1_000).run(self.pool.begin()).await;
            return;
        }
        let leaving = self.leaving(random);
        let begun = leaving.run(Transaction::begin(&self.pool)).await;
        let Some(Ok(mut transaction)) = begun else {
            return;
        };
        let mut open = Vec::new();
        for row in rows {
            let Some(begun) = self.begin(random, row) else {
                continue;
            };
            let leaving = self.leaving(random);
            let kept = if random.per_mille(300) {
                let written = self.write_in_savepoint(random, &mut transaction, &begun);
                leaving.run(written).await
            } else {
                let written = self.write_within(&mut transaction, &begun);
                leaving.run(written).await.map(|done| done.map(|()| true))
            };
            match kept {
                Some(Ok(true)) => open.push(begun),
                Some(Ok(false)) => self.answered(&begun, Answer::Refused),
                None | Some(Err(_)) => {
                    open.push(begun);
                    // Without a word, as a dropped future would.
                    drop(transaction);
                    return self.all_answered(&open, Answer::Refused);
                }
            }
        }
        if random.per_mille(100) {
            // Whether or not the database hears of it, it cannot commit.
            let _rolled_back = self.leaving(random).run(transaction.rollback()).await;
            return self.all_answered(&open, Answer::Refused);
        }
        let has_deleted = open.iter().any(|begun| begun.verb == Verb::Delete);
        let leaving = if has_deleted {
            STAYS
        } else {
            self.leaving(random)
        };
        let committed = leaving.run(transaction.commit()).await;
        let answer = committed.map_or(Answer::Unknown, |committed| answer(&committed));
        self.all_answered(&open, answer);
    }

    /// Writes in a transaction, which must then see it.
    async fn write_within(
        &self,
        transaction: &mut Transaction<'_, DB>,
        begun: &Begun,
    ) -> Result<(), Error> {
        let (table, id) = begun.row;
        let rows = &self.tables[table].rows;
        let seen = rows
            .write_within(transaction, begun.verb, id, begun.value)
            .await?;
        assert_eq!(seen, begun.value, "a transaction sees its own writes");
        Ok(())
    }

    /// Writes in a savepoint, and says whether it was kept.
    async fn write_in_savepoint(
        &self,
        random: &mut Random,
        transaction: &mut Transaction<'_, DB>,
        begun: &Begun,
    ) -> Result<bool, Error> {
        let mut savepoint = transaction.savepoint().await?;
        if self.write_within(&mut savepoint, begun).await.is_err() {
            savepoint.rollback().await?;
            return Ok(false);
        }
        if random.per_mille(300) {
            savepoint.rollback().await?;
            return Ok(false);
        }
        savepoint.commit().await?;
        Ok(true)
    }

    /// Chooses what to write to a row and logs that it begins; nothing if it must not be.
    fn begin(&self, random: &mut Random, row: Row) -> Option<Begun> {
        let verb = self.choose(random, row);
        if verb == Verb::Delete && !self.may_delete(row) {
            return None;
        }
        Some(self.begin_with(row, verb))
    }

    /// Logs that updates of a few rows of one table begin, and returns what they write.
    fn begin_several(&self, random: &mut Random, table: usize) -> (Vec<Begun>, Vec<(i64, i64)>) {
        let mut ids: Vec<i64> = (0..4).map(|_| self.any_row(random).1).collect();
        ids.sort_unstable();
        ids.dedup();
        let begun: Vec<Begun> = ids
            .into_iter()
            .map(|id| self.begin_with((table, id), Verb::Update))
            .collect();
        let values = begun
            .iter()
            .filter_map(|begun| Some((begun.row.1, begun.value?)))
            .collect();
        (begun, values)
    }

    /// Logs that a write begins.
    fn begin_with(&self, row: Row, verb: Verb) -> Begun {
        let table = self.tables[row.0].name;
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let value = (verb != Verb::Delete).then(|| self.value(number));
        self.log.write((table, row.1), number, now(), verb, value);
        if let Some(value) = value {
            lock(&self.known).insert(row, value);
        }
        Begun {
            row,
            number,
            verb,
            value,
        }
    }

    fn all_answered(&self, begun: &[Begun], answer: Answer) {
        for begun in begun {
            self.answered(begun, answer);
        }
    }

    fn answered(&self, begun: &Begun, answer: Answer) {
        self.log.answer(begun.number, now(), answer);
        let Begun {
            row, verb, value, ..
        } = *begun;
        if answer != Answer::Unknown {
            if verb == Verb::Delete {
                lock(&self.deleting).remove(&row);
            }
            let found = match (answer, verb) {
                (Answer::Done, _) => value,
                // Refused because there is a row, or because there is none.
                (_, Verb::Insert) => Some(0),
                _ => None,
            };
            self.saw(row, found);
        }
    }

    fn choose(&self, random: &mut Random, row: Row) -> Verb {
        if lock(&self.absent).contains(&row) {
            return *random.pick(&[Verb::Insert, Verb::Insert, Verb::Save]);
        }
        let existence = match self.tables[row.0].kin {
            Kin::None => [Verb::Delete, Verb::Delete, Verb::Delete, Verb::Insert],
            Kin::Child => [Verb::Insert; 4],
            Kin::Parent if random.per_mille(self.mix.cascades) => return Verb::Delete,
            Kin::Parent => [Verb::Insert; 4],
        };
        if random.per_mille(self.mix.existence) {
            return *random.pick(&existence);
        }
        *random.pick(&[Verb::Update, Verb::Update, Verb::Save])
    }

    fn may_delete(&self, row: Row) -> bool {
        lock(&self.deleting).insert(row)
    }

    fn saw(&self, row: Row, value: Value) {
        let mut absent = lock(&self.absent);
        if value.is_some() {
            absent.remove(&row);
        } else {
            absent.insert(row);
        }
    }

    /// The value of a write, which no other write of the run has.
    fn value(&self, number: u64) -> i64 {
        let value = (self.orders.number << 32) + number + 1;
        i64::try_from(value).expect("workers are few")
    }
}

fn answer<T>(result: &Result<T, Error>) -> Answer {
    match result {
        Ok(_) => Answer::Done,
        Err(error) => match error.kind() {
            ErrorKind::OutcomeUnknown | ErrorKind::TaskFailed => Answer::Unknown,
            _ => Answer::Refused,
        },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
