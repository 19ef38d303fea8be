//! Writes: what the database gets, what is returned, and how failures are reported.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use larder::{Cached, ErrorKind, Origin, store::faulty::Operation};
use larder_testing::proxy::Point;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Pool, Postgres, Sqlite};

use crate::{
    entities::{Item, ItemRepository, of_items},
    world::{Kind, Tested, World, at_once, eventually, everywhere, on_both_stores, on_postgres},
};

everywhere!(
    insert_update_save_and_delete_reach_the_database,
    missing_rows_are_not_found_and_never_a_silent_success,
    duplicates_are_reported_as_such,
    the_database_chooses_ids_and_fills_columns_in,
    a_save_never_changes_a_row_with_another_id,
    a_change_that_changes_nothing_is_a_success,
    a_row_of_nothing_but_its_id_can_be_written,
    many_writers_and_readers_never_see_an_older_row,
    concurrent_saves_of_a_new_row_all_succeed,
    a_row_is_cached_again_when_its_last_writer_has_ended,
);
on_both_stores!(
    two_fields_for_one_column_are_refused_at_start,
    rows_that_many_transactions_change_are_cached_again_when_the_last_has_ended,
);
on_postgres!(
    a_write_whose_outcome_is_unknown_keeps_its_key_uncached,
    an_insert_that_is_rolled_back_leaves_no_trace,
    an_intent_is_renewed_while_its_statement_runs,
);

async fn insert_update_save_and_delete_reach_the_database<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let mut item = Item::new(7, "inserted");
    assert_eq!(*items.insert(&item).await.unwrap(), item);
    assert_eq!(
        items.find_uncached(7).await.unwrap().as_deref(),
        Some(&item)
    );
    item.note = Some("updated".to_owned());
    assert_eq!(*items.update(&item).await.unwrap(), item);
    assert_eq!(
        items.find_uncached(7).await.unwrap().as_deref(),
        Some(&item)
    );
    item.note = None;
    item.quantity = 9;
    assert_eq!(*items.save(&item).await.unwrap(), item);
    assert_eq!(
        items.find_uncached(7).await.unwrap().as_deref(),
        Some(&item)
    );
    items.delete(7).await.unwrap();
    assert_eq!(items.find_uncached(7).await.unwrap(), None);
    assert_eq!(
        *items.save(&item).await.unwrap(),
        item,
        "a save also inserts"
    );
    assert_eq!(items.find(7).await.unwrap().as_deref(), Some(&item));
}

async fn missing_rows_are_not_found_and_never_a_silent_success<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let error = items.update(&Item::new(404, "nobody")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("update") && error.to_string().contains("Item:404"),
        "{error}"
    );
    assert_eq!(
        items.delete(404).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

async fn duplicates_are_reported_as_such<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    items.insert(&Item::new(1, "one")).await.unwrap();
    let error = items.insert(&Item::new(1, "again")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(matches!(
        error.database_error(),
        Some(sqlx::Error::Database(_))
    ));
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "tickets")]
struct Ticket {
    #[cached(id, generated)]
    id: i64,
    title: String,
    #[cached(generated)]
    state: String,
}

async fn the_database_chooses_ids_and_fills_columns_in<DB: Tested>(world: &World<DB>) {
    let id = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => "BIGSERIAL PRIMARY KEY",
        name if name == <MySql as sqlx::Database>::NAME => {
            "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
        }
        name if name == <Sqlite as sqlx::Database>::NAME => "INTEGER PRIMARY KEY AUTOINCREMENT",
        other => panic!("an unknown database: {other}"),
    };
    world
        .sql(format!("CREATE TABLE tickets (id {id}, title VARCHAR(100) NOT NULL, state VARCHAR(20) NOT NULL DEFAULT 'open')"))
        .await;
    let tickets = Ticket::repository(&world.cache, world.pool.clone());
    let draft = Ticket {
        id: 0,
        title: "first".to_owned(),
        state: "ignored".to_owned(),
    };
    assert_eq!(
        tickets.find(1).await.unwrap(),
        None,
        "known to be absent before it is inserted"
    );
    let first = tickets.insert(&draft).await.unwrap();
    assert_eq!((first.id, first.state.as_str()), (1, "open"));
    assert_eq!(
        tickets.find(1).await.unwrap().as_ref(),
        Some(&first),
        "visible to the very next read"
    );
    let second = tickets.insert(&draft).await.unwrap();
    assert_eq!(second.id, 2);
    world
        .sql("UPDATE tickets SET state = 'closed' WHERE id = 1")
        .await;
    let renamed = Ticket {
        title: "renamed".to_owned(),
        ..(*first).clone()
    };
    let updated = tickets.update(&renamed).await.unwrap();
    assert_eq!(
        (updated.title.as_str(), updated.state.as_str()),
        ("renamed", "closed"),
        "what the database holds"
    );
    assert_eq!(tickets.find(1).await.unwrap(), Some(updated));
    let saved = tickets
        .save(&Ticket {
            title: "saved".to_owned(),
            ..(*second).clone()
        })
        .await
        .unwrap();
    assert_eq!(
        (saved.id, saved.title.as_str(), saved.state.as_str()),
        (2, "saved", "open")
    );
    assert_eq!(tickets.find(2).await.unwrap(), Some(saved));
    let error = tickets
        .update(&Ticket { id: 404, ..draft })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "accounts")]
struct Account {
    #[cached(id)]
    id: i64,
    email: String,
}

/// MySQL's own upsert would change any row that a unique key collides with.
async fn a_save_never_changes_a_row_with_another_id<DB: Tested>(world: &World<DB>) {
    world.sql("CREATE TABLE accounts (id BIGINT NOT NULL PRIMARY KEY, email VARCHAR(100) NOT NULL UNIQUE)").await;
    let accounts = Account::repository(&world.cache, world.pool.clone());
    let first = Account {
        id: 1,
        email: "a@example.org".to_owned(),
    };
    accounts.save(&first).await.unwrap();
    let thief = Account {
        id: 2,
        email: "a@example.org".to_owned(),
    };
    assert_eq!(
        accounts.save(&thief).await.unwrap_err().kind(),
        ErrorKind::Duplicate
    );
    assert_eq!(accounts.find(1).await.unwrap().as_deref(), Some(&first));
    assert_eq!(accounts.find(2).await.unwrap(), None);
}

async fn a_change_that_changes_nothing_is_a_success<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    let item = Item::new(1, "same");
    items.insert(&item).await.unwrap();
    items.update(&item).await.unwrap();
    items.save(&item).await.unwrap();
    assert_eq!(items.find(1).await.unwrap().as_deref(), Some(&item));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "members")]
struct Member {
    #[cached(id)]
    team: i64,
    #[cached(id)]
    person: i64,
}

async fn a_row_of_nothing_but_its_id_can_be_written<DB: Tested>(world: &World<DB>) {
    world.sql("CREATE TABLE members (team BIGINT NOT NULL, person BIGINT NOT NULL, PRIMARY KEY (team, person))").await;
    let members = Member::repository(&world.cache, world.pool.clone());
    let member = Member { team: 1, person: 2 };
    assert!(!members.exists((1, 2)).await.unwrap());
    members.insert(&member).await.unwrap();
    members.update(&member).await.unwrap();
    members.save(&member).await.unwrap();
    members.save(&Member { team: 2, person: 1 }).await.unwrap();
    assert!(members.exists((1, 2)).await.unwrap() && members.exists((2, 1)).await.unwrap());
    assert_eq!(
        members
            .update(&Member { team: 3, person: 3 })
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    members.delete((1, 2)).await.unwrap();
    assert!(!members.exists((1, 2)).await.unwrap());
}

/// The versions of one row, by a clock that all tasks share.
#[derive(Default)]
struct History {
    now: u64,
    /// When the write of each version began, and when it returned.
    writes: Vec<(u64, Option<u64>)>,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn begin(&mut self) -> usize {
        let began = self.tick();
        self.writes.push((began, None));
        self.writes.len() - 1
    }

    fn end(&mut self, version: usize) {
        let ended = self.tick();
        self.writes[version].1 = Some(ended);
    }

    /// Returns whether the write of one version had returned before that of the other began.
    fn precedes(&self, older: usize, newer: usize) -> bool {
        self.writes[older]
            .1
            .is_some_and(|ended| ended < self.writes[newer].0)
    }

    /// Returns a version that had replaced the one that was read before the read began, which proves that the read is stale.
    /// Of overlapping writes, either may be the last.
    fn replaced(&self, seen: usize, read_began: u64) -> Option<usize> {
        (0..self.writes.len()).find(|newer| {
            let returned = self.writes[*newer].1;
            returned.is_some_and(|ended| ended < read_began) && self.precedes(seen, *newer)
        })
    }

    fn check(&self, seen: usize, last: usize, read_began: u64) {
        if let Some(newer) = self.replaced(seen, read_began) {
            panic!("read {seen} although {newer} had replaced it");
        }
        assert!(
            !self.precedes(seen, last),
            "read {seen} after {last}, which had replaced it"
        );
    }
}

fn versioned(version: usize) -> Item {
    Item {
        quantity: version as i64,
        ..Item::new(1, "versioned")
    }
}

async fn write_version<DB: Tested>(items: &ItemRepository<DB>, history: &Mutex<History>) {
    let version = history.lock().unwrap().begin();
    items.update(&versioned(version)).await.unwrap();
    history.lock().unwrap().end(version);
}

async fn cached<DB: Tested>(items: &ItemRepository<DB>) {
    while items.find_outcome(1).await.unwrap().origin != Origin::Cache {
        tokio::task::yield_now().await;
    }
}

/// A reader never sees a row that was replaced before it asked, or before the row that it saw last. At first there is one
/// writer at a time, and its row is cached afterwards. Then all write at the same time.
async fn many_writers_and_readers_never_see_an_older_row<DB: Tested>(world: &World<DB>) {
    const WRITERS: usize = 4;
    const READERS: usize = 4;
    const ROUNDS: usize = 8;
    const PATIENCE: Duration = Duration::from_secs(30);
    let history = Arc::new(Mutex::new(History::default()));
    let first = history.lock().unwrap().begin();
    world.put(&versioned(first)).await;
    history.lock().unwrap().end(first);
    let repositories = [world.items(), world.items_elsewhere().await];
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    let together = Arc::new(tokio::sync::Barrier::new(WRITERS));
    let writing = Arc::new(AtomicUsize::new(WRITERS));
    at_once(WRITERS + READERS, |number| {
        let items = repositories[number % repositories.len()].clone();
        let (history, turn) = (Arc::clone(&history), Arc::clone(&turn));
        let (together, writing) = (Arc::clone(&together), Arc::clone(&writing));
        async move {
            if number < WRITERS {
                for _ in 0..ROUNDS {
                    let _turn = turn.lock().await;
                    write_version(&items, &history).await;
                    tokio::time::timeout(PATIENCE, cached(&items))
                        .await
                        .expect("the row is cached");
                }
                together.wait().await;
                for _ in 0..ROUNDS {
                    write_version(&items, &history).await;
                }
                writing.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            let mut last = first;
            while writing.load(Ordering::SeqCst) > 0 {
                let began = history.lock().unwrap().tick();
                let row = items.find(1).await.unwrap().unwrap();
                let seen = usize::try_from(row.quantity).unwrap();
                history.lock().unwrap().check(seen, last, began);
                last = seen;
                // An in-process hit does not wait, and the writers need the threads too.
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let kept = repositories[0].find_uncached(1).await.unwrap();
    for items in &repositories {
        assert_eq!(items.find(1).await.unwrap(), kept);
    }
}

/// Each finds no row, and all but one then find that another task has inserted it.
async fn concurrent_saves_of_a_new_row_all_succeed<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in 0..10 {
        let saved = at_once(6, |saver| {
            let items = items.clone();
            async move { items.save(&Item::new(id, &format!("{saver}"))).await }
        })
        .await;
        for saved in saved {
            saved.unwrap();
        }
        let held = items.find_uncached(id).await.unwrap();
        assert_eq!(items.find(id).await.unwrap(), held);
    }
}

/// Locks the row in another transaction, so that a statement on it has to wait.
pub(crate) async fn lock_row(outside: &Pool<Postgres>) -> sqlx::Transaction<'static, Postgres> {
    let mut transaction = outside.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM items WHERE id = 1 FOR UPDATE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction
}

/// Waits until a statement waits for a lock.
pub(crate) async fn held_up(outside: &Pool<Postgres>) {
    eventually("a statement waits for the lock", async || {
        sqlx::query("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
            .fetch_optional(outside)
            .await
            .unwrap()
            .is_some()
    })
    .await;
}

/// The intent TTL is ten seconds. The intent is renewed after a third of it, as long as the statement takes.
async fn an_intent_is_renewed_while_its_statement_runs(world: &World<Postgres>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    let key = items.inner().key(1).unwrap();
    let outside = world.database.outside_pool().await;
    let lock = lock_row(&outside).await;
    let write = tokio::spawn({
        let items = items.clone();
        async move { items.update(&Item::new(1, "new")).await }
    });
    held_up(&outside).await;
    assert_eq!(world.faults.calls(Operation::Begin), 1);
    let mut least = u64::MAX;
    eventually("more time is left of the intent than before", async || {
        let left = world.cache.store().remaining_ms(&key).await.unwrap();
        let left = left.expect("the intent stands");
        let prolonged = left > least.saturating_add(1_000);
        least = least.min(left);
        prolonged
    })
    .await;
    assert!(world.faults.calls(Operation::Begin) >= 2);
    lock.rollback().await.unwrap();
    write.await.unwrap().unwrap();
    assert_eq!(
        world.cache.store().remaining_ms(&key).await.unwrap(),
        None,
        "and taken back in the end, as often as it was renewed"
    );
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "new");
}

of_items! {
    #[cached(coherence = "lease")]
    struct Unannounced
}

/// Returns the processor time of this thread, which runs all tasks of the test.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name of the thread may contain any character. The numbers follow its closing bracket.
    let (_, numbers) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = numbers
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    // This file counts in hundredths of a second, whatever the kernel's own clock does.
    Duration::from_millis(ticks * 10)
}

/// A write that is not announced renews no intent, and uses no processor time while it waits.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_write_that_is_not_announced_waits_quietly() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    world.put(&Item::new(1, "old")).await;
    let rows = Unannounced::repository(&world.cache, world.pool.clone());
    rows.find(1).await.unwrap();
    let outside = world.database.outside_pool().await;
    let lock = lock_row(&outside).await;
    let write = tokio::spawn({
        let rows = rows.clone();
        let row = Unannounced {
            id: 1,
            name: "new".to_owned(),
            note: None,
            quantity: 1,
        };
        async move { rows.update(&row).await }
    });
    held_up(&outside).await;
    let before = processor_time();
    // Longer than a third of the intent TTL, after which an intent would be renewed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let used = processor_time() - before;
    assert!(
        used < Duration::from_millis(500),
        "waiting took {used:?} of processor time"
    );
    lock.rollback().await.unwrap();
    write.await.unwrap().unwrap();
    assert_eq!(world.faults.calls(Operation::Begin), 0);
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "new");
    world.database.close().await;
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, larder::Columns)]
struct Address {
    name: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items")]
struct Twice {
    #[cached(id)]
    id: i64,
    name: String,
    #[sqlx(flatten)]
    address: Address,
}

async fn two_fields_for_one_column_are_refused_at_start<DB: Tested>(world: &World<DB>) {
    let error = Twice::try_repository(&world.cache, world.pool.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let message = error.to_string();
    assert!(
        message.contains("two fields of Twice are the column name"),
        "{message}"
    );
}

/// The connection is lost after the statement was sent. The statement may be executed at any later time, so nothing may be
/// cached until the intent has expired.
async fn a_write_whose_outcome_is_unknown_keeps_its_key_uncached(world: &World<Postgres>) {
    world.put(&Item::new(1, "old")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    // The name is a parameter, so it identifies the message with the update.
    let cut = world
        .database
        .proxy()
        .cut(Point::BeforeReply, "marked by its name");
    let error = items
        .update(&Item::new(1, "marked by its name"))
        .await
        .unwrap_err();
    cut.sprung().await;
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
    for _ in 0..3 {
        let outcome = items.find_outcome(1).await.unwrap();
        assert_eq!(
            outcome.origin,
            Origin::Database,
            "the intent keeps readers off the cache"
        );
    }
    let key = items.inner().key(1).unwrap();
    let left = world
        .cache
        .store()
        .remaining_ms(&key)
        .await
        .unwrap()
        .expect("the intent stands");
    assert!(left <= 10_000, "and expires by itself: {left} ms");
}

async fn an_insert_that_is_rolled_back_leaves_no_trace(world: &World<Postgres>) {
    world
        .sql("CREATE TABLE tickets (id BIGSERIAL PRIMARY KEY, title TEXT NOT NULL UNIQUE, state TEXT NOT NULL DEFAULT 'open')")
        .await;
    let tickets = Ticket::repository(&world.cache, world.pool.clone());
    let draft = Ticket {
        id: 0,
        title: "unique".to_owned(),
        state: String::new(),
    };
    tickets.insert(&draft).await.unwrap();
    assert_eq!(
        tickets.insert(&draft).await.unwrap_err().kind(),
        ErrorKind::Duplicate
    );
    assert_eq!(tickets.find(2).await.unwrap(), None);
    let third = tickets
        .insert(&Ticket {
            title: "other".to_owned(),
            ..draft
        })
        .await
        .unwrap();
    assert_eq!(
        tickets.find(third.id).await.unwrap(),
        Some(third),
        "the pool's connections are usable"
    );
}

async fn is_cached<DB: Tested>(world: &World<DB>, items: &ItemRepository<DB>, id: i64) {
    world.warm(items, id).await;
    let outcome = items.find_outcome(id).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
}

/// However many there were: an intent that is not listed would keep the row out of the cache for its whole time to live.
async fn a_row_is_cached_again_when_its_last_writer_has_ended<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    world.put(&Item::new(1, "hot")).await;
    for writers in [10, 70, 300] {
        let results = at_once(writers, |quantity| {
            let items = items.clone();
            async move {
                let item = Item {
                    quantity: quantity as i64,
                    ..Item::new(1, "hot")
                };
                items.update(&item).await.map(|_| ())
            }
        });
        for result in results.await {
            result.unwrap();
        }
        is_cached(world, &items, 1).await;
    }
}

/// Transactions announce their writes just before they commit, all their rows together.
async fn rows_that_many_transactions_change_are_cached_again_when_the_last_has_ended<DB: Tested>(
    world: &World<DB>,
) {
    let items = world.items();
    let rows = [Item::new(1, "hot"), Item::new(2, "hot")];
    items.insert_many(&rows).await.unwrap();
    let results = at_once(70, |quantity| {
        let items = items.clone();
        let rows = rows.clone().map(|row| Item {
            quantity: quantity as i64,
            ..row
        });
        async move { items.update_many(&rows).await.map(|_| ()) }
    });
    for result in results.await {
        result.unwrap();
    }
    for id in [1, 2] {
        is_cached(world, &items, id).await;
    }
}
