//! Tags: what a hit costs with them, and one of a cached query, and what an invalidation costs beside a set of keys by hand.
//!
//! Neither the entries nor the tags of a row are listed anywhere, so an invalidation takes one step however many there are, and
//! a hit has to look at the clock of the tags as well. Here it shows how much that is.

use larder::{Cache, Queries};
use larder_testing::clock::{Moment, now};
use redis::aio::MultiplexedConnection;
use sqlx::{PgPool, Postgres};

use super::{
    expect_ratio,
    reads::{Find, Twice, fill, present},
};
use crate::{
    Failure,
    entity::{Flight, ROWS, TaggedFlight, TaggedFlightRepository, create_tables, create_tables_of},
    measure::{Contest, Effort, Figure, Operation, Spread},
    report::{self, Goal, count, time},
    servers,
};

/// How many tasks read.
const MANY: u64 = 64;
/// How many reads in process are timed together.
const BATCH: i64 = 1_000;
/// How many keys a set by hand has.
const KEYS: u64 = 10_000;
/// How many rows have one tag.
const ONE_TAG: u64 = 100_000;
/// How many ids are read together.
const IDS: usize = 500;
/// How many tags are invalidated once each.
const TAGS: u64 = 1_000_000;
/// How many of them with one call.
const TOGETHER: u64 = 1_000;
/// The most bytes that the clock may have, with 4,096 marks and their index.
const MOST_BYTES: u64 = 600_000;
/// How often a pass over all rows may find some that are still being stored.
const PASSES: usize = 10;

/// `find` of an entity with two tags.
#[derive(Clone)]
struct FindTagged {
    flights: TaggedFlightRepository<Postgres>,
    misses: u64,
}

impl Operation for FindTagged {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.flights.find(id).await?)
    }
}

impl FindTagged {
    /// A repository whose rows are all in the cache.
    async fn filled(cache: &Cache, pool: &PgPool) -> Result<Self, Failure> {
        let mut find = Self {
            flights: TaggedFlight::repository(cache, pool.clone()),
            misses: 0,
        };
        fill(&find, ROWS).await?;
        fill(&find, ROWS).await?;
        find.misses = find.flights.stats().misses;
        Ok(find)
    }

    /// Fails if a read since the filling was anything but a hit.
    fn check_hits(&self) -> Result<(), Failure> {
        match self.flights.stats().misses - self.misses {
            0 => Ok(()),
            misses => Err(format!("{misses} reads with tags were no hits").into()),
        }
    }
}

/// Many reads in a row, which by themselves are too short to be timed.
#[derive(Clone)]
struct Batch<O>(O);

impl<O: Operation + Sync> Operation for Batch<O> {
    async fn call(&mut self, first: i64) -> Result<(), Failure> {
        let rows = i64::try_from(ROWS)?;
        for step in 0..BATCH {
            self.0.call((first + step * 7) % rows + 1).await?;
        }
        Ok(())
    }
}

/// A hit with tags beside one without.
pub(crate) async fn hit(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis"]).await?;
    let cache = servers::cache("tags")?.connect().await?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    // In a namespace of its own: beside an entity over its table that does not name it, it would not be cached at once.
    let apart = cache.with_namespace(servers::namespace("tags-apart"))?;
    let tagged = FindTagged::filled(&apart, &pool).await?;
    for (name, tasks, goal) in [
        ("tag-hit-1", 1, Goal::None),
        ("tag-hit", MANY, Goal::AtMost(1.25)),
    ] {
        println!("  {ROWS} rows in Redis, every read a hit, tasks: {tasks}");
        let variants = Contest::new(tasks, ROWS)
            .enter("without tags", find.clone())
            .enter("with two tags", tagged.clone())
            .run(effort)
            .await?;
        report::variants(&variants);
        let ratio = variants[0].ratio(&variants[1], Figure::Throughput);
        report::ratio(name, ratio, goal);
    }
    find.check_hits()?;
    tagged.check_hits()?;

    println!("  {ROWS} rows in this process, every read a hit, tasks: 1");
    let capacity = usize::try_from(ROWS * 4)?;
    let cache = Cache::builder().capacity(capacity).build()?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let tagged = FindTagged::filled(&cache, &pool).await?;
    let variants = Contest::new(1, ROWS)
        .calls_per_operation(u32::try_from(BATCH)?)
        .enter("without tags", Batch(find.clone()))
        .enter("with two tags", Batch(tagged.clone()))
        .run(effort)
        .await?;
    find.check_hits()?;
    tagged.check_hits()?;
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Latency);
    report::ratio("tag-hit-memory", ratio, Goal::None);
    Ok(())
}

/// A cached query whose answer is a row.
#[derive(Clone)]
struct FetchRow {
    queries: Queries<Postgres>,
    misses: u64,
}

impl Operation for FetchRow {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let query = self.queries.query::<Flight>("flight").key(&id);
        let fetched = query.fetch(move |connection| {
            let select = "SELECT * FROM larder_benches.flights WHERE id = $1";
            Box::pin(sqlx::query_as(select).bind(id).fetch_one(connection))
        });
        match fetched.await?.id == id {
            true => Ok(()),
            false => Err("a query has the answer of another one".into()),
        }
    }
}

impl FetchRow {
    /// Queries whose answers are all in the cache.
    async fn filled(cache: &Cache, pool: &PgPool) -> Result<Self, Failure> {
        let mut fetch = Self {
            queries: cache.queries(pool.clone()),
            misses: 0,
        };
        fill(&fetch, ROWS).await?;
        fill(&fetch, ROWS).await?;
        fetch.misses = fetch.queries.stats().misses;
        Ok(fetch)
    }

    /// As [`FindTagged::check_hits`].
    fn check_hits(&self) -> Result<(), Failure> {
        match self.queries.stats().misses - self.misses {
            0 => Ok(()),
            misses => Err(format!("{misses} queries were no hits").into()),
        }
    }
}

/// A hit of a query beside one of the row that it returns.
pub(crate) async fn query(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis"]).await?;
    let cache = servers::cache("queries")?.connect().await?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let fetch = FetchRow::filled(&cache, &pool).await?;
    for (name, tasks) in [("query-hit-1", 1), ("query-hit", MANY)] {
        println!("  {ROWS} rows and as many answers in Redis, every read a hit, tasks: {tasks}");
        let variants = Contest::new(tasks, ROWS)
            .enter("find", find.clone())
            .enter("fetch of a query", fetch.clone())
            .run(effort)
            .await?;
        report::variants(&variants);
        let ratio = variants[0].ratio(&variants[1], Figure::Throughput);
        report::ratio(name, ratio, Goal::None);
    }
    find.check_hits()?;
    fetch.check_hits()
}

/// Twice the queries take twice the time.
pub(crate) async fn query_control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let cache = servers::cache("queries-control")?.connect().await?;
    let fetch = FetchRow::filled(&cache, &pool).await?;
    let variants = Contest::new(MANY, ROWS)
        .enter("once", fetch.clone())
        .enter("twice", Twice(fetch))
        .run(effort)
        .await?;
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two queries to one, throughput", ratio, 0.47, 0.53)
}

/// Twice the hits take twice the time.
pub(crate) async fn hit_control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let cache = servers::cache("tags-control")?.connect().await?;
    let find = FindTagged::filled(&cache, &pool).await?;
    let variants = Contest::new(MANY, ROWS)
        .enter("once", find.clone())
        .enter("twice", Twice(find))
        .run(effort)
        .await?;
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two reads to one, throughput", ratio, 0.47, 0.53)
}

/// An invalidation of a tag beside `SMEMBERS` and `DEL` of the keys of a set, and what the clock of the tags takes.
pub(crate) async fn invalidate(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    servers::describe(Some(&pool), &["larder", "redis"]).await?;
    let namespace = servers::namespace("tag-invalidate");
    let cache = Cache::builder()
        .redis(servers::redis_url()?)
        .namespace(&namespace)
        .connect()
        .await?;
    let mut scene = Scene {
        flights: TaggedFlight::repository(&cache, pool.clone()),
        redis: servers::redis().await?,
        namespace,
        pool,
    };
    scene.beside_a_set(effort).await?;
    scene.with_many_tags().await
}

struct Scene {
    flights: TaggedFlightRepository<Postgres>,
    redis: MultiplexedConnection,
    namespace: String,
    pool: PgPool,
}

impl Scene {
    /// Reads every row once. Returns how many of them the cache did not have.
    async fn read_all(&self, rows: u64) -> Result<u64, Failure> {
        let before = self.flights.stats().misses;
        let ids: Vec<i64> = (1..=i64::try_from(rows)?).collect();
        for ids in ids.chunks(IDS) {
            for row in self.flights.find_many(ids).await? {
                present(row)?;
            }
        }
        Ok(self.flights.stats().misses - before)
    }

    /// Reads every row until all are hits. Returns how many were not at first.
    async fn fill(&self, rows: u64) -> Result<u64, Failure> {
        let first = self.read_all(rows).await?;
        for _ in 0..PASSES {
            if self.read_all(rows).await? == 0 {
                return Ok(first);
            }
        }
        Err(format!("not all of {rows} rows are cached after {PASSES} reads of each").into())
    }

    /// The bytes of the clock in Redis.
    async fn bytes_of_clock(&mut self) -> Result<u64, Failure> {
        let bytes: Option<u64> = redis::cmd("MEMORY")
            .arg("USAGE")
            .arg(format!("{}:TaggedFlight@tags", self.namespace))
            .arg("SAMPLES")
            .arg(0)
            .query_async(&mut self.redis)
            .await?;
        bytes.ok_or_else(|| "the clock of the tags is not where it is looked for".into())
    }

    /// Many entries with one tag, beside a tenth of them in a set of keys.
    async fn beside_a_set(&mut self, effort: Effort) -> Result<(), Failure> {
        create_tables_of(&self.pool, ONE_TAG).await?;
        println!("  {ONE_TAG} entries with one tag, beside a set of {KEYS} keys");
        self.fill(ONE_TAG).await?;
        let before = self.bytes_of_clock().await?;
        let mut by_hand = Keys {
            redis: self.redis.clone(),
            prefix: self.namespace.clone(),
        };
        let (mut with_tag, mut with_set) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds.div_ceil(12) {
            with_set.push(by_hand.time(KEYS).await?);
            let began = now();
            self.flights.invalidate_flights().await?;
            with_tag.push(since(began));
            let again = self.fill(ONE_TAG).await?;
            if again != ONE_TAG {
                return Err(format!("{again} rows of {ONE_TAG} were loaded again").into());
            }
        }
        let after = self.bytes_of_clock().await?;
        println!(
            "  SMEMBERS and DEL of {KEYS} keys {}, invalidate_tag of {ONE_TAG} entries {}; all entries were loaded again; the \
             clock has {before} bytes before and {after} after",
            time(Spread::of(with_set.iter().copied()).median),
            time(Spread::of(with_tag.iter().copied()).median)
        );
        let ratio = Spread::of_ratios(&with_tag, &with_set);
        report::ratio("tag-invalidate", ratio, Goal::None);
        Ok(())
    }

    /// So many tags that their marks are dropped again and again.
    async fn with_many_tags(&mut self) -> Result<(), Failure> {
        create_tables(&self.pool).await?;
        self.flights.invalidate_all().await?;
        self.fill(ROWS).await?;
        // From now on every entry is wrong, and nothing reads one before its mark was dropped.
        self.change("before").await?;
        self.flights.invalidate_flights().await?;
        let began = now();
        let mut largest = 0;
        for first in (0..TAGS).step_by(usize::try_from(TOGETHER)?) {
            let tags = (first..first + TOGETHER).map(|number| format!("origin:{number}"));
            self.flights.invalidate_tags(tags).await?;
            largest = largest.max(self.bytes_of_clock().await?);
            if first == TAGS / 2 {
                self.check_rows("before").await?;
                self.fill(ROWS).await?;
                self.change("amid").await?;
                self.flights.invalidate_flights().await?;
            }
        }
        let took = since(began);
        if largest > MOST_BYTES {
            return Err(format!("the clock of the tags had {largest} bytes").into());
        }
        self.check_rows("amid").await?;
        self.fill(ROWS).await?;
        let misses = self.read_all(ROWS).await?;
        self.flights.invalidate_tag("origin:0").await?;
        let misses_later = self.read_all(ROWS).await?;
        println!(
            "  {} tags invalidated once each, {TOGETHER} at a time, in {}; the clock had {largest} bytes at most",
            count(TAGS as f64),
            time(took)
        );
        println!(
            "  no row was served as it was before its invalidation; hit ratio afterwards {}, and after one more tag {}",
            hit_ratio(misses),
            hit_ratio(misses_later)
        );
        Ok(())
    }

    /// Changes all rows without larder.
    async fn change(&self, remarks: &str) -> Result<(), Failure> {
        sqlx::query("UPDATE larder_benches.flights SET remarks = $1")
            .bind(remarks)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Fails if a row is not as it was changed.
    async fn check_rows(&self, remarks: &str) -> Result<(), Failure> {
        for id in 1..=i64::try_from(ROWS)? {
            let row = self.flights.find(id).await?.ok_or("a row is missing")?;
            if row.remarks != remarks {
                return Err(format!("flight {id} is served as it was before {remarks}").into());
            }
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count of reads is far below 2^53"
)]
fn hit_ratio(misses: u64) -> String {
    format!("{:.3}", 1.0 - misses as f64 / ROWS as f64)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a time in nanoseconds is far below 2^53"
)]
fn since(began: Moment) -> f64 {
    (now() - began) as f64
}

/// Keys that a program invalidates by a set with their names.
struct Keys {
    redis: MultiplexedConnection,
    prefix: String,
}

impl Keys {
    /// Stores so many keys. Returns how long it takes to delete them.
    async fn time(&mut self, keys: u64) -> Result<f64, Failure> {
        let set = format!("{}:set", self.prefix);
        let key = |id| format!("{}:by-hand:{id}", self.prefix);
        let mut stored = redis::pipe();
        for id in 1..=keys {
            stored.set(key(id), "a row").ignore();
            stored.sadd(&set, key(id)).ignore();
        }
        let () = stored.query_async(&mut self.redis).await?;
        let began = now();
        let members: Vec<String> = redis::cmd("SMEMBERS")
            .arg(&set)
            .query_async(&mut self.redis)
            .await?;
        let deleted: u64 = redis::cmd("DEL")
            .arg(members)
            .arg(&set)
            .query_async(&mut self.redis)
            .await?;
        let took = since(began);
        if deleted == keys + 1 {
            Ok(took)
        } else {
            Err(format!("{deleted} of {keys} keys and their set were deleted by hand").into())
        }
    }
}

/// A set of twice the keys takes about twice the time.
pub(crate) async fn invalidate_control(effort: Effort) -> Result<(), Failure> {
    let mut keys = Keys {
        redis: servers::redis().await?,
        prefix: servers::namespace("tag-invalidate-control"),
    };
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        once.push(keys.time(KEYS).await?);
        twice.push(keys.time(2 * KEYS).await?);
    }
    let ratio = Spread::of_ratios(&twice, &once);
    expect_ratio("twice the keys by hand", ratio, 1.6, 2.6)
}
