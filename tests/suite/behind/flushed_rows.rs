//! Rows that the database changes when they are flushed: readers see what the database has, never what was written.
//!
//! Each case has a table that changes a value in its own way. It runs twice: with the comparison, and without it, to show
//! that the table changes the value and that the cache would have served the written one.

use std::{fmt::Debug, sync::Arc};

use chrono::{DateTime, NaiveDateTime, Utc};
use larder::{Cached, Entity, ErrorKind, Origin, Repository, store::Mechanism, writes::ToQueue};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{Database as _, MySql, Postgres, Sqlite};

use crate::{
    behind::put::behind,
    entities::{Behind, Item},
    world::{Tested, World, everywhere, on_both_stores, on_mysql, on_postgres},
};

/// Defines a write-behind entity over the table `things`.
macro_rules! thing {
    ($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "things", strategy = "write_behind", durability = "memory", ttl = "10m")]
        struct $name {
            #[cached(id)]
            id: i64,
            $($(#[$attribute])* $field: $type,)*
        }
    };
}

thing!(Price { value: Decimal });
thing!(Moment { value: DateTime<Utc> });
thing!(Local {
    value: NaiveDateTime
});
thing!(Text { value: String });
thing!(Maybe { value: Option<String> });
thing!(Real { value: f64 });
thing!(Document {
    #[sqlx(json)]
    value: serde_json::Value
});
thing!(Labels {
    #[sqlx(json)]
    value: std::collections::HashMap<String, i64>
});
thing!(Folded { value: Lower });

/// A text that is written to the database in lower case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lower(String);

impl<DB: sqlx::Database> sqlx::Type<DB> for Lower
where
    String: sqlx::Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        String::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        String::compatible(ty)
    }
}

impl<'q, DB: sqlx::Database> sqlx::Encode<'q, DB> for Lower
where
    String: sqlx::Encode<'q, DB>,
{
    fn encode_by_ref(
        &self,
        buffer: &mut DB::ArgumentBuffer,
    ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
        self.0.to_lowercase().encode(buffer)
    }
}

impl<'r, DB: sqlx::Database> sqlx::Decode<'r, DB> for Lower
where
    String: sqlx::Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
        String::decode(value).map(Self)
    }
}

/// The result of a read.
type Brought<E> = Result<Option<E>, ErrorKind>;

fn brought<E: Clone>(read: Result<Option<Arc<E>>, larder::Error>) -> Brought<E> {
    read.map(|row| row.map(|row| E::clone(&row)))
        .map_err(|error| error.kind())
}

/// Writes a row, flushes it, and reads it. Returns what readers see, and what the database has.
async fn flushed<E, DB>(world: &World<DB>, row: &E) -> (Brought<E>, Brought<E>)
where
    E: Entity<Id = i64, Writes = ToQueue>,
    DB: Tested,
{
    let rows: Repository<E, DB> = Repository::new(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(row).await.unwrap();
    rows.flush().await.unwrap();
    let seen = brought(rows.find(row.id()).await);
    let held = brought(rows.find_uncached(row.id()).await);
    (seen, held)
}

/// Creates a table, and checks that readers see what it stores. Checks that without the comparison they would not.
async fn changes<E, DB>(world: &World<DB>, table: &[&str], mut rows: impl FnMut(i64) -> E)
where
    E: Entity<Id = i64, Writes = ToQueue> + PartialEq + Debug,
    DB: Tested,
{
    for statement in table {
        world.raw(*statement).await;
    }
    let (seen, held) = flushed(world, &rows(1)).await;
    assert_ne!(held, Ok(Some(rows(1))), "the table keeps it as it is");
    assert_eq!(seen, held);
    world.faults.leave_out(Mechanism::FlushedRow);
    let (seen, held) = flushed(world, &rows(2)).await;
    assert_eq!(seen, Ok(Some(rows(2))), "it is not the comparison");
    assert_ne!(seen, held);
}

fn text(value: &str) -> impl FnMut(i64) -> Text {
    move |id| Text {
        id,
        value: value.to_owned(),
    }
}

fn price(value: &str) -> impl FnMut(i64) -> Price {
    let value = value.parse().unwrap();
    move |id| Price { id, value }
}

fn moment(value: &str) -> impl FnMut(i64) -> Moment {
    let value = value.parse().unwrap();
    move |id| Moment { id, value }
}

/// Makes a test for each of these, with both stores.
macro_rules! changed {
    ($on:ident, $database:ident: $($case:ident($($statement:literal),+; $rows:expr);)*) => {
        $(async fn $case(world: &World<$database>) {
            changes(world, &[$($statement),+], $rows).await;
        })*

        $on! { $($case),* }
    };
}

changed! { on_postgres, Postgres:
    a_numeric_that_postgres_rounds_is_seen_rounded(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value NUMERIC(10, 2) NOT NULL)"; price("1.005")
    );
    a_numeric_of_a_domain_that_postgres_rounds_is_seen_rounded(
        "CREATE DOMAIN cents AS NUMERIC(10, 2)",
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value cents NOT NULL)"; price("9.999")
    );
    nanoseconds_that_postgres_does_not_keep_are_not_seen(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TIMESTAMPTZ NOT NULL)"; moment("2026-01-02T03:04:05.123456789Z")
    );
    microseconds_that_the_column_does_not_keep_are_not_seen(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TIMESTAMPTZ(0) NOT NULL)"; moment("2026-01-02T03:04:05.9Z")
    );
    a_text_that_postgres_pads_is_seen_padded(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value CHAR(5) NOT NULL)"; text("ab")
    );
    blanks_that_postgres_cuts_off_are_not_seen(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value VARCHAR(3) NOT NULL)"; text("abc   ")
    );
    json_that_postgres_normalises_is_seen_normalised(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value JSONB NOT NULL)";
        |id| Document { id, value: serde_json::from_str(r#"{"n": 1e16}"#).unwrap() }
    );
    a_row_that_a_trigger_changes_before_is_seen_changed(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.value := lower(NEW.value); RETURN NEW; END $$",
        "CREATE TRIGGER low BEFORE INSERT OR UPDATE ON things FOR EACH ROW EXECUTE FUNCTION low()"; text("LOUD")
    );
    a_row_that_a_trigger_changes_after_is_seen_changed(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         UPDATE things SET value = lower(value) WHERE id = NEW.id AND value <> lower(value); RETURN NULL; END $$",
        "CREATE TRIGGER low AFTER INSERT OR UPDATE ON things FOR EACH ROW EXECUTE FUNCTION low()"; text("LOUD")
    );
    a_row_that_a_trigger_changes_at_the_commit_is_seen_changed(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         UPDATE things SET value = lower(value) WHERE id = NEW.id AND value <> lower(value); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER low AFTER INSERT OR UPDATE ON things DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION low()"; text("LOUD")
    );
    a_value_that_is_changed_on_its_way_to_postgres_is_seen_as_it_came(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TEXT NOT NULL)"; |id| Folded { id, value: Lower("LOUD".to_owned()) }
    );
    a_row_that_a_view_changes_is_seen_changed(
        "CREATE TABLE plain (id BIGINT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         UPDATE plain SET value = lower(value) WHERE id = NEW.id AND value <> lower(value); RETURN NULL; END $$",
        "CREATE TRIGGER low AFTER INSERT OR UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION low()",
        "CREATE VIEW things AS SELECT * FROM plain"; text("LOUD")
    );
}

changed! { on_mysql, MySql:
    a_decimal_that_mysql_rounds_is_seen_rounded(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value DECIMAL(10, 2) NOT NULL)"; price("1.005")
    );
    fractions_of_a_second_that_mysql_does_not_keep_are_not_seen(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value DATETIME NOT NULL)";
        |id| Local { id, value: "2026-01-02T03:04:05.7".parse().unwrap() }
    );
    nanoseconds_that_mysql_does_not_keep_are_not_seen(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value DATETIME(6) NOT NULL)";
        |id| Local { id, value: "2026-01-02T03:04:05.123456789".parse().unwrap() }
    );
    blanks_that_mysql_strips_are_not_seen(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value CHAR(5) NOT NULL)"; text("ab  ")
    );
    a_double_that_mysql_keeps_as_a_float_is_seen_so(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value FLOAT NOT NULL)"; |id| Real { id, value: 0.1 }
    );
    a_row_that_a_trigger_of_mysql_changes_is_seen_changed(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TRIGGER low BEFORE INSERT ON things FOR EACH ROW SET NEW.value = LOWER(NEW.value)"; text("LOUD")
    );
    a_value_that_is_changed_on_its_way_to_mysql_is_seen_as_it_came(
        "CREATE TABLE things (id BIGINT PRIMARY KEY, value TEXT NOT NULL)"; |id| Folded { id, value: Lower("LOUD".to_owned()) }
    );
}

changed! { on_both_stores, Sqlite:
    a_text_that_sqlite_keeps_as_a_number_is_seen_so(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)"; text("1")
    );
    a_number_that_sqlite_keeps_as_a_text_is_seen_so(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT NOT NULL)"; |id| Real { id, value: 0.5 }
    );
    a_row_that_a_trigger_of_sqlite_changes_is_seen_changed(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TRIGGER low AFTER INSERT ON things BEGIN UPDATE things SET value = lower(value) WHERE id = NEW.id; END";
        text("LOUD")
    );
    a_null_that_a_trigger_of_sqlite_fills_in_is_seen_filled_in(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT)",
        "CREATE TRIGGER fill AFTER INSERT ON things BEGIN UPDATE things SET value = 'filled' WHERE id = NEW.id; END";
        |id| Maybe { id, value: None }
    );
    a_value_that_is_changed_on_its_way_to_sqlite_is_seen_as_it_came(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT NOT NULL)"; |id| Folded { id, value: Lower("LOUD".to_owned()) }
    );
}

/// A row that the database stores unchanged stays in the cache, also if a map comes back in another order.
async fn a_row_that_the_database_keeps_is_served_on<DB: Tested>(world: &World<DB>) {
    let json = if DB::NAME == <Postgres as sqlx::Database>::NAME {
        "JSONB"
    } else {
        "LONGTEXT"
    };
    world
        .raw(format!(
            "CREATE TABLE things (id BIGINT NOT NULL PRIMARY KEY, value {json} NOT NULL)"
        ))
        .await;
    let rows: Repository<Labels, DB> = Repository::new(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    let labels = |count: i64| (0..count).map(|label| (format!("label {label}"), label));
    for id in 0..100 {
        let value = labels(id).collect();
        rows.save(&Labels { id, value }).await.unwrap();
    }
    rows.flush().await.unwrap();
    for id in 0..100 {
        let outcome = rows.find_outcome(id).await.unwrap();
        assert_eq!(outcome.origin, Origin::Cache, "row {id}");
        assert_eq!(outcome.row.unwrap().value.len() as i64, id);
    }
    assert_eq!(rows.stats().loads, 0);
}

/// Only the changed row of a batch is dropped.
async fn of_a_batch_only_what_was_changed_is_dropped<DB: Tested>(world: &World<DB>) {
    let trigger = match DB::NAME {
        name if name == Postgres::NAME => {
            "CREATE FUNCTION double() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.id = 7 THEN NEW.quantity := 2; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER double BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION double()"
        }
        name if name == MySql::NAME => {
            "CREATE TRIGGER twice BEFORE INSERT ON items FOR EACH ROW SET NEW.quantity = IF(NEW.id = 7, 2, NEW.quantity)"
        }
        _ => {
            "CREATE TRIGGER twice AFTER INSERT ON items WHEN NEW.id = 7 BEGIN UPDATE items SET quantity = 2 WHERE id = 7; END"
        }
    };
    world.raw(trigger).await;
    let rows = behind(world).await;
    for id in 0..1_200 {
        rows.save(&Behind::new(id, "new")).await.unwrap();
    }
    rows.flush().await.unwrap();
    for id in 0..1_200 {
        let outcome = rows.find_outcome(id).await.unwrap();
        let (origin, quantity) = if id == 7 {
            (Origin::Database, 2)
        } else {
            (Origin::Cache, 1)
        };
        assert_eq!(outcome.origin, origin, "row {id}");
        assert_eq!(outcome.row.unwrap().quantity, quantity, "row {id}");
    }
}

/// Items that are flushed in one transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items", strategy = "write_behind", durability = "memory")]
#[cached(partitions = 1, batch = 2000, ttl = "10m")]
struct Whole {
    #[cached(id)]
    id: i64,
    name: String,
    quantity: i64,
}

/// A row's trigger changes another row that the same flush has written, with the same statement or an earlier one.
async fn a_row_that_the_trigger_of_another_row_changes_is_not_served<DB: Tested>(
    world: &World<DB>,
) {
    let trigger = match DB::NAME {
        name if name == Postgres::NAME => {
            "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.id = 1100 THEN UPDATE items SET quantity = 2 WHERE id = 7; END IF; RETURN NEW; END $$; \
             CREATE TRIGGER other BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION other()"
        }
        // MySQL allows no trigger to change the table that it belongs to.
        name if name == MySql::NAME => return,
        _ => {
            "CREATE TRIGGER other AFTER INSERT ON items WHEN NEW.id = 1100 BEGIN UPDATE items SET quantity = 2 WHERE id = 7; END"
        }
    };
    world.raw(trigger).await;
    let rows: Repository<Whole, DB> = Repository::new(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    for id in 0..1_200 {
        let name = "new".to_owned();
        let row = Whole {
            id,
            name,
            quantity: 1,
        };
        rows.save(&row).await.unwrap();
    }
    rows.flush().await.unwrap();
    assert_eq!(rows.stats().flushes, 1);
    let row = rows.find(7).await.unwrap().unwrap();
    let held = rows.find_uncached(7).await.unwrap().unwrap();
    assert_eq!((&row, row.quantity), (&held, 2));
}

/// The database has accepted the deletion and not executed it, or there was no row to delete. Both look the same.
async fn a_row_whose_deletion_a_trigger_suppresses_is_seen<DB: Tested>(world: &World<DB>) {
    let trigger = match DB::NAME {
        name if name == Postgres::NAME => {
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF OLD.id = 1 THEN RETURN NULL; END IF; RETURN OLD; END $$; \
             CREATE TRIGGER keep BEFORE DELETE ON items FOR EACH ROW EXECUTE FUNCTION keep()"
        }
        // MySQL has no such triggers.
        name if name == MySql::NAME => return,
        _ => {
            "CREATE TRIGGER keep BEFORE DELETE ON items WHEN OLD.id = 1 BEGIN SELECT RAISE(IGNORE); END"
        }
    };
    world.raw(trigger).await;
    world.put(&Item::new(1, "kept")).await;
    world.put(&Item::new(2, "deleted")).await;
    let rows = behind(world).await;
    rows.delete(1).await.unwrap();
    rows.delete(2).await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "kept");
    let outcome = rows.find_outcome(2).await.unwrap();
    assert_eq!(outcome.row, None);
    world.faults.leave_out(Mechanism::FlushedRow);
    rows.delete(1).await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(
        rows.find(1).await.unwrap(),
        None,
        "it is not the comparison"
    );
}

everywhere! {
    a_row_that_the_database_keeps_is_served_on,
    of_a_batch_only_what_was_changed_is_dropped,
    a_row_that_the_trigger_of_another_row_changes_is_not_served,
    a_row_whose_deletion_a_trigger_suppresses_is_seen,
}

/// A program whose struct lacks a column flushes a row that another program has queued. It does not write that column, so
/// the row in the cache differs from the one in the database.
async fn a_row_that_another_version_has_flushed_is_read_from_the_database<DB: Tested>(
    world: &World<DB>,
) {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(
        table = "items",
        strategy = "write_behind",
        durability = "memory",
        ttl = "10m"
    )]
    struct Behind {
        #[cached(id)]
        id: i64,
        name: String,
        quantity: i64,
    }
    world.put(&Item::new(1, "old")).await;
    let rows = behind(world).await;
    let older: Repository<Behind, DB> = Repository::new(&world.cache, world.pool.clone());
    let newer = crate::entities::Behind {
        note: Some("only the newer version writes it".to_owned()),
        ..crate::entities::Behind::new(1, "new")
    };
    rows.save(&newer).await.unwrap();
    older.flush().await.unwrap();
    let held = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!((&*held.name, &held.note), ("new", &None));
    assert_eq!(rows.find(1).await.unwrap().unwrap(), held);
}

mod a_row_that_another_version_has_flushed_is_read_from_the_database {
    crate::world::case!(
        a_row_that_another_version_has_flushed_is_read_from_the_database,
        sqlite,
        Redis,
        Sqlite
    );
    crate::world::case!(
        a_row_that_another_version_has_flushed_is_read_from_the_database,
        postgres,
        Redis,
        Postgres
    );
    crate::world::case!(
        a_row_that_another_version_has_flushed_is_read_from_the_database,
        mysql,
        Redis,
        MySql
    );
}
