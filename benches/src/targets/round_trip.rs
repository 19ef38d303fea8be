//! What it costs to see that the codec gives a row back, beside what it is a part of.
//!
//! A row that is stored is encoded, decoded again, and both are bound and compared. That is timed by itself, a batch of rows
//! at a time, beside encoding alone, which was always needed in Redis. Then a write-through update and a miss are timed, which
//! contain it once: the ratio is what they take to what they would take without it.

use std::sync::Arc;

use larder::{Cache, Codec, Repository};
use sqlx::Postgres;

use super::{
    expect_ratio,
    reads::Twice,
    write::{Table, changed},
};
use crate::{
    Failure,
    entity::{Flight, ROWS, ThroughFlight, all_flights, create_tables},
    measure::{Contest, Effort, Figure, Operation, Spread, Variant},
    report::{self, Goal},
    servers,
};

/// How many rows are timed together.
const BATCH: u32 = 100;

/// Encodes a batch of rows.
#[derive(Clone)]
struct Encode(Table);

impl Operation for Encode {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        for row in batch(&self.0, id)? {
            std::hint::black_box(Codec::MessagePack.encode(row)?);
        }
        Ok(())
    }
}

/// Encodes a batch of rows and sees whether they come back.
#[derive(Clone)]
struct Check {
    rows: Table,
    repository: Repository<Flight, Postgres>,
}

impl Operation for Check {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        for row in batch(&self.rows, id)? {
            if !self.repository.comes_back(row) {
                return Err(format!("row {} does not come back", row.id).into());
            }
        }
        Ok(())
    }
}

fn batch(rows: &[Flight], id: i64) -> Result<&[Flight], Failure> {
    let start = (usize::try_from(id - 1)? * BATCH as usize) % rows.len();
    Ok(&rows[start..start + BATCH as usize])
}

/// A write-through update.
#[derive(Clone)]
struct Update {
    rows: Table,
    repository: Repository<ThroughFlight, Postgres>,
}

impl Operation for Update {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.repository
            .update(&changed(&self.rows, id)?.into())
            .await?;
        Ok(())
    }
}

/// A miss, and the invalidation that makes it one.
#[derive(Clone)]
struct Refresh(Repository<Flight, Postgres>);

impl Operation for Refresh {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.0.refresh(id).await?.ok_or("the row is gone")?;
        Ok(())
    }
}

/// The invalidation alone.
#[derive(Clone)]
struct Invalidate(Repository<Flight, Postgres>);

impl Operation for Invalidate {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        Ok(self.0.invalidate(id).await?)
    }
}

pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
    let rows: Table = Arc::new(all_flights(&pool).await?);
    let shared = servers::cache("round-trip")?.connect().await?;
    let flights = Repository::<Flight, _>::new(&shared, pool.clone());

    let parts = Contest::new(1, ROWS / u64::from(BATCH))
        .calls_per_operation(BATCH)
        .enter("encode a row", Encode(rows.clone()))
        .enter(
            "encode a row and see that it comes back",
            Check {
                rows: rows.clone(),
                repository: flights.clone(),
            },
        )
        .run(effort)
        .await?;
    report::variants(&parts);
    let through = |cache: &Cache| Update {
        rows: rows.clone(),
        repository: Repository::new(cache, pool.clone()),
    };
    let wholes = Contest::new(1, ROWS)
        .enter("larder write-through, Redis", through(&shared))
        .enter(
            "larder write-through, in process",
            through(&Cache::in_process()),
        )
        .enter("larder refresh, Redis", Refresh(flights.clone()))
        .enter("larder invalidate, Redis", Invalidate(flights.clone()))
        .run(effort)
        .await?;
    report::variants(&wholes);
    let stats = flights.stats();
    if stats.store_errors + stats.codec_mismatches > 0 {
        return Err(format!("larder's reads met errors: {stats:?}").into());
    }
    let ([encode, check], [in_redis, in_process, refresh, invalidate]) = (&parts[..], &wholes[..])
    else {
        return Err("two parts and four wholes were measured".into());
    };
    let (encode, check) = (median(encode), median(check));
    let miss = median(refresh) - median(invalidate);
    println!(
        "  a row costs {} more than to encode it",
        report::time(check - encode)
    );
    let ratio = |name: &str, whole: f64, part: f64| {
        report::value(name, whole / (whole - part), Goal::AtMost(1.05));
    };
    ratio("round-trip-miss", miss, check - encode);
    ratio(
        "round-trip-write-1-through",
        median(in_redis),
        check - encode,
    );
    // The in-process store has kept rows without encoding them.
    ratio(
        "round-trip-write-1-through-in-process",
        median(in_process),
        check,
    );
    Ok(())
}

fn median(variant: &Variant) -> f64 {
    Spread::of(variant.figures(Figure::Latency)).median
}

/// Two batches take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let check = Check {
        rows: Arc::new(all_flights(&pool).await?),
        repository: Repository::new(&Cache::in_process(), pool),
    };
    let variants = Contest::new(1, ROWS / u64::from(BATCH))
        .enter("once", check.clone())
        .enter("twice", Twice(check))
        .run(effort)
        .await?;
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two checks to one", ratio, 0.47, 0.53)
}
