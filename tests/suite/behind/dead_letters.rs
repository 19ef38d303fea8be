//! Replays of dead letters: each letter is replayed once, and overwrites later writes only with `replay_over`.

use larder::{
    Cached, DeadLetter, ErrorKind,
    store::{Mechanism, faulty::Operation},
};
use serde::{Deserialize, Serialize};

use crate::{
    entities::of_items,
    world::{Tested, World, at_once, everywhere},
};

of_items! {
    /// A row of the items. All rows are in one partition, and a flush takes four writes at a time.
    #[cached(strategy = "write_behind", durability = "memory")]
    #[cached(partitions = 1, batch = 4, ttl = "10m")]
    struct Noted
}

fn noted(id: i64, name: &str, note: &str) -> Noted {
    Noted {
        id,
        name: name.to_owned(),
        note: Some(note.to_owned()),
        quantity: 1,
    }
}

/// Makes the notes of items unique. Row 1 has the note `taken`.
async fn scene<DB: Tested>(world: &World<DB>) -> NotedRepository<DB> {
    world
        .sql("CREATE UNIQUE INDEX one_note ON items (note)")
        .await;
    let rows = Noted::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&noted(1, "first", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    rows
}

/// Row 2 exists. A save of it is a dead letter, because its note was taken. The note is free now.
async fn died<DB: Tested>(world: &World<DB>) -> (NotedRepository<DB>, DeadLetter<Noted>) {
    let rows = scene(world).await;
    rows.save(&noted(2, "before", "free")).await.unwrap();
    rows.flush().await.unwrap();
    rows.save(&noted(2, "letter", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.flush().await.unwrap();
    let letter = only_letter(&rows).await;
    (rows, letter)
}

async fn only_letter<DB: Tested>(rows: &NotedRepository<DB>) -> DeadLetter<Noted> {
    let mut letters = rows.dead_letters().list(10).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters.remove(0)
}

async fn count<DB: Tested>(rows: &NotedRepository<DB>) -> usize {
    rows.dead_letters().list(10).await.unwrap().len()
}

/// Returns the name of a row as readers see it. Checks that the database has the same after a flush.
async fn name<DB: Tested>(rows: &NotedRepository<DB>, id: i64) -> Option<String> {
    let seen = rows.find(id).await.unwrap();
    rows.flush().await.unwrap();
    let held = rows.find_uncached(id).await.unwrap();
    assert_eq!(seen, held);
    held.map(|row| row.name.clone())
}

fn named(name: &str) -> Option<String> {
    Some(name.to_owned())
}

async fn a_letter_is_replayed_once<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    let dead = rows.dead_letters();
    dead.replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
    assert_eq!(count(&rows).await, 0);
    rows.save(&noted(2, "newer", "free")).await.unwrap();
    let again = dead.replay(&letter).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    assert!(
        again.to_string().contains("replayed or discarded"),
        "{again}"
    );
    let over = dead.replay_over(&letter).await.unwrap_err();
    assert_eq!(over.kind(), ErrorKind::NotFound);
    assert_eq!(name(&rows, 2).await, named("newer"));
}

async fn a_letter_that_was_discarded_is_not_replayed<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    let dead = rows.dead_letters();
    dead.discard(&letter).await.unwrap();
    let gone = dead.replay(&letter).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(name(&rows, 2).await, named("before"));
    // Discarding a letter twice is not an error.
    dead.discard(&letter).await.unwrap();
}

/// Checks that `replay` refuses the letter and changes neither it nor the row, and that `replay_over` overwrites the row.
async fn is_refused_over<DB: Tested>(
    rows: &NotedRepository<DB>,
    letter: &DeadLetter<Noted>,
    current: Option<&str>,
) {
    let dead = rows.dead_letters();
    let refused = dead.replay(letter).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert!(refused.to_string().contains("replay_over"), "{refused}");
    let told = refused.current::<Noted>();
    assert_eq!(told.as_ref().map(|row| &*row.name), current);
    assert_eq!(name(rows, 2).await.as_deref(), current);
    assert_eq!(count(rows).await, 1);
    dead.replay_over(letter).await.unwrap();
    assert_eq!(name(rows, 2).await, named("letter"));
    assert_eq!(count(rows).await, 0);
}

async fn a_row_that_is_queued_since_is_not_written_over<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    rows.save(&noted(2, "newer", "other")).await.unwrap();
    is_refused_over(&rows, &letter, Some("newer")).await;
}

async fn a_row_that_was_flushed_since_is_not_written_over<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    rows.modify(2, |row| row.name = "newer".to_owned())
        .await
        .unwrap();
    rows.flush().await.unwrap();
    is_refused_over(&rows, &letter, Some("newer")).await;
}

async fn a_row_that_was_deleted_since_is_not_made_again<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    rows.delete(2).await.unwrap();
    is_refused_over(&rows, &letter, None).await;
}

async fn a_row_that_was_changed_past_larder_since_is_not_written_over<DB: Tested>(
    world: &World<DB>,
) {
    let (rows, letter) = died(world).await;
    world
        .sql("UPDATE items SET name = 'by hand' WHERE id = 2")
        .await;
    rows.invalidate(2).await.unwrap();
    is_refused_over(&rows, &letter, Some("by hand")).await;
}

async fn a_row_that_was_inserted_since_is_not_written_over<DB: Tested>(world: &World<DB>) {
    let rows = scene(world).await;
    rows.insert(&noted(2, "letter", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    rows.insert(&noted(2, "newer", "free")).await.unwrap();
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.flush().await.unwrap();
    let letter = only_letter(&rows).await;
    is_refused_over(&rows, &letter, Some("newer")).await;
}

/// The later write was applied in the batch in which the database rejected the earlier one.
async fn a_later_write_of_the_same_batch_is_not_written_over<DB: Tested>(world: &World<DB>) {
    let rows = scene(world).await;
    rows.save(&noted(2, "letter", "taken")).await.unwrap();
    rows.save(&noted(2, "newer", "free")).await.unwrap();
    // Without this write, only the last write of row 2 would be sent, and none would be rejected.
    rows.save(&noted(3, "dead as well", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    let letters = rows.dead_letters().list(10).await.unwrap();
    let ids: Vec<_> = letters.iter().map(DeadLetter::id).collect();
    assert_eq!(ids, [Some(2), Some(3)]);
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.dead_letters().discard(&letters[1]).await.unwrap();
    is_refused_over(&rows, &letters[0], Some("newer")).await;
}

/// When the later write was rejected, the row was the result of the earlier one of the same batch.
async fn an_earlier_write_of_the_same_batch_is_written_over<DB: Tested>(world: &World<DB>) {
    let rows = scene(world).await;
    rows.save(&noted(2, "earlier", "free")).await.unwrap();
    rows.save(&noted(2, "letter", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(name(&rows, 2).await, named("earlier"));
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.flush().await.unwrap();
    let letter = only_letter(&rows).await;
    rows.dead_letters().replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
}

/// Like letters of a version that did not record it, and like writes that came too late.
async fn a_letter_that_does_not_record_the_row_is_refused<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    world.sql("UPDATE larder_dead_letters SET found = ''").await;
    is_refused_over(&rows, &letter, Some("before")).await;
}

/// The negative control.
async fn without_the_comparison_a_letter_overwrites_a_newer_row<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    rows.save(&noted(2, "newer", "other")).await.unwrap();
    world.faults.leave_out(Mechanism::LetterFound);
    rows.dead_letters().replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
}

async fn of_replays_at_once_one_queues_the_write<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    let letter = std::sync::Arc::new(letter);
    let elsewhere = Noted::repository(&world.cache_elsewhere().await, world.pool.clone());
    let each = [rows.clone(), elsewhere];
    let ended = at_once(6, |task| {
        let (rows, letter) = (each[task % 2].clone(), letter.clone());
        async move { rows.dead_letters().replay(&letter).await }
    });
    let ended = ended.await;
    let refused = ended.iter().filter_map(|ended| ended.as_ref().err());
    let kinds: Vec<_> = refused.map(larder::Error::kind).collect();
    assert_eq!(kinds.len(), 5, "{ended:?}");
    let expected = [ErrorKind::Conflict, ErrorKind::NotFound];
    assert!(
        kinds.iter().all(|kind| expected.contains(kind)),
        "{kinds:?}"
    );
    assert_eq!(rows.pending().await.unwrap().count, 1, "queued once");
    assert_eq!(name(&rows, 2).await, named("letter"));
}

/// The replay has queued its write, but its answer was lost. Then that write was undone, and the letter still exists.
async fn a_replay_of_unknown_outcome_is_not_repeated<DB: Tested>(world: &World<DB>) {
    let rows = scene(world).await;
    rows.save(&noted(2, "letter", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.flush().await.unwrap();
    let letter = only_letter(&rows).await;
    world.faults.leave_unanswered(Operation::Put, 1);
    let unknown = rows.dead_letters().replay(&letter).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::OutcomeUnknown, "{unknown}");
    // The write that the replay may have queued.
    rows.save(&noted(2, "letter", "taken")).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
    rows.delete(2).await.unwrap();
    assert_eq!(name(&rows, 2).await, None);
    let refused = rows.dead_letters().replay(&letter).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert_eq!(name(&rows, 2).await, None);
    rows.dead_letters().replay_over(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
    assert_eq!(count(&rows).await, 0);
}

/// A replay that was refused can be repeated when the row is as it was.
async fn a_replay_that_was_refused_can_be_repeated<DB: Tested>(world: &World<DB>) {
    let (rows, letter) = died(world).await;
    let before = rows.find(2).await.unwrap().unwrap();
    rows.save(&noted(2, "newer", "other")).await.unwrap();
    let refused = rows.dead_letters().replay(&letter).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    rows.save(&before).await.unwrap();
    rows.dead_letters().replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
}

/// A row whose id Postgres can neither store nor search for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "texts",
    strategy = "write_behind",
    durability = "memory",
    partitions = 1
)]
struct Text {
    #[cached(id)]
    id: String,
    name: String,
}

async fn an_id_that_the_database_cannot_look_for_holds_up_no_other<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE texts (id VARCHAR(100) NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL CHECK (name <> 'bad'))")
        .await;
    let rows = Text::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    let text = |id: &str, name: &str| Text {
        id: id.to_owned(),
        name: name.to_owned(),
    };
    rows.save(&text("there", "before")).await.unwrap();
    rows.flush().await.unwrap();
    for (id, name) in [
        ("one", "good"),
        ("a\0b", "bad"),
        ("there", "bad"),
        ("two", "good"),
    ] {
        rows.save(&text(id, name)).await.unwrap();
    }
    rows.flush().await.unwrap();
    for id in ["one", "two"] {
        let row = rows.find_uncached(id.to_owned()).await.unwrap();
        assert_eq!(row.unwrap().name, "good");
    }
    let letters = rows.dead_letters().list(10).await.unwrap();
    assert_eq!(letters.len(), 2);
    // The other letter still records what the table contained of its row.
    rows.dead_letters().replay(&letters[1]).await.unwrap();
    assert_eq!(
        rows.find("there".to_owned()).await.unwrap().unwrap().name,
        "bad"
    );
}

/// A foreign key has rejected the deletion.
async fn a_deletion_is_replayed_unless_its_row_was_written_since<DB: Tested>(world: &World<DB>) {
    let rows = scene(world).await;
    world
        .sql(
            "CREATE TABLE holders (item BIGINT NOT NULL, FOREIGN KEY (item) REFERENCES items (id))",
        )
        .await;
    for turn in 0..2 {
        rows.save(&noted(2, "held", "free")).await.unwrap();
        rows.flush().await.unwrap();
        world.sql("INSERT INTO holders VALUES (2)").await;
        rows.delete(2).await.unwrap();
        rows.flush().await.unwrap();
        assert_eq!(name(&rows, 2).await, named("held"));
        world.sql("DELETE FROM holders").await;
        let letter = only_letter(&rows).await;
        assert!(letter.is_deletion());
        if turn == 1 {
            rows.modify(2, |row| row.quantity += 1).await.unwrap();
            let refused = rows.dead_letters().replay(&letter).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Conflict);
            assert_eq!(name(&rows, 2).await, named("held"));
            rows.dead_letters().replay_over(&letter).await.unwrap();
        } else {
            rows.dead_letters().replay(&letter).await.unwrap();
        }
        assert_eq!(name(&rows, 2).await, None);
        assert_eq!(count(&rows).await, 0);
    }
}

/// The table was created before it had the column `found`. Flushing waits, and the error says what to do.
async fn a_table_of_an_earlier_version_is_an_error_with_the_way_out<DB: Tested>(world: &World<DB>) {
    let rows = scene(world).await;
    world
        .sql("ALTER TABLE larder_dead_letters DROP COLUMN found")
        .await;
    rows.save(&noted(2, "letter", "taken")).await.unwrap();
    let told = rows.flush().await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Configuration, "{told:?}");
    let message = told.to_string();
    let (_, way_out) = message.split_once('`').unwrap();
    let statement = way_out.trim_end_matches('`');
    assert_eq!(rows.pending().await.unwrap().count, 1);
    world.sql(statement).await;
    rows.flush().await.unwrap();
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.flush().await.unwrap();
    let letter = only_letter(&rows).await;
    rows.dead_letters().replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
}

/// A reader without the queue sees that the row does not exist.
async fn a_letter_of_a_row_that_is_not_there_is_replayed<DB: Tested>(world: &World<DB>) {
    let rows = scene(world).await;
    rows.save(&noted(2, "letter", "taken")).await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(name(&rows, 2).await, None);
    rows.modify(1, |row| row.note = None).await.unwrap();
    rows.flush().await.unwrap();
    let letter = only_letter(&rows).await;
    rows.dead_letters().replay(&letter).await.unwrap();
    assert_eq!(name(&rows, 2).await, named("letter"));
}

everywhere! {
    a_letter_is_replayed_once,
    a_letter_that_was_discarded_is_not_replayed,
    a_row_that_is_queued_since_is_not_written_over,
    a_row_that_was_flushed_since_is_not_written_over,
    a_row_that_was_deleted_since_is_not_made_again,
    a_row_that_was_changed_past_larder_since_is_not_written_over,
    a_row_that_was_inserted_since_is_not_written_over,
    a_later_write_of_the_same_batch_is_not_written_over,
    an_earlier_write_of_the_same_batch_is_written_over,
    a_letter_that_does_not_record_the_row_is_refused,
    without_the_comparison_a_letter_overwrites_a_newer_row,
    of_replays_at_once_one_queues_the_write,
    a_deletion_is_replayed_unless_its_row_was_written_since,
    a_table_of_an_earlier_version_is_an_error_with_the_way_out,
    a_letter_of_a_row_that_is_not_there_is_replayed,
    a_replay_of_unknown_outcome_is_not_repeated,
    a_replay_that_was_refused_can_be_repeated,
    an_id_that_the_database_cannot_look_for_holds_up_no_other,
}
