//! One flush in the database: which rows a batch of queued writes leaves in the table, and what it costs.
//!
//! Not here: writes that the database refuses (`refusals`), where the writes come from, and what the store is told.

use std::sync::Arc;

use larder::{
    Cached, Repository,
    behind::{
        Batch, Image,
        apply::{ApplyError, Hooks},
    },
};
use serde::{Deserialize, Serialize};
use sqlx::Postgres;

use crate::{
    behind::desk::{
        LARGE, LARGE_ON_MYSQL, PARCELS, Parcel, batch, dead, desk, desk_with, large, parcel,
        queued, refusing, register_place, save, saves, spelled,
    },
    world::{Tested, World, at_once, on_all_databases, on_postgres},
};

on_all_databases!(
    a_batch_is_applied_once_by_appliers_at_once,
    without_the_comparison_a_batch_is_applied_twice,
    of_one_row_the_last_write_wins,
    without_the_order_of_the_queue_an_older_write_wins,
    unique_value_that_moves_between_rows_of_a_batch_is_no_dead_letter,
    text_ids_are_saved_byte_for_byte,
    what_the_store_has_lost_is_counted_with_the_batch,
    a_batch_larger_than_a_statement_is_applied,
    a_batch_larger_than_a_message_is_applied,
);
on_postgres!(
    a_thousand_rows_take_one_statement_of_postgres,
    triggers_behind_a_statement_of_postgres_cost_one_more,
    types_without_arrays_are_saved_row_by_row,
);

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

async fn a_batch_larger_than_a_message_is_applied<DB: Tested>(world: &World<DB>) {
    let desk = desk_with(world, spelled::<DB>(LARGE, LARGE_ON_MYSQL, LARGE)).await;
    let applied = desk.apply(large()).await;
    assert_eq!((applied.rows, dead(&applied)), (32, vec![]));
    assert_eq!(desk.rows().await.len(), 32);
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
