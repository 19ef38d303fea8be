//! Rows that are invalidated together: what an invalidation covers, when, and what becomes of loads under way.
//!
//! The controls leave out each mechanism, and show that the same scene then serves the old row.
//!
//! Not here: what a stamp is compared with (`stamps`), writes that the store does not hear of (`outage`), the rules of the clock as
//! such (`protocol/tags`, and the model), and the scripts (`redis/scripts`).

mod changes;
mod outage;
mod shared_clock;
mod stamps;

use std::collections::BTreeSet;

use larder::{
    Cached, ErrorKind, Origin, Transaction,
    key::Key,
    store::{Mechanism, faulty::Operation, tags::TagStore},
    tags::{Changed, MAX_MARKS, Tag},
    token::Token,
};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, SqlStr};

use crate::{
    entities::Item,
    late_fills::{a_statement_waits, let_go, slow_items},
    world::{
        Kind, Tested, World, eventually, everywhere, filled, on_both_stores, on_postgres, on_redis,
        redis_url,
    },
};

everywhere!(
    an_invalidation_covers_the_rows_with_its_tag_and_no_others,
    a_row_has_the_tags_of_its_present_values,
    absences_and_lists_are_loaded_again,
    null_has_no_tag,
    everything_is_invalidated_at_once,
    a_row_that_was_written_through_is_invalidated_like_any_other,
    rows_that_were_changed_together_are_seen_at_once,
    rows_that_move_between_tags_are_right_in_both,
    a_change_of_many_rows_that_is_rolled_back_changes_nothing,
    a_savepoint_that_is_rolled_back_takes_its_tags_along,
);
on_both_stores!(
    between_the_commit_of_many_rows_and_its_end_nobody_is_served_an_old_one,
    without_the_announcement_at_the_tags_an_old_row_is_served,
    a_write_whose_process_has_died_ends_by_itself,
    marking_all_rows_needs_no_scan,
    a_consistent_entity_refuses_a_change_of_many_rows_without_its_announcement,
    a_row_that_was_compared_gets_a_new_stamp,
    a_load_from_before_an_invalidation_is_not_served_after_it,
    without_the_stamp_of_its_beginning_a_load_is_served_after_an_invalidation,
    without_the_clock_an_invalidation_is_not_noticed,
    an_entry_whose_mark_was_dropped_is_not_served,
    without_the_floor_an_entry_whose_mark_was_dropped_is_served,
    a_tag_that_no_row_can_have_is_an_error,
    an_invalidation_that_is_not_delivered_is_told_and_repaired,
    a_clock_that_fails_never_fails_a_read,
    a_batch_that_is_outdated_is_one_statement,
);
on_redis!(
    a_clock_that_was_lost_makes_everything_a_miss,
    the_bookkeeping_is_bounded
);
on_postgres!(
    a_caller_that_joins_after_an_invalidation_gets_no_row_from_before,
    without_the_rule_for_joiners_it_gets_one,
);

const AIRPORTS: &str = "CREATE TABLE airports (id BIGINT NOT NULL PRIMARY KEY, country VARCHAR(20) NOT NULL, region VARCHAR(20), \
                        name VARCHAR(50) NOT NULL)";

macro_rules! airports {
    ($name:ident, $($option:tt)*) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(
            table = "airports",
            ttl = "10m",
            negative_ttl = "10m",
            jitter = 0,
            lease(ttl = "20s", wait = "10s"),
            tags("catalog", "country:{country}", "region:{region}/{country}"),
            index(country),
            $($option)*
        )]
        struct $name {
            #[cached(id)]
            id: i64,
            country: String,
            region: Option<String>,
            name: String,
        }

        impl $name {
            fn new(id: i64, country: &str, name: &str) -> Self {
                Self {
                    id,
                    country: country.to_owned(),
                    region: None,
                    name: name.to_owned(),
                }
            }
        }
    };
}

airports!(Airport,);
airports!(WrittenAirport, strategy = "write_through");
airports!(CarefulAirport, on_outage = "consistent");

/// The airports, as this process and another one see them.
struct Scene<DB: Tested> {
    here: AirportRepository<DB>,
    elsewhere: AirportRepository<DB>,
}

impl<DB: Tested> Scene<DB> {
    /// Two airports in Germany, and one in France. All are cached.
    async fn open(world: &World<DB>) -> Self {
        world.sql(AIRPORTS).await;
        for (id, country) in [(1, "DE"), (2, "DE"), (3, "FR")] {
            world
                .sql(format!(
                    "INSERT INTO airports (id, country, name) VALUES ({id}, '{country}', 'old')"
                ))
                .await;
        }
        let scene = Self {
            here: Airport::repository(&world.cache, world.pool.clone()),
            elsewhere: Airport::repository(&world.cache_elsewhere().await, world.pool.clone()),
        };
        scene.see(["old"; 3]).await;
        scene.settle().await;
        scene
    }

    /// Waits until everything that was read is cached.
    async fn settle(&self) {
        filled(|| self.here.stats()).await;
        filled(|| self.elsewhere.stats()).await;
    }

    /// Both see these names of the three airports, one by one and together.
    async fn see(&self, names: [&str; 3]) {
        for airports in [&self.here, &self.elsewhere] {
            for (id, name) in (1..).zip(names) {
                let row = airports.find(id).await.unwrap();
                assert_eq!(row.unwrap().name, name, "{id}");
            }
            let rows = airports.find_many(&[1, 2, 3]).await.unwrap();
            let rows = rows.iter().map(|row| row.as_ref().unwrap().name.as_str());
            assert_eq!(rows.collect::<Vec<_>>(), names);
        }
    }
}

/// Renames all airports without larder.
async fn rename<DB: Tested>(world: &World<DB>, name: &str) {
    world
        .sql(format!("UPDATE airports SET name = '{name}'"))
        .await;
}

async fn an_invalidation_covers_the_rows_with_its_tag_and_no_others<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    rename(world, "second").await;
    scene.see(["old", "old", "old"]).await;
    scene.here.invalidate_country("DE").await.unwrap();
    scene.see(["second", "second", "old"]).await;
    rename(world, "third").await;
    scene.elsewhere.invalidate_tag("country:FR").await.unwrap();
    scene.see(["second", "second", "third"]).await;
    scene.here.invalidate_catalog().await.unwrap();
    scene.see(["third", "third", "third"]).await;
    rename(world, "fourth").await;
    scene
        .here
        .invalidate_tags(["country:FR", "country:XX"])
        .await
        .unwrap();
    scene.see(["third", "third", "fourth"]).await;
}

async fn a_row_has_the_tags_of_its_present_values<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let moved = Airport::new(1, "FR", "moved");
    scene.here.update(&moved).await.unwrap();
    scene.see(["moved", "old", "old"]).await;
    rename(world, "new").await;
    scene.here.invalidate_country("DE").await.unwrap();
    scene.see(["moved", "new", "old"]).await;
    scene.elsewhere.invalidate_country("FR").await.unwrap();
    scene.see(["new", "new", "new"]).await;
}

async fn absences_and_lists_are_loaded_again<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let ids = async |airports: &AirportRepository<DB>| {
        let page = airports.find_all_by_country("DE").await.unwrap();
        page.rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    for airports in [&scene.here, &scene.elsewhere] {
        assert!(airports.find(4).await.unwrap().is_none());
        assert_eq!(ids(airports).await, [1, 2]);
    }
    scene.settle().await;
    world
        .sql("INSERT INTO airports (id, country, name) VALUES (4, 'DE', 'new')")
        .await;
    for airports in [&scene.here, &scene.elsewhere] {
        assert!(airports.find(4).await.unwrap().is_none(), "it is cached");
        assert_eq!(ids(airports).await, [1, 2], "it is cached");
    }
    scene.here.invalidate_country("DE").await.unwrap();
    for airports in [&scene.elsewhere, &scene.here] {
        assert_eq!(airports.find(4).await.unwrap().unwrap().name, "new");
        assert_eq!(ids(airports).await, [1, 2, 4]);
    }
}

async fn null_has_no_tag<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let south = Airport {
        region: Some("south".to_owned()),
        ..Airport::new(1, "DE", "old")
    };
    scene.here.update(&south).await.unwrap();
    scene.see(["old", "old", "old"]).await;
    scene.settle().await;
    rename(world, "new").await;
    scene.here.invalidate_region("", "DE").await.unwrap();
    scene.see(["old", "old", "old"]).await;
    scene.here.invalidate_region("south", "DE").await.unwrap();
    scene.see(["new", "old", "old"]).await;
}

async fn everything_is_invalidated_at_once<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    assert!(scene.here.find(4).await.unwrap().is_none());
    scene.settle().await;
    rename(world, "new").await;
    world
        .sql("INSERT INTO airports (id, country, name) VALUES (4, 'DE', 'new')")
        .await;
    let scans = world.faults.calls(Operation::Scan);
    scene.here.invalidate_all().await.unwrap();
    if world.kind == Kind::Redis {
        assert_eq!(world.faults.calls(Operation::AdvanceClock), 1);
        assert_eq!(world.faults.calls(Operation::Scan), scans);
    }
    scene.see(["new", "new", "new"]).await;
    assert!(scene.elsewhere.find(4).await.unwrap().is_some());
    scene.settle().await;
    let statements = world.database.statements();
    scene.see(["new", "new", "new"]).await;
    assert_eq!(world.database.statements(), statements, "all is cached");
}

async fn a_row_that_was_written_through_is_invalidated_like_any_other<DB: Tested>(
    world: &World<DB>,
) {
    world.sql(AIRPORTS).await;
    let airports = WrittenAirport::repository(&world.cache, world.pool.clone());
    airports
        .insert(&WrittenAirport::new(1, "DE", "old"))
        .await
        .unwrap();
    assert_eq!(airports.find(1).await.unwrap().unwrap().name, "old");
    filled(|| airports.stats()).await;
    airports
        .update(&WrittenAirport::new(1, "DE", "written"))
        .await
        .unwrap();
    let statements = world.database.statements();
    assert_eq!(airports.find(1).await.unwrap().unwrap().name, "written");
    assert_eq!(world.database.statements(), statements, "it is cached");
    rename(world, "new").await;
    airports.invalidate_country("FR").await.unwrap();
    assert_eq!(airports.find(1).await.unwrap().unwrap().name, "written");
    airports.invalidate_country("DE").await.unwrap();
    assert_eq!(airports.find(1).await.unwrap().unwrap().name, "new");
}

async fn a_row_that_was_compared_gets_a_new_stamp<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let compared = || world.faults.calls(Operation::ReadMarks);
    assert_eq!(compared(), 0, "nothing was invalidated");
    scene.here.invalidate_country("FR").await.unwrap();
    let found = scene.here.find_outcome(1).await.unwrap();
    assert_eq!(found.origin, Origin::Cache);
    assert_eq!(compared(), 1);
    let before = compared();
    eventually("the entry has its new stamp", async || {
        let compared_before = compared();
        assert!(scene.here.find(1).await.unwrap().is_some());
        compared() == compared_before
    })
    .await;
    assert!(world.faults.calls(Operation::Restamp) >= 1);
    assert!(compared() - before < 1_000);
    assert_eq!(scene.here.stats().outdated_entries, 0);
}

/// A row is read from the database, then changed and invalidated, and then cached. Returns the name that is served afterwards.
async fn invalidated_while_it_is_loaded<DB: Tested>(world: &World<DB>) -> String {
    world.sql(AIRPORTS).await;
    world
        .sql("INSERT INTO airports (id, country, name) VALUES (1, 'DE', 'old')")
        .await;
    let airports = Airport::repository(&world.cache, world.pool.clone());
    // The clock is running.
    assert!(airports.find(9).await.unwrap().is_none());
    filled(|| airports.stats()).await;
    let gate = world.close_gate().await;
    let reader = tokio::spawn({
        let airports = airports.clone();
        async move { airports.find(1).await }
    });
    eventually("the load has its lease", async || {
        airports.stats().loads == 2
    })
    .await;
    // The next reading of the clock is that of the fill.
    let reading = world.faults.pause(Operation::ReadClock);
    drop(gate);
    reading.reached().await;
    rename(world, "new").await;
    airports.invalidate_country("DE").await.unwrap();
    reading.resume();
    assert_eq!(reader.await.unwrap().unwrap().unwrap().name, "old");
    filled(|| airports.stats()).await;
    let served = airports.find(1).await.unwrap().unwrap();
    served.name.clone()
}

async fn a_load_from_before_an_invalidation_is_not_served_after_it<DB: Tested>(world: &World<DB>) {
    assert_eq!(invalidated_while_it_is_loaded(world).await, "new");
}

async fn without_the_stamp_of_its_beginning_a_load_is_served_after_an_invalidation<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::TagStamp);
    assert_eq!(invalidated_while_it_is_loaded(world).await, "old");
}

async fn without_the_clock_an_invalidation_is_not_noticed<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::TagClock);
    let scene = Scene::open(world).await;
    rename(world, "new").await;
    scene.here.invalidate_country("DE").await.unwrap();
    assert_eq!(scene.here.find(1).await.unwrap().unwrap().name, "old");
}

/// The tag of a cached row is invalidated, and then so many others that its mark is dropped. Returns the name that is served
/// afterwards.
async fn with_its_mark_dropped<DB: Tested>(world: &World<DB>) -> String {
    let scene = Scene::open(world).await;
    rename(world, "new").await;
    scene.here.invalidate_country("DE").await.unwrap();
    let others: Vec<_> = (0..=MAX_MARKS)
        .map(|number| format!("country:{number}"))
        .collect();
    scene.here.invalidate_tags(others).await.unwrap();
    let row = scene.here.find(1).await.unwrap().unwrap();
    row.name.clone()
}

async fn an_entry_whose_mark_was_dropped_is_not_served<DB: Tested>(world: &World<DB>) {
    assert_eq!(with_its_mark_dropped(world).await, "new");
}

async fn without_the_floor_an_entry_whose_mark_was_dropped_is_served<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::TagFloor);
    assert_eq!(with_its_mark_dropped(world).await, "old");
}

async fn a_tag_that_no_row_can_have_is_an_error<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    rename(world, "new").await;
    for tags in [vec!["contry:DE"], vec!["country:DE", "catalogue"], vec![""]] {
        let error = scene.here.invalidate_tags(tags).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("no row of Airport has this tag"), "{text}");
        assert!(text.contains("`catalog`, `country:{..}`"), "{text}");
    }
    scene.see(["old"; 3]).await;
    scene.here.invalidate_tags([""; 0]).await.unwrap();
    let items = Item::repository(&world.cache, world.pool.clone());
    let error = items.inner().invalidate_tag("any").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("it has none"), "{error}");
}

async fn an_invalidation_that_is_not_delivered_is_told_and_repaired<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    rename(world, "new").await;
    world.faults.fail(Operation::AdvanceClock, 1);
    let error = scene.here.invalidate_country("DE").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CacheUnavailable);
    assert_eq!(scene.here.find(1).await.unwrap().unwrap().name, "new");
    eventually("the invalidation was delivered", async || {
        world.cache.repairs().pending == 0
    })
    .await;
    scene.see(["new"; 3]).await;
    assert_eq!(world.cache.repairs().repaired, 1);
    assert_eq!(world.cache.repairs().full_scans, 0, "a clock takes no scan");
}

async fn a_clock_that_fails_never_fails_a_read<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    for operation in [
        Operation::ReadClock,
        Operation::ReadMarks,
        Operation::StartClock,
        Operation::Restamp,
    ] {
        rename(world, "new").await;
        scene.here.invalidate_country("FR").await.unwrap();
        world.faults.fail(operation, u64::MAX);
        for id in [1, 2, 3, 9] {
            let row = scene.here.find(id).await.unwrap();
            assert_eq!(row.is_some(), id != 9, "{operation:?}");
        }
        let rows = scene.here.find_many(&[1, 2, 3, 9]).await.unwrap();
        assert_eq!(rows.iter().flatten().count(), 3, "{operation:?}");
        world.faults.fail(operation, 0);
        scene.here.bump().await.unwrap();
        scene.see(["new"; 3]).await;
        rename(world, "old").await;
    }
}

async fn a_batch_that_is_outdated_is_one_statement<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    rename(world, "new").await;
    scene.here.invalidate_catalog().await.unwrap();
    let statements = world.database.statements();
    let rows = scene.here.find_many(&[1, 2, 3]).await.unwrap();
    let names: BTreeSet<_> = rows.iter().flatten().map(|row| row.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["new"]));
    assert_eq!(world.database.statements() - statements, 1);
    assert_eq!(scene.here.stats().outdated_entries, 3);
}

/// Runs a statement in [`AirportRepository::write_tagged`].
async fn write_tagged<DB: Tested>(
    airports: &AirportRepository<DB>,
    tags: &[&str],
    sql: &'static str,
) -> Result<(), larder::Error> {
    let tags = tags.iter().copied();
    let write = airports.write_tagged(tags, |connection| {
        Box::pin(DB::run(connection, SqlStr::from_static(sql)))
    });
    write.await
}

const RENAME_GERMAN: &str = "UPDATE airports SET name = 'new' WHERE country = 'DE'";

async fn rows_that_were_changed_together_are_seen_at_once<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    write_tagged(&scene.here, &["country:DE"], RENAME_GERMAN)
        .await
        .unwrap();
    let statements = world.database.statements();
    assert_eq!(scene.here.find(3).await.unwrap().unwrap().name, "old");
    assert_eq!(world.database.statements(), statements, "it is cached");
    scene.see(["new", "new", "old"]).await;
    scene.settle().await;
    let statements = world.database.statements();
    scene.see(["new", "new", "old"]).await;
    assert_eq!(world.database.statements(), statements, "all is cached");
    let error = write_tagged(&scene.here, &["contry:DE"], RENAME_GERMAN).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Configuration);
}

async fn rows_that_move_between_tags_are_right_in_both<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let ids = async |airports: &AirportRepository<DB>, country: &str| {
        let page = airports.find_all_by_country(country).await.unwrap();
        page.rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    for airports in [&scene.here, &scene.elsewhere] {
        assert_eq!(ids(airports, "DE").await, [1, 2]);
        assert_eq!(ids(airports, "FR").await, [3]);
    }
    scene.settle().await;
    let sql = "UPDATE airports SET country = 'FR', name = 'moved' WHERE id = 2";
    write_tagged(&scene.here, &["country:DE", "country:FR"], sql)
        .await
        .unwrap();
    for airports in [&scene.elsewhere, &scene.here] {
        assert_eq!(ids(airports, "DE").await, [1]);
        assert_eq!(ids(airports, "FR").await, [2, 3]);
    }
    scene.see(["old", "moved", "old"]).await;
    rename(world, "new").await;
    scene.here.invalidate_country("DE").await.unwrap();
    scene.see(["new", "moved", "old"]).await;
    scene.here.invalidate_country("FR").await.unwrap();
    scene.see(["new", "new", "new"]).await;
}

async fn a_change_of_many_rows_that_is_rolled_back_changes_nothing<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let error = scene.here.write_tagged(["country:DE"], |connection| {
        Box::pin(async {
            DB::run(connection, SqlStr::from_static(RENAME_GERMAN)).await?;
            DB::run(connection, SqlStr::from_static("UPDATE nowhere SET n = 1")).await
        })
    });
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    scene.see(["old"; 3]).await;
    let statements = world.database.statements();
    scene.see(["old"; 3]).await;
    assert_eq!(world.database.statements(), statements, "all is cached");
}

async fn a_savepoint_that_is_rolled_back_takes_its_tags_along<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = scene.here.within(&mut transaction);
    within.mark_tags_changed(["country:FR"]).unwrap();
    let sql = "UPDATE airports SET name = 'new'";
    DB::run(transaction.connection(), SqlStr::from_static(sql))
        .await
        .unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    let mut within = scene.here.within(&mut savepoint);
    within.mark_tags_changed(["country:DE"]).unwrap();
    savepoint.rollback().await.unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    let mut within = scene.here.within(&mut savepoint);
    within.mark_tags_changed(["region:south/XX"]).unwrap();
    savepoint.commit().await.unwrap();
    scene.see(["old"; 3]).await;
    transaction.commit().await.unwrap();
    // What is not marked is not dropped.
    scene.see(["old", "old", "new"]).await;
}

/// Rows are changed together. Returns the name that another process is served after the commit, before the write has ended.
async fn before_the_end<DB: Tested>(world: &World<DB>) -> String {
    let scene = Scene::open(world).await;
    let end = world.faults.pause(Operation::EndTagged);
    let writer = tokio::spawn({
        let airports = scene.here.clone();
        async move { write_tagged(&airports, &["country:DE"], RENAME_GERMAN).await }
    });
    end.reached().await;
    let served = scene.elsewhere.find(1).await.unwrap().unwrap();
    assert_eq!(scene.elsewhere.find(3).await.unwrap().unwrap().name, "old");
    assert!(scene.elsewhere.find(9).await.unwrap().is_none());
    end.resume();
    writer.await.unwrap().unwrap();
    scene.see(["new", "new", "old"]).await;
    served.name.clone()
}

async fn between_the_commit_of_many_rows_and_its_end_nobody_is_served_an_old_one<DB: Tested>(
    world: &World<DB>,
) {
    assert_eq!(before_the_end(world).await, "new");
}

async fn without_the_announcement_at_the_tags_an_old_row_is_served<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::TagIntent);
    assert_eq!(before_the_end(world).await, "old");
}

async fn a_write_whose_process_has_died_ends_by_itself<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    rename(world, "new").await;
    let clock = Key::from_bytes(format!("{}:Airport@tags", world.namespace).as_bytes());
    let changed = Changed::Tags(vec![Tag::new("country:DE")]);
    let store = world.cache.store();
    store
        .begin_tagged(&clock, Token::draw(), &changed, 1_000)
        .await
        .unwrap();
    let uncached = scene.elsewhere.stats().uncached_loads;
    scene.see(["new", "new", "old"]).await;
    assert!(scene.elsewhere.stats().uncached_loads > uncached);
    eventually("the row is cached again", async || {
        let found = scene.elsewhere.find_outcome(1).await.unwrap();
        assert_eq!(found.row.unwrap().name, "new");
        found.origin == Origin::Cache
    })
    .await;
    scene.see(["new", "new", "old"]).await;
}

async fn marking_all_rows_needs_no_scan<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let sql = "UPDATE airports SET name = 'new'";
    DB::run(transaction.connection(), SqlStr::from_static(sql))
        .await
        .unwrap();
    let mut within = scene.here.within(&mut transaction);
    within.mark_all_changed().unwrap();
    transaction.commit().await.unwrap();
    scene.see(["new"; 3]).await;
    assert_eq!(world.faults.calls(Operation::Scan), 0);
    assert_eq!(world.faults.calls(Operation::BeginTagged), 1);
}

async fn a_consistent_entity_refuses_a_change_of_many_rows_without_its_announcement<DB: Tested>(
    world: &World<DB>,
) {
    world.sql(AIRPORTS).await;
    let airports = CarefulAirport::repository(&world.cache, world.pool.clone());
    airports
        .insert(&CarefulAirport::new(1, "DE", "old"))
        .await
        .unwrap();
    assert_eq!(airports.find(1).await.unwrap().unwrap().name, "old");
    filled(|| airports.stats()).await;
    world.faults.fail(Operation::BeginTagged, u64::MAX);
    let write = airports.write_tagged(["country:DE"], |connection| {
        Box::pin(DB::run(connection, SqlStr::from_static(RENAME_GERMAN)))
    });
    let error = write.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CacheUnavailable, "{error}");
    assert_eq!(
        airports.find_uncached(1).await.unwrap().unwrap().name,
        "old"
    );
    world.faults.fail(Operation::BeginTagged, 0);
    let write = airports.write_tagged(["country:DE"], |connection| {
        Box::pin(DB::run(connection, SqlStr::from_static(RENAME_GERMAN)))
    });
    write.await.unwrap();
    assert_eq!(airports.find(1).await.unwrap().unwrap().name, "new");
}

/// The key of the clock of the airports in Redis, and a connection.
async fn clock<DB: Tested>(world: &World<DB>) -> (redis::aio::MultiplexedConnection, String) {
    let client = redis::Client::open(redis_url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    (connection, format!("{}:Airport@tags", world.namespace))
}

async fn a_clock_that_was_lost_makes_everything_a_miss<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    rename(world, "second").await;
    scene.here.invalidate_country("DE").await.unwrap();
    let (mut connection, key) = clock(world).await;
    let deleted: i64 = redis::cmd("DEL")
        .arg(&key)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(deleted, 1);
    scene.see(["second"; 3]).await;
    scene.settle().await;
    rename(world, "third").await;
    scene.see(["second"; 3]).await;
    // A field that is no clock is no clock either.
    let () = redis::cmd("HSET")
        .arg(&key)
        .arg("c")
        .arg("junk")
        .query_async(&mut connection)
        .await
        .unwrap();
    scene.see(["third"; 3]).await;
    scene.here.invalidate_country("DE").await.unwrap();
    scene.see(["third"; 3]).await;
}

async fn the_bookkeeping_is_bounded<DB: Tested>(world: &World<DB>) {
    const TAGS: usize = 50_000;
    let scene = Scene::open(world).await;
    let (mut connection, key) = clock(world).await;
    for first in (0..TAGS).step_by(500) {
        let tags: Vec<_> = (first..first + 500)
            .map(|number| format!("country:{number}"))
            .collect();
        scene.here.invalidate_tags(tags).await.unwrap();
        let fields: usize = redis::cmd("HLEN")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!(fields <= MAX_MARKS + 1, "{fields}");
    }
    let bytes: usize = redis::cmd("MEMORY")
        .arg("USAGE")
        .arg(&key)
        .arg("SAMPLES")
        .arg(0)
        .query_async(&mut connection)
        .await
        .unwrap();
    println!("bookkeeping after {TAGS} tags: {bytes} bytes");
    assert!(bytes < 600_000, "{bytes}");
    scene.see(["old"; 3]).await;
    scene.settle().await;
    let statements = world.database.statements();
    scene.see(["old"; 3]).await;
    assert_eq!(world.database.statements(), statements, "all is cached");
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "slow_items", tags("slow"), lease(ttl = "60s", wait = "20s"))]
struct SlowTagged {
    #[cached(id)]
    id: i64,
    name: String,
}

/// A caller joins a load whose statement has read the row before it was changed and invalidated. Returns what it gets.
async fn joined_after_the_invalidation(world: &World<Postgres>) -> String {
    world.put(&Item::new(1, "old")).await;
    let holder = slow_items(world).await;
    let slow = SlowTagged::repository(&world.cache, world.pool.clone());
    let find = || {
        let slow = slow.clone();
        tokio::spawn(async move { slow.find(1).await.unwrap().unwrap().name.clone() })
    };
    let first = find();
    a_statement_waits(world).await;
    world.sql("UPDATE items SET name = 'new'").await;
    slow.invalidate_tag("slow").await.unwrap();
    let late = find();
    eventually("it has joined", async || slow.stats().misses == 2).await;
    let_go(holder).await;
    assert_eq!(first.await.unwrap(), "old");
    late.await.unwrap()
}

async fn a_caller_that_joins_after_an_invalidation_gets_no_row_from_before(
    world: &World<Postgres>,
) {
    assert_eq!(joined_after_the_invalidation(world).await, "new");
}

async fn without_the_rule_for_joiners_it_gets_one(world: &World<Postgres>) {
    world.faults.leave_out(Mechanism::TagFlight);
    assert_eq!(joined_after_the_invalidation(world).await, "old");
}
