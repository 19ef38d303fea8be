//! A service with axum: repositories as its state, errors as status codes, and a shutdown that loses nothing.
//!
//! ```sh
//! cargo run &
//! curl -X POST localhost:3000/flights -H 'content-type: application/json' -d '{"code": "LH400", "gate": null}'
//! curl localhost:3000/flights/1
//! curl -X PUT localhost:3000/flights/1 -H 'content-type: application/json' -d '{"code": "LH400", "gate": "A12", "version": 1}'
//! kill %1
//! ```
//!
//! It needs no server: the database is a file, and the cache is the memory of the process. For more than one process, set
//! `REDIS_URL`. `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! axum = { version = "0.8", default-features = false, features = ["http1", "json", "tokio"] }
//! larder = { version = "0.1", features = ["sqlite"] }
//! serde = { version = "1", features = ["derive"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "macros"] }
//! tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "signal"] }
//! ```

use std::{env, error::Error as StdError, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use larder::{Cache, Cached, ErrorKind, Flusher};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool, sqlite::SqliteConnectOptions};

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "flights",
    strategy = "write_through",
    ttl = "10m",
    negative_ttl = "30s"
)]
struct Flight {
    #[cached(id, generated)]
    #[serde(default)]
    id: i64,
    code: String,
    gate: Option<String>,
    #[cached(version)]
    #[serde(default)]
    version: i64,
}

/// How often a flight was asked for. Counted far more often than a database likes, so it is queued.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "views", strategy = "write_behind", durability = "memory")]
struct Views {
    #[cached(id)]
    flight: i64,
    count: i64,
}

/// What every handler has. Clones share everything.
#[derive(Clone)]
struct App {
    flights: FlightRepository<Sqlite>,
    views: ViewsRepository<Sqlite>,
}

impl App {
    async fn open(pool: SqlitePool, cache: &Cache) -> Result<Self, Box<dyn StdError>> {
        let tables = "CREATE TABLE IF NOT EXISTS flights (id INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE, gate TEXT, version BIGINT NOT NULL);
                      CREATE TABLE IF NOT EXISTS views (flight INTEGER PRIMARY KEY, count BIGINT NOT NULL)";
        sqlx::raw_sql(tables).execute(&pool).await?;
        let app = Self {
            flights: Flight::repository(cache, pool.clone()),
            views: Views::repository(cache, pool),
        };
        app.views.install().await?;
        // A struct that does not fit its table stops the start, and not the first request.
        app.flights.check_schema().await?.into_result()?;
        app.views.check_schema().await?.into_result()?;
        Ok(app)
    }

    fn router(self) -> Router {
        Router::new()
            .route("/flights", post(insert))
            .route("/flights/{id}", get(find).put(update).delete(delete))
            .route("/flights/{id}/views", get(views))
            .with_state(self)
    }
}

async fn insert(
    State(app): State<App>,
    Json(flight): Json<Flight>,
) -> Result<(StatusCode, Json<Flight>), ApiError> {
    let flight = app
        .flights
        .insert(&Flight {
            version: 1,
            ..flight
        })
        .await?;
    Ok((StatusCode::CREATED, Json(Flight::clone(&flight))))
}

async fn find(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<Flight>, ApiError> {
    let flight = app.flights.find(id).await?.ok_or(ApiError::NotFound)?;
    if let Err(error) = count_view(&app, id).await {
        // A count is no reason to refuse the answer.
        eprintln!("a view of flight {id} was not counted: {error}");
    }
    Ok(Json(Flight::clone(&flight)))
}

async fn count_view(app: &App, flight: i64) -> Result<(), larder::Error> {
    loop {
        match app.views.modify(flight, |views| views.count += 1).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            counted => return counted.map(drop),
        }
        match app.views.insert(&Views { flight, count: 1 }).await {
            Err(error) if error.kind() == ErrorKind::Duplicate => {}
            counted => return counted.map(drop),
        }
    }
}

async fn views(State(app): State<App>, Path(id): Path<i64>) -> Result<Json<i64>, ApiError> {
    let views = app.views.find(id).await?;
    Ok(Json(views.map_or(0, |views| views.count)))
}

async fn update(
    State(app): State<App>,
    Path(id): Path<i64>,
    Json(flight): Json<Flight>,
) -> Result<Json<Flight>, ApiError> {
    let flight = app.flights.update(&Flight { id, ..flight }).await?;
    Ok(Json(Flight::clone(&flight)))
}

async fn delete(State(app): State<App>, Path(id): Path<i64>) -> Result<StatusCode, ApiError> {
    let flight = app.flights.find(id).await?.ok_or(ApiError::NotFound)?;
    // With a version, so that a change that was made in between is not deleted unseen.
    app.flights.delete(&flight).await?;
    Ok(StatusCode::NO_CONTENT)
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
            ErrorKind::Conflict => match error.current::<Flight>() {
                Some(current) => {
                    (StatusCode::CONFLICT, Json(Flight::clone(&current))).into_response()
                }
                None => StatusCode::CONFLICT.into_response(),
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
    let file = env::var("DATABASE").unwrap_or_else(|_| "flights.db".to_owned());
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await?;
    let app = App::open(pool.clone(), &cache().await?).await?;
    let flusher: Flusher = app.views.start_flushing().await?;

    let address = env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app.router())
        .with_graceful_shutdown(asked_to_end())
        .await?;

    // All requests have ended, so nothing is queued any more. What is left gets into the database.
    flusher.shutdown(Duration::from_secs(20)).await?;
    pool.close().await;
    println!("stopped");
    Ok(())
}
