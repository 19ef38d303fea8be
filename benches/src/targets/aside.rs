//! Reads of which nine in ten are hits in Redis, beside cache-aside by hand.
//!
//! The tenth read is of rows that live for a millisecond, so it is a miss: by hand a GET, a SELECT and a PSETEX, in larder a lease, a
//! load and a fill.

use crate::{
    Failure,
    entity::{ColdFlight, ROWS, create_tables},
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

use super::{
    miss_burst::Cold,
    reads::{ByHand, Find, fill},
};

const TASKS: u64 = 64;
/// Of so many reads one is a miss.
const READS: u32 = 10;
/// How long a cold row lives, in milliseconds.
const COLD_TTL_MS: u64 = 1;

/// Hot reads, and every tenth a cold one.
#[derive(Clone)]
struct Mixed<H, C> {
    hot: H,
    cold: C,
    reads: u32,
}

impl<H, C> Mixed<H, C> {
    fn new(hot: H, cold: C) -> Self {
        Self {
            hot,
            cold,
            reads: 0,
        }
    }
}

impl<H: Operation, C: Operation> Operation for Mixed<H, C> {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.reads += 1;
        if self.reads.is_multiple_of(READS) {
            self.cold.call(id).await
        } else {
            self.hot.call(id).await
        }
    }
}

pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx", "serde_json"]).await?;
    println!("  {ROWS} rows, one read of {READS} a miss, tasks: {TASKS}");
    let hot = ByHand::new(&pool).await?;
    fill(&hot, ROWS).await?;
    let cold = ByHand::with_ttl(&pool, "by-hand-cold", COLD_TTL_MS).await?;
    let by_hand = Mixed::new(hot, cold);
    let cache = servers::cache("aside")?.connect().await?;
    let find = Find::filled(&cache, &pool, ROWS).await?;
    let cold = Cold(ColdFlight::repository(&cache, pool.clone()));
    let variants = Contest::new(TASKS, ROWS)
        .enter("by hand", by_hand)
        .enter("larder find", Mixed::new(find.clone(), cold.clone()))
        .run(effort)
        .await?;
    find.check_hits()?;
    let misses = 1.0 - cold.0.stats().hit_ratio().unwrap_or_default();
    println!("  {:.1} % of the cold reads were misses", misses * 100.0);
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    report::ratio("aside-90", ratio, Goal::AtLeast(1.35));
    Ok(())
}
