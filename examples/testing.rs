//! How to test code that uses larder: on a database of its own, without a server and without sleeping.
//!
//! `cargo test` runs the tests at the end, `cargo run` the code itself. `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! larder = { version = "0.1", features = ["sqlite"] }
//! serde = { version = "1", features = ["derive"] }
//! sqlx = { version = "0.9", features = ["runtime-tokio", "macros"] }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```

use std::sync::Arc;

use larder::{Backend, Cache, Cached, ErrorKind};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", ttl = "10m", negative_ttl = "30s")]
struct Seat {
    #[cached(id)]
    number: String,
    passenger: Option<String>,
    #[cached(version)]
    version: i64,
}

#[derive(Debug)]
enum Booking {
    Done,
    Taken,
    NoSuchSeat,
}

/// The code under test. It is generic over the database, so that its tests can use SQLite.
struct Desk<DB: Backend> {
    seats: SeatRepository<DB>,
}

impl<DB: Backend> Desk<DB> {
    async fn passenger(&self, seat: &str) -> Result<Option<Arc<Seat>>, larder::Error> {
        self.seats.find(seat).await
    }

    async fn book(&self, seat: &str, passenger: &str) -> Result<Booking, larder::Error> {
        let Some(free) = self.seats.find(seat).await? else {
            return Ok(Booking::NoSuchSeat);
        };
        if free.passenger.is_some() {
            return Ok(Booking::Taken);
        }
        let taken = Seat {
            passenger: Some(passenger.to_owned()),
            ..Seat::clone(&free)
        };
        match self.seats.update(&taken).await {
            Ok(_) => Ok(Booking::Done),
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(Booking::Taken),
            Err(error) => Err(error),
        }
    }
}

const TABLE: &str = "CREATE TABLE seats (number VARCHAR(4) NOT NULL PRIMARY KEY, passenger VARCHAR(50), version BIGINT NOT NULL)";

/// A desk over an empty database in memory and a cache of its own: tests that run at the same time share nothing.
async fn desk(cache: &Cache) -> Result<Desk<sqlx::Sqlite>, Box<dyn std::error::Error>> {
    // The database lasts as long as a connection to it, and a second one would wait for the locks of the first.
    let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await?;
    sqlx::query(TABLE).execute(&pool).await?;
    let seats = Seat::repository(cache, pool);
    for number in ["1A", "1B"] {
        let seat = Seat {
            number: number.to_owned(),
            passenger: None,
            version: 1,
        };
        seats.insert(&seat).await?;
    }
    Ok(Desk { seats })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let desk = desk(&Cache::in_process()).await?;
    println!("{:?}", desk.book("1A", "Ada").await?);
    println!("{:?}", desk.book("1A", "Bo").await?);
    println!("{:?}", desk.book("9Z", "Cy").await?);
    println!("{:?}", desk.passenger("1A").await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder::{Clock, Origin};

    use super::*;

    type TestResult = Result<(), Box<dyn std::error::Error>>;

    /// A struct that does not fit its table is found here, and not by the first user.
    #[tokio::test]
    async fn entity_fits_its_table() -> TestResult {
        let desk = desk(&Cache::in_process()).await?;
        desk.seats.check_schema().await?.into_result()?;
        Ok(())
    }

    #[tokio::test]
    async fn seat_is_booked_once() -> TestResult {
        let desk = Arc::new(desk(&Cache::in_process()).await?);
        let book = |passenger| {
            let desk = Arc::clone(&desk);
            tokio::spawn(async move { desk.book("1A", passenger).await })
        };
        let both = [book("Ada"), book("Bo")];
        let mut done = 0;
        for booking in both {
            done += usize::from(matches!(booking.await??, Booking::Done));
        }
        assert_eq!(done, 1);
        Ok(())
    }

    #[tokio::test]
    async fn booking_is_seen_at_once() -> TestResult {
        let desk = desk(&Cache::in_process()).await?;
        assert_eq!(
            desk.passenger("1A")
                .await?
                .and_then(|seat| seat.passenger.clone()),
            None
        );
        desk.book("1A", "Ada").await?;
        let seat = desk.passenger("1A").await?.expect("there is such a seat");
        assert_eq!(seat.passenger.as_deref(), Some("Ada"));
        Ok(())
    }

    /// What larder does can be counted: here, that reads do not ask the database again.
    #[tokio::test]
    async fn second_read_asks_no_database() -> TestResult {
        let desk = desk(&Cache::in_process()).await?;
        desk.passenger("1B").await?;
        desk.passenger("1B").await?;
        let stats = desk.seats.stats();
        assert_eq!(stats.loads, 1, "{stats:?}");
        Ok(())
    }

    /// Time to live without sleeping: the clock of the in-process store is turned by hand.
    #[tokio::test]
    async fn change_by_another_program_is_seen_when_the_time_to_live_ends() -> TestResult {
        let clock = Clock::manual();
        let cache = Cache::builder().clock(clock.clone()).build()?;
        let desk = desk(&cache).await?;
        desk.passenger("1A").await?;
        sqlx::query("UPDATE seats SET passenger = 'Eve', version = version + 1")
            .execute(desk.seats.pool())
            .await?;
        let passenger = async || {
            let seat = desk.passenger("1A").await?;
            Ok::<_, larder::Error>(seat.and_then(|seat| seat.passenger.clone()))
        };
        assert_eq!(passenger().await?, None); // larder does not see the writes of others
        clock.advance(Duration::from_secs(10 * 60));
        assert_eq!(passenger().await?.as_deref(), Some("Eve"));
        // Or the program that writes invalidates the row.
        sqlx::query("UPDATE seats SET passenger = NULL")
            .execute(desk.seats.pool())
            .await?;
        desk.seats.invalidate("1A").await?;
        assert_eq!(
            desk.seats.find_outcome("1A").await?.origin,
            Origin::Database
        );
        Ok(())
    }

    /// Errors of the database arrive as they would in production.
    #[tokio::test]
    async fn database_that_is_away_is_an_error_of_the_booking() -> TestResult {
        let desk = desk(&Cache::in_process()).await?;
        desk.seats.pool().close().await;
        let error = desk
            .book("1A", "Ada")
            .await
            .expect_err("there is no database");
        assert_eq!(error.kind(), ErrorKind::Database);
        Ok(())
    }
}
