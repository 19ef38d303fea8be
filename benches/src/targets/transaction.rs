//! A transaction that changes three rows of three entities, beside the bare transaction and beside the one of most
//! tutorials, which deletes the three keys after the commit.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use sqlx::{PgPool, Postgres};

use larder::{Cached, Transaction};
use serde::{Deserialize, Serialize};

use super::{expect_ratio, reads::Twice};
use crate::{
    Failure,
    measure::{Contest, Effort, Figure, Operation},
    report::{self, Goal},
    servers,
};

const ROWS: u64 = 10_000;

macro_rules! accounts {
    ($($name:ident, $table:literal;)*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
            #[cached(table = $table, ttl = "1h")]
            struct $name {
                #[cached(id)]
                id: i64,
                amount: i64,
            }
        )*
    };
}

accounts! {
    Order, "larder_benches.orders";
    Stock, "larder_benches.stocks";
    Invoice, "larder_benches.invoices";
}

const TABLES: [&str; 3] = ["orders", "stocks", "invoices"];

async fn create_tables(pool: &PgPool) -> Result<(), Failure> {
    let mut text = String::from(
        "SET client_min_messages = warning; CREATE SCHEMA IF NOT EXISTS larder_benches;",
    );
    for table in TABLES {
        text += &format!(
            "DROP TABLE IF EXISTS larder_benches.{table};
             CREATE TABLE larder_benches.{table} (id bigint PRIMARY KEY, amount bigint NOT NULL);
             INSERT INTO larder_benches.{table} SELECT id, 0 FROM generate_series(1, {ROWS}) AS id;"
        );
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(pool)
        .await?;
    Ok(())
}

const UPDATES: [&str; 3] = [
    "UPDATE larder_benches.orders SET amount = $1 WHERE id = $2",
    "UPDATE larder_benches.stocks SET amount = $1 WHERE id = $2",
    "UPDATE larder_benches.invoices SET amount = $1 WHERE id = $2",
];

async fn write(pool: &PgPool, id: i64) -> Result<(), Failure> {
    let mut transaction = pool.begin().await?;
    for text in UPDATES {
        let update = sqlx::query(text).bind(id).bind(id);
        if update.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Err("an update changed no row".into());
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// The transaction alone.
#[derive(Clone)]
struct Bare(PgPool);

impl Operation for Bare {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        write(&self.0, id).await
    }
}

/// The transaction, then one DEL of three keys.
#[derive(Clone)]
struct ThenDelete {
    pool: PgPool,
    connection: MultiplexedConnection,
    prefix: Arc<str>,
}

impl Operation for ThenDelete {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        write(&self.pool, id).await?;
        let mut delete = redis::cmd("DEL");
        for table in TABLES {
            delete.arg(format!("{}:{table}:{id}", self.prefix));
        }
        let () = delete.query_async(&mut self.connection).await?;
        Ok(())
    }
}

/// A transaction of larder.
#[derive(Clone)]
struct Within {
    pool: PgPool,
    orders: OrderRepository<Postgres>,
    stocks: StockRepository<Postgres>,
    invoices: InvoiceRepository<Postgres>,
}

impl Operation for Within {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let amount = id;
        let mut transaction = Transaction::begin(&self.pool).await?;
        let mut orders = self.orders.within(&mut transaction);
        orders.update(&Order { id, amount }).await?;
        let mut stocks = self.stocks.within(&mut transaction);
        stocks.update(&Stock { id, amount }).await?;
        let mut invoices = self.invoices.within(&mut transaction);
        invoices.update(&Invoice { id, amount }).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// One task, then as many as connections.
pub(crate) async fn run(effort: Effort) -> Result<(), Failure> {
    measure(effort, 1).await?;
    measure(effort, 16).await
}

async fn measure(effort: Effort, tasks: u64) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    servers::describe(Some(&pool), &["larder", "redis", "sqlx"]).await?;
    println!("  three tables of {ROWS} rows, one row of each in a transaction, tasks: {tasks}");
    let by_hand = ThenDelete {
        pool: servers::pool(servers::POOL_SIZE).await?,
        connection: servers::redis().await?,
        prefix: servers::namespace("by-hand").into(),
    };
    let cache = servers::cache("transactions")?.connect().await?;
    let own = servers::pool(servers::POOL_SIZE).await?;
    let within = Within {
        orders: Order::repository(&cache, own.clone()),
        stocks: Stock::repository(&cache, own.clone()),
        invoices: Invoice::repository(&cache, own.clone()),
        pool: own,
    };
    let variants = Contest::new(tasks, ROWS)
        .enter("bare transaction", Bare(pool))
        .enter("transaction, then DEL by hand", by_hand)
        .enter("larder transaction, Redis", within.clone())
        .run(effort)
        .await?;
    for stats in [within.orders.stats(), within.invoices.stats()] {
        if stats.store_errors > 0 || stats.write_errors > 0 {
            return Err(format!("larder's writes met errors: {stats:?}").into());
        }
    }
    report::variants(&variants);
    let [bare, by_hand, within] = &variants[..] else {
        return Err("three variants were measured".into());
    };
    let figure = Figure::Throughput;
    let ratio = |name: &str, variant: &crate::measure::Variant| {
        report::ratio(
            &format!("transaction-{tasks}{name}"),
            variant.ratio(bare, figure),
            Goal::None,
        );
    };
    ratio("-by-hand", by_hand);
    ratio("", within);
    Ok(())
}

/// Two transactions take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_tables(&pool).await?;
    let variants = Contest::new(1, ROWS)
        .enter("once", Bare(pool.clone()))
        .enter("twice", Twice(Bare(pool)))
        .run(effort)
        .await?;
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Throughput);
    expect_ratio("two transactions to one", ratio, 0.47, 0.53)
}
