//! Seals: what a hit costs whose entry has a tag, is encrypted, or is compressed, beside one of a plain entry.
//!
//! The work is done by this process, so 64 tasks, which keep Redis and the client busy, show a smaller share of it than one.

use larder::{CacheBuilder, SecretKey, key::Key};
use sqlx::Postgres;

use super::{
    expect_ratio,
    reads::{Find, Twice},
};
use crate::{
    Failure,
    entity::{Flight, FlightRepository, ROWS, create_tables},
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

/// How many tasks read.
const MANY: u64 = 64;
const KEY: SecretKey = SecretKey::new([7; 32]);
/// Rows of more bytes are compressed: all of them.
const ABOVE: usize = 64;

type Set = fn(CacheBuilder) -> CacheBuilder;

const WAYS: [(&str, Set); 5] = [
    ("plain", |builder| builder),
    ("with a tag", |builder| builder.authenticate([KEY])),
    ("encrypted", |builder| builder.encrypt([KEY])),
    ("compressed", |builder| builder.compress_above(ABOVE)),
    ("compressed and encrypted", |builder| {
        builder.encrypt([KEY]).compress_above(ABOVE)
    }),
];

/// How many ids are checked together: one takes too little time.
const BATCH: u32 = 1_000;

/// What each hit does to see that the row is that of its key: it writes the id of the row as a key, and compares the two.
#[derive(Clone)]
struct CheckIds {
    flights: FlightRepository<Postgres>,
    keys: Vec<Key>,
}

impl Operation for CheckIds {
    async fn call(&mut self, _: i64) -> Result<(), Failure> {
        for (id, key) in (1_i64..).zip(&self.keys) {
            if self.flights.inner().key(std::hint::black_box(id))? != *key {
                return Err("an id has another key than before".into());
            }
        }
        Ok(())
    }
}

/// Hits of each way to seal an entry beside those of plain entries.
pub(crate) async fn hit(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(
        Some(&pool),
        &["larder", "redis", "hmac", "aes-gcm-siv", "lz4_flex"],
    )
    .await?;
    let mut finds = Vec::new();
    for (at, (_, set)) in WAYS.iter().enumerate() {
        let builder = servers::cache(&format!("seals-{at}"))?;
        let cache = set(builder).connect().await?;
        finds.push(Find::filled(&cache, &pool, ROWS).await?);
    }
    for (part, tasks) in [("seal-hit-1", 1), ("seal-hit", MANY)] {
        println!("  {ROWS} rows in Redis, every read a hit, tasks: {tasks}");
        let mut contest = Contest::new(tasks, ROWS);
        for ((name, _), find) in WAYS.iter().zip(&finds) {
            contest = contest.enter(*name, find.clone());
        }
        let variants = contest.run(effort).await?;
        report::variants(&variants);
        for (at, (name, _)) in WAYS.iter().enumerate().skip(1) {
            let figure = match tasks {
                1 => Figure::Latency,
                _ => Figure::Throughput,
            };
            let ratio = match figure {
                Figure::Latency => variants[at].ratio(&variants[0], figure),
                Figure::Throughput => variants[0].ratio(&variants[at], figure),
            };
            report::ratio(&format!("{part} {name}"), ratio, Goal::None);
        }
    }
    for find in &finds {
        find.check_hits()?;
    }

    let cache = servers::cache("seals-ids")?.connect().await?;
    let flights = Flight::repository(&cache, pool);
    let keys = (1..=i64::from(BATCH)).map(|id| flights.inner().key(id));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    println!("  the check of the id of a row, a part of every hit");
    let variants = Contest::new(1, ROWS)
        .calls_per_operation(BATCH)
        .enter("check of an id", CheckIds { flights, keys })
        .run(effort)
        .await?;
    report::variants(&variants);
    Ok(())
}

/// Two hits with a tag to one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let cache = servers::cache("seals-control")?
        .authenticate([KEY])
        .connect()
        .await?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let variants = Contest::new(MANY, ROWS)
        .enter("once", find.clone())
        .enter("twice", Twice(find))
        .run(effort)
        .await?;
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two reads to one, throughput", ratio, 0.47, 0.53)
}
