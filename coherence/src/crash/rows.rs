//! The rows that are written behind, and the tables they are flushed to.
//!
//! Few rows in few partitions, small batches and a short queue: so batches hold several images of one row, and the queue is
//! full from time to time. The times to live are longer than any round, so that nothing stale heals by itself.
//!
//! 1. `flushed` holds the rows. It refuses a negative weight, which makes a write one that must become a dead letter.
//! 2. Triggers append every change to `audit`, in the transaction that makes it. So a change that is made twice is seen even if
//!    the second time changes nothing.
//!
//! Invariant: the entries of one row in `audit` are in the order of its changes, since the row is locked meanwhile.

use std::collections::BTreeMap;

use larder::{
    Cache, Cached, Entity, Repository,
    writes::{ById, ToQueue},
};
use larder_coherence::{
    harness::site::{self, Address, Site},
    options::Database,
    queue::judge::{Change, Kept},
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, Pool};

/// A row, whatever keeps its queue.
pub(crate) trait Row: Entity<Id = i64, Writes = ToQueue, Deletes = ById> {
    /// The rows, through a cache.
    fn rows<DB: Site>(cache: &Cache, pool: Pool<DB>) -> Repository<Self, DB>;

    /// The row that a write with this number leaves; refused if the weight is negative.
    fn image(id: i64, number: i64, weight: i64) -> Self;

    /// The number of the write that left it.
    fn number(&self) -> i64;

    /// Makes it the image of the write with this number.
    fn set_number(&mut self, number: i64);
}

/// The weight of a row that serde writes as another one. No write of it may be acknowledged.
pub(crate) const UNFAITHFUL: i64 = 2;

/// What serde writes of a row.
#[derive(Deserialize, Serialize)]
struct Written {
    id: i64,
    number: i64,
    weight: i64,
}

/// Makes a struct of the one layout, with a strategy of its own.
macro_rules! row {
    ($(#[$doc:meta])* $name:ident, $($option:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[serde(into = "Written", from = "Written")]
        #[cached(
            table = "flushed",
            strategy = "write_behind",
            partitions = 2,
            max_pending = 600,
            on_full = "flush",
            batch = 24,
            linger = "10ms",
            ttl = "1h",
            negative_ttl = "1h",
            jitter = 0,
            lease(ttl = "2s", wait = "200ms"),
            $($option)*
        )]
        pub(crate) struct $name {
            #[cached(id)]
            id: i64,
            /// The place of the write that left the row among the writes of the row.
            number: i64,
            /// Negative in a row that the database refuses, [`UNFAITHFUL`] in one that the codec changes.
            weight: i64,
        }

        impl From<$name> for Written {
            fn from($name { id, number, weight }: $name) -> Self {
                let is_changed = weight == UNFAITHFUL;
                Self {
                    id,
                    number: number - i64::from(is_changed),
                    weight,
                }
            }
        }

        impl From<Written> for $name {
            fn from(Written { id, number, weight }: Written) -> Self {
                Self { id, number, weight }
            }
        }

        impl Row for $name {
            fn rows<DB: Site>(cache: &Cache, pool: Pool<DB>) -> Repository<Self, DB> {
                Self::repository(cache, pool).inner().clone()
            }

            fn image(id: i64, number: i64, weight: i64) -> Self {
                Self { id, number, weight }
            }

            fn number(&self) -> i64 {
                self.number
            }

            fn set_number(&mut self, number: i64) {
                self.number = number;
            }
        }
    };
}

row! {
    /// A row whose queue is in Redis.
    Flushed,
    durability = "fsync"
}

row! {
    /// A row whose queue is in the process, and in its journal.
    Journaled,
    journal = "flushed.journal"
}

/// The statements that make the tables.
fn tables<DB: Site>() -> Vec<String> {
    let number = match DB::KIND {
        Database::Postgres => "BIGSERIAL PRIMARY KEY",
        Database::Mysql => "BIGINT AUTO_INCREMENT PRIMARY KEY",
        Database::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
    };
    let mut all = vec![
        "CREATE TABLE flushed (id BIGINT NOT NULL PRIMARY KEY, number BIGINT NOT NULL, \
         weight BIGINT NOT NULL CHECK (weight >= 0))"
            .to_owned(),
        format!(
            "CREATE TABLE audit (seq {number}, id BIGINT NOT NULL, number BIGINT NOT NULL, gone BIGINT NOT NULL)"
        ),
    ];
    let note = |row: &str, gone: u8| {
        format!("INSERT INTO audit (id, number, gone) VALUES ({row}.id, {row}.number, {gone});")
    };
    if DB::KIND == Database::Postgres {
        all.push(format!(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF TG_OP = 'DELETE' THEN {} ELSE {} END IF; RETURN NULL; END $$",
            note("OLD", 1),
            note("NEW", 0)
        ));
        all.push(
            "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON flushed FOR EACH ROW EXECUTE FUNCTION note()"
                .to_owned(),
        );
    } else {
        for (event, row, gone) in [
            ("INSERT", "NEW", 0),
            ("UPDATE", "NEW", 0),
            ("DELETE", "OLD", 1),
        ] {
            all.push(format!(
                "CREATE TRIGGER flushed_{event} AFTER {event} ON flushed FOR EACH ROW BEGIN {} END",
                note(row, gone)
            ));
        }
    }
    all
}

/// Makes the tables, but for those of larder.
pub(crate) async fn create_tables<DB: Site>(address: &Address) -> Result<(), sqlx::Error> {
    let mut connection = site::connect::<DB>(address).await?;
    for sql in tables::<DB>() {
        DB::raw(&mut connection, sql).await?;
    }
    connection.close().await
}

/// Puts counters into the table, past the queue.
pub(crate) async fn create_counters<DB: Site>(
    address: &Address,
    ids: std::ops::Range<i64>,
) -> Result<(), sqlx::Error> {
    let mut connection = site::connect::<DB>(address).await?;
    for id in ids {
        let sql = format!("INSERT INTO flushed (id, number, weight) VALUES ({id}, 0, 1)");
        DB::raw(&mut connection, sql).await?;
    }
    connection.close().await
}

/// What the database has of the rows with these ids, but for their dead letters.
pub(crate) async fn kept<DB: Site>(
    address: &Address,
    ids: std::ops::Range<i64>,
) -> Result<BTreeMap<i64, Kept>, sqlx::Error> {
    let mut connection = site::connect::<DB>(address).await?;
    let text = match DB::KIND {
        Database::Mysql => "CHAR",
        _ => "TEXT",
    };
    let range = format!("id >= {} AND id < {}", ids.start, ids.end);
    let mut kept: BTreeMap<i64, Kept> = BTreeMap::new();
    let sql = format!(
        "SELECT CAST(id AS {text}), CAST(number AS {text}), CAST(gone AS {text}) FROM audit WHERE {range} ORDER BY seq"
    );
    for row in site::query::<DB>(&mut connection, &sql, 3).await? {
        let [id, number, gone] = numbers(&row);
        let change = match gone {
            0 => Change::Row(number),
            _ => Change::Gone(number),
        };
        kept.entry(id).or_default().changes.push(change);
    }
    let sql =
        format!("SELECT CAST(id AS {text}), CAST(number AS {text}) FROM flushed WHERE {range}");
    for row in site::query::<DB>(&mut connection, &sql, 2).await? {
        let [id, number] = numbers(&row);
        kept.entry(id).or_default().left = Some(number);
    }
    connection.close().await?;
    Ok(kept)
}

fn numbers<const N: usize>(row: &[Option<String>]) -> [i64; N] {
    std::array::from_fn(|at| {
        let text = row[at].as_deref().expect("no column may be null");
        text.parse().expect("the columns hold numbers")
    })
}

/// Makes the tables of larder.
pub(crate) async fn install<DB: Site>(address: &Address) {
    let cache = Cache::builder().build();
    let cache = cache.expect("the options are valid");
    let pool = site::pool::<DB>(address, "harness", 1)
        .await
        .expect("the database accepts connections");
    let rows = Flushed::rows(&cache, pool.clone());
    rows.install().await.expect("a database takes tables");
    pool.close().await;
}
