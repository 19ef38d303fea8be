//! An entity whose writes are queued, with every option, under strict lints; and one that names none, behind a path.
#![deny(
    missing_docs,
    unsafe_code,
    unused,
    unreachable_pub,
    unused_qualifications,
    rust_2018_idioms,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic
)]

/// Entities.
pub mod entities {
    use larder::Cached;
    use serde::{Deserialize, Serialize};

    /// Where an aircraft was.
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(
        table = "positions",
        strategy = "write_behind",
        partitions = 16,
        max_pending = 5_000,
        on_full = "refuse",
        durability = "memory",
        batch = 200,
        linger = "0ms",
        journal = "queue",
        coherence = "intent",
        after_triggers
    )]
    pub struct Position {
        /// Whose.
        #[cached(id)]
        pub aircraft: String,
        /// When.
        #[cached(id)]
        pub minute: i64,
        /// Degrees.
        pub latitude: f64,
        /// Set by the database.
        #[cached(generated)]
        pub received_at: Option<i64>,
    }
}

mod platform {
    #[doc(hidden)]
    pub(crate) use larder::__private;
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, larder::Cached)]
#[cached(table = "scans", strategy = "write_behind", crate = crate::platform)]
struct Scan {
    #[cached(id)]
    bag: i64,
    belt: Option<String>,
}

use std::{sync::Arc, time::Duration};

use entities::{Position, PositionRepository};
use larder::{Backend, DeadLetters, Entity, Error, Flusher, Pending, policy};
use serde::{Deserialize, Serialize};

async fn write<DB: Backend>(positions: &PositionRepository<DB>) -> Result<Arc<Position>, Error> {
    let at = ("D-AIBD".to_owned(), 0);
    let position = Position { aircraft: at.0.clone(), minute: at.1, latitude: 50.0, received_at: None };
    let position = positions.insert(&position).await?;
    let position = positions.update(&position).await?;
    let position = positions.save(&position).await?;
    positions.invalidate(&at).await?;
    positions.refresh(&at).await?;
    positions.delete(&at).await?;
    Ok(position)
}

async fn scan(scans: ScanRepository<sqlx::Sqlite>, bag: i64) -> Result<u32, Error> {
    // The change may be called again, so it may keep count.
    let mut calls = 0;
    scans
        .modify(bag, |scan| {
            calls += 1;
            scan.belt = None;
        })
        .await?;
    Ok(calls)
}

async fn operate<DB: Backend>(positions: PositionRepository<DB>) -> Result<Option<Duration>, Error> {
    positions.install().await?;
    let flusher: Flusher = positions.start_flushing().await?;
    positions.flush().await?;
    let pending: Pending = positions.pending().await?;
    let letters: DeadLetters<Position, DB> = positions.dead_letters();
    for letter in letters.list(10).await? {
        letters.replay(&letter).await?;
    }
    flusher.shutdown(Duration::from_secs(1)).await?;
    Ok(pending.oldest)
}

fn is_send<T: Send>(_: T) {}

// The futures can be sent to other threads, with the change.
fn spawn<DB: Backend>(positions: &PositionRepository<DB>, scans: ScanRepository<sqlx::Sqlite>) {
    is_send(write(positions));
    is_send(scan(scans, 1));
    is_send(operate(positions.clone()));
}

fn main() {
    let policy = Position::SPEC.policy;
    assert_eq!(policy.strategy, policy::Strategy::WriteBehind);
    assert_eq!(policy.queue.partitions, 16);
    assert_eq!(policy.queue.max_pending, 5_000);
    assert_eq!(policy.queue.on_full, policy::OnFull::Refuse);
    assert_eq!(policy.queue.durability, Some(policy::Durability::Memory));
    assert_eq!(policy.queue.batch, 200);
    assert_eq!(policy.queue.linger, Duration::ZERO);
    assert_eq!(policy.queue.journal, Some("queue"));
    assert!(policy.after_triggers);
    assert_eq!(Scan::SPEC.policy.queue, policy::QueuePolicy::DEFAULT);
    let scan = Scan { bag: 1, belt: None };
    println!("{scan:?} {:?}", scan.belt);
    let _ = (spawn::<sqlx::Postgres>, spawn::<sqlx::MySql>, spawn::<sqlx::Sqlite>);
    let _ = Scan::repository::<sqlx::Sqlite>;
}
