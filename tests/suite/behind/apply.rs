//! One flush in the database: what a batch of queued writes leaves in the table, whatever the database says to some of them.
//!
//! The table has a trigger that notes each change of a row, so that a write that is applied twice is seen although the row is
//! the same.
//!
//! Not here: where the writes come from, and what is told to the store.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
    mpsc,
};

use larder::{
    Cached, Codec, DeadLetter, Repository,
    behind::{
        Batch, Image, Queued,
        apply::{Applied, ApplyError, Hooks},
        letters,
        offsets::{QueueIncarnation, close, position_of, register},
    },
    tables::install,
};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};

use crate::{
    lost_transactions::{dropped_after, is_in_transaction, lone_connection},
    world::{Tested, World, at_once, on_all_databases, on_mysql, on_postgres, on_servers},
};

on_all_databases!(
    a_batch_is_applied_once_by_appliers_at_once,
    without_the_comparison_a_batch_is_applied_twice,
    of_one_row_the_last_write_wins,
    without_the_order_of_the_queue_an_older_write_wins,
    what_the_database_refuses_dies_and_everything_else_is_applied,
    a_batch_of_refusals_alone_moves_the_queue,
    unique_value_that_moves_between_rows_of_a_batch_is_no_dead_letter,
    a_refusal_that_a_later_write_makes_pointless_kills_no_write,
    a_refused_write_leaves_the_one_before_it,
    a_row_that_another_unique_key_holds_off_touches_no_other_row,
    text_ids_are_saved_byte_for_byte,
    an_error_about_the_database_kills_no_write,
    a_column_that_the_struct_lacks_kills_no_write,
    a_write_that_cannot_be_read_is_kept_as_it_is,
    writes_of_a_closed_incarnation_die,
    what_the_store_has_lost_is_counted_with_the_batch,
    a_batch_larger_than_a_statement_is_applied,
    a_batch_larger_than_a_message_is_applied,
    dead_letters_larger_than_a_message_are_written,
    a_dead_letter_is_there_until_it_is_discarded,
    a_batch_of_which_half_is_refused_costs_little_more_than_its_rows,
    without_a_bound_all_of_it_is_one_transaction,
    a_batch_of_refusals_alone_costs_little_more_than_its_rows,
    a_refusal_among_many_costs_few_statements,
    a_flusher_that_dies_between_transactions_of_a_batch_leaves_the_rest_to_the_next,
    rows_that_are_written_and_refused_in_turn_end_as_if_one_by_one,
);
on_servers!(a_flusher_that_stops_half_way_lets_the_next_one_go_on);
on_postgres!(
    a_thousand_rows_take_one_statement_of_postgres,
    triggers_behind_a_statement_of_postgres_cost_one_more,
    types_without_arrays_are_saved_row_by_row,
);
on_mysql!(
    a_flush_leaves_the_session_as_it_was,
    a_flush_that_is_dropped_leaves_no_transaction_behind,
    a_row_larger_than_a_message_kills_its_write_alone,
    a_write_that_is_too_large_even_for_a_dead_letter_waits,
);

// MySQL has no such triggers.
mod a_trigger_that_suppresses_a_row_kills_its_write {
    crate::world::case!(
        a_trigger_that_suppresses_a_row_kills_its_write,
        sqlite,
        Memory,
        Sqlite
    );
    crate::world::case!(
        a_trigger_that_suppresses_a_row_kills_its_write,
        postgres,
        Memory,
        Postgres
    );
}

mod a_refusal_at_the_commit_kills_its_write_alone {
    crate::world::case!(
        a_refusal_at_the_commit_kills_its_write_alone,
        sqlite,
        Memory,
        Sqlite
    );
    crate::world::case!(
        a_refusal_at_the_commit_kills_its_write_alone,
        postgres,
        Memory,
        Postgres
    );
}

mod a_trigger_that_rolls_back_kills_its_write_alone {
    crate::world::case!(
        a_trigger_that_rolls_back_kills_its_write_alone,
        sqlite,
        Memory,
        Sqlite
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "parcels")]
struct Parcel {
    #[cached(id)]
    id: i64,
    name: String,
    weight: i64,
    note: Option<String>,
}

fn parcel(id: i64, name: &str) -> Parcel {
    Parcel {
        id,
        name: name.to_owned(),
        weight: 1,
        note: Some(String::new()),
    }
}

/// The bound on the statements of a transaction that is used where nothing else is said.
const MAX: u64 = 256;

const PARCELS: &str = "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL UNIQUE CHECK (LENGTH(name) <= 20), \
     weight BIGINT NOT NULL CHECK (weight >= 0), note VARCHAR(200) NOT NULL)";

/// The text for one database of three.
fn spelled<DB: Tested>(
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
struct Desk<'w, DB: Tested> {
    world: &'w World<DB>,
    parcels: Repository<Parcel, DB>,
    place: QueueIncarnation,
}

async fn register_place<DB: Tested>(world: &World<DB>) -> QueueIncarnation {
    install(&world.pool).await.unwrap();
    QueueIncarnation {
        queue: Arc::from("test:Parcel"),
        partition: 2,
        incarnation: register(&world.pool, "test:Parcel", 2, 0).await.unwrap(),
    }
}

async fn desk_with<'w, DB: Tested>(world: &'w World<DB>, table: &str) -> Desk<'w, DB> {
    world.sql(table).await;
    Desk {
        world,
        parcels: Repository::new(&world.cache, world.pool.clone()),
        place: register_place(world).await,
    }
}

async fn desk<DB: Tested>(world: &World<DB>) -> Desk<'_, DB> {
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
fn queued<E: larder::Entity>(
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

fn batch<'a, E: larder::Entity>(
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
        now_ms: 1_000,
    }
}

fn save(row: Parcel) -> Image<Parcel> {
    Image::Row(Arc::new(row))
}

fn saves(rows: impl IntoIterator<Item = Parcel>) -> Vec<Image<Parcel>> {
    rows.into_iter().map(save).collect()
}

impl<DB: Tested> Desk<'_, DB> {
    fn queued(&self, images: Vec<Image<Parcel>>) -> Vec<Queued<Parcel>> {
        queued(|id| self.parcels.key(id).unwrap(), images)
    }

    /// Applies writes to the queue at its beginning.
    async fn apply(&self, images: Vec<Image<Parcel>>) -> Applied {
        let writes = self.queued(images);
        self.parcels
            .apply_queued(&batch(&self.place, &writes), &Hooks::default())
            .await
            .unwrap()
    }

    async fn position(&self) -> u64 {
        let known = position_of(&self.world.pool, &self.place).await.unwrap();
        known.unwrap().0
    }

    /// The rows as `id name`.
    async fn rows(&self) -> Vec<String> {
        self.listed("SELECT CONCAT(id, ' ', name) FROM parcels ORDER BY id")
            .await
    }

    async fn audited(&self) -> Vec<String> {
        self.listed("SELECT CONCAT(id, ' ', name) FROM audit ORDER BY id, name")
            .await
    }

    async fn listed(&self, text: &'static str) -> Vec<String> {
        let mut connection = self.world.pool.acquire().await.unwrap();
        let sql = sqlx::SqlSafeStr::into_sql_str(text);
        let rows = DB::fetch_all(&mut connection, sql, DB::Arguments::default());
        let rows = rows.await.unwrap();
        rows.iter()
            .map(|row| DB::text(row, 0).unwrap().unwrap())
            .collect()
    }

    async fn letters(&self) -> Vec<DeadLetter<Parcel>> {
        letters::list(&self.world.pool, &self.place.queue, 7, 100)
            .await
            .unwrap()
    }
}

/// The numbers of the writes that died.
fn dead(applied: &Applied) -> Vec<u64> {
    applied.dead.iter().map(|dead| dead.number).collect()
}

async fn a_batch_is_applied_once_by_appliers_at_once<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let (parcels, place) = (desk.parcels.clone(), desk.place.clone());
    let images = saves((1..=20).map(|id| parcel(id, &format!("name {id}"))));
    let writes = Arc::new(desk.queued(images));
    let ended = at_once(6, |_| {
        let (parcels, place, writes) = (parcels.clone(), place.clone(), Arc::clone(&writes));
        async move {
            let batch = batch(&place, &writes);
            parcels.apply_queued(&batch, &Hooks::default()).await
        }
    });
    let mut applied = 0;
    for result in ended.await {
        match result {
            Ok(done) => {
                applied += 1;
                assert_eq!((done.rows, dead(&done)), (20, vec![]));
            }
            Err(unapplied) => assert!(matches!(unapplied, ApplyError::Overtaken), "{unapplied:?}"),
        }
    }
    assert_eq!(applied, 1);
    assert_eq!(desk.audited().await.len(), 20);
    assert_eq!(desk.position().await, 20);
}

/// Shows that the trigger tells a second application from the first.
async fn without_the_comparison_a_batch_is_applied_twice<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let writes = desk.queued(saves([parcel(1, "one"), parcel(2, "two")]));
    let reset = "UPDATE larder_offsets SET position = 0";
    for _ in 0..2 {
        let batch = batch(&desk.place, &writes);
        let applied = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
        applied.unwrap();
        desk.world.sql(reset).await;
    }
    assert_eq!(desk.rows().await, ["1 one", "2 two"]);
    // MySQL says of the second one that no column has changed, and runs the trigger all the same.
    assert_eq!(
        desk.audited().await,
        ["1 one", "1 one", "2 two", "2 two"],
        "applied twice"
    );
}

async fn of_one_row_the_last_write_wins<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    desk.world
        .sql("INSERT INTO parcels VALUES (3, 'old', 1, ''), (4, 'older', 1, '')")
        .await;
    let applied = desk
        .apply(vec![
            save(parcel(1, "a")),
            save(parcel(2, "b")),
            Image::Deletion(1),
            save(parcel(2, "c")),
            save(parcel(1, "d")),
            save(parcel(3, "e")),
            Image::Deletion(3),
            save(parcel(4, "f")),
            Image::Deletion(9),
        ])
        .await;
    assert_eq!(desk.rows().await, ["1 d", "2 c", "4 f"]);
    assert_eq!(desk.audited().await.last().unwrap(), "4 older");
    assert_eq!((applied.rows, dead(&applied)), (4, vec![]));
    assert_eq!(desk.position().await, 9);
}

async fn without_the_order_of_the_queue_an_older_write_wins<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let mut writes = desk.queued(saves([parcel(1, "first"), parcel(1, "last")]));
    writes.reverse();
    let batch = Batch {
        to: 2,
        ..batch(&desk.place, &writes)
    };
    let applied = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    applied.unwrap();
    assert_eq!(desk.rows().await, ["1 first"]);
}

async fn what_the_database_refuses_dies_and_everything_else_is_applied<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    desk.world
        .sql("INSERT INTO parcels VALUES (100, 'taken', 1, '')")
        .await;
    let mut images: Vec<_> = saves((1..=40).map(|id| parcel(id, &format!("name {id}"))));
    images[4] = save(parcel(5, "taken"));
    images[5] = save(Parcel {
        weight: -1,
        ..parcel(6, "light")
    });
    images[17] = save(Parcel {
        note: None,
        ..parcel(18, "silent")
    });
    images[29] = save(parcel(30, "a name that is far too long for its column"));
    images[39] = save(parcel(40, "forbidden"));
    let applied = desk.apply(images).await;
    assert_eq!(dead(&applied), [5, 6, 18, 30, 40]);
    assert_eq!(applied.rows, 35);
    let rows = desk.rows().await;
    assert_eq!(rows.len(), 36);
    assert_eq!(rows.last().unwrap(), "100 taken");
    assert!(!rows.iter().any(|row| row.starts_with("5 ")));
    assert_eq!(desk.position().await, 40);
    assert_eq!(desk.audited().await.len(), 36, "each was applied once");
    let letters = desk.letters().await;
    let numbers: Vec<_> = letters.iter().map(DeadLetter::number).collect();
    assert_eq!(numbers, [5, 6, 18, 30, 40]);
    assert_eq!(letters[1].row().unwrap().weight, -1);
    assert_eq!(letters[4].error(), "forbidden by a trigger");
    for (letter, dead) in letters.iter().zip(&applied.dead) {
        assert_eq!(letter.error(), dead.error);
    }
}

async fn a_batch_of_refusals_alone_moves_the_queue<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let applied = desk
        .apply(saves((1..=150).map(|id| parcel(id, "forbidden"))))
        .await;
    assert_eq!(applied.dead.len(), 150);
    assert_eq!((applied.rows, desk.position().await), (0, 150));
    assert_eq!(desk.letters().await.len(), 100, "at most so many");
    assert_eq!(desk.rows().await, [""; 0]);
}

/// Whichever of the two rows is locked first.
async fn unique_value_that_moves_between_rows_of_a_batch_is_no_dead_letter<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    for (from, (one, other)) in [(0, (1, 2)), (4, (4, 3))] {
        desk.world
            .sql(format!(
                "INSERT INTO parcels VALUES ({one}, 'x{from}', 1, ''), ({other}, 'o{from}', 1, '')"
            ))
            .await;
        let named = |name: &str| format!("{name}{from}");
        let mut writes = desk.queued(vec![
            save(parcel(one, &named("y"))),
            save(parcel(other, &named("x"))),
            save(parcel(one, &named("z"))),
            save(parcel(other, &named("y"))),
        ]);
        for write in &mut writes {
            write.number += from;
        }
        let batch = Batch {
            from,
            ..batch(&desk.place, &writes)
        };
        let applied = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
        assert_eq!(dead(&applied.unwrap()), [0; 0]);
    }
    assert_eq!(desk.rows().await, ["1 z0", "2 y0", "3 y4", "4 z4"]);
    assert_eq!(desk.letters().await.len(), 0);
}

/// One by one the second write would have died, and its row would be the same in the end.
async fn a_refusal_that_a_later_write_makes_pointless_kills_no_write<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let applied = desk
        .apply(saves([
            parcel(1, "one"),
            parcel(2, "forbidden"),
            parcel(3, "three"),
            parcel(2, "allowed"),
        ]))
        .await;
    assert_eq!(dead(&applied), [0; 0]);
    assert_eq!(desk.rows().await, ["1 one", "2 allowed", "3 three"]);
}

async fn a_refused_write_leaves_the_one_before_it<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let applied = desk
        .apply(saves([
            parcel(1, "one"),
            parcel(2, "two"),
            parcel(1, "forbidden"),
        ]))
        .await;
    assert_eq!(dead(&applied), [3]);
    assert_eq!(desk.rows().await, ["1 one", "2 two"]);
}

async fn a_row_that_another_unique_key_holds_off_touches_no_other_row<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    desk.world
        .sql("INSERT INTO parcels VALUES (1, 'mine', 1, 'keep')")
        .await;
    let audited = desk.audited().await;
    let other = Parcel {
        weight: 9,
        ..parcel(2, "mine")
    };
    let applied = desk.apply(saves([other, parcel(3, "three")])).await;
    assert_eq!(dead(&applied), [1]);
    assert_eq!(desk.rows().await, ["1 mine", "3 three"]);
    let note = desk.listed("SELECT CONCAT(note, weight) FROM parcels WHERE id = 1");
    assert_eq!(note.await, ["keep1"]);
    assert_eq!(desk.audited().await.len(), audited.len() + 1);
}

async fn a_trigger_that_suppresses_a_row_kills_its_write<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let trigger = spelled::<DB>(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.name = 'suppressed' THEN RETURN NULL; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER skip BEFORE INSERT ON parcels FOR EACH ROW EXECUTE FUNCTION skip()",
        "",
        "CREATE TRIGGER skip BEFORE INSERT ON parcels WHEN NEW.name = 'suppressed' BEGIN SELECT RAISE(IGNORE); END",
    );
    world.raw(trigger).await;
    let applied = desk
        .apply(saves([
            parcel(1, "one"),
            parcel(2, "suppressed"),
            parcel(3, "three"),
        ]))
        .await;
    assert_eq!(dead(&applied), [2]);
    assert!(applied.dead[0].error.contains("suppressed"), "{applied:?}");
    assert_eq!(desk.rows().await, ["1 one", "3 three"]);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "words")]
struct Word {
    #[cached(id)]
    word: String,
    #[cached(id)]
    language: String,
    meaning: String,
}

/// Under a collation that calls `Ox` and `ox` equal they are one row to the database, and two to the cache.
async fn text_ids_are_saved_byte_for_byte<DB: Tested>(world: &World<DB>) {
    let folding = spelled::<DB>(
        "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "",
        "",
    );
    if !folding.is_empty() {
        world.sql(folding).await;
    }
    let collation = spelled::<DB>(
        "COLLATE folding",
        "COLLATE utf8mb4_general_ci",
        "COLLATE NOCASE",
    );
    world
        .sql(format!(
            "CREATE TABLE words (word VARCHAR(50) {collation} NOT NULL, language VARCHAR(9) NOT NULL, meaning VARCHAR(99) NOT NULL, \
             PRIMARY KEY (word, language))"
        ))
        .await;
    world
        .sql("INSERT INTO words VALUES ('Ox', 'en', 'old'), ('Gnu', 'en', 'old')")
        .await;
    let words: Repository<Word, DB> = Repository::new(&world.cache, world.pool.clone());
    let place = register_place(world).await;
    let word = |word: &str| {
        Image::Row(Arc::new(Word {
            word: word.to_owned(),
            language: "en".to_owned(),
            meaning: "new".to_owned(),
        }))
    };
    let writes = queued(
        |id| words.key(id).unwrap(),
        vec![
            word("ox"),
            word("Yak"),
            word("yak"),
            Image::Deletion(("gnu".to_owned(), "en".to_owned())),
            word("Ox"),
        ],
    );
    let batch = batch(&place, &writes);
    let applied = words.apply_queued(&batch, &Hooks::default()).await.unwrap();
    assert_eq!(dead(&applied), [1, 3]);
    let found = async |word: &str| {
        let id = (word.to_owned(), "en".to_owned());
        let row = words.find_uncached(id).await.unwrap();
        row.map(|row| row.meaning.clone())
    };
    assert_eq!(found("Ox").await.as_deref(), Some("new"));
    assert_eq!(found("ox").await, None);
    assert_eq!(found("Yak").await.as_deref(), Some("new"));
    assert_eq!(found("Gnu").await.as_deref(), Some("old"));
}

async fn an_error_about_the_database_kills_no_write<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    world.sql("ALTER TABLE parcels RENAME TO hidden").await;
    let writes = desk.queued(saves([parcel(1, "one"), parcel(2, "forbidden")]));
    let batch = batch(&desk.place, &writes);
    let failed = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    assert!(matches!(failed, Err(ApplyError::Failed(_))), "{failed:?}");
    assert_eq!((desk.position().await, desk.letters().await.len()), (0, 0));
    world.sql("ALTER TABLE hidden RENAME TO parcels").await;
    let applied = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    assert_eq!(dead(&applied.unwrap()), [2]);
    assert_eq!(desk.rows().await, ["1 one"]);
}

/// A migration that came before the program it was made for.
async fn a_column_that_the_struct_lacks_kills_no_write<DB: Tested>(world: &World<DB>) {
    let desk = desk_with(
        world,
        "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, weight BIGINT NOT NULL, \
         note VARCHAR(20) NOT NULL, added BIGINT NOT NULL)",
    )
    .await;
    let writes = desk.queued(saves([parcel(1, "one")]));
    let batch = batch(&desk.place, &writes);
    let failed = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    assert!(matches!(failed, Err(ApplyError::Failed(_))), "{failed:?}");
    assert_eq!((desk.position().await, desk.letters().await.len()), (0, 0));
}

async fn a_write_that_cannot_be_read_is_kept_as_it_is<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let decode_error = Image::Unreadable {
        is_deletion: false,
        codec: 200,
        layout: 9,
        payload: vec![0, 255, 7],
        reason: "of another world".to_owned(),
    };
    let applied = desk.apply(vec![save(parcel(1, "one")), decode_error]).await;
    assert_eq!(dead(&applied), [2]);
    assert_eq!(desk.rows().await, ["1 one"]);
    let letters = desk.letters().await;
    assert!(letters[0].error().contains("of another world"));
    assert!(letters[0].decode_error().unwrap().contains("200"));
    assert!(letters[0].row().is_none() && letters[0].image().is_none());
    let payload = spelled::<DB>(
        "SELECT ENCODE(payload, 'hex') FROM larder_dead_letters",
        "SELECT LOWER(HEX(payload)) FROM larder_dead_letters",
        "SELECT LOWER(HEX(payload)) FROM larder_dead_letters",
    );
    assert_eq!(desk.listed(payload).await, ["00ff07"]);
}

async fn writes_of_a_closed_incarnation_die<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let writes = desk.queued(vec![save(parcel(1, "one")), Image::Deletion(8)]);
    assert!(close(&world.pool, &desk.place, 0).await.unwrap());
    let open = batch(&desk.place, &writes);
    let overtaken = desk.parcels.apply_queued(&open, &Hooks::default()).await;
    assert!(
        matches!(overtaken, Err(ApplyError::Overtaken)),
        "{overtaken:?}"
    );
    // Another number of its writes was counted as lost than this flusher knows of.
    let outdated = Batch {
        lost_counted_to: Some(1),
        ..batch(&desk.place, &writes)
    };
    let overtaken = desk
        .parcels
        .apply_queued(&outdated, &Hooks::default())
        .await;
    assert!(
        matches!(overtaken, Err(ApplyError::Overtaken)),
        "{overtaken:?}"
    );
    let late = Batch {
        lost_counted_to: Some(0),
        ..batch(&desk.place, &writes)
    };
    let applied = desk.parcels.apply_queued(&late, &Hooks::default()).await;
    assert_eq!(dead(&applied.unwrap()), [1, 2]);
    assert_eq!(desk.rows().await, [""; 0]);
    assert_eq!(desk.position().await, 2);
    let letters = desk.letters().await;
    assert_eq!(letters[0].row(), Some(&parcel(1, "one")));
    assert!(letters[1].is_deletion());
    assert_eq!(letters[1].id(), Some(8));
}

async fn what_the_store_has_lost_is_counted_with_the_batch<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let writes = desk.queued(saves([parcel(1, "one"), parcel(2, "forbidden")]));
    let gap = Batch {
        to: 9,
        lost: 7,
        ..batch(&desk.place, &writes)
    };
    desk.parcels
        .apply_queued(&gap, &Hooks::default())
        .await
        .unwrap();
    assert_eq!(desk.position().await, 9);
    let lost = spelled::<DB>(
        "SELECT lost::text FROM larder_offsets",
        "SELECT CAST(lost AS CHAR) FROM larder_offsets",
        "SELECT CAST(lost AS TEXT) FROM larder_offsets",
    );
    assert_eq!(desk.listed(lost).await, ["7"], "once, also the careful way");
}

async fn a_batch_larger_than_a_statement_is_applied<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    desk.world
        .sql("INSERT INTO parcels VALUES (1, 'old', 1, ''), (2, 'older', 1, '')")
        .await;
    let mut images = saves((2..=1_200).map(|id| parcel(id, &format!("name {id}"))));
    images.push(Image::Deletion(1));
    let applied = desk.apply(images).await;
    assert_eq!((applied.rows, dead(&applied)), (1_200, vec![]));
    let rows = desk.rows().await;
    assert_eq!((rows.len(), rows[0].as_str()), (1_199, "2 name 2"));
}

const LARGE: &str = "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, weight BIGINT NOT NULL, note TEXT NOT NULL)";
const LARGE_ON_MYSQL: &str = "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, weight BIGINT NOT NULL, note LONGTEXT NOT NULL)";

/// More than MySQL takes in one message, which is 16 MiB for the server of the tests, in rows of which each is small enough.
fn large() -> Vec<Image<Parcel>> {
    saves((1..=32).map(|id| Parcel {
        note: Some("x".repeat(600_000)),
        ..parcel(id, "large")
    }))
}

async fn a_batch_larger_than_a_message_is_applied<DB: Tested>(world: &World<DB>) {
    let desk = desk_with(world, spelled::<DB>(LARGE, LARGE_ON_MYSQL, LARGE)).await;
    let applied = desk.apply(large()).await;
    assert_eq!((applied.rows, dead(&applied)), (32, vec![]));
    assert_eq!(desk.rows().await.len(), 32);
}

async fn dead_letters_larger_than_a_message_are_written<DB: Tested>(world: &World<DB>) {
    let desk = desk_with(world, spelled::<DB>(LARGE, LARGE_ON_MYSQL, LARGE)).await;
    assert!(close(&world.pool, &desk.place, 0).await.unwrap());
    let writes = desk.queued(large());
    let late = Batch {
        lost_counted_to: Some(0),
        ..batch(&desk.place, &writes)
    };
    let applied = desk.parcels.apply_queued(&late, &Hooks::default()).await;
    assert_eq!(applied.unwrap().dead.len(), 32);
    let listed = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(listed.await, ["32"]);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "crates")]
struct Crate {
    #[cached(id)]
    id: i64,
    #[sqlx(json)]
    content: Vec<String>,
}

/// As JSON each of its characters takes six bytes, and as a dead letter one.
async fn a_row_larger_than_a_message_kills_its_write_alone(world: &World<MySql>) {
    world
        .sql("CREATE TABLE crates (id BIGINT PRIMARY KEY, content LONGTEXT NOT NULL)")
        .await;
    let crates: Repository<Crate, MySql> = Repository::new(&world.cache, world.pool.clone());
    let place = register_place(world).await;
    let image = |id, length| {
        let content = vec!["\u{1}".repeat(length)];
        Image::Row(Arc::new(Crate { id, content }))
    };
    let writes = queued(
        |id| crates.key(id).unwrap(),
        vec![image(1, 9), image(2, 3_000_000), image(3, 9)],
    );
    let batch = batch(&place, &writes);
    let applied = crates.apply_queued(&batch, &Hooks::default()).await;
    let applied = applied.unwrap();
    assert_eq!((dead(&applied), applied.rows), (vec![2], 2));
    let why = &applied.dead[0].error;
    assert!(why.contains("max_allowed_packet"), "{why}");
}

async fn a_write_that_is_too_large_even_for_a_dead_letter_waits(world: &World<MySql>) {
    let desk = desk_with(world, LARGE_ON_MYSQL).await;
    let huge = Parcel {
        note: Some("x".repeat(17_000_000)),
        ..parcel(2, "huge")
    };
    let writes = desk.queued(saves([parcel(1, "one"), huge, parcel(3, "three")]));
    let batch = batch(&desk.place, &writes);
    let failed = desk.parcels.apply_queued(&batch, &Hooks::default()).await;
    let Err(ApplyError::Failed(error)) = failed else {
        panic!("{failed:?}");
    };
    let why = error.to_string();
    assert!(
        why.contains("dead letter of write 2") && why.contains("max_allowed_packet"),
        "{why}"
    );
    assert_eq!((desk.position().await, desk.letters().await.len()), (0, 0));
    assert_eq!(desk.rows().await, [""; 0]);
}

async fn a_dead_letter_is_there_until_it_is_discarded<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    desk.apply(saves([parcel(1, "forbidden"), parcel(2, "forbidden")]))
        .await;
    let letters = desk.letters().await;
    assert_eq!(letters[0].row(), Some(&parcel(1, "forbidden")));
    assert!(letters[0].key().ends_with(":1"), "{:?}", letters[0]);
    assert_eq!((letters[0].partition(), letters[0].epoch()), (2, 1));
    let second = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    assert_eq!(letters[0].failed_at(), second);
    assert!(letters::discard(&world.pool, &letters[0]).await.unwrap());
    assert!(!letters::discard(&world.pool, &letters[0]).await.unwrap());
    let left = desk.letters().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].number(), 2);
}

/// A batch of which some writes are refused.
fn refusing(writes: i64, is_refused: impl Fn(i64) -> bool) -> Vec<Image<Parcel>> {
    saves((1..=writes).map(|id| {
        let name = format!("name {id}");
        parcel(id, if is_refused(id) { "forbidden" } else { &name })
    }))
}

/// Applies writes. What became of them, and in how many transactions.
async fn applied_in<DB: Tested>(
    desk: &Desk<'_, DB>,
    images: Vec<Image<Parcel>>,
    max_statements: u64,
) -> (Applied, u64) {
    let transactions = AtomicU64::new(0);
    let counts = || {
        transactions.fetch_add(1, Ordering::SeqCst);
    };
    let hooks = Hooks {
        in_transaction: &counts,
        max_statements,
    };
    let writes = desk.queued(images);
    let applied = desk
        .parcels
        .apply_queued(&batch(&desk.place, &writes), &hooks)
        .await
        .unwrap();
    let count = writes.len();
    let dead = applied.dead.len();
    assert_eq!(applied.rows, (count - dead) as u64);
    assert_eq!(desk.audited().await.len(), count - dead, "each once");
    let letters = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(letters.await, [dead.to_string()]);
    let order = applied.dead.windows(2);
    assert!(order.into_iter().all(|two| two[0].number < two[1].number));
    assert_eq!(
        (applied.to, desk.position().await),
        (count as u64, count as u64)
    );
    (applied, transactions.into_inner())
}

async fn a_batch_of_which_half_is_refused_costs_little_more_than_its_rows<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let images = refusing(1_000, |id| id % 2 == 0);
    let (applied, transactions) = applied_in(&desk, images, MAX).await;
    assert_eq!(applied.dead.len(), 500);
    // Two for each write, and one more to read back a row that was made, since the table has triggers.
    assert!(applied.statements <= 2_800, "{}", applied.statements);
    assert!(
        applied.statements <= transactions * (MAX + 20),
        "{transactions}"
    );
}

/// The negative control.
async fn without_a_bound_all_of_it_is_one_transaction<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let images = refusing(1_000, |id| id % 2 == 0);
    let (applied, transactions) = applied_in(&desk, images, u64::MAX).await;
    assert_eq!((applied.dead.len(), transactions), (500, 1));
    assert!(applied.statements > 4 * MAX);
}

async fn a_batch_of_refusals_alone_costs_little_more_than_its_rows<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let (applied, transactions) = applied_in(&desk, refusing(600, |_| true), MAX).await;
    assert_eq!(applied.dead.len(), 600);
    assert!(
        applied.statements <= 600 * 22 / 10,
        "{}",
        applied.statements
    );
    assert!(
        applied.statements <= transactions * (MAX + 20),
        "{transactions}"
    );
}

async fn a_refusal_among_many_costs_few_statements<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let images = refusing(1_000, |id| id == 700);
    let (applied, _) = applied_in(&desk, images, MAX).await;
    assert_eq!(dead(&applied), [700]);
    assert!(applied.statements <= 150, "{}", applied.statements);
}

/// Every second number is lost as well, and is counted once.
async fn a_flusher_that_dies_between_transactions_of_a_batch_leaves_the_rest_to_the_next<
    DB: Tested,
>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let mut writes = desk.queued(refusing(400, |id| id % 2 == 0));
    for write in &mut writes {
        write.number *= 2;
    }
    let (parcels, place) = (desk.parcels.clone(), desk.place.clone());
    let dying = tokio::spawn({
        let writes = writes.clone();
        async move {
            let transactions = AtomicU64::new(0);
            let dies = || assert!(transactions.fetch_add(1, Ordering::SeqCst) < 2, "killed");
            let hooks = Hooks {
                in_transaction: &dies,
                max_statements: MAX,
            };
            let whole = Batch {
                lost: 400,
                ..batch(&place, &writes)
            };
            parcels.apply_queued(&whole, &hooks).await
        }
    });
    assert!(dying.await.unwrap_err().is_panic());
    let from = desk.position().await;
    assert!(from > 0 && from < 800, "{from}");
    let made = desk.audited().await.len() as u64;
    assert_eq!(made, from / 4 + from % 4 / 2);
    let listed = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(listed.await, [(from / 4).to_string()]);
    let rest: Vec<_> = writes
        .into_iter()
        .filter(|write| write.number > from)
        .collect();
    let next = Batch {
        from,
        lost: (800 - from) / 2,
        ..batch(&desk.place, &rest)
    };
    let applied = desk.parcels.apply_queued(&next, &Hooks::default()).await;
    assert_eq!(applied.unwrap().to, 800);
    assert_eq!(desk.audited().await.len(), 200, "each was applied once");
    let listed = desk.listed("SELECT CONCAT(COUNT(*), '') FROM larder_dead_letters");
    assert_eq!(listed.await, ["200"]);
    let lost = desk.listed("SELECT CONCAT(lost, '') FROM larder_offsets");
    assert_eq!(lost.await, ["400"], "each was counted once");
}

/// Of a row the last write that the database takes is what it is in the end, however the batch was divided.
async fn rows_that_are_written_and_refused_in_turn_end_as_if_one_by_one<DB: Tested>(
    world: &World<DB>,
) {
    let desk = desk(world).await;
    let named = |write: i64| match write % 7 {
        0 | 3 | 4 => "forbidden".to_owned(),
        _ => format!("write {write}"),
    };
    let mut expected = [const { String::new() }; 5];
    let images = (0..600).map(|write| {
        let row = usize::try_from(write % 5).unwrap();
        if named(write) != "forbidden" {
            expected[row] = format!("{row} {}", named(write));
        }
        parcel(write % 5, &named(write))
    });
    let writes = desk.queued(saves(images));
    let hooks = Hooks {
        max_statements: 40,
        ..Hooks::default()
    };
    let batch = batch(&desk.place, &writes);
    let applied = desk.parcels.apply_queued(&batch, &hooks).await.unwrap();
    assert_eq!(applied.to, 600);
    assert_eq!(desk.rows().await, expected);
}

/// A constraint that is looked at when the transaction ends, and not when the row is written.
async fn a_refusal_at_the_commit_kills_its_write_alone<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE scales (weight BIGINT NOT NULL PRIMARY KEY)")
        .await;
    world.sql("INSERT INTO scales VALUES (1), (2)").await;
    let desk = desk_with(
        world,
        "CREATE TABLE parcels (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, note VARCHAR(20) NOT NULL, \
         weight BIGINT NOT NULL REFERENCES scales (weight) DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let heavy = Parcel {
        weight: 99,
        ..parcel(2, "two")
    };
    let images = saves([parcel(1, "one"), heavy, parcel(3, "three")]);
    let applied = desk.apply(images).await;
    assert_eq!(dead(&applied), [2]);
    assert_eq!(desk.rows().await, ["1 one", "3 three"]);
    assert_eq!(desk.position().await, 3);
    assert_eq!(desk.letters().await.len(), 1);
}

/// It takes the transaction with it, savepoints and all.
async fn a_trigger_that_rolls_back_kills_its_write_alone(world: &World<Sqlite>) {
    let desk = desk(world).await;
    world
        .raw("CREATE TRIGGER harsh BEFORE INSERT ON parcels WHEN NEW.name = 'harsh' BEGIN SELECT RAISE(ROLLBACK, 'harshly'); END")
        .await;
    let images = saves([
        parcel(1, "one"),
        parcel(2, "harsh"),
        parcel(3, "three"),
        parcel(4, "forbidden"),
    ]);
    let applied = desk.apply(images).await;
    assert_eq!(dead(&applied), [2, 4]);
    assert_eq!(desk.rows().await, ["1 one", "3 three"]);
    assert_eq!(desk.audited().await.len(), 2, "each was applied once");
    assert_eq!(desk.position().await, 4);
}

/// The first one stops between its rows and its commit, and holds the position; it wakes when the next one is through.
async fn a_flusher_that_stops_half_way_lets_the_next_one_go_on<DB: Tested>(world: &World<DB>) {
    let desk = desk(world).await;
    let (parcels, place) = (desk.parcels.clone(), desk.place.clone());
    let (stopped, is_stopped) = mpsc::channel();
    let (wake, woken) = mpsc::channel::<()>();
    let writes = desk.queued(saves([parcel(1, "one")]));
    let first = std::thread::spawn({
        let (handle, writes) = (tokio::runtime::Handle::current(), writes.clone());
        move || {
            let woken = Mutex::new(woken);
            let stops = || {
                stopped.send(()).unwrap();
                let woken = woken.lock().unwrap_or_else(PoisonError::into_inner);
                woken.recv().unwrap();
            };
            let hooks = Hooks {
                in_transaction: &stops,
                ..Hooks::default()
            };
            handle.block_on(parcels.apply_queued(&batch(&place, &writes), &hooks))
        }
    });
    tokio::task::block_in_place(|| is_stopped.recv()).unwrap();
    let second = batch(&desk.place, &writes);
    let applied = desk.parcels.apply_queued(&second, &Hooks::default()).await;
    assert_eq!(applied.unwrap().rows, 1);
    wake.send(()).unwrap();
    let first = tokio::task::block_in_place(|| first.join()).unwrap();
    assert!(matches!(first, Err(ApplyError::Failed(_))), "{first:?}");
    assert_eq!(desk.audited().await, ["1 one"], "applied once");
}

fn thousand() -> Vec<Image<Parcel>> {
    refusing(1_000, |_| false)
}

async fn a_thousand_rows_take_one_statement_of_postgres(world: &World<Postgres>) {
    let desk = desk_with(world, PARCELS).await;
    let applied = desk.apply(thousand()).await;
    // The beginning, the position, the rows, the commit.
    assert_eq!((applied.statements, applied.rows), (4, 1_000));
    assert_eq!(applied.changed, [0; 0]);
}

/// A trigger that comes behind the statement, also one that a migration has just made, is not in what the statement returns.
async fn triggers_behind_a_statement_of_postgres_cost_one_more(world: &World<Postgres>) {
    let desk = desk(world).await;
    let applied = desk.apply(thousand()).await;
    assert_eq!((applied.statements, applied.rows), (5, 1_000));
    assert_eq!(applied.changed, [0; 0]);
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
    Grumpy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "guests")]
struct Guest {
    #[cached(id)]
    id: i64,
    mood: Mood,
    tags: Vec<String>,
}

async fn types_without_arrays_are_saved_row_by_row(world: &World<Postgres>) {
    world
        .sql("CREATE TYPE mood AS ENUM ('happy', 'grumpy')")
        .await;
    world
        .sql("CREATE TABLE guests (id BIGINT PRIMARY KEY, mood mood NOT NULL CHECK (id <> 3 OR mood = 'happy'), tags TEXT[] NOT NULL)")
        .await;
    world
        .sql("INSERT INTO guests VALUES (1, 'happy', '{}')")
        .await;
    let guests: Repository<Guest, Postgres> = Repository::new(&world.cache, world.pool.clone());
    let place = register_place(world).await;
    let guest = |id| Guest {
        id,
        mood: Mood::Grumpy,
        tags: vec!["vip".to_owned()],
    };
    let images = (1..=4).map(|id| Image::Row(Arc::new(guest(id)))).collect();
    let writes = queued(|id| guests.key(id).unwrap(), images);
    let batch = batch(&place, &writes);
    let applied = guests
        .apply_queued(&batch, &Hooks::default())
        .await
        .unwrap();
    assert_eq!((dead(&applied), applied.rows), (vec![3], 3));
    for id in [1, 2, 4] {
        let row = guests.find_uncached(id).await.unwrap();
        assert_eq!(row.as_deref(), Some(&guest(id)));
    }
}

async fn a_flush_leaves_the_session_as_it_was(world: &World<MySql>) {
    let desk = desk(world).await;
    desk.apply(saves([parcel(1, "one"), parcel(2, "forbidden")]))
        .await;
    let mut connections = Vec::new();
    for _ in 0..world.pool.options().get_max_connections() {
        connections.push(world.pool.acquire().await.unwrap());
    }
    for connection in &mut connections {
        let waits: (u64, u64) =
            sqlx::query_as("SELECT @@SESSION.wait_timeout, @@GLOBAL.wait_timeout")
                .fetch_one(&mut **connection)
                .await
                .unwrap();
        assert_eq!(waits.0, waits.1);
    }
}

/// At every step of it. The next user of the connection would neither see nor commit anything outside the transaction.
async fn a_flush_that_is_dropped_leaves_no_transaction_behind(world: &World<MySql>) {
    let pool = lone_connection(world).await;
    world.sql(PARCELS).await;
    let place = register_place(world).await;
    let parcels: Repository<Parcel, MySql> = Repository::new(&world.cache, pool.clone());
    let (mut drops, mut ends, mut waits) = (0, 0, 0);
    while ends < 3 || drops < 10 {
        let known = position_of(&pool, &place).await.unwrap();
        let (from, _) = known.unwrap();
        let image = save(parcel(1, &format!("number {from}")));
        let mut writes = queued(|id| parcels.key(id).unwrap(), vec![image]);
        writes[0].number = from + 1;
        let batch = Batch {
            from,
            ..batch(&place, &writes)
        };
        let hooks = Hooks::default();
        let applied = parcels.apply_queued(&batch, &hooks);
        match dropped_after(waits, applied).await {
            Some(applied) => {
                assert_eq!(applied.unwrap().rows, 1);
                ends += 1;
                waits = 0;
            }
            None => {
                drops += 1;
                waits += 1 + waits / 20;
            }
        }
        assert!(!is_in_transaction(&pool).await, "dropped {drops}");
    }
    pool.close().await;
}
