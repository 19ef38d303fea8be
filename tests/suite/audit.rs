//! An audit finds rows that are stale, and none that only a write is just changing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use larder::{
    Audit, AuditOptions, Difference,
    store::{Mechanism, Point},
};

use tokio::{runtime::Handle, time::Instant};

use crate::{
    entities::{Behind, BehindRepository, Item, made_of_id_and_name, of_items},
    world::{Tested, World, eventually, everywhere, filled, on_both_stores},
};

everywhere!(
    a_row_that_was_changed_past_larder_is_found,
    a_list_without_a_row_that_was_added_past_larder_is_found,
    lookups_in_lower_case_are_audited,
    queued_rows_are_not_stale,
);
on_both_stores!(
    a_row_that_was_deleted_past_larder_is_found,
    rows_that_are_being_written_are_not_stale,
    a_row_that_is_written_during_an_audit_is_not_stale,
    without_the_second_look_a_row_that_is_written_during_an_audit_seems_stale,
    an_audit_changes_nothing,
    an_audit_is_bounded,
    no_more_is_compared_at_once_than_in_a_second,
    an_entity_with_tags_is_audited_as_its_readers_see_it,
    a_list_that_was_cut_is_compared_as_far_as_it_goes,
    lists_that_are_being_written_are_not_stale,
    a_list_that_is_written_during_an_audit_is_not_stale,
    without_the_second_look_a_list_that_is_written_during_an_audit_seems_stale,
    rows_that_are_being_flushed_are_not_stale,
    a_row_that_is_flushed_during_an_audit_is_right,
    without_the_second_look_queued_rows_seem_stale,
);

of_items! {
    #[cached(ttl = "10m", tags("name:{name}"))]
    struct Labelled
}

of_items! {
    #[cached(ttl = "10m", index(name, order_by = "quantity desc", max = 3))]
    struct Filed
}

of_items! {
    #[cached(ttl = "10m", index(note), unique(name, fold = "lower"))]
    struct Named
}

made_of_id_and_name!(Filed);

fn all() -> AuditOptions {
    AuditOptions::default().rows(100_000).per_second(0)
}

async fn a_row_that_was_changed_past_larder_is_found<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in 1..=20 {
        world.put(&Item::new(id, "right")).await;
        items.find(id).await.unwrap();
    }
    filled(|| items.stats()).await;
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale, audit.changing), (20, 0, 0));
    assert!(audit.is_complete && audit.right() == Some(1.0));
    world
        .sql("UPDATE items SET name = 'other', quantity = 77 WHERE id = 7")
        .await;
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (20, 1));
    let stale = &audit.examples[0];
    assert_eq!(stale.key, items.inner().key(7).unwrap().to_string());
    assert_eq!(
        stale.difference,
        Difference::Columns(vec!["name", "quantity"])
    );
    assert_eq!(stale.difference.to_string(), "differs in name, quantity");
    assert_eq!(stale.token.len(), 32);
    assert!(stale.age < Duration::from_secs(600));
    let stats = items.stats();
    assert_eq!((stats.audited_entries, stats.stale_entries), (40, 1));
    items.invalidate(7).await.unwrap();
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (19, 0));
}

async fn a_row_that_was_deleted_past_larder_is_found<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    world.put(&Item::new(1, "here")).await;
    world.warm(&items, 1).await;
    world.warm(&items, 404).await;
    world.sql("DELETE FROM items WHERE id = 1").await;
    let audit = items.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (1, 1), "absences have no row");
    assert_eq!(audit.examples[0].difference, Difference::NoRow);
}

async fn rows_that_are_being_written_are_not_stale<DB: Tested>(world: &World<DB>) {
    let (checked, stale) = audited_beside_writers(world, 100).await;
    assert_eq!(stale, 0, "of {checked}");
}

/// Does something at a point of the next audit, once.
fn meanwhile<DB: Tested, W: Future<Output = ()> + Send + 'static>(
    world: &World<DB>,
    point: Point,
    work: W,
) {
    let work = Mutex::new(Some(work));
    let runtime = Handle::current();
    world.faults.at(point, move || {
        let work = work.lock().unwrap().take();
        if let Some(work) = work {
            tokio::task::block_in_place(|| runtime.block_on(work));
        }
    });
}

async fn written_during_an_audit<DB: Tested>(world: &World<DB>) -> Audit {
    let items = world.items();
    world.put(&Item::new(1, "a")).await;
    world.warm(&items, 1).await;
    let writer = items.clone();
    meanwhile(world, Point::BeforeAuditRead, async move {
        writer.update(&Item::new(1, "b")).await.unwrap();
        writer.find(1).await.unwrap();
    });
    items.audit(all()).await.unwrap()
}

async fn a_row_that_is_written_during_an_audit_is_not_stale<DB: Tested>(world: &World<DB>) {
    let audit = written_during_an_audit(world).await;
    assert_eq!((audit.checked, audit.stale, audit.changing), (0, 0, 1));
}

async fn without_the_second_look_a_row_that_is_written_during_an_audit_seems_stale<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::SecondLook);
    let audit = written_during_an_audit(world).await;
    assert_eq!((audit.checked, audit.stale, audit.changing), (1, 1, 0));
}

async fn listed_during_an_audit<DB: Tested>(world: &World<DB>) -> Audit {
    let rows = Filed::repository(&world.cache, world.pool.clone());
    add(world, 1, "a", 1).await;
    rows.find_all_by_name("a").await.unwrap();
    filled(|| rows.stats()).await;
    // So that only the list is read, after the row that tells its values.
    rows.invalidate(1).await.unwrap();
    let reads = AtomicU64::new(0);
    let (writer, runtime) = (rows.clone(), Handle::current());
    world.faults.at(Point::BeforeAuditRead, move || {
        if reads.fetch_add(1, Ordering::SeqCst) == 1 {
            let insert = async {
                writer.insert(&Filed::new(2, "a")).await.unwrap();
                writer.find_all_by_name("a").await.unwrap();
            };
            tokio::task::block_in_place(|| runtime.block_on(insert));
        }
    });
    rows.audit(all()).await.unwrap()
}

async fn a_list_that_is_written_during_an_audit_is_not_stale<DB: Tested>(world: &World<DB>) {
    let audit = listed_during_an_audit(world).await;
    assert_eq!((audit.lists, audit.stale, audit.changing), (0, 0, 1));
}

async fn without_the_second_look_a_list_that_is_written_during_an_audit_seems_stale<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::SecondLook);
    let audit = listed_during_an_audit(world).await;
    assert_eq!((audit.lists, audit.stale, audit.changing), (1, 1, 0));
}

/// Audits while writers and readers are at work, until enough was checked. Returns how many rows were checked, and how many were
/// stale.
async fn audited_beside_writers<DB: Tested>(world: &World<DB>, enough: u64) -> (u64, u64) {
    let items = world.items();
    for id in 0..8 {
        world.put(&Item::new(id, "0")).await;
    }
    let work = beside(4, {
        let items = items.clone();
        move |id, round| {
            let items = items.clone();
            async move {
                let item = Item::new(id, &round.to_string());
                items.update(&item).await.unwrap();
                for _ in 0..20 {
                    items.find(id).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let counts = work.audited(
        enough,
        async || items.audit(all()).await.unwrap(),
        |audit| audit.checked,
    );
    counts.await
}

async fn an_audit_changes_nothing<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in [1, 2] {
        world.put(&Item::new(id, "row")).await;
        world.warm(&items, id).await;
    }
    world
        .sql("UPDATE items SET name = 'new' WHERE id = 1")
        .await;
    let before = items.stats();
    items.audit(all()).await.unwrap();
    let after = items.stats();
    assert_eq!(
        (after.hits, after.misses, after.loads, after.fills_accepted),
        (
            before.hits,
            before.misses,
            before.loads,
            before.fills_accepted
        )
    );
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "row");
}

async fn an_audit_is_bounded<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in 0..1_200 {
        world.put(&Item::new(id, "row")).await;
    }
    let ids: Vec<_> = (0..1_200).collect();
    items.find_many(&ids).await.unwrap();
    filled(|| items.stats()).await;
    let some = AuditOptions::default().rows(600).per_second(0);
    let audit = items.audit(some).await.unwrap();
    assert!((600..1_200).contains(&audit.checked), "{}", audit.checked);
    assert!(!audit.is_complete);
    let began = Instant::now();
    let slowly = AuditOptions::default().rows(1_000).per_second(1_000);
    let audit = items.audit(slowly).await.unwrap();
    assert!(audit.checked >= 1_000);
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

/// Otherwise an audit with a low rate would begin with a burst of statements: each list takes one.
async fn no_more_is_compared_at_once_than_in_a_second<DB: Tested>(world: &World<DB>) {
    let items = world.items();
    for id in 0..25 {
        world.put(&Item::new(id, "row")).await;
    }
    let ids: Vec<_> = (0..25).collect();
    items.find_many(&ids).await.unwrap();
    filled(|| items.stats()).await;
    let reads = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&reads);
    world.faults.at(Point::BeforeAuditRead, move || {
        read.fetch_add(1, Ordering::SeqCst);
    });
    let slowly = AuditOptions::default().per_second(10);
    let audit = items.audit(slowly).await.unwrap();
    assert_eq!(audit.checked, 25);
    assert!(reads.load(Ordering::SeqCst) >= 3);
}

/// A row whose tag was invalidated is not served, so it is not stale.
async fn an_entity_with_tags_is_audited_as_its_readers_see_it<DB: Tested>(world: &World<DB>) {
    let rows = Labelled::repository(&world.cache, world.pool.clone());
    for id in [1, 2] {
        world.put(&Item::new(id, "a")).await;
        for _ in 0..2 {
            rows.find(id).await.unwrap();
        }
        filled(|| rows.stats()).await;
    }
    world.sql("UPDATE items SET quantity = 5").await;
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!(audit.stale, audit.checked);
    assert!(audit.checked > 0);
    rows.invalidate_tag("name:a").await.unwrap();
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale), (0, 0));
}

fn told(audit: &Audit) -> Vec<String> {
    let told = audit.examples.iter();
    let mut told: Vec<_> = told
        .map(|entry| {
            let (_, id) = entry.key.split_once("Filed").unwrap();
            format!("{id} {}", entry.difference)
        })
        .collect();
    told.sort();
    told
}

async fn add<DB: Tested>(world: &World<DB>, id: i64, name: &str, quantity: i64) {
    world
        .sql(format!(
            "INSERT INTO items (id, name, quantity) VALUES ({id}, '{name}', {quantity})"
        ))
        .await;
}

async fn a_list_without_a_row_that_was_added_past_larder_is_found<DB: Tested>(world: &World<DB>) {
    let rows = Filed::repository(&world.cache, world.pool.clone());
    for id in [1, 2] {
        add(world, id, "a", 10 * id).await;
    }
    let list = async || {
        let found = rows.find_all_by_name("a").await.unwrap();
        filled(|| rows.stats()).await;
        found.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(list().await, [2, 1]);
    rows.find_all_by_name("nobody").await.unwrap();
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.lists, audit.stale), (3, 1, 0));
    assert_eq!((audit.changing, audit.not_comparable), (0, 0));

    add(world, 3, "a", 15).await;
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.lists), (3, 1));
    assert_eq!(
        told(&audit),
        ["#name:a lacks rows, or has them in another order"]
    );
    assert_eq!(rows.stats().stale_entries, 1);
    rows.invalidate_by_name("a").await.unwrap();
    assert_eq!(list().await, [2, 3, 1]);
    assert_eq!(rows.audit(all()).await.unwrap().stale, 0);

    // Readers compare each row, so a list need not know that one has left. They are served its old values.
    world.sql("UPDATE items SET name = 'b' WHERE id = 3").await;
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!(
        (audit.lists, told(&audit)),
        (1, vec![":3 differs in name".to_owned()])
    );
    rows.invalidate(3).await.unwrap();
    assert_eq!(rows.audit(all()).await.unwrap().stale, 0);
    assert_eq!(list().await, [2, 1]);

    world
        .sql("UPDATE items SET quantity = 5 WHERE id = 2")
        .await;
    rows.invalidate(2).await.unwrap();
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!(
        told(&audit),
        ["#name:a lacks rows, or has them in another order"]
    );

    // Nothing tells the values of a list that all rows have left.
    world.sql("UPDATE items SET name = 'b'").await;
    for id in [1, 2] {
        rows.invalidate(id).await.unwrap();
    }
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.lists, audit.not_comparable), (0, 1));
}

async fn a_list_that_was_cut_is_compared_as_far_as_it_goes<DB: Tested>(world: &World<DB>) {
    let rows = Filed::repository(&world.cache, world.pool.clone());
    for id in 1..=5 {
        add(world, id, "a", 10 * id).await;
    }
    rows.find_all_by_name("a").await.unwrap();
    filled(|| rows.stats()).await;
    let right = async || {
        let audit = rows.audit(all()).await.unwrap();
        assert_eq!(audit.lists, 1);
        audit.stale == 0
    };
    assert!(right().await);
    add(world, 6, "a", 1).await;
    assert!(right().await, "it comes after the ids that are cached");
    world.sql("DELETE FROM items WHERE id = 6").await;
    add(world, 7, "a", 45).await;
    assert!(!right().await, "it comes between them");
    world.sql("DELETE FROM items WHERE id IN (4, 7)").await;
    rows.invalidate(4).await.unwrap();
    assert!(
        right().await,
        "readers load the ids again if rows have left"
    );
}

async fn lookups_in_lower_case_are_audited<DB: Tested>(world: &World<DB>) {
    let rows = Named::repository(&world.cache, world.pool.clone());
    add(world, 1, "Ann", 1).await;
    add(world, 2, "BOB", 1).await;
    world
        .sql("UPDATE items SET note = 'Same Note' WHERE id = 1")
        .await;
    for name in ["ANN", "bob"] {
        assert!(rows.find_by_name(name).await.unwrap().is_some());
    }
    assert_eq!(rows.find_all_by_note("Same Note").await.unwrap().len(), 1);
    filled(|| rows.stats()).await;
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.lists, audit.stale), (5, 3, 0));
    // In the index that does not fold, this is another note.
    world
        .sql("INSERT INTO items (id, name, note, quantity) VALUES (3, 'Cy', 'same note', 1)")
        .await;
    assert_eq!(rows.audit(all()).await.unwrap().stale, 0);
    // A unique lookup whose values two rows have is an error for its readers, and not a stale entry.
    add(world, 4, "aNN", 1).await;
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.lists, audit.not_comparable, audit.stale), (2, 1, 0));
}

async fn lists_that_are_being_written_are_not_stale<DB: Tested>(world: &World<DB>) {
    let (lists, stale) = lists_beside_writers(world, 20).await;
    assert_eq!(stale, 0, "of {lists}");
}

/// Audits lists while rows come, go and change their places, until enough was checked. Returns how many lists were checked, and how many
/// entries were stale.
async fn lists_beside_writers<DB: Tested>(world: &World<DB>, enough: u64) -> (u64, u64) {
    let rows = Filed::repository(&world.cache, world.pool.clone());
    for id in 0..8 {
        add(world, id, "even", id).await;
    }
    let work = beside(3, {
        let rows = rows.clone();
        move |id, round| {
            let rows = rows.clone();
            async move {
                let name = ["even", "odd"][usize::try_from((id + round) % 2).unwrap()];
                let mut row = Filed::new(id, name);
                row.quantity = (id * 7 + round * 3) % 10;
                rows.update(&row).await.unwrap();
                for _ in 0..100 {
                    rows.find_all_by_name(name).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let counts = work.audited(
        enough,
        async || rows.audit(all()).await.unwrap(),
        |audit| audit.lists,
    );
    counts.await
}

async fn queued<DB: Tested>(world: &World<DB>) -> BehindRepository<DB> {
    let rows = Behind::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows
}

async fn queued_rows_are_not_stale<DB: Tested>(world: &World<DB>) {
    let rows = queued(world).await;
    for id in 1..=5 {
        rows.save(&Behind::new(id, "a")).await.unwrap();
    }
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale, audit.changing), (0, 0, 5));
    rows.flush().await.unwrap();
    rows.save(&Behind::new(1, "b")).await.unwrap();
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale, audit.changing), (4, 0, 1));
    rows.flush().await.unwrap();
    world.sql("UPDATE items SET name = 'c' WHERE id = 2").await;
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale, audit.changing), (5, 1, 0));
}

async fn rows_that_are_being_flushed_are_not_stale<DB: Tested>(world: &World<DB>) {
    let rows = queued(world).await;
    let (checked, stale) = queued_beside_writers(&rows, 100).await;
    assert_eq!(stale, 0, "of {checked}");
}

async fn a_row_that_is_flushed_during_an_audit_is_right<DB: Tested>(world: &World<DB>) {
    let rows = queued(world).await;
    for name in ["a", "b"] {
        rows.save(&Behind::new(1, name)).await.unwrap();
        if name == "a" {
            rows.flush().await.unwrap();
        }
    }
    let flusher = rows.clone();
    meanwhile(world, Point::AfterAuditRead, async move {
        flusher.flush().await.unwrap();
    });
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.checked, audit.stale, audit.changing), (1, 0, 0));
}

async fn without_the_second_look_queued_rows_seem_stale<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::SecondLook);
    let rows = queued(world).await;
    rows.save(&Behind::new(1, "a")).await.unwrap();
    let audit = rows.audit(all()).await.unwrap();
    assert_eq!((audit.stale, audit.changing), (1, 0));
}

async fn queued_beside_writers<DB: Tested>(rows: &BehindRepository<DB>, enough: u64) -> (u64, u64) {
    let flusher = rows.start_flushing().await.unwrap();
    let work = beside(8, {
        let rows = rows.clone();
        move |id, round| {
            let rows = rows.clone();
            async move {
                // Queued and flushed rows are both met.
                if round % 3 == 0 {
                    rows.flush().await.unwrap();
                }
                let row = Behind::new(id, &round.to_string());
                rows.save(&row).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let counts = work.audited(
        enough,
        async || rows.audit(all()).await.unwrap(),
        |audit| audit.checked,
    );
    let counts = counts.await;
    drop(flusher);
    counts
}

/// Tasks that work until they are told to end.
struct Work {
    is_over: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Starts so many tasks. Each does a step for its number and the number of its round, again and again.
fn beside<S: Future<Output = ()> + Send>(
    tasks: i64,
    step: impl Fn(i64, i64) -> S + Clone + Send + Sync + 'static,
) -> Work {
    let is_over = Arc::new(AtomicBool::new(false));
    let tasks = (0..tasks).map(|task| {
        let (step, is_over) = (step.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            for round in 1.. {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                step(task, round).await;
            }
        })
    });
    let tasks = tasks.collect();
    Work { is_over, tasks }
}

impl Work {
    /// Audits until so much was counted, and ends the tasks. Returns what was counted, and how many entries were stale.
    async fn audited(
        self,
        enough: u64,
        audit: impl AsyncFn() -> Audit,
        count: fn(&Audit) -> u64,
    ) -> (u64, u64) {
        let (mut counted, mut stale) = (0, 0);
        eventually("enough was checked", async || {
            let audit = audit().await;
            (counted, stale) = (counted + count(&audit), stale + audit.stale);
            counted >= enough
        })
        .await;
        self.is_over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        (counted, stale)
    }
}
