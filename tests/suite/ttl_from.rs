//! Rows that say themselves when they end (`ttl_from`): none is served from the cache after its end.

use std::time::Duration;

use chrono::{DateTime, Utc};
use larder::{Cache, Cached, Clock, Origin, key::Key, store::Mechanism};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::world::{Tested, World, eventually, everywhere, filled, on_both_stores, on_redis};

everywhere!(
    an_entry_lives_no_longer_than_its_row,
    an_entry_is_not_served_at_the_end_of_its_row,
    a_row_that_has_ended_is_not_cached,
    a_row_without_an_end_lives_as_the_policy_says,
    a_row_that_is_written_through_lives_until_its_end,
);
on_both_stores!(
    a_refreshed_row_lives_until_its_end,
    the_rows_of_a_batch_live_until_their_ends,
    a_row_that_a_lookup_finds_is_not_served_after_its_end,
    the_option_of_a_call_does_not_prolong_a_row,
    an_absence_has_no_end,
);
on_redis!(a_late_store_serves_ended_rows_without_the_comparison);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "sessions",
    ttl = "10m",
    jitter = 0,
    lease(ttl = "20s", wait = "10s"),
    ttl_from = "expires_at"
)]
struct Session {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    user_id: i64,
    expires_at: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "sessions",
    name = "Token",
    strategy = "write_through",
    ttl = "10m",
    jitter = 0,
    ttl_from = "expires_at"
)]
struct Token {
    #[cached(id)]
    id: i64,
    user_id: i64,
    expires_at: Option<OffsetDateTime>,
}

/// The sessions and the tokens of a world, and their clock, which begins in 1970.
struct Stage<DB: Tested> {
    clock: Clock,
    cache: Cache,
    sessions: SessionRepository<DB>,
    tokens: TokenRepository<DB>,
}

impl<DB: Tested> Stage<DB> {
    async fn open(world: &World<DB>) -> Self {
        let moment = match DB::NAME {
            "PostgreSQL" => "TIMESTAMPTZ",
            _ => "DATETIME",
        };
        world
            .sql(format!(
                "CREATE TABLE sessions (id BIGINT NOT NULL PRIMARY KEY, user_id BIGINT NOT NULL UNIQUE, expires_at {moment})"
            ))
            .await;
        let clock = Clock::manual();
        let cache = world.cache_with(clock.clone()).await;
        Self {
            sessions: Session::repository(&cache, world.pool.clone()),
            tokens: Token::repository(&cache, world.pool.clone()),
            clock,
            cache,
        }
    }

    /// Inserts a session that ends after so many seconds.
    async fn session(&self, id: i64, end: i64) {
        self.sessions.insert(&session(id, end)).await.unwrap();
    }

    /// Reads a session, and returns where it came from when it has been cached, if it is.
    async fn read(&self, id: i64) -> Origin {
        let fills = || {
            let now = self.sessions.stats();
            now.fills_accepted + now.fills_refused
        };
        let before = fills();
        let outcome = self.sessions.find_outcome(id).await.unwrap();
        assert!(outcome.row.is_some());
        if outcome.origin == Origin::Database {
            eventually("the row is filled, or the lease is released", async || {
                fills() > before || self.left(id).await.is_none()
            })
            .await;
        }
        outcome.origin
    }

    /// Returns for how many seconds the entry of a session still lives.
    async fn left(&self, id: i64) -> Option<u64> {
        self.left_of(&self.sessions.inner().key(id).unwrap()).await
    }

    async fn left_of_token(&self, id: i64) -> Option<u64> {
        self.left_of(&self.tokens.inner().key(id).unwrap()).await
    }

    async fn left_of(&self, key: &Key) -> Option<u64> {
        let left = self.cache.store().remaining_ms(key).await.unwrap();
        left.map(|left| left.div_ceil(1_000))
    }
}

fn session(id: i64, end: i64) -> Session {
    Session {
        id,
        user_id: id + 1_000,
        expires_at: DateTime::from_timestamp(end, 0).unwrap(),
    }
}

fn token(id: i64, end: Option<i64>) -> Token {
    Token {
        id,
        user_id: id + 1_000,
        expires_at: end.map(|end| OffsetDateTime::from_unix_timestamp(end).unwrap()),
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn an_entry_lives_no_longer_than_its_row<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.session(1, 60).await;
    stage.session(2, 3_600).await;
    stage.read(1).await;
    stage.read(2).await;
    let (one, two) = (stage.left(1).await.unwrap(), stage.left(2).await.unwrap());
    assert!((30..=60).contains(&one), "{one} s");
    assert!((570..=600).contains(&two), "{two} s");
    assert_eq!(stage.read(1).await, Origin::Cache);
}

/// The clock of the test moves on, and that of Redis does not, so Redis is late.
async fn an_entry_is_not_served_at_the_end_of_its_row<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.session(1, 60).await;
    stage.read(1).await;
    stage.clock.advance(Duration::from_millis(59_999));
    assert_eq!(stage.read(1).await, Origin::Cache);
    stage.clock.advance(Duration::from_millis(1));
    assert_eq!(stage.read(1).await, Origin::Database);
    assert_eq!(stage.left(1).await, None);
    // It was prolonged without larder.
    world.sql(later("sessions", 90)).await;
    assert_eq!(stage.read(1).await, Origin::Database);
    assert_eq!(stage.read(1).await, Origin::Cache);
    let left = stage.left(1).await.unwrap();
    assert!(left <= 30, "{left} s");
}

fn later(table: &str, seconds: u32) -> String {
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!("UPDATE {table} SET expires_at = '1970-01-01 00:{minutes:02}:{seconds:02}'")
}

async fn a_row_that_has_ended_is_not_cached<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.clock.advance(secs(100));
    for (id, end) in [(1, 100), (2, 1)] {
        stage.session(id, end).await;
        for _ in 0..2 {
            assert_eq!(stage.read(id).await, Origin::Database);
            assert_eq!(stage.left(id).await, None);
        }
    }
    let stats = stage.sessions.stats();
    assert_eq!((stats.fills_accepted, stats.store_errors), (0, 0));
}

async fn a_row_without_an_end_lives_as_the_policy_says<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.tokens.insert(&token(1, None)).await.unwrap();
    let written = stage.left_of_token(1).await.unwrap();
    stage.tokens.refresh(1).await.unwrap();
    filled(|| stage.tokens.stats()).await;
    let loaded = stage.left_of_token(1).await.unwrap();
    for left in [written, loaded] {
        assert!((570..=600).contains(&left), "{left} s");
    }
}

async fn a_row_that_is_written_through_lives_until_its_end<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.tokens.insert(&token(1, Some(60))).await.unwrap();
    let left = stage.left_of_token(1).await.unwrap();
    assert!((30..=60).contains(&left), "{left} s");
    stage.clock.advance(secs(59));
    let outcome = stage.tokens.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    stage.clock.advance(secs(1));
    let outcome = stage.tokens.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Database);
    // What ends with the write itself is not cached, and what was there before is dropped.
    stage.tokens.update(&token(1, Some(90))).await.unwrap();
    assert!(stage.left_of_token(1).await.unwrap() <= 30);
    stage.tokens.update(&token(1, Some(60))).await.unwrap();
    assert_eq!(stage.left_of_token(1).await, None);
    stage
        .tokens
        .modify(1, |row| row.expires_at = None)
        .await
        .unwrap();
    assert!(stage.left_of_token(1).await.unwrap() > 570);
    let many = [token(2, Some(60)), token(3, Some(120))];
    stage.tokens.insert_many(&many).await.unwrap();
    assert_eq!(stage.left_of_token(2).await, None);
    let left = stage.left_of_token(3).await;
    assert!(left.is_none_or(|left| left <= 60), "{left:?} s");
}

async fn a_refreshed_row_lives_until_its_end<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.session(1, 60).await;
    stage.sessions.refresh(1).await.unwrap();
    filled(|| stage.sessions.stats()).await;
    assert!(stage.left(1).await.unwrap() <= 60);
}

async fn the_rows_of_a_batch_live_until_their_ends<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    for (id, end) in [(1, 60), (2, 120), (3, 9_000)] {
        stage.session(id, end).await;
    }
    let batch = async || {
        let before = stage.sessions.stats().loads;
        let rows = stage.sessions.find_many(&[1, 2, 3]).await.unwrap();
        assert!(rows.iter().all(Option::is_some));
        stage.sessions.stats().loads - before
    };
    assert_eq!(batch().await, 3);
    filled(|| stage.sessions.stats()).await;
    assert_eq!(batch().await, 0);
    assert!(stage.left(1).await.unwrap() <= 60);
    assert!(stage.left(2).await.unwrap() <= 120);
    stage.clock.advance(secs(60));
    assert_eq!(batch().await, 1, "one row has ended");
    stage.clock.advance(secs(60));
    assert_eq!(batch().await, 2, "two rows have ended");
}

async fn a_row_that_a_lookup_finds_is_not_served_after_its_end<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.session(1, 60).await;
    let found = async || {
        let before = stage.sessions.stats().loads;
        let row = stage.sessions.find_by_user_id(1_001).await.unwrap();
        assert_eq!(row.unwrap().id, 1);
        stage.sessions.stats().loads - before
    };
    assert_eq!(found().await, 2);
    filled(|| stage.sessions.stats()).await;
    assert_eq!(found().await, 0);
    stage.clock.advance(secs(60));
    assert_eq!(found().await, 1);
}

async fn the_option_of_a_call_does_not_prolong_a_row<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.session(1, 60).await;
    stage.sessions.find(1).ttl(secs(3_000)).await.unwrap();
    filled(|| stage.sessions.stats()).await;
    assert!(stage.left(1).await.unwrap() <= 60);
    stage.sessions.find(1).refresh().ttl(secs(9)).await.unwrap();
    filled(|| stage.sessions.stats()).await;
    assert!(stage.left(1).await.unwrap() <= 9);
}

async fn an_absence_has_no_end<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    assert_eq!(stage.sessions.find(1).await.unwrap(), None);
    filled(|| stage.sessions.stats()).await;
    stage.clock.advance(secs(1));
    let outcome = stage.sessions.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
}

/// The control of `an_entry_is_not_served_at_the_end_of_its_row`.
async fn a_late_store_serves_ended_rows_without_the_comparison<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::RowEnd);
    let stage = Stage::open(world).await;
    stage.session(1, 60).await;
    stage.read(1).await;
    stage.clock.advance(secs(60));
    assert_eq!(stage.read(1).await, Origin::Cache);
}
