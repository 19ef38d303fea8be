//! Updates of a row, beside the bare statement and beside the two-step write of most tutorials.
//!
//! Every variant sets the same nine columns on connections of the same kind. larder announces the write before the
//! statement and takes the announcement back after it, on Redis or in process; write-through also has the row returned and
//! leaves it in the cache. The tutorial deletes the key after the statement.

use std::sync::Arc;

use larder::Cache;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use sqlx::{PgPool, Postgres};

use super::{expect_ratio, reads::Twice};
use crate::{
    Failure,
    entity::{
        Flight, FlightRepository, ROWS, ThroughFlight, ThroughFlightRepository, all_flights,
        create_tables,
    },
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

/// The rows to write, by their position.
pub(crate) type Table = Arc<Vec<Flight>>;

/// A row with one seat more or less.
pub(crate) fn changed(rows: &[Flight], id: i64) -> Result<Flight, Failure> {
    let mut row = rows[usize::try_from(id - 1)?].clone();
    row.seats_left = (row.seats_left + 1) % 180;
    Ok(row)
}

async fn update(pool: &PgPool, row: &Flight) -> Result<(), Failure> {
    let done = sqlx::query(
        "UPDATE larder_benches.flights
         SET number = $1, airline = $2, origin = $3, destination = $4, status = $5, departs_at = $6, gate = $7,
             seats_left = $8, remarks = $9
         WHERE id = $10",
    )
    .bind(&row.number)
    .bind(&row.airline)
    .bind(&row.origin)
    .bind(&row.destination)
    .bind(row.status)
    .bind(row.departs_at)
    .bind(&row.gate)
    .bind(row.seats_left)
    .bind(&row.remarks)
    .bind(row.id)
    .execute(pool)
    .await?;
    match done.rows_affected() {
        1 => Ok(()),
        rows => Err(format!("an update changed {rows} rows").into()),
    }
}

/// The statement alone.
#[derive(Clone)]
pub(crate) struct Bare {
    pub(crate) pool: PgPool,
    pub(crate) rows: Table,
}

impl Operation for Bare {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        update(&self.pool, &changed(&self.rows, id)?).await
    }
}

/// The statement, then DEL.
#[derive(Clone)]
struct ThenDelete {
    pool: PgPool,
    rows: Table,
    connection: MultiplexedConnection,
    prefix: Arc<str>,
}

impl Operation for ThenDelete {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        update(&self.pool, &changed(&self.rows, id)?).await?;
        let () = self.connection.del(format!("{}:{id}", self.prefix)).await?;
        Ok(())
    }
}

/// `update` of larder.
#[derive(Clone)]
struct Update {
    repository: FlightRepository<Postgres>,
    rows: Table,
}

impl Operation for Update {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        self.repository.update(&changed(&self.rows, id)?).await?;
        Ok(())
    }
}

/// `update` of larder, written through.
#[derive(Clone)]
struct Through {
    repository: ThroughFlightRepository<Postgres>,
    rows: Table,
}

impl Operation for Through {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let row = changed(&self.rows, id)?.into();
        self.repository.update(&row).await?;
        Ok(())
    }
}

/// One task.
pub(crate) async fn alone(effort: Effort) -> Result<(), Failure> {
    measure(effort, 1, "write-1", 0.75).await
}

/// As many tasks as connections.
pub(crate) async fn together(effort: Effort) -> Result<(), Failure> {
    measure(effort, 16, "write-16", 0.90).await
}

/// More tasks than connections.
pub(crate) async fn crowd(effort: Effort) -> Result<(), Failure> {
    measure(effort, 64, "write-64", 3.0).await
}

async fn measure(effort: Effort, tasks: u64, name: &str, bound: f64) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
    println!("  {ROWS} rows, nine columns set, tasks: {tasks}");
    let rows: Table = Arc::new(all_flights(&pool).await?);

    let by_hand = ThenDelete {
        pool: servers::pool(servers::POOL_SIZE).await?,
        rows: rows.clone(),
        connection: servers::redis().await?,
        prefix: servers::namespace("by-hand").into(),
    };
    let shared = servers::cache("writes")?.connect().await?;
    let on_redis = Flight::repository(&shared, servers::pool(servers::POOL_SIZE).await?);
    let in_process = Flight::repository(
        &Cache::in_process(),
        servers::pool(servers::POOL_SIZE).await?,
    );
    // A namespace of its own: otherwise the writes of each entity would be announced to the other.
    let apart = servers::cache("writes-through")?.connect().await?;
    let through = ThroughFlight::repository(&apart, servers::pool(servers::POOL_SIZE).await?);
    let through_in_process = ThroughFlight::repository(
        &Cache::in_process(),
        servers::pool(servers::POOL_SIZE).await?,
    );
    let variants = Contest::new(tasks, ROWS)
        .enter(
            "bare UPDATE",
            Bare {
                pool,
                rows: rows.clone(),
            },
        )
        .enter("UPDATE, then DEL by hand", by_hand)
        .enter(
            "larder update, Redis",
            Update {
                repository: on_redis.clone(),
                rows: rows.clone(),
            },
        )
        .enter(
            "larder update, in process",
            Update {
                repository: in_process.clone(),
                rows: rows.clone(),
            },
        )
        .enter(
            "larder write-through, Redis",
            Through {
                repository: through.clone(),
                rows: rows.clone(),
            },
        )
        .enter(
            "larder write-through, in process",
            Through {
                repository: through_in_process.clone(),
                rows,
            },
        )
        .run(effort)
        .await?;
    let counted = [
        on_redis.stats(),
        in_process.stats(),
        through.stats(),
        through_in_process.stats(),
    ];
    for stats in counted {
        if stats.store_errors > 0 || stats.write_errors > 0 {
            return Err(format!("larder's writes met errors: {stats:?}").into());
        }
    }
    report::variants(&variants);
    let [
        bare,
        by_hand,
        on_redis,
        in_process,
        through,
        through_in_process,
    ] = &variants[..]
    else {
        return Err("six variants were measured".into());
    };
    let figure = Figure::Throughput;
    report::ratio(
        &format!("{name}-by-hand"),
        by_hand.ratio(bare, figure),
        Goal::None,
    );
    report::ratio(
        &format!("{name}-in-process"),
        in_process.ratio(bare, figure),
        Goal::AtLeast(bound),
    );
    report::ratio(
        &format!("{name}-through-in-process"),
        through_in_process.ratio(bare, figure),
        Goal::AtLeast(bound),
    );
    report::ratio(
        &format!("{name}-through"),
        through.ratio(bare, figure),
        Goal::AtLeast(bound),
    );
    report::ratio(name, on_redis.ratio(bare, figure), Goal::AtLeast(bound));
    Ok(())
}

/// Two updates take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let rows: Table = Arc::new(all_flights(&pool).await?);
    let bare = Bare { pool, rows };
    let variants = Contest::new(1, ROWS)
        .enter("once", bare.clone())
        .enter("once again", bare.clone())
        .enter("twice", Twice(bare))
        .run(effort)
        .await?;
    report::variants(&variants);
    let figure = Figure::Throughput;
    expect_ratio(
        "the same update",
        variants[1].ratio(&variants[0], figure),
        0.97,
        1.03,
    )?;
    expect_ratio(
        "two updates to one",
        variants[2].ratio(&variants[0], figure),
        0.47,
        0.53,
    )
}
