//! A small shop with axum: users by e-mail, products by SKU, category pages, orders that take from the stock; repositories as the
//! state, errors as status codes, metrics for Prometheus, and a shutdown that loses nothing.
//!
//! ```sh
//! cargo run &
//! json='content-type: application/json'
//! curl -X POST localhost:3000/users -H "$json" -d '{"email": "ada@example.org", "name": "Ada"}'
//! curl -X POST localhost:3000/products -H "$json" \
//!     -d '{"sku": "TEA-1", "category": "tea", "name": "Darjeeling", "price": 900, "stock": 10}'
//! curl localhost:3000/products/TEA-1
//! curl 'localhost:3000/categories/tea?limit=20'
//! curl -X POST localhost:3000/orders -H "$json" -d '{"email": "ada@example.org", "lines": [{"sku": "TEA-1", "quantity": 2}]}'
//! curl localhost:3000/orders/1
//! curl localhost:3000/metrics
//! kill %1
//! ```
//!
//! It needs no server: the database is a file, and the cache is the memory of the process. For more than one process, set
//! `REDIS_URL`. `LOG=sqlx=debug` shows every statement; the README of the examples lists how many each route makes.
//! `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! axum = { version = "0.8", default-features = false, features = ["http1", "json", "query", "tokio"] }
//! larder = { version = "0.1", features = ["metrics", "sqlite"] }
//! metrics-exporter-prometheus = { version = "0.18", default-features = false }
//! serde = { version = "1", features = ["derive", "rc"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "macros"] }
//! tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "signal"] }
//! tracing-subscriber = { version = "0.3", default-features = false, features = ["fmt", "registry", "std"] }
//! ```

use std::{env, error::Error as StdError, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use larder::{Cache, Cached, ErrorKind, Flusher, Transaction};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool, sqlite::SqliteConnectOptions};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", ttl = "10m", negative_ttl = "30s")]
struct User {
    #[cached(id, generated)]
    #[serde(default)]
    id: i64,
    #[cached(unique(fold = "lower"))]
    email: String,
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "products",
    strategy = "write_through",
    ttl = "10m",
    negative_ttl = "30s",
    index(category, order_by = "price")
)]
struct Product {
    #[cached(id, generated)]
    #[serde(default)]
    id: i64,
    #[cached(unique, immutable)]
    sku: String,
    #[cached(immutable)]
    category: String,
    name: String,
    /// In cents.
    price: i64,
    stock: i64,
    #[cached(version)]
    #[serde(default)]
    version: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "orders",
    ttl = "10m",
    negative_ttl = "30s",
    has_many(Line::order_id)
)]
struct Order {
    #[cached(id, generated)]
    id: i64,
    #[cached(immutable, index(order_by = "id desc"))]
    user_id: i64,
    state: String,
}

/// One product of an order, with the price of that time.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "order_lines", ttl = "10m", negative_ttl = "30s")]
struct Line {
    #[cached(id, index)]
    order_id: i64,
    #[cached(id)]
    position: i64,
    #[cached(belongs_to = Product)]
    product_id: i64,
    quantity: i64,
    price: i64,
}

/// How often a product was looked at. Counted far more often than a database likes, so it is queued.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "views", strategy = "write_behind", durability = "memory")]
struct Views {
    #[cached(id)]
    product: i64,
    count: i64,
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, email TEXT NOT NULL, name TEXT NOT NULL);
    CREATE UNIQUE INDEX IF NOT EXISTS users_email ON users (lower(email));
    CREATE TABLE IF NOT EXISTS products (id INTEGER PRIMARY KEY, sku TEXT NOT NULL UNIQUE, category TEXT NOT NULL,
        name TEXT NOT NULL, price BIGINT NOT NULL, stock BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE INDEX IF NOT EXISTS products_category ON products (category, price);
    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, user_id BIGINT NOT NULL, state TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS orders_user ON orders (user_id);
    CREATE TABLE IF NOT EXISTS order_lines (order_id BIGINT NOT NULL, position BIGINT NOT NULL, product_id BIGINT NOT NULL,
        quantity BIGINT NOT NULL, price BIGINT NOT NULL, PRIMARY KEY (order_id, position));
    CREATE TABLE IF NOT EXISTS views (product INTEGER PRIMARY KEY, count BIGINT NOT NULL);
";

/// What every handler has. Clones share everything.
#[derive(Clone)]
struct App {
    users: UserRepository<Sqlite>,
    products: ProductRepository<Sqlite>,
    orders: OrderRepository<Sqlite>,
    lines: LineRepository<Sqlite>,
    views: ViewsRepository<Sqlite>,
}

impl App {
    async fn open(pool: SqlitePool, cache: &Cache) -> Result<Self, Box<dyn StdError>> {
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        let app = Self {
            users: User::repository(cache, pool.clone()),
            products: Product::repository(cache, pool.clone()),
            orders: Order::repository(cache, pool.clone()),
            lines: Line::repository(cache, pool.clone()),
            views: Views::repository(cache, pool),
        };
        app.views.install().await?;
        // A struct that does not fit its table stops the start, and not the first request.
        app.users.check_schema().await?.into_result()?;
        app.products.check_schema().await?.into_result()?;
        app.orders.check_schema().await?.into_result()?;
        app.lines.check_schema().await?.into_result()?;
        app.views.check_schema().await?.into_result()?;
        Ok(app)
    }

    fn router(self) -> Router {
        Router::new()
            .route("/users", post(insert_user))
            .route("/users/{email}", get(find_user))
            .route("/users/{email}/orders", get(orders_of_user))
            .route("/products", post(insert_product))
            .route(
                "/products/{sku}",
                get(find_product).put(update_product).delete(delete_product),
            )
            .route("/products/{sku}/views", get(views))
            .route("/categories/{category}", get(category))
            .route("/orders", post(place_order))
            .route("/orders/{id}", get(find_order))
            .with_state(self)
    }
}

async fn insert_user(
    State(app): State<App>,
    Json(user): Json<User>,
) -> Result<(StatusCode, Json<Arc<User>>), ApiError> {
    let user = app.users.insert(&user).await?;
    Ok((StatusCode::CREATED, Json(user)))
}

async fn find_user(
    State(app): State<App>,
    Path(email): Path<String>,
) -> Result<Json<Arc<User>>, ApiError> {
    let user = app.users.find_by_email(email).await?;
    Ok(Json(user.ok_or(ApiError::NotFound)?))
}

async fn insert_product(
    State(app): State<App>,
    Json(product): Json<Product>,
) -> Result<(StatusCode, Json<Arc<Product>>), ApiError> {
    let first = Product {
        version: 1,
        ..product
    };
    let product = app.products.insert(&first).await?;
    Ok((StatusCode::CREATED, Json(product)))
}

impl App {
    async fn product(&self, sku: &str) -> Result<Arc<Product>, ApiError> {
        let product = self.products.find_by_sku(sku).await?;
        product.ok_or(ApiError::NotFound)
    }
}

async fn find_product(
    State(app): State<App>,
    Path(sku): Path<String>,
) -> Result<Json<Arc<Product>>, ApiError> {
    let product = app.product(&sku).await?;
    if let Err(error) = count_view(&app, product.id).await {
        // A count is no reason to refuse the answer.
        eprintln!("a view of product {sku} was not counted: {error}");
    }
    Ok(Json(product))
}

async fn count_view(app: &App, product: i64) -> Result<(), larder::Error> {
    let first = Views { product, count: 1 };
    let counted = app.views.modify_or_insert(&first, |views| views.count += 1);
    counted.await.map(drop)
}

async fn views(State(app): State<App>, Path(sku): Path<String>) -> Result<Json<i64>, ApiError> {
    let product = app.product(&sku).await?;
    let views = app.views.find(product.id).await?;
    Ok(Json(views.map_or(0, |views| views.count)))
}

/// Changes the row that the client has read: its version is compared.
async fn update_product(
    State(app): State<App>,
    Path(sku): Path<String>,
    Json(product): Json<Product>,
) -> Result<Json<Arc<Product>>, ApiError> {
    let id = app.product(&sku).await?.id;
    let product = Product { id, sku, ..product };
    let product = app.products.update(&product).await?;
    Ok(Json(product))
}

async fn delete_product(
    State(app): State<App>,
    Path(sku): Path<String>,
) -> Result<StatusCode, ApiError> {
    let product = app.product(&sku).await?;
    // With a version, so that a change that was made in between is not deleted unseen.
    app.products.delete(&product).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which part of a list is wanted.
#[derive(Deserialize)]
struct PageQuery {
    limit: Option<usize>,
    /// The SKU of the last product of the page before.
    after: Option<String>,
}

#[derive(Serialize)]
struct CategoryPage {
    products: Vec<Arc<Product>>,
    /// What to pass as `after` for the next page.
    next: Option<String>,
}

/// The products of a category, the cheapest first.
async fn category(
    State(app): State<App>,
    Path(category): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<CategoryPage>, ApiError> {
    let mut list = app.products.find_all_by_category(category);
    list = list.limit(query.limit.unwrap_or(20).min(100));
    if let Some(sku) = query.after {
        list = list.after(&*app.product(&sku).await?);
    }
    let page = list.await?;
    let last = page.last().filter(|_| page.has_more);
    Ok(Json(CategoryPage {
        next: last.map(|last| last.sku.clone()),
        products: page.rows,
    }))
}

#[derive(Deserialize)]
struct NewOrder {
    email: String,
    lines: Vec<NewLine>,
}

#[derive(Deserialize)]
struct NewLine {
    sku: String,
    quantity: u32,
}

/// Takes the products from the stock and writes the order: all of it or nothing.
async fn place_order(
    State(app): State<App>,
    Json(order): Json<NewOrder>,
) -> Result<(StatusCode, Json<WholeOrder>), ApiError> {
    let user = app.users.find_by_email(&order.email).await?;
    let user = user.ok_or(ApiError::NotFound)?;
    let skus: Vec<_> = order.lines.iter().map(|line| line.sku.as_str()).collect();
    let products = app.products.find_many_by_sku(&skus).await?;
    let products: Option<Vec<_>> = products.into_iter().collect();
    let mut wanted: Vec<_> = products
        .ok_or(ApiError::NotFound)?
        .into_iter()
        .zip(order.lines.iter().map(|line| i64::from(line.quantity)))
        .collect();
    // Orders of the same products take their locks in the same order.
    wanted.sort_by_key(|(product, _)| product.id);

    let mut transaction = Transaction::begin_with(app.orders.pool(), "BEGIN IMMEDIATE").await?;
    let new = Order {
        id: 0,
        user_id: user.id,
        state: "placed".to_owned(),
    };
    let placed = app.orders.within(&mut transaction).insert(&new).await?;
    let mut lines = Vec::new();
    for (position, (product, quantity)) in (1..).zip(wanted) {
        let mut products = app.products.within(&mut transaction);
        let taken = products.modify(product.id, |product| {
            if product.stock < quantity {
                return Err(format!(
                    "only {} of {} are left",
                    product.stock, product.sku
                ));
            }
            product.stock -= quantity;
            Ok(())
        });
        let product = taken.await?;
        lines.push(Line {
            order_id: placed.id,
            position,
            product_id: product.id,
            quantity,
            price: product.price,
        });
    }
    let lines = app
        .lines
        .within(&mut transaction)
        .insert_many(&lines)
        .await?;
    transaction.commit().await?;
    let order = WholeOrder {
        order: placed,
        products: names(&app, &lines).await?,
        lines,
    };
    Ok((StatusCode::CREATED, Json(order)))
}

#[derive(Serialize)]
struct WholeOrder {
    order: Arc<Order>,
    lines: Vec<Arc<Line>>,
    /// The names of the products of the lines.
    products: Vec<String>,
}

async fn names(app: &App, lines: &[Arc<Line>]) -> Result<Vec<String>, larder::Error> {
    let products = app.lines.products_of(lines, &app.products).await?;
    let names = products.iter().map(|product| match product {
        Some(product) => product.name.clone(),
        None => "no longer sold".to_owned(),
    });
    Ok(names.collect())
}

async fn find_order(
    State(app): State<App>,
    Path(id): Path<i64>,
) -> Result<Json<WholeOrder>, ApiError> {
    let order = app.orders.find(id).await?.ok_or(ApiError::NotFound)?;
    let lines = app.lines.find_all_by_order_id(id).await?.rows;
    let products = names(&app, &lines).await?;
    Ok(Json(WholeOrder {
        order,
        lines,
        products,
    }))
}

/// The last orders of a user with their lines: a fixed number of statements, however many orders there are.
async fn orders_of_user(
    State(app): State<App>,
    Path(email): Path<String>,
) -> Result<Json<Vec<WholeOrder>>, ApiError> {
    let user = app.users.find_by_email(email).await?;
    let user = user.ok_or(ApiError::NotFound)?;
    let orders = app.orders.find_all_by_user_id(user.id).limit(50).await?;
    let lines_of_each = app.orders.lines_of(&orders, &app.lines).await?;
    let all: Vec<_> = lines_of_each.iter().flatten().cloned().collect();
    let mut products = names(&app, &all).await?.into_iter();
    let whole = orders.into_iter().zip(lines_of_each).map(|(order, lines)| {
        let lines = lines.rows;
        WholeOrder {
            products: products.by_ref().take(lines.len()).collect(),
            order,
            lines,
        }
    });
    Ok(Json(whole.collect()))
}

/// Why a request was not answered as it wanted.
enum ApiError {
    NotFound,
    Larder(larder::Error),
}

impl From<larder::Error> for ApiError {
    fn from(error: larder::Error) -> Self {
        Self::Larder(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = match self {
            Self::NotFound => return StatusCode::NOT_FOUND.into_response(),
            Self::Larder(error) => error,
        };
        match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND.into_response(),
            ErrorKind::Duplicate => (StatusCode::CONFLICT, "there is one already").into_response(),
            // The client gets the row as it is now, to apply its change to it.
            ErrorKind::Conflict => match error.current::<Product>() {
                Some(current) => (StatusCode::CONFLICT, Json(current)).into_response(),
                None => StatusCode::CONFLICT.into_response(),
            },
            // The reason of a `modify` that was refused is ours.
            ErrorKind::Refused => match error.source() {
                Some(reason) => (StatusCode::CONFLICT, reason.to_string()).into_response(),
                None => (StatusCode::CONFLICT, "this cannot be changed").into_response(),
            },
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
            // Nothing was done, and the same request may succeed soon.
            ErrorKind::Overloaded | ErrorKind::Backpressure | ErrorKind::CacheUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                [(header::RETRY_AFTER, "1")],
            )
                .into_response(),
            // The write may or may not be there. A client that only repeats it may do it twice.
            ErrorKind::OutcomeUnknown => {
                log(&error);
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "read it again before you repeat the request",
                )
                    .into_response()
            }
            // The messages name tables and keys: they are for the log, not for clients.
            _ => {
                log(&error);
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

fn log(error: &dyn StdError) {
    eprint!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprint!(": {error}");
        cause = error.source();
    }
    eprintln!();
}

/// Returns when the process is asked to end: Ctrl-C, or the signal of systemd, Docker and Kubernetes.
async fn asked_to_end() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let kind = tokio::signal::unix::SignalKind::terminate();
        let mut terminated = tokio::signal::unix::signal(kind).expect("a handler can be installed");
        tokio::select! {
            interrupted = interrupted => interrupted.expect("a handler can be installed"),
            _ = terminated.recv() => {}
        }
    }
    #[cfg(not(unix))]
    interrupted.await.expect("a handler can be installed");
}

async fn cache() -> Result<Cache, larder::Error> {
    match env::var("REDIS_URL") {
        Ok(url) => Cache::connect(&url).await,
        Err(_) => Ok(Cache::in_process()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let wanted = env::var("LOG").unwrap_or_else(|_| "warn".to_owned());
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    tracing_subscriber::registry()
        .with(lines)
        .with(wanted.parse::<Targets>()?)
        .init();

    // Before the first repository: what is counted earlier is not published.
    let metrics = PrometheusBuilder::new()
        .set_buckets(&[0.0001, 0.001, 0.01, 0.1, 1.0])?
        .install_recorder()?;

    let file = env::var("DATABASE").unwrap_or_else(|_| "shop.db".to_owned());
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await?;
    let app = App::open(pool.clone(), &cache().await?).await?;
    let flusher: Flusher = app.views.start_flushing().await?;

    let address = env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    // In production, on a port that only Prometheus reaches.
    let router = app
        .router()
        .route("/metrics", get(async move || metrics.render()));
    axum::serve(listener, router)
        .with_graceful_shutdown(asked_to_end())
        .await?;

    // All requests have ended, so nothing is queued any more. What is left gets into the database.
    flusher.shutdown(Duration::from_secs(20)).await?;
    pool.close().await;
    println!("stopped");
    Ok(())
}
