//! Tags: what a hit costs with them, and what an invalidation costs beside a set of keys by hand.

use larder_testing::clock::now;
use redis::aio::MultiplexedConnection;
use sqlx::{PgPool, Postgres};

use super::{
    expect_ratio,
    reads::{Find, Twice, present},
};
use crate::{
    Failure,
    entity::{ROWS, TaggedFlight, TaggedFlightRepository, create_tables, create_tables_of},
    measure::{Contest, Effort, Figure, Operation, Spread},
    report::{self, Goal, time},
    servers,
};

/// How many tasks read.
const MANY: u64 = 64;
/// How many keys a set by hand has.
const KEYS: u64 = 10_000;
/// How many rows have one tag.
const ONE_TAG: u64 = 100_000;
/// How many tags are invalidated once each.
const TAGS: u64 = 1_000_000;
/// How many of them with one call.
const TOGETHER: u64 = 1_000;
/// How many rows are read at a time.
const READERS: u64 = 64;

/// `find` of an entity with tags.
#[derive(Clone)]
struct FindTagged(TaggedFlightRepository<Postgres>);

impl Operation for FindTagged {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.0.find(id).await?)
    }
}

/// Reads every row, until all are cached. Returns the misses of the first pass.
async fn read_all(flights: &TaggedFlightRepository<Postgres>, rows: u64) -> Result<u64, Failure> {
    let before = flights.stats().misses;
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..READERS {
        let flights = flights.clone();
        tasks.spawn(async move {
            for id in (1 + first..=rows).step_by(usize::try_from(READERS)?) {
                present(flights.find(i64::try_from(id)?).await?)?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(flights.stats().misses - before)
}

/// A hit with tags beside one without.
pub(crate) async fn hit(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis"]).await?;
    let cache = servers::cache("tags")?.connect().await?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let flights = TaggedFlight::repository(&cache, pool.clone());
    read_all(&flights, ROWS).await?;
    read_all(&flights, ROWS).await?;
    for (name, tasks, goal) in [
        ("tag-hit-1", 1, Goal::None),
        ("tag-hit", MANY, Goal::AtMost(1.25)),
    ] {
        println!("  {ROWS} rows, every read a hit, tasks: {tasks}");
        let misses = flights.stats().misses;
        let variants = Contest::new(tasks, ROWS)
            .enter("without tags", find.clone())
            .enter("with two tags", FindTagged(flights.clone()))
            .run(effort)
            .await?;
        if flights.stats().misses > misses {
            return Err("a read with tags was no hit".into());
        }
        find.check_hits()?;
        report::variants(&variants);
        let ratio = variants[0].ratio(&variants[1], Figure::Throughput);
        report::ratio(name, ratio, goal);
    }
    Ok(())
}

/// Twice the hits take twice the time.
pub(crate) async fn hit_control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let cache = servers::cache("tags-control")?.connect().await?;
    let flights = TaggedFlight::repository(&cache, pool.clone());
    read_all(&flights, ROWS).await?;
    read_all(&flights, ROWS).await?;
    let find = FindTagged(flights);
    let variants = Contest::new(MANY, ROWS)
        .enter("once", find.clone())
        .enter("twice", Twice(find))
        .run(effort)
        .await?;
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two reads to one, throughput", ratio, 0.47, 0.53)
}

/// An invalidation of a tag beside `SMEMBERS` and `DEL` of the keys of a set.
pub(crate) async fn invalidate(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    servers::describe(Some(&pool), &["larder", "redis"]).await?;
    let namespace = servers::namespace("tag-invalidate");
    let cache = larder::Cache::builder()
        .redis(servers::redis_url()?)
        .namespace(&namespace)
        .connect()
        .await?;
    let mut redis = servers::redis().await?;
    let flights = TaggedFlight::repository(&cache, pool.clone());
    let clock = format!("{namespace}:TaggedFlight@tags");
    by_hand(effort, &pool, &flights, &mut redis, &namespace).await?;
    under_one_tag(&pool, &flights, &mut redis, &clock).await?;
    many_tags(&pool, &flights, &mut redis, &clock).await
}

async fn by_hand(
    effort: Effort,
    pool: &PgPool,
    flights: &TaggedFlightRepository<Postgres>,
    redis: &mut MultiplexedConnection,
    namespace: &str,
) -> Result<(), Failure> {
    create_tables(pool).await?;
    println!("  {KEYS} entries with one tag");
    let set = format!("{namespace}:set");
    let key = |id: u64| format!("{namespace}:by-hand:{id}");
    let (mut with_tag, mut with_set) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds.div_ceil(4) {
        let mut fill = redis::pipe();
        for id in 1..=KEYS {
            fill.set(key(id), "a row").ignore();
            fill.sadd(&set, key(id)).ignore();
        }
        let () = fill.query_async(redis).await?;
        read_all(flights, KEYS).await?;
        let began = now();
        let members: Vec<String> = redis::cmd("SMEMBERS")
            .arg(&set)
            .query_async(redis)
            .await?;
        let deleted: u64 = redis::cmd("DEL")
            .arg(members)
            .arg(&set)
            .query_async(redis)
            .await?;
        with_set.push(elapsed(began));
        if deleted != KEYS + 1 {
            return Err(format!("{deleted} keys of {KEYS} were deleted by hand").into());
        }
        let began = now();
        flights.invalidate_flights().await?;
        with_tag.push(elapsed(began));
        let misses = read_all(flights, KEYS).await?;
        if misses != KEYS {
            return Err(format!("{misses} rows of {KEYS} were loaded again").into());
        }
    }
    println!(
        "  SMEMBERS and DEL by hand {}, invalidate_tag {}",
        time(Spread::of(with_set.iter().copied()).median),
        time(Spread::of(with_tag.iter().copied()).median)
    );
    let ratio = Spread::of_ratios(&with_tag, &with_set);
    report::ratio("tag-invalidate", ratio, Goal::None);
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a time in nanoseconds is far below 2^53"
)]
fn elapsed(began: u64) -> f64 {
    (now() - began) as f64
}

/// The bytes of the clock, and its fields.
async fn bookkeeping(
    redis: &mut MultiplexedConnection,
    clock: &str,
) -> Result<(u64, u64), Failure> {
    let bytes: Option<u64> = redis::cmd("MEMORY")
        .arg("USAGE")
        .arg(clock)
        .arg("SAMPLES")
        .arg(0)
        .query_async(redis)
        .await?;
    let fields = redis::cmd("HLEN").arg(clock).query_async(redis).await?;
    Ok((bytes.unwrap_or(0), fields))
}

async fn under_one_tag(
    pool: &PgPool,
    flights: &TaggedFlightRepository<Postgres>,
    redis: &mut MultiplexedConnection,
    clock: &str,
) -> Result<(), Failure> {
    create_tables_of(pool, ONE_TAG).await?;
    flights.invalidate_all().await?;
    read_all(flights, ONE_TAG).await?;
    read_all(flights, ONE_TAG).await?;
    let before = bookkeeping(redis, clock).await?;
    let began = now();
    flights.invalidate_flights().await?;
    let took = elapsed(began);
    let after = bookkeeping(redis, clock).await?;
    println!(
        "  {ONE_TAG} entries with one tag: invalidated in {}; bookkeeping {} bytes in {} fields before, {} bytes in {} fields after",
        time(took),
        before.0,
        before.1,
        after.0,
        after.1
    );
    let misses = read_all(flights, ONE_TAG).await?;
    if misses != ONE_TAG {
        return Err(format!("{misses} rows of {ONE_TAG} were loaded again").into());
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of reads are far below 2^53"
)]
async fn many_tags(
    pool: &PgPool,
    flights: &TaggedFlightRepository<Postgres>,
    redis: &mut MultiplexedConnection,
    clock: &str,
) -> Result<(), Failure> {
    create_tables(pool).await?;
    flights.invalidate_all().await?;
    read_all(flights, ROWS).await?;
    read_all(flights, ROWS).await?;
    // What is in the cache is wrong from now on.
    sqlx::raw_sql("UPDATE larder_benches.flights SET remarks = 'changed'")
        .execute(pool)
        .await?;
    flights.invalidate_flights().await?;
    let began = now();
    let mut largest = 0;
    for first in (0..TAGS).step_by(usize::try_from(TOGETHER)?) {
        let tags = (first..first + TOGETHER).map(|number| format!("origin:{number}"));
        flights.invalidate_tags(tags).await?;
        largest = largest.max(bookkeeping(redis, clock).await?.0);
    }
    let took = elapsed(began);
    for id in 1..=i64::try_from(ROWS)? {
        let row = flights.find(id).await?.ok_or("a row is missing")?;
        if row.remarks != "changed" {
            return Err(format!("flight {id} is served as it was before the invalidation").into());
        }
    }
    read_all(flights, ROWS).await?;
    let misses = read_all(flights, ROWS).await?;
    println!(
        "  {TAGS} tags invalidated once each in {}: bookkeeping at most {largest} bytes, no wrong row, hit ratio afterwards {:.3}",
        time(took),
        1.0 - misses as f64 / ROWS as f64
    );
    Ok(())
}

/// A set of twice the keys takes about twice the time.
pub(crate) async fn invalidate_control(effort: Effort) -> Result<(), Failure> {
    let mut redis = servers::redis().await?;
    let set = servers::namespace("tag-invalidate-control");
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        for (keys, times) in [(KEYS, &mut once), (2 * KEYS, &mut twice)] {
            let mut fill = redis::pipe();
            for id in 1..=keys {
                fill.sadd(&set, id).ignore();
            }
            let () = fill.query_async(&mut redis).await?;
            let began = now();
            let members: Vec<String> = redis::cmd("SMEMBERS")
                .arg(&set)
                .query_async(&mut redis)
                .await?;
            let _deleted: u64 = redis::cmd("DEL")
                .arg(members)
                .arg(&set)
                .query_async(&mut redis)
                .await?;
            times.push(elapsed(began));
        }
    }
    let ratio = Spread::of_ratios(&twice, &once);
    expect_ratio("twice the keys by hand", ratio, 1.6, 2.6)
}
