//! Updates that meet and are committed together, beside updates of which each has a statement of its own.
//!
//! Both variants are the same repository over the same table, announced on Redis. Only `gather_writes` makes the difference.
//!
//! A further contest shows what a locked row costs its neighbours. Somebody holds the lock of a row for 50 ms again and again, and
//! each time one more caller wants to write that row. The neighbours of its group wait for it as long as a group may, and the
//! variant without groups shows how long they would take anyway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{PgPool, Postgres};
use tokio::task::JoinHandle;

use super::write::{Table, changed};
use crate::{
    Failure,
    entity::{
        Flight, FlightRepository, ROWS, SingleFlight, SingleFlightRepository, all_flights,
        create_tables,
    },
    measure::{Contest, Effort, Figure, Operation, Variant, quantile},
    report::{self, Goal},
    servers,
};

/// How long the row is locked, and then is not.
const LOCKED: Duration = Duration::from_millis(50);

/// `update` of larder, together with others.
#[derive(Clone)]
struct Gathered {
    repository: FlightRepository<Postgres>,
    rows: Table,
}

impl Operation for Gathered {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.repository.update(&changed(&self.rows, id)?).await?;
        Ok(())
    }
}

/// `update` of larder, each by itself.
#[derive(Clone)]
struct Single {
    repository: SingleFlightRepository<Postgres>,
    rows: Table,
}

impl Operation for Single {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let row = changed(&self.rows, id)?.into();
        self.repository.update(&row).await?;
        Ok(())
    }
}

/// Both variants.
async fn variants(rows: &Table, part: &str) -> Result<(Single, Gathered), Failure> {
    // Namespaces of their own: otherwise the writes of each entity would be announced to the other.
    let apart = servers::cache(&format!("{part}-single"))?.connect().await?;
    let together = servers::cache(&format!("{part}-gathered"))?
        .connect()
        .await?;
    let single = Single {
        repository: SingleFlight::repository(&apart, servers::pool(servers::POOL_SIZE).await?),
        rows: rows.clone(),
    };
    let gathered = Gathered {
        repository: Flight::repository(&together, servers::pool(servers::POOL_SIZE).await?),
        rows: rows.clone(),
    };
    Ok((single, gathered))
}

pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
    let rows: Table = Arc::new(all_flights(&pool).await?);
    for tasks in [1, 4, 16, 64] {
        println!("  {ROWS} rows, nine columns set, tasks: {tasks}");
        let (single, gathered) = variants(&rows, &format!("gather-{tasks}")).await?;
        let variants = Contest::new(tasks, ROWS)
            .enter("each by itself", single)
            .enter("gathered", gathered.clone())
            .run(effort)
            .await?;
        report::variants(&variants);
        let stats = gathered.repository.stats();
        println!(
            "  {} of {} writes were committed with others",
            stats.gathered_writes, stats.writes
        );
        let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
        let goal = match tasks {
            64 => Goal::AtLeast(2.0),
            _ => Goal::AtLeast(0.95),
        };
        report::ratio(&format!("gather-writes-{tasks}"), ratio, goal);
    }
    beside_a_lock(&pool, &rows, effort).await
}

async fn beside_a_lock(pool: &PgPool, rows: &Table, effort: Effort) -> Result<(), Failure> {
    println!("  16 tasks, while one more row is locked for 50 ms again and again, and wanted");
    let (single, gathered) = variants(rows, "gather-locked").await?;
    let (blocked, stop) = (i64::try_from(ROWS)?, Arc::new(AtomicBool::new(false)));
    let (of_single, of_gathered) = (single.clone(), gathered.clone());
    let disturbing = [
        disturb(pool.clone(), blocked, stop.clone(), of_single),
        disturb(pool.clone(), blocked - 1, stop.clone(), of_gathered),
    ];
    let variants = Contest::new(16, ROWS - 2)
        .enter("each by itself", single)
        .enter("gathered", gathered)
        .run(effort)
        .await?;
    stop.store(true, Ordering::Relaxed);
    for task in disturbing {
        task.await??;
    }
    report::variants(&variants);
    // Nine turns in ten are better: a lock does not begin in every turn.
    let p99 = |variant: &Variant| {
        let turns = variant.turns.iter().map(|turn| turn.p99_ns / 1e6);
        let mut turns: Vec<_> = turns.collect();
        turns.sort_by(f64::total_cmp);
        quantile(&turns, 0.9)
    };
    report::value("gather-locked-p99-ms-single", p99(&variants[0]), Goal::None);
    report::value(
        "gather-locked-p99-ms",
        p99(&variants[1]),
        Goal::AtMost(40.0),
    );
    Ok(())
}

/// Locks a row again and again, and writes it each time through the variant.
fn disturb(
    pool: PgPool,
    id: i64,
    stop: Arc<AtomicBool>,
    mut variant: impl Operation,
) -> JoinHandle<Result<(), Failure>> {
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let mut locking = pool.begin().await?;
            sqlx::query("SELECT id FROM larder_benches.flights WHERE id = $1 FOR UPDATE")
                .bind(id)
                .execute(&mut *locking)
                .await?;
            let free = async {
                tokio::time::sleep(LOCKED).await;
                locking.commit().await
            };
            let (written, freed) = tokio::join!(variant.call(id), free);
            written?;
            freed?;
            tokio::time::sleep(LOCKED).await;
        }
        Ok(())
    })
}
