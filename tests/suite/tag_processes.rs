//! Tags, cascades and cached queries of processes that share nothing but the servers: what one of them has changed or invalidated,
//! all see at once, and what one of them leaves when it dies serves nobody an old row.
//!
//! One process after the other changes rows: by a tag, by a lookup, with their parent, or without larder and then with an
//! invalidation. After each step every process reads everything: by id, together, in lists, and as the answer of a query. So each of
//! them has cached the rows and answers of before.
//!
//! The controls run the same steps with a mechanism left out, and must see a wrong answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use larder::{
    Backend, Cache, Cached, Error, Origin, Queries,
    store::{Mechanism, Point, faulty::Faults},
};
use larder_testing::process::{Worker, WorkerFn, hear, tell};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, SqlSafeStr, Sqlite};

use crate::world::{Tested, World, eventually, redis_url, unique};

macro_rules! on_redis_with_each_database {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, redis_postgres, Redis, Postgres);
            crate::world::case!($case, redis_mysql, Redis, MySql);
            crate::world::case!($case, redis_sqlite, Redis, Sqlite);
        })*
    };
}

on_redis_with_each_database!(
    every_process_sees_each_change_at_once,
    a_process_that_dies_in_a_change_of_many_rows_leaves_nothing_old,
);

mod a_mechanism_that_is_left_out_is_missed {
    crate::world::case!(
        a_mechanism_that_is_left_out_is_missed,
        redis,
        Redis,
        Postgres
    );
}
mod without_the_announcement_a_process_that_dies_leaves_old_rows {
    crate::world::case!(
        without_the_announcement_a_process_that_dies_leaves_old_rows,
        redis,
        Redis,
        Postgres
    );
}

/// The functions that this file runs in other processes.
pub(crate) const CLERK: (&str, WorkerFn) = ("clerk", |arguments| Box::pin(clerk(arguments)));
pub(crate) const DOOMED_CLERK: (&str, WorkerFn) = ("doomed clerk", |arguments| {
    Box::pin(doomed_clerk(arguments))
});

const PROCESSES: usize = 3;
const IDS: [i64; 6] = [1, 2, 3, 4, 5, 6];
const DEPOTS: [i64; 3] = [1, 2, 3];
const KINDS: [&str; 2] = ["tea", "tin"];

/// Where a process dies, and whether its change is committed by then.
const POINTS: [(&str, Point, bool); 4] = [
    ("after_begin", Point::AfterBegin, false),
    ("before_commit", Point::BeforeCommit, false),
    ("after_commit", Point::AfterCommit, true),
    ("before_end", Point::BeforeEnd, true),
];

const TABLES: [&str; 2] = [
    "CREATE TABLE depots (id BIGINT NOT NULL PRIMARY KEY)",
    "CREATE TABLE wares (id BIGINT NOT NULL PRIMARY KEY, depot BIGINT NOT NULL, kind VARCHAR(20) NOT NULL, \
     price BIGINT NOT NULL, FOREIGN KEY (depot) REFERENCES depots (id) ON DELETE CASCADE)",
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "depots",
    ttl = "10m",
    negative_ttl = "10m",
    jitter = 0,
    on_delete(Ware::depot)
)]
struct Depot {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "wares",
    ttl = "10m",
    negative_ttl = "10m",
    jitter = 0,
    intent(ttl = "2s"),
    tags("depot:{depot}", "kind:{kind}"),
    index(depot),
    queries
)]
struct Ware {
    #[cached(id)]
    id: i64,
    depot: i64,
    kind: String,
    price: i64,
}

/// What a process knows.
struct Desk<DB: Tested> {
    pool: Pool<DB>,
    depots: DepotRepository<DB>,
    wares: WareRepository<DB>,
    queries: Queries<DB>,
}

impl<DB: Tested> Desk<DB> {
    fn new(cache: &Cache, pool: Pool<DB>) -> Self {
        Self {
            depots: Depot::repository(cache, pool.clone()),
            wares: Ware::repository(cache, pool.clone()),
            queries: cache.queries(pool.clone()),
            pool,
        }
    }

    /// Sets the price of all wares, or of those of a kind, by statements of its own.
    async fn reprice(&self, kind: Option<&str>, price: &str) {
        let mut connection = self.pool.acquire().await.unwrap();
        run::<DB>(&mut connection, repricing(kind, price))
            .await
            .unwrap();
    }

    /// Sets the price of the wares of a kind by their tag.
    async fn write_tagged(&self, kind: &str, price: &str) -> Result<(), Error> {
        let sql = repricing(Some(kind), price);
        let write = self
            .wares
            .write_tagged([format!("kind:{kind}")], move |connection| {
                Box::pin(run::<DB>(connection, sql))
            });
        write.await
    }

    async fn write(&self, words: &[&str]) -> Result<(), Error> {
        let number = |word: &str| word.parse::<i64>().unwrap();
        match *words {
            ["invalidate_tag", kind, price] => {
                self.reprice(Some(kind), price).await;
                self.wares.invalidate_tag(&format!("kind:{kind}")).await
            }
            ["invalidate_all", price] => {
                self.reprice(None, price).await;
                self.wares.invalidate_all().await
            }
            ["write_tagged", kind, price] => self.write_tagged(kind, price).await,
            ["modify_by_depot", depot, price] => {
                let price = number(price);
                let change = |ware: &mut Ware| ware.price = price;
                let modified = self.wares.modify_by_depot(number(depot), change);
                modified.await.map(drop)
            }
            ["delete_depot", depot] => self.depots.delete(number(depot)).await,
            ["insert_depot", depot] => {
                let depot = Depot { id: number(depot) };
                self.depots.insert(&depot).await.map(drop)
            }
            ["save", id, depot, kind, price] => {
                let ware = Ware {
                    id: number(id),
                    depot: number(depot),
                    kind: kind.to_owned(),
                    price: number(price),
                };
                self.wares.save(&ware).await.map(drop)
            }
            _ => panic!("{words:?} is no write"),
        }
    }

    /// Reads everything, in every way.
    async fn seen(&self) -> Result<String, Error> {
        let mut seen = String::new();
        for depot in DEPOTS {
            write!(seen, "{} ", self.depots.exists(depot).await?).unwrap();
        }
        for id in IDS {
            let row = self.wares.find(id).await?;
            note(&mut seen, row.as_deref());
        }
        for row in self.wares.find_many(&IDS).await? {
            note(&mut seen, row.as_deref());
        }
        for depot in DEPOTS {
            let page = self.wares.find_all_by_depot(depot).await?;
            write!(seen, "{depot}: ").unwrap();
            for row in &page {
                note(&mut seen, Some(row));
            }
        }
        write!(seen, "sum {}", self.sum().await?).unwrap();
        Ok(seen)
    }

    /// The sum of all prices, from a cached query.
    async fn sum(&self) -> Result<i64, Error> {
        let query = self.queries.query::<i64>("sum").depends_on(&self.wares);
        let fetched = query.fetch(|connection| {
            Box::pin(async move {
                let text = "SELECT CAST(COALESCE(SUM(price), 0) AS CHAR(20)) FROM wares";
                let text = AssertSqlSafe(text.to_owned()).into_sql_str();
                let row = DB::fetch(connection, text, DB::Arguments::default()).await?;
                let text = DB::text(&row.expect("an aggregate is a row"), 0)?;
                Ok(text.unwrap().trim().parse().expect("it is a number"))
            })
        });
        Ok(*fetched.await?)
    }
}

fn repricing(kind: Option<&str>, price: &str) -> String {
    let condition = kind.map_or(String::new(), |kind| format!(" WHERE kind = '{kind}'"));
    format!("UPDATE wares SET price = {price}{condition}")
}

async fn run<DB: Backend>(connection: &mut DB::Connection, sql: String) -> Result<(), sqlx::Error> {
    let sql = AssertSqlSafe(sql).into_sql_str();
    DB::execute(connection, sql, DB::Arguments::default())
        .await
        .map(drop)
}

fn note(seen: &mut String, row: Option<&Ware>) {
    match row {
        Some(Ware {
            id,
            depot,
            kind,
            price,
        }) => write!(seen, "{id} {depot} {kind} {price}, ").unwrap(),
        None => seen.push_str("-, "),
    }
}

/// Joins the namespace with a mechanism left out, or with none.
async fn joined(namespace: &str, left_out: &str) -> (Cache, Faults) {
    let faults = Faults::new();
    match left_out {
        "tag-clock" => faults.leave_out(Mechanism::TagClock),
        "tag-intent" => faults.leave_out(Mechanism::TagIntent),
        "cascade" => faults.leave_out(Mechanism::Cascade),
        "dependents" => faults.leave_out(Mechanism::Dependents),
        "list-intent" => faults.leave_out(Mechanism::ListIntent),
        _ => {}
    }
    let builder = Cache::builder().namespace(namespace).faults(&faults);
    let cache = builder
        .redis(redis_url())
        .listed(false)
        .connect()
        .await
        .unwrap();
    (cache, faults)
}

/// Runs what the test sends, one line after the other, and answers each with one line.
async fn clerk(arguments: Vec<String>) {
    let [database, url, namespace, left_out] = &arguments[..] else {
        panic!("four arguments: {arguments:?}")
    };
    let (cache, _faults) = joined(namespace, left_out).await;
    match &**database {
        "PostgreSQL" => serve(&cache, Pool::<Postgres>::connect(url).await.unwrap()).await,
        "MySQL" => serve(&cache, Pool::<MySql>::connect(url).await.unwrap()).await,
        _ => serve(&cache, Pool::<Sqlite>::connect(url).await.unwrap()).await,
    }
}

async fn serve<DB: Tested>(cache: &Cache, pool: Pool<DB>) {
    let desk = Desk::new(cache, pool);
    tell("ready");
    loop {
        let line = hear().await;
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["end"] => return,
            ["see"] => tell(desk.seen().await.unwrap()),
            _ => {
                desk.write(&words).await.unwrap();
                tell("done");
            }
        }
    }
}

/// Reprices the wares of a kind, and dies at a given point.
async fn doomed_clerk(arguments: Vec<String>) {
    let [database, url, namespace, left_out, point] = &arguments[..] else {
        panic!("five arguments: {arguments:?}")
    };
    let (cache, faults) = joined(namespace, left_out).await;
    let (_, point, _) = POINTS.iter().find(|(name, ..)| name == point).unwrap();
    faults.at(*point, || std::process::abort());
    match &**database {
        "PostgreSQL" => die(&cache, Pool::<Postgres>::connect(url).await.unwrap()).await,
        "MySQL" => die(&cache, Pool::<MySql>::connect(url).await.unwrap()).await,
        _ => die(&cache, Pool::<Sqlite>::connect(url).await.unwrap()).await,
    }
}

async fn die<DB: Tested>(cache: &Cache, pool: Pool<DB>) {
    let written = Desk::new(cache, pool).write_tagged("tea", "9").await;
    panic!("the process is still alive: {written:?}");
}

/// The processes, and what is committed.
struct Office {
    clerks: Vec<Worker>,
    namespace: String,
    depots: Vec<i64>,
    wares: BTreeMap<i64, Ware>,
    /// The state of the generator of choices.
    choice: u64,
}

impl Office {
    /// Starts processes of a namespace of their own, over empty tables.
    async fn start<DB: Tested>(world: &World<DB>, left_out: &str) -> Self {
        for table in TABLES {
            world.sql(table).await;
        }
        Self::join(world, left_out).await
    }

    /// Starts processes of a namespace of their own, over tables that exist and have no rows.
    async fn join<DB: Tested>(world: &World<DB>, left_out: &str) -> Self {
        let namespace = unique("office");
        let arguments = [DB::NAME, world.database.url(), &namespace, left_out];
        let mut clerks: Vec<_> = (0..PROCESSES)
            .map(|_| Worker::spawn("clerk", &arguments))
            .collect();
        for clerk in &mut clerks {
            clerk.expect("ready").await;
        }
        Self {
            clerks,
            namespace,
            depots: Vec::new(),
            wares: BTreeMap::new(),
            choice: 1,
        }
    }

    /// Returns a number below `most`, the same in every run.
    fn choose(&mut self, most: usize) -> usize {
        // The constants of Knuth's MMIX.
        self.choice = self
            .choice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.choice >> 33).unwrap() % most
    }

    async fn run(&mut self, clerk: usize, line: &str) {
        self.clerks[clerk].send(line);
        self.clerks[clerk].expect("done").await;
    }

    /// Makes all depots and wares of both kinds.
    async fn fill(&mut self) {
        for depot in DEPOTS {
            self.run(0, &format!("insert_depot {depot}")).await;
            self.depots.push(depot);
        }
        for id in IDS {
            let line = self.save(id, DEPOTS[0], KINDS[0], 1);
            self.run(0, &line).await;
        }
    }

    /// Saves a ware here. Returns the line that does it there.
    fn save(&mut self, id: i64, depot: i64, kind: &str, price: i64) -> String {
        let ware = Ware {
            id,
            depot,
            kind: kind.to_owned(),
            price,
        };
        self.wares.insert(id, ware);
        format!("save {id} {depot} {kind} {price}")
    }

    /// Sets the price of some wares here.
    fn reprice(&mut self, price: i64, concerns: impl Fn(&Ware) -> bool) {
        for ware in self.wares.values_mut().filter(|ware| concerns(ware)) {
            ware.price = price;
        }
    }

    /// Chooses a change of any kind, and makes it here. Returns the line that makes it there. `step`: a price that nothing has.
    fn change(&mut self, step: i64) -> String {
        let kind = KINDS[self.choose(KINDS.len())];
        let depot = DEPOTS[self.choose(DEPOTS.len())];
        let id = IDS[self.choose(IDS.len())];
        if !self.depots.contains(&depot) {
            self.depots.push(depot);
            return format!("insert_depot {depot}");
        }
        match self.choose(8) {
            0 => {
                self.reprice(step, |ware| ware.kind == kind);
                format!("invalidate_tag {kind} {step}")
            }
            1 => {
                self.reprice(step, |_| true);
                format!("invalidate_all {step}")
            }
            2 => {
                self.reprice(step, |ware| ware.kind == kind);
                format!("write_tagged {kind} {step}")
            }
            3 => {
                self.reprice(step, |ware| ware.depot == depot);
                format!("modify_by_depot {depot} {step}")
            }
            4 => {
                self.depots.retain(|known| *known != depot);
                self.wares.retain(|_, ware| ware.depot != depot);
                format!("delete_depot {depot}")
            }
            _ => self.save(id, depot, kind, step),
        }
    }

    /// What a process must see.
    fn expected(&self) -> String {
        let mut seen = String::new();
        for depot in DEPOTS {
            write!(seen, "{} ", self.depots.contains(&depot)).unwrap();
        }
        for id in IDS.into_iter().chain(IDS) {
            note(&mut seen, self.wares.get(&id));
        }
        for depot in DEPOTS {
            write!(seen, "{depot}: ").unwrap();
            for ware in self.wares.values().filter(|ware| ware.depot == depot) {
                note(&mut seen, Some(ware));
            }
        }
        let sum: i64 = self.wares.values().map(|ware| ware.price).sum();
        write!(seen, "sum {sum}").unwrap();
        seen
    }

    /// Returns what a process sees that it should not.
    async fn mistake(&mut self) -> Option<String> {
        let expected = self.expected();
        for (number, clerk) in self.clerks.iter_mut().enumerate() {
            clerk.send("see");
            let seen = clerk.line().await;
            if seen != expected {
                return Some(format!(
                    "process {number} sees\n{seen}\nand not\n{expected}"
                ));
            }
        }
        None
    }

    /// Caches the rows in all processes, and lets another process die that changes some of them.
    async fn lose_one<DB: Tested>(&mut self, world: &World<DB>, left_out: &str, point: &str) {
        let desk = self.desk(world).await;
        eventually("the rows are cached", async || {
            desk.seen().await.unwrap();
            desk.wares.find_outcome(1).await.unwrap().origin == Origin::Cache
        })
        .await;
        assert_eq!(self.mistake().await, None);
        let url = world.database.url();
        let arguments = [DB::NAME, url, &self.namespace, left_out, point];
        Worker::spawn("doomed clerk", &arguments).aborted().await;
        let (.., is_committed) = POINTS.iter().find(|(name, ..)| *name == point).unwrap();
        if *is_committed {
            self.reprice(9, |ware| ware.kind == "tea");
        }
    }

    /// Reads in this process.
    async fn desk<DB: Tested>(&self, world: &World<DB>) -> Desk<DB> {
        let (cache, _faults) = joined(&self.namespace, "").await;
        Desk::new(&cache, world.pool.clone())
    }

    async fn end(mut self) {
        for clerk in &mut self.clerks {
            clerk.send("end");
        }
        for clerk in self.clerks {
            clerk.finish().await;
        }
    }
}

async fn every_process_sees_each_change_at_once<DB: Tested>(world: &World<DB>) {
    let mut office = Office::start(world, "").await;
    assert_eq!(office.mistake().await, None);
    office.fill().await;
    assert_eq!(office.mistake().await, None);
    let mut verbs = BTreeSet::new();
    for step in 0..60 {
        let change = office.change(100 + step);
        verbs.extend(change.split(' ').next().map(str::to_owned));
        let clerk = office.choose(PROCESSES);
        office.run(clerk, &change).await;
        let mistake = office.mistake().await;
        assert_eq!(
            mistake, None,
            "after step {step}, `{change}` of process {clerk}"
        );
    }
    assert_eq!(verbs.len(), 7, "each kind of change was made: {verbs:?}");
    office.end().await;
}

async fn a_process_that_dies_in_a_change_of_many_rows_leaves_nothing_old<DB: Tested>(
    world: &World<DB>,
) {
    let mut office = Office::start(world, "").await;
    office.fill().await;
    for (point, ..) in POINTS {
        office.run(1, "write_tagged tea 1").await;
        office.reprice(1, |ware| ware.kind == "tea");
        office.lose_one(world, "", point).await;
        assert_eq!(office.mistake().await, None, "{point}");
        // Its announcement expires, and nothing old comes back with it.
        let desk = office.desk(world).await;
        let expected = office.expected();
        eventually(&format!("the rows are cached again: {point}"), async || {
            assert_eq!(desk.seen().await.unwrap(), expected, "{point}");
            desk.wares.find_outcome(1).await.unwrap().origin == Origin::Cache
        })
        .await;
        assert_eq!(office.mistake().await, None, "{point}, later");
    }
    office.end().await;
}

async fn a_mechanism_that_is_left_out_is_missed(world: &World<Postgres>) {
    for table in TABLES {
        world.sql(table).await;
    }
    for left_out in ["tag-clock", "cascade", "dependents", "list-intent"] {
        let mut office = Office::join(world, left_out).await;
        let mut mistake = office.mistake().await;
        office.fill().await;
        for step in 0..60 {
            if mistake.is_some() {
                break;
            }
            let change = office.change(100 + step);
            let clerk = office.choose(PROCESSES);
            office.run(clerk, &change).await;
            mistake = office.mistake().await;
        }
        assert!(mistake.is_some(), "nobody missed {left_out}");
        world.sql("DELETE FROM depots").await;
        office.end().await;
    }
}

async fn without_the_announcement_a_process_that_dies_leaves_old_rows(world: &World<Postgres>) {
    let mut office = Office::start(world, "").await;
    office.fill().await;
    office.lose_one(world, "tag-intent", "after_commit").await;
    let mistake = office.mistake().await;
    assert!(mistake.is_some(), "the control shows what is prevented");
    office.end().await;
}
