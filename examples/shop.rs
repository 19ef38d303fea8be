//! A shop changes many prices at once while its customers read, and no customer sees a price that is no longer true.
//!
//! Each price only rises, so every reader can check what it is served: a read that begins after a change has returned must see
//! the new price, or a newer one. With `--break` the changes are made past the cache, to show that the check notices.
//!
//! With `--metrics 127.0.0.1:9000` Prometheus can scrape `/metrics` there, and the sale goes on until the standard input ends.
//!
//! It needs no server, and ends by itself. `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }
//! larder = { version = "0.1", features = ["metrics", "sqlite"] }
//! metrics-exporter-prometheus = { version = "0.18", default-features = false }
//! serde = { version = "1", features = ["derive"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "macros"] }
//! tempfile = "3"
//! tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "time"] }
//! ```

use std::{
    error::Error as StdError,
    io,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use larder::{Cache, Cached};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde::{Deserialize, Serialize};
use sqlx::{
    Sqlite, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// Its category is both: an index, for pages and for changes in Rust, and a tag, for changes in SQL.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "products",
    ttl = "10m",
    index(category, order_by = "name"),
    tags("catalog", "category:{category}")
)]
struct Product {
    #[cached(id)]
    id: i64,
    category: String,
    name: String,
    price: i64,
}

const CATEGORIES: [&str; 3] = ["tea", "coffee", "cocoa"];
/// The number of products of each category.
const PRODUCTS: i64 = 50;
const PAGE: usize = 20;
/// The price of every product when the shop opens.
const PRICE: i64 = 1_000;
/// The number of customers who read at the same time.
const CUSTOMERS: i64 = 4;
/// The number of changes of all prices of a category that are planned.
const CHANGES: usize = 30;
/// The number of reads between two changes.
const READS_PER_CHANGE: u64 = 100;

/// The raise is made in Rust: the rows are read under a lock, and the changed ones are written.
async fn raise_in_rust(
    products: &ProductRepository<Sqlite>,
    category: &str,
) -> Result<(), larder::Error> {
    let raise = |product: &mut Product| product.price += 1;
    products.modify_by_category(category, raise).await?;
    Ok(())
}

const RAISE: &str = "UPDATE products SET price = price + 1 WHERE category = ?";

/// The raise is made in SQL, with no row in this process: better for very many rows.
async fn raise_in_sql(
    products: &ProductRepository<Sqlite>,
    category: &'static str,
) -> Result<(), larder::Error> {
    let tags = [format!("category:{category}")];
    let write = products.write_tagged(tags, move |connection| {
        Box::pin(sqlx::query(RAISE).bind(category).execute(connection))
    });
    write.await?;
    Ok(())
}

/// What the customers have seen.
#[derive(Default)]
struct Sale {
    /// How many raises of each category have returned.
    raises: [AtomicI64; CATEGORIES.len()],
    reads: AtomicU64,
    stale: AtomicU64,
    /// Whether it goes on after the changes that are planned.
    is_prolonged: AtomicBool,
    is_over: AtomicBool,
}

impl Sale {
    /// The lowest price that is true from now on.
    fn lowest(&self, category: usize) -> i64 {
        PRICE + self.raises[category].load(Ordering::SeqCst)
    }

    fn saw(&self, prices: impl Iterator<Item = i64>, lowest: i64) {
        let stale = prices.filter(|price| *price < lowest).count();
        self.stale.fetch_add(stale as u64, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
    }

    /// Prolongs the sale until the standard input ends.
    fn prolong(self: &Arc<Self>) {
        self.is_prolonged.store(true, Ordering::SeqCst);
        let sale = Arc::clone(self);
        std::thread::spawn(move || {
            // An input that cannot be read has ended, too.
            let _ended = io::copy(&mut io::stdin(), &mut io::sink());
            sale.is_prolonged.store(false, Ordering::SeqCst);
        });
    }

    /// Lets others work. A sale that may go on for hours also leaves the processor idle.
    async fn pause(&self) {
        if self.is_prolonged.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            tokio::task::yield_now().await;
        }
    }

    /// A customer looks at a product, and now and then at a page of its category.
    async fn visit(
        &self,
        products: &ProductRepository<Sqlite>,
        customer: i64,
    ) -> Result<(), larder::Error> {
        let mut step = customer;
        while !self.is_over.load(Ordering::SeqCst) {
            step += CUSTOMERS;
            let category = step as usize % CATEGORIES.len();
            let id = category as i64 * PRODUCTS + step % PRODUCTS;
            let lowest = self.lowest(category);
            match step % 10 {
                0 | 1 => {
                    let page = products.find_all_by_category(CATEGORIES[category]);
                    let page = page.limit(PAGE).await?;
                    assert_eq!(page.len(), PAGE);
                    self.saw(page.iter().map(|product| product.price), lowest);
                }
                _ => {
                    let product = products.find(id).await?.expect("nothing is deleted yet");
                    self.saw(std::iter::once(product.price), lowest);
                }
            }
            self.pause().await;
        }
        Ok(())
    }
}

async fn open(folder: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join("shop.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePool::connect_with(options).await?;
    let table = "CREATE TABLE products (id INTEGER PRIMARY KEY, category TEXT NOT NULL, name TEXT NOT NULL, price BIGINT NOT NULL);
                 CREATE INDEX products_by_category ON products (category, name)";
    sqlx::raw_sql(table).execute(&pool).await?;
    Ok(pool)
}

fn stock() -> Vec<Product> {
    let products = (0..).zip(CATEGORIES).flat_map(|(number, category)| {
        (0..PRODUCTS).map(move |product| Product {
            id: number * PRODUCTS + product,
            category: category.to_owned(),
            name: format!("{category} {product:02}"),
            price: PRICE,
        })
    });
    products.collect()
}

/// Serves what larder counts and measures, for Prometheus.
async fn serve_metrics(address: &str) -> Result<(), Box<dyn StdError>> {
    let metrics = PrometheusBuilder::new()
        .set_buckets(&[0.0001, 0.001, 0.01, 0.1, 1.0])?
        .install_recorder()?;
    let router = Router::new().route("/metrics", get(async move || metrics.render()));
    let listener = TcpListener::bind(address).await?;
    println!("metrics: http://{}/metrics", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn StdError>> {
    let sale = Arc::new(Sale::default());
    let mut past_the_cache = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--break" => past_the_cache = true,
            "--metrics" => {
                let address = arguments.next().ok_or("`--metrics` needs an address")?;
                // Before the first repository: what is counted earlier is not published.
                serve_metrics(&address).await?;
                sale.prolong();
            }
            _ => return Err(format!("unknown option `{argument}`").into()),
        }
    }
    let folder = tempfile::tempdir()?;
    let pool = open(folder.path()).await?;
    let products = Product::repository(&Cache::in_process(), pool.clone());
    products.insert_many(&stock()).await?;

    let customers = (0..CUSTOMERS).map(|customer| {
        let (sale, products) = (Arc::clone(&sale), products.clone());
        tokio::spawn(async move { sale.visit(&products, customer).await })
    });
    let customers: Vec<_> = customers.collect();
    let has_failed = || customers.iter().any(JoinHandle::is_finished);
    let mut changes = 0;
    while !has_failed() && (changes < CHANGES || sale.is_prolonged.load(Ordering::SeqCst)) {
        while sale.reads.load(Ordering::SeqCst) < changes as u64 * READS_PER_CHANGE && !has_failed()
        {
            sale.pause().await;
        }
        let number = changes % CATEGORIES.len();
        let category = CATEGORIES[number];
        match changes % 2 {
            _ if past_the_cache => {
                sqlx::query(RAISE).bind(category).execute(&pool).await?;
            }
            0 => raise_in_rust(&products, category).await?,
            _ => raise_in_sql(&products, category).await?,
        }
        sale.raises[number].fetch_add(1, Ordering::SeqCst);
        changes += 1;
    }
    sale.is_over.store(true, Ordering::SeqCst);
    for customer in customers {
        customer.await??;
    }
    let (reads, stale) = (
        sale.reads.load(Ordering::SeqCst),
        sale.stale.load(Ordering::SeqCst),
    );
    let stats = products.stats();
    println!("{changes} changes of {PRODUCTS} prices each, while customers made {reads} reads");
    println!(
        "rows from the cache: {}, from the database: {}",
        stats.hits, stats.loads
    );
    println!("prices that were no longer true: {stale}");
    if stale > 0 {
        return Ok(ExitCode::FAILURE);
    }

    // Another program has changed prices. One round trip, and nobody is served the old ones.
    let cheaper = "UPDATE products SET price = 1 WHERE category = 'tea'";
    sqlx::query(cheaper).execute(&pool).await?;
    products.invalidate_category("tea").await?;
    assert_eq!(products.find(0).await?.expect("it is there").price, 1);
    sqlx::query("UPDATE products SET price = 2")
        .execute(&pool)
        .await?;
    products.invalidate_tag("catalog").await?;
    let page = products.find_all_by_category("cocoa").limit(PAGE).await?;
    assert!(page.iter().all(|product| product.price == 2));

    let deleted = products.delete_by_category("cocoa").await?;
    assert_eq!(products.count_by_category("cocoa").await?, 0);
    println!("no more cocoa: {deleted} products are deleted");
    Ok(ExitCode::SUCCESS)
}
