//! A queue of parcels at its beginning, whose batches are applied without a store: for tests of one flush in the database.
//!
//! The table has a trigger that notes each change of a row, so that a write that is applied twice is seen although the row is
//! the same.
//!
//! Not here: the tests (`apply`, `refusals`, `divided`, `flush_transaction`).

use std::sync::Arc;

use larder::{
    Cached, Codec, DeadLetter, Repository,
    behind::{
        Batch, Image, Queued,
        apply::{Applied, Hooks},
        letter_seal::LetterSeals,
        letters,
        offsets::{QueueIncarnation, position_of, register},
    },
    tables::install,
};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres};

use crate::world::{Tested, World};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "parcels")]
pub(crate) struct Parcel {
    #[cached(id)]
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) weight: i64,
    pub(crate) note: Option<String>,
}

pub(crate) fn parcel(id: i64, name: &str) -> Parcel {
    Parcel {
        id,
        name: name.to_owned(),
        weight: 1,
        note: Some(String::new()),
    }
}

/// The bound on the statements of a transaction that is used where nothing else is said.
pub(crate) const MAX: u64 = 256;

pub(crate) const PARCELS: &str = "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL UNIQUE CHECK (LENGTH(name) <= 20), \
     weight BIGINT NOT NULL CHECK (weight >= 0), note VARCHAR(200) NOT NULL)";

pub(crate) const LARGE: &str = "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, weight BIGINT NOT NULL, note TEXT NOT NULL)";
pub(crate) const LARGE_ON_MYSQL: &str = "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, weight BIGINT NOT NULL, note LONGTEXT NOT NULL)";

/// More than MySQL takes in one message, which is 16 MiB for the server of the tests, in rows of which each is small enough.
pub(crate) fn large() -> Vec<Image<Parcel>> {
    saves((1..=32).map(|id| Parcel {
        note: Some("x".repeat(600_000)),
        ..parcel(id, "large")
    }))
}

/// The text for one database of three.
pub(crate) fn spelled<DB: Tested>(
    postgres: &'static str,
    mysql: &'static str,
    sqlite: &'static str,
) -> &'static str {
    match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => postgres,
        name if name == <MySql as sqlx::Database>::NAME => mysql,
        _ => sqlite,
    }
}

/// Refuses rows named `forbidden`, and notes every row that is written in `audit`.
fn triggers<DB: Tested>() -> &'static [&'static str] {
    match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => &[
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.name = 'forbidden' THEN RAISE EXCEPTION 'forbidden by a trigger'; END IF; \
             INSERT INTO audit (id, name) VALUES (NEW.id, NEW.name); RETURN NEW; END $$",
            "CREATE TRIGGER note AFTER INSERT OR UPDATE ON parcels FOR EACH ROW EXECUTE FUNCTION note()",
        ],
        name if name == <MySql as sqlx::Database>::NAME => &[
            "CREATE TRIGGER refuse BEFORE INSERT ON parcels FOR EACH ROW \
             IF NEW.name = 'forbidden' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'forbidden by a trigger'; END IF",
            "CREATE TRIGGER note AFTER INSERT ON parcels FOR EACH ROW INSERT INTO audit (id, name) VALUES (NEW.id, NEW.name)",
            "CREATE TRIGGER note_too AFTER UPDATE ON parcels FOR EACH ROW INSERT INTO audit (id, name) VALUES (NEW.id, NEW.name)",
        ],
        _ => &[
            "CREATE TRIGGER refuse BEFORE INSERT ON parcels WHEN NEW.name = 'forbidden' \
             BEGIN SELECT RAISE(ABORT, 'forbidden by a trigger'); END",
            "CREATE TRIGGER note AFTER INSERT ON parcels BEGIN INSERT INTO audit (id, name) VALUES (NEW.id, NEW.name); END",
            "CREATE TRIGGER note_too AFTER UPDATE ON parcels BEGIN INSERT INTO audit (id, name) VALUES (NEW.id, NEW.name); END",
        ],
    }
}

/// A queue of parcels at its beginning.
pub(crate) struct Desk<'w, DB: Tested> {
    pub(crate) world: &'w World<DB>,
    pub(crate) parcels: Repository<Parcel, DB>,
    pub(crate) place: QueueIncarnation,
}

pub(crate) async fn register_place<DB: Tested>(world: &World<DB>) -> QueueIncarnation {
    install(&world.pool).await.unwrap();
    QueueIncarnation {
        queue: Arc::from("test:Parcel"),
        partition: 2,
        incarnation: register(&world.pool, "test:Parcel", 2, 0).await.unwrap(),
    }
}

pub(crate) async fn desk_with<'w, DB: Tested>(world: &'w World<DB>, table: &str) -> Desk<'w, DB> {
    world.sql(table).await;
    Desk {
        world,
        parcels: Repository::new(&world.cache, world.pool.clone()),
        place: register_place(world).await,
    }
}

pub(crate) async fn desk<DB: Tested>(world: &World<DB>) -> Desk<'_, DB> {
    let desk = desk_with(world, PARCELS).await;
    world
        .sql("CREATE TABLE audit (id BIGINT NOT NULL, name VARCHAR(200) NOT NULL)")
        .await;
    for trigger in triggers::<DB>() {
        world.raw(*trigger).await;
    }
    desk
}

/// Makes numbered writes of images.
pub(crate) fn queued<E: larder::Entity>(
    key: impl Fn(&E::Id) -> larder::key::Key,
    images: Vec<Image<E>>,
) -> Vec<Queued<E>> {
    let numbered = (1..).zip(images);
    numbered
        .map(|(number, image)| {
            let key = match &image {
                Image::Row(row) => key(&row.id()),
                Image::Deletion(id) => key(id),
                Image::Unreadable { .. } => larder::key::Key::from_bytes(b"unreadable"),
            };
            Queued { number, key, image }
        })
        .collect()
}

pub(crate) fn batch<'a, E: larder::Entity>(
    place: &'a QueueIncarnation,
    writes: &'a [Queued<E>],
) -> Batch<'a, E> {
    Batch {
        place,
        from: 0,
        to: writes.last().map_or(0, |last| last.number),
        writes,
        lost: 0,
        lost_counted_to: None,
        compares: true,
        codec: Codec::default(),
        layout: 7,
        seals: LetterSeals::default(),
        now_ms: 1_000,
    }
}

pub(crate) fn save(row: Parcel) -> Image<Parcel> {
    Image::Row(Arc::new(row))
}

pub(crate) fn saves(rows: impl IntoIterator<Item = Parcel>) -> Vec<Image<Parcel>> {
    rows.into_iter().map(save).collect()
}

impl<DB: Tested> Desk<'_, DB> {
    pub(crate) fn queued(&self, images: Vec<Image<Parcel>>) -> Vec<Queued<Parcel>> {
        queued(|id| self.parcels.key(id).unwrap(), images)
    }

    /// Applies writes to the queue at its beginning.
    pub(crate) async fn apply(&self, images: Vec<Image<Parcel>>) -> Applied {
        let writes = self.queued(images);
        self.parcels
            .apply_queued(&batch(&self.place, &writes), &Hooks::default())
            .await
            .unwrap()
    }

    pub(crate) async fn position(&self) -> u64 {
        let known = position_of(&self.world.pool, &self.place).await.unwrap();
        known.unwrap().0
    }

    /// The rows as `id name`.
    pub(crate) async fn rows(&self) -> Vec<String> {
        self.listed("SELECT CONCAT(id, ' ', name) FROM parcels ORDER BY id")
            .await
    }

    pub(crate) async fn audited(&self) -> Vec<String> {
        self.listed("SELECT CONCAT(id, ' ', name) FROM audit ORDER BY id, name")
            .await
    }

    pub(crate) async fn listed(&self, text: &'static str) -> Vec<String> {
        let mut connection = self.world.pool.acquire().await.unwrap();
        let sql = sqlx::SqlSafeStr::into_sql_str(text);
        let rows = DB::fetch_all(&mut connection, sql, DB::Arguments::default());
        let rows = rows.await.unwrap();
        rows.iter()
            .map(|row| DB::text(row, 0).unwrap().unwrap())
            .collect()
    }

    pub(crate) async fn letters(&self) -> Vec<DeadLetter<Parcel>> {
        letters::list(
            &self.world.pool,
            &self.place.queue,
            7,
            LetterSeals::default(),
            100,
        )
        .await
        .unwrap()
    }
}

/// The numbers of the writes that died.
pub(crate) fn dead(applied: &Applied) -> Vec<u64> {
    applied.dead.iter().map(|dead| dead.number).collect()
}

/// A batch of which some writes are refused.
pub(crate) fn refusing(writes: i64, is_refused: impl Fn(i64) -> bool) -> Vec<Image<Parcel>> {
    saves((1..=writes).map(|id| {
        let name = format!("name {id}");
        parcel(id, if is_refused(id) { "forbidden" } else { &name })
    }))
}
