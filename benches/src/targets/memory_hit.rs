//! A hit in the in-process store, beside the bounded map that the store is built on.
//!
//! One task, ids drawn from a Zipf distribution over all rows, so that hot rows are in the processor's caches as they are
//! in a program. The map has what larder needs beside it: the id as its key and a shared row as its value.

use std::sync::Arc;

use larder::Cache;
use quick_cache::sync::Cache as Map;

use super::{
    expect_ratio,
    reads::{Find, present},
};
use crate::{
    Failure,
    entity::{Flight, all_flights, create_tables_of},
    measure::{Contest, Effort, Figure, Operation, Rows, Variant},
    report::{self, Goal},
    servers,
};

/// Enough that the rows do not fit into the caches of a processor.
const ROWS: u64 = 100_000;
/// How many reads are timed together; reading the clock takes about as long as reading the map.
const BATCH: u32 = 1_000;
/// How many different batches there are.
const BATCHES: u64 = 100;

/// The ids of all batches.
type Ids = Arc<Vec<i64>>;

fn batch(ids: &[i64], number: i64) -> Result<&[i64], Failure> {
    let start = usize::try_from(number - 1)? * BATCH as usize;
    Ok(&ids[start..start + BATCH as usize])
}

/// A batch that is far from this one, or for zero this one.
fn other(number: i64, time: u64) -> Result<i64, Failure> {
    let position = (u64::try_from(number)? - 1 + time * BATCHES / 2) % BATCHES;
    Ok(i64::try_from(position + 1)?)
}

/// Ids with Zipf's exponent 0.99, by inverting the cumulated weights.
#[expect(
    clippy::cast_precision_loss,
    reason = "ranks and 53 random bits fit a double exactly"
)]
fn zipf() -> Result<Ids, Failure> {
    let mut total = 0.0;
    let cumulated: Vec<f64> = (1..=ROWS)
        .map(|rank| {
            total += (rank as f64).powf(-0.99);
            total
        })
        .collect();
    let mut random = Rows::new(1, ROWS);
    (0..BATCHES * u64::from(BATCH))
        .map(|_| {
            let share = (random.bits() >> 11) as f64 / (1_u64 << 53) as f64;
            let rank = cumulated.partition_point(|&below| below < share * total);
            Ok(i64::try_from(rank.min(cumulated.len() - 1) + 1)?)
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Arc::new)
}

#[derive(Clone)]
struct Finds {
    find: Find,
    ids: Ids,
}

impl Operation for Finds {
    async fn call(&mut self, number: i64) -> Result<(), Failure> {
        for &id in batch(&self.ids, number)? {
            self.find.call(id).await?;
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Get {
    map: Arc<Map<i64, Arc<Flight>>>,
    ids: Ids,
    /// How many batches one call reads, each of other ids.
    times: u64,
}

impl Operation for Get {
    async fn call(&mut self, number: i64) -> Result<(), Failure> {
        for time in 0..self.times {
            for id in batch(&self.ids, other(number, time)?)? {
                present(self.map.get(id))?;
            }
        }
        Ok(())
    }
}

fn map(rows: Vec<Flight>) -> Result<Arc<Map<i64, Arc<Flight>>>, Failure> {
    let map = Map::new(usize::try_from(ROWS * 2)?);
    for row in rows {
        map.insert(row.id, Arc::new(row));
    }
    Ok(Arc::new(map))
}

/// Compares `find` with the map.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables_of(&pool, ROWS).await?;
    println!(
        "  {ROWS} rows, Zipf 0.99, one task, larder {}, quick_cache {}",
        servers::locked("larder"),
        servers::locked("quick_cache")
    );
    let rows = all_flights(&pool).await?;
    let ids = zipf()?;
    let cache = Cache::builder()
        .capacity(usize::try_from(ROWS * 2)?)
        .build()?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let finds = Finds {
        find: find.clone(),
        ids: ids.clone(),
    };
    let get = Get {
        map: map(rows)?,
        ids,
        times: 1,
    };
    let variants = contest()
        .enter("quick_cache get of an Arc", get)
        .enter("larder find, in process", finds)
        .run(effort)
        .await?;
    find.check_hits()?;
    report::variants(&variants);
    report::ratio("memory-hit", slowdown(&variants, 1), Goal::AtMost(1.5));
    Ok(())
}

/// Two gets take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables_of(&pool, ROWS).await?;
    let get = Get {
        map: map(all_flights(&pool).await?)?,
        ids: zipf()?,
        times: 1,
    };
    let twice = Get {
        times: 2,
        ..get.clone()
    };
    let variants = contest()
        .enter("once", get.clone())
        .enter("once again", get)
        .enter("twice", twice)
        .run(effort)
        .await?;
    report::variants(&variants);
    expect_ratio("the same gets", slowdown(&variants, 1), 0.97, 1.03)?;
    // The second batch finds the hottest rows in the processor's caches.
    expect_ratio("two gets to one", slowdown(&variants, 2), 1.8, 2.1)
}

fn contest() -> Contest {
    Contest::new(1, BATCHES).calls_per_operation(BATCH)
}

fn slowdown(variants: &[Variant], place: usize) -> crate::measure::Spread {
    variants[place].ratio(&variants[0], Figure::Latency)
}
