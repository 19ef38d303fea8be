//! Several entities over one table that do not name each other: the store knows the family of a table, so that a write through
//! one is seen by all, also when only one of them is compiled into a program.
//!
//! Two caches over one Redis stand for two programs: `here` has users only, and `there` has the other entities. Redis keeps when
//! an entity was first recorded; a test that is not about the wait moves that into the past.

use std::time::Duration;

use larder::{
    Cache, Cached, Clock, Transaction,
    family::{MOST_MEMBERS, REFRESH_AFTER},
    store::{Mechanism, faulty::Faults},
};
use larder_testing::log;
use redis::Commands;
use serde::{Deserialize, Serialize};

use crate::world::{Kind, Tested, World, everywhere, filled, on_both_stores, on_redis, redis_url};

everywhere!(
    a_write_through_one_is_seen_by_one_that_nobody_names,
    lists_of_one_that_nobody_names_are_right,
);
on_both_stores!(
    without_the_family_one_that_nobody_names_is_stale,
    batches_and_bulk_changes_are_told,
    changes_by_others_are_told,
    one_that_cannot_be_told_is_not_cached,
    without_the_hold_one_that_cannot_be_told_is_stale,
    one_of_another_id_is_not_cached,
    one_beside_queued_writes_is_not_cached,
    one_with_a_relaxed_coherence_is_cached,
    one_that_is_found_during_a_transaction_is_told,
);
on_redis!(
    a_new_one_waits_until_all_writers_know_it,
    without_the_wait_a_new_one_is_stale,
    one_that_both_name_does_not_wait,
    one_that_the_store_finds_is_logged,
    a_binding_of_an_earlier_version_is_read,
    a_record_that_was_lost_is_made_again,
    forged_records_break_nothing,
);

const USERS: &str = "CREATE TABLE users (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, city VARCHAR(20) NOT NULL)";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", ttl = "10m", negative_ttl = "10m")]
struct User {
    #[cached(id)]
    id: i64,
    name: String,
    city: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", ttl = "10m", negative_ttl = "10m", read_only)]
struct Slim {
    #[cached(id)]
    id: i64,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "users",
    ttl = "10m",
    negative_ttl = "10m",
    tags("rows"),
    index(name)
)]
struct Listed {
    #[cached(id)]
    id: i64,
    name: String,
    #[cached(generated)]
    city: String,
}

/// The writes of others cannot be announced at its lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "users",
    ttl = "10m",
    negative_ttl = "10m",
    read_only,
    index(name)
)]
struct Deaf {
    #[cached(id)]
    id: i64,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", ttl = "10m", read_only)]
struct ByName {
    #[cached(id)]
    name: String,
    city: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "users",
    ttl = "10m",
    coherence = "ttl",
    read_only,
    index(name)
)]
struct Relaxed {
    #[cached(id)]
    id: i64,
    name: String,
}

/// The same row, whose writes fail if they cannot be announced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", ttl = "10m", on_outage = "consistent", tags("rows"))]
struct Strict {
    #[cached(id)]
    id: i64,
    name: String,
    city: String,
}

/// Its writes are in a queue before they are in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", strategy = "write_behind", durability = "memory")]
struct Queued {
    #[cached(id)]
    id: i64,
    name: String,
    city: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", ttl = "10m", same_table(Friend))]
struct Named {
    #[cached(id)]
    id: i64,
    name: String,
    city: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", ttl = "10m", same_table(Named))]
struct Friend {
    #[cached(id)]
    id: i64,
    name: String,
    #[cached(generated)]
    city: String,
}

fn user(id: i64, name: &str) -> User {
    User {
        id,
        name: name.to_owned(),
        city: "Bonn".to_owned(),
    }
}

/// Returns the cache of another program. For the in-process store there is one program only.
async fn program<DB: Tested>(world: &World<DB>, faults: &Faults, clock: &Clock) -> Cache {
    match world.kind {
        Kind::Memory => world.cache.clone(),
        Kind::Redis | Kind::Sealed => Cache::builder()
            .namespace(&world.namespace)
            .faults(faults)
            .clock(clock.clone())
            .connect_timeout(Duration::from_secs(10))
            .response_timeout(Duration::from_secs(10))
            .redis(redis_url())
            .listed(false)
            .connect()
            .await
            .unwrap(),
    }
}

/// Returns the name of the records of the table of users, and the records.
fn records(namespace: &str) -> (redis::Connection, String, String, String) {
    let client = redis::Client::open(redis_url()).unwrap();
    let mut redis = client.get_connection().unwrap();
    let binding = format!("{namespace}::bound");
    let fields: Vec<String> = redis.hkeys(&binding).unwrap();
    let mut families = fields
        .into_iter()
        .filter(|field| field.starts_with("family:") && field.ends_with("users"));
    let field = families.next().unwrap();
    let held: String = redis.hget(&binding, &field).unwrap();
    (redis, binding, field, held)
}

/// Moves the moment at which the entities were first recorded one minute into the past.
fn age_records<DB: Tested>(world: &World<DB>) {
    if world.kind == Kind::Memory {
        return;
    }
    let (mut redis, binding, field, held) = records(&world.namespace);
    let aged = held.lines().map(|line| {
        let (since, rest) = line.split_once(' ').unwrap();
        let since: u64 = since.parse().unwrap();
        format!("{} {rest}\n", since - 60_000)
    });
    let _: () = redis
        .hset(&binding, &field, aged.collect::<String>())
        .unwrap();
}

/// A program with users, and one with the other entities.
struct Scene<DB: Tested> {
    here: UserRepository<DB>,
    slim: SlimRepository<DB>,
    listed: ListedRepository<DB>,
    here_clock: Clock,
}

impl<DB: Tested> Scene<DB> {
    async fn open(world: &World<DB>) -> Self {
        Self::open_with(world, &world.faults).await
    }

    async fn open_with(world: &World<DB>, faults: &Faults) -> Self {
        prepare(world).await;
        let clock = Clock::manual();
        let before = program(world, faults, &clock).await;
        User::repository(&before, world.pool.clone())
            .find(9)
            .await
            .unwrap();
        Slim::repository(&before, world.pool.clone())
            .find(9)
            .await
            .unwrap();
        Listed::repository(&before, world.pool.clone())
            .find(9)
            .await
            .unwrap();
        age_records(world);
        let here_clock = Clock::manual();
        let here = program(world, faults, &here_clock).await;
        let there = program(world, faults, &clock).await;
        let scene = Self {
            here: User::repository(&here, world.pool.clone()),
            slim: Slim::repository(&there, world.pool.clone()),
            listed: Listed::repository(&there, world.pool.clone()),
            here_clock,
        };
        scene.see(1, Some("ada")).await;
        scene.see(2, Some("bob")).await;
        scene.see(3, None).await;
        assert!(scene.slim.stats().hits > 0, "it is cached");
        assert!(scene.listed.stats().hits > 0, "it is cached");
        scene
    }

    /// Both entities of the other program see this name of a row, and then have it cached.
    async fn see(&self, id: i64, name: Option<&str>) {
        for _ in 0..2 {
            let slim = self.slim.find(id).await.unwrap();
            assert_eq!(slim.as_ref().map(|row| row.name.as_str()), name);
            let listed = self.listed.find(id).await.unwrap();
            assert_eq!(listed.as_ref().map(|row| row.name.as_str()), name);
            filled(|| self.slim.stats()).await;
            filled(|| self.listed.stats()).await;
        }
    }

    async fn ids_of(&self, name: &str) -> Vec<i64> {
        let page = self.listed.find_all_by_name(name).await.unwrap();
        filled(|| self.listed.stats()).await;
        page.rows.iter().map(|row| row.id).collect()
    }
}

async fn prepare<DB: Tested>(world: &World<DB>) {
    world.sql(USERS).await;
    world
        .sql("INSERT INTO users VALUES (1, 'ada', 'Bonn'), (2, 'bob', 'Cork')")
        .await;
}

async fn a_write_through_one_is_seen_by_one_that_nobody_names<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let here = &scene.here;
    here.update(&user(1, "anna")).await.unwrap();
    scene.see(1, Some("anna")).await;
    here.insert(&user(3, "cleo")).await.unwrap();
    scene.see(3, Some("cleo")).await;
    here.save(&user(3, "clio")).await.unwrap();
    scene.see(3, Some("clio")).await;
    here.modify(3, |user| user.name = "chloe".to_owned())
        .await
        .unwrap();
    scene.see(3, Some("chloe")).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    here.within(&mut transaction).delete(3).await.unwrap();
    transaction.commit().await.unwrap();
    scene.see(3, None).await;
    // The other way round.
    scene
        .listed
        .modify(1, |row| row.name = "b".to_owned())
        .await
        .unwrap();
    scene.see(1, Some("b")).await;
    assert_eq!(here.find(1).await.unwrap().unwrap().name, "b");
}

async fn lists_of_one_that_nobody_names_are_right<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    for _ in 0..2 {
        assert_eq!(scene.ids_of("ada").await, [1]);
        assert_eq!(scene.ids_of("cleo").await, [0; 0]);
    }
    scene.here.insert(&user(3, "cleo")).await.unwrap();
    assert_eq!(scene.ids_of("cleo").await, [3]);
    scene.here.update(&user(1, "cleo")).await.unwrap();
    assert_eq!(scene.ids_of("ada").await, [0; 0]);
    assert_eq!(scene.ids_of("cleo").await, [1, 3]);
    scene.here.delete(3).await.unwrap();
    assert_eq!(scene.ids_of("cleo").await, [1]);
}

async fn without_the_family_one_that_nobody_names_is_stale<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Family);
    let scene = Scene::open(world).await;
    scene.here.update(&user(1, "anna")).await.unwrap();
    let slim = scene.slim.find(1).await.unwrap().unwrap();
    assert_eq!(slim.name, "ada", "the control shows what is prevented");
}

async fn batches_and_bulk_changes_are_told<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let here = &scene.here;
    here.update_many(&[user(1, "a"), user(2, "a")])
        .await
        .unwrap();
    scene.see(1, Some("a")).await;
    scene.see(2, Some("a")).await;
    here.insert_many(&[user(3, "c")]).await.unwrap();
    scene.see(3, Some("c")).await;
    scene
        .listed
        .modify_by_name("a", |row| row.name = format!("a{}", row.id))
        .await
        .unwrap();
    scene.see(1, Some("a1")).await;
    scene.see(2, Some("a2")).await;
    assert_eq!(scene.listed.delete_by_name("c").await.unwrap(), 1);
    scene.see(3, None).await;
    here.delete_many(&[1, 2]).await.unwrap();
    scene.see(1, None).await;
    scene.see(2, None).await;
}

async fn changes_by_others_are_told<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let rename = async |name: &str| {
        let text = format!("UPDATE users SET name = '{name}' WHERE id = 1");
        world.sql(text).await;
    };
    rename("anna").await;
    scene.here.invalidate(1).await.unwrap();
    scene.see(1, Some("anna")).await;
    rename("abel").await;
    scene.here.invalidate_all().await.unwrap();
    scene.see(1, Some("abel")).await;
    for (name, is_any) in [("axel", false), ("alma", true)] {
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        let update = format!("UPDATE users SET name = '{name}' WHERE id = 1");
        let update = sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(update));
        DB::execute(transaction.connection(), update, DB::Arguments::default())
            .await
            .unwrap();
        let mut here = scene.here.within(&mut transaction);
        match is_any {
            true => here.mark_all_changed().unwrap(),
            false => here.mark_changed(1).unwrap(),
        }
        transaction.commit().await.unwrap();
        scene.see(1, Some(name)).await;
    }
}

/// Reads a row twice, and returns how often it came from the cache.
macro_rules! hits {
    ($rows:expr, $id:expr) => {{
        let before = $rows.stats().hits;
        for _ in 0..2 {
            assert!($rows.find($id).await.unwrap().is_some());
            filled(|| $rows.stats()).await;
        }
        $rows.stats().hits - before
    }};
}

/// Reads a row several times, and asserts that none of the reads came from the cache.
macro_rules! is_not_cached {
    ($rows:expr, $id:expr) => {{
        let before = $rows.stats();
        for _ in 0..3 {
            assert!($rows.find($id).await.unwrap().is_some());
        }
        let after = $rows.stats();
        assert_eq!(
            (after.loads - before.loads, after.hits - before.hits),
            (3, 0)
        );
    }};
}

async fn one_that_cannot_be_told_is_not_cached<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let cache = program(world, &world.faults, &Clock::manual()).await;
    let deaf = Deaf::repository(&cache, world.pool.clone());
    let before = log::lines_with("entity", "Deaf").len();
    is_not_cached!(deaf, 1);
    assert_eq!(deaf.find_all_by_name("ada").await.unwrap().rows.len(), 1);
    scene.here.update(&user(1, "anna")).await.unwrap();
    assert_eq!(deaf.find(1).await.unwrap().unwrap().name, "anna");
    assert_eq!(deaf.find_all_by_name("ada").await.unwrap().rows.len(), 0);
    let lines = log::lines_with("entity", "Deaf");
    let is_said = |line: &log::Line| line.field("message").unwrap().contains("are not cached");
    assert!(lines[before..].iter().any(is_said));
}

async fn without_the_hold_one_that_cannot_be_told_is_stale<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::FamilyHold);
    let scene = Scene::open(world).await;
    let cache = program(world, &world.faults, &Clock::manual()).await;
    let deaf = Deaf::repository(&cache, world.pool.clone());
    for _ in 0..2 {
        assert_eq!(deaf.find_all_by_name("cleo").await.unwrap().rows.len(), 0);
        filled(|| deaf.stats()).await;
    }
    scene.here.insert(&user(3, "cleo")).await.unwrap();
    assert_eq!(
        deaf.find_all_by_name("cleo").await.unwrap().rows.len(),
        0,
        "the control shows what is prevented"
    );
}

async fn one_of_another_id_is_not_cached<DB: Tested>(world: &World<DB>) {
    let _scene = Scene::open(world).await;
    let cache = program(world, &world.faults, &Clock::manual()).await;
    let rows = ByName::repository(&cache, world.pool.clone());
    is_not_cached!(rows, "ada");
}

async fn one_beside_queued_writes_is_not_cached<DB: Tested>(world: &World<DB>) {
    prepare(world).await;
    let cache = program(world, &world.faults, &Clock::manual()).await;
    let queued = Queued::repository(&cache, world.pool.clone());
    queued.install().await.unwrap();
    queued.find(1).await.unwrap();
    let there = program(world, &world.faults, &Clock::manual()).await;
    let slim = Slim::repository(&there, world.pool.clone());
    is_not_cached!(slim, 1);
    let flusher = queued.start_flushing().await.unwrap();
    let row = Queued {
        id: 1,
        name: "anna".to_owned(),
        city: "Bonn".to_owned(),
    };
    queued.save(&row).await.unwrap();
    queued.flush().await.unwrap();
    drop(flusher);
    assert_eq!(slim.find(1).await.unwrap().unwrap().name, "anna");
}

async fn one_with_a_relaxed_coherence_is_cached<DB: Tested>(world: &World<DB>) {
    let _scene = Scene::open(world).await;
    let cache = program(world, &world.faults, &Clock::manual()).await;
    let rows = Relaxed::repository(&cache, world.pool.clone());
    assert_eq!(hits!(rows, 1), 1);
}

/// A transaction may be open for much longer than a reading of the family is good for.
async fn one_that_is_found_during_a_transaction_is_told<DB: Tested>(world: &World<DB>) {
    prepare(world).await;
    let clock = Clock::manual();
    let cache = program(world, &world.faults, &clock).await;
    let here = User::repository(&cache, world.pool.clone());
    here.find(1).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    here.within(&mut transaction)
        .update(&user(1, "anna"))
        .await
        .unwrap();
    let before = program(world, &world.faults, &Clock::manual()).await;
    Slim::repository(&before, world.pool.clone())
        .find(9)
        .await
        .unwrap();
    age_records(world);
    let there = program(world, &world.faults, &Clock::manual()).await;
    let slim = Slim::repository(&there, world.pool.clone());
    assert_eq!(hits!(slim, 1), 1);
    clock.advance(Duration::from_secs(60));
    transaction.commit().await.unwrap();
    assert_eq!(slim.find(1).await.unwrap().unwrap().name, "anna");
}

/// The writer has asked the store before the other entity was there, and its answer is good for a while. Returns what the new
/// entity then reads.
async fn read_beside_an_unaware_writer<DB: Tested>(world: &World<DB>, is_held: bool) -> String {
    let faults = Faults::new();
    if !is_held {
        faults.leave_out(Mechanism::FamilyHold);
    }
    prepare(world).await;
    let clock = Clock::manual();
    let cache = program(world, &Faults::new(), &clock).await;
    let here = User::repository(&cache, world.pool.clone());
    here.update(&user(2, "bert")).await.unwrap();
    let there = program(world, &faults, &Clock::manual()).await;
    let slim = Slim::repository(&there, world.pool.clone());
    match is_held {
        true => is_not_cached!(slim, 1),
        false => assert_eq!(hits!(slim, 1), 1),
    }
    here.update(&user(1, "anna")).await.unwrap();
    let read = slim.find(1).await.unwrap().unwrap().name.clone();
    // Later all of them know it.
    age_records(world);
    clock.advance(Duration::from_secs(10));
    let there = program(world, &Faults::new(), &Clock::manual()).await;
    let slim = Slim::repository(&there, world.pool.clone());
    assert_eq!(hits!(slim, 2), 1);
    here.update(&user(2, "bill")).await.unwrap();
    assert_eq!(slim.find(2).await.unwrap().unwrap().name, "bill");
    read
}

async fn a_new_one_waits_until_all_writers_know_it<DB: Tested>(world: &World<DB>) {
    let read = read_beside_an_unaware_writer(world, true).await;
    assert_eq!(read, "anna");
}

async fn without_the_wait_a_new_one_is_stale<DB: Tested>(world: &World<DB>) {
    let read = read_beside_an_unaware_writer(world, false).await;
    assert_eq!(read, "ada", "the control shows what is prevented");
}

async fn one_that_both_name_does_not_wait<DB: Tested>(world: &World<DB>) {
    prepare(world).await;
    let named = Named::repository(&world.cache, world.pool.clone());
    named.find(1).await.unwrap();
    let cache = program(world, &world.faults, &Clock::manual()).await;
    let friend = Friend::repository(&cache, world.pool.clone());
    assert_eq!(hits!(friend, 1), 1);
    let row = Named {
        id: 1,
        name: "anna".to_owned(),
        city: "Bonn".to_owned(),
    };
    named.update(&row).await.unwrap();
    assert_eq!(friend.find(1).await.unwrap().unwrap().name, "anna");
}

async fn one_that_the_store_finds_is_logged<DB: Tested>(world: &World<DB>) {
    log::listen();
    prepare(world).await;
    let here = program(world, &world.faults, &Clock::manual()).await;
    let users = User::repository(&here, world.pool.clone());
    users.find(1).await.unwrap();
    let there = program(world, &world.faults, &Clock::manual()).await;
    let relaxed = Relaxed::repository(&there, world.pool.clone());
    let before = log::lines_with("entity", "Relaxed").len();
    relaxed.find(1).await.unwrap();
    relaxed.find(2).await.unwrap();
    let lines = log::lines_with("entity", "Relaxed");
    let others: Vec<_> = lines[before..]
        .iter()
        .filter_map(|line| line.field("other"))
        .collect();
    assert_eq!(others, ["User"], "it is said once");
}

async fn a_binding_of_an_earlier_version_is_read<DB: Tested>(world: &World<DB>) {
    prepare(world).await;
    let cache = program(world, &world.faults, &Clock::manual()).await;
    User::repository(&cache, world.pool.clone())
        .find(1)
        .await
        .unwrap();
    let (mut redis, binding, field, _) = records(&world.namespace);
    for held in ["", "later\n1 2\n", "1 2 {\"entity\":\"User\",\"more\":1}\n"] {
        let _: () = redis.hset(&binding, &field, held).unwrap();
        let cache = program(world, &world.faults, &Clock::manual()).await;
        let slim = Slim::repository(&cache, world.pool.clone());
        assert_eq!(hits!(slim, 1), 1, "{held:?}");
        slim.invalidate(1).await.unwrap();
    }
}

async fn a_record_that_was_lost_is_made_again<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    // This program knows the others before the record is lost.
    scene.here.find(1).await.unwrap();
    let (mut redis, binding, field, _) = records(&world.namespace);
    let _: () = redis.hdel(&binding, &field).unwrap();
    // One that was found stays found.
    scene.here_clock.advance(Duration::from_secs(10));
    scene.here.update(&user(1, "anna")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(scene.slim.find(1).await.unwrap().unwrap().name, "anna");
        assert_eq!(scene.listed.find(1).await.unwrap().unwrap().name, "anna");
    }
    let (.., held) = records(&world.namespace);
    assert!(held.contains("\"User\""), "{held}");
}

/// Returns records that larder has not written. `own`: one that it has written, in the namespace.
fn forged(own: &str, namespace: &str) -> Vec<(&'static str, Vec<u8>)> {
    let now = own.split(' ').nth(1).unwrap().to_owned();
    let shape: serde_json::Value =
        serde_json::from_str(own.splitn(3, ' ').nth(2).unwrap()).unwrap();
    let with = |changes: &[(&str, serde_json::Value)]| {
        let mut shape = shape.clone();
        shape["entity"] = "Forged".into();
        shape["prefix"] = format!("{namespace}:Forged:").into();
        for (field, value) in changes {
            shape[*field] = value.clone();
        }
        shape.to_string()
    };
    let at_now = |shape: String| format!("{now} {now} {shape}\n").into_bytes();
    let digits = "9".repeat(400);
    let mut cases = vec![
        ("no record", b"nonsense\n1 2\n \n\n".to_vec()),
        (
            "no text",
            [format!("{now} {now} ").as_bytes(), b"\xff\xfe{\n"].concat(),
        ),
        ("no shape", at_now("{}".to_owned())),
        ("nested", at_now("[".repeat(100_000))),
        (
            "a long one",
            at_now(with(&[("names", vec!["x".repeat(1 << 20)].into())])),
        ),
    ];
    for (what, since, last) in [
        ("a moment to come", "9007199254740990", "9007199254740990"),
        (
            "the last moment",
            "18446744073709551615",
            "18446744073709551615",
        ),
        ("no number", &*digits, &*digits),
        ("renewed before it was made", &now, "0"),
    ] {
        cases.push((what, format!("{since} {last} {}\n", with(&[])).into_bytes()));
    }
    for life in [0, 1, 2, u64::MAX / 2, u64::MAX] {
        cases.push((
            "the life of an intent",
            at_now(with(&[("intent_ttl_ms", life.into())])),
        ));
    }
    for prefix in [
        "",
        ":",
        "sessions:",
        "larder:q:",
        &format!("{namespace}:"),
        &format!("{namespace}::bound"),
    ] {
        cases.push((
            "a prefix of others",
            at_now(with(&[("prefix", prefix.into())])),
        ));
        cases.push((
            "a prefix of others, with a clock",
            at_now(with(&[
                ("prefix", prefix.into()),
                ("tags", true.into()),
                ("lookups", true.into()),
            ])),
        ));
    }
    let shown = "Forged\n\u{1b}[2J\u{202e}";
    cases.push((
        "a name that commands a terminal",
        at_now(with(&[
            ("entity", shown.into()),
            ("prefix", format!("{namespace}:{shown}:").into()),
        ])),
    ));
    let many = (0..2_000).flat_map(|number| {
        at_now(with(&[
            ("entity", format!("Forged{number}").into()),
            ("prefix", format!("{namespace}:Forged{number}:").into()),
        ]))
    });
    cases.push(("many", many.collect()));
    cases
}

/// What somebody else has written among the records keeps no write from being made, touches nothing of others, and is not shown
/// as it is. Moments that are still to come do not keep a record for ever.
async fn forged_records_break_nothing<DB: Tested>(world: &World<DB>) {
    prepare(world).await;
    let clock = Clock::manual();
    let before = program(world, &world.faults, &clock).await;
    Strict::repository(&before, world.pool.clone())
        .find(1)
        .await
        .unwrap();
    let (mut redis, binding, field, fresh) = records(&world.namespace);
    // Old enough to be renewed, so that each claim writes.
    let mut parts = fresh.splitn(3, ' ');
    let [since, last] = [(); 2].map(|()| {
        let moment: u64 = parts.next().unwrap().parse().unwrap();
        moment - 2 * REFRESH_AFTER
    });
    let own = format!("{since} {last} {}", parts.next().unwrap());
    // What the first bytes of other keys would be.
    let others = ["1", ":1", "sessions:1", "sessions@tags", "larder:q:1"];
    for key in others {
        let _: () = redis.set(key, "theirs").unwrap();
    }
    for (number, (what, forged)) in forged(&fresh, &world.namespace).into_iter().enumerate() {
        let held = [own.as_bytes(), &forged].concat();
        let _: () = redis.hset(&binding, &field, &held).unwrap();
        let lines = log::lines_with("entity", "Strict").len();
        let cache = program(world, &world.faults, &clock).await;
        let strict = Strict::repository(&cache, world.pool.clone());
        let read = strict
            .find(1)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(read.is_some(), "{what}");
        let name = format!("name{number}");
        let row = |id| Strict {
            id,
            name: name.clone(),
            city: "Bonn".to_owned(),
        };
        let updated = strict.update(&row(1)).await;
        updated.unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        strict
            .within(&mut transaction)
            .update(&row(2))
            .await
            .unwrap();
        let committed = transaction.commit().await;
        committed.unwrap_or_else(|error| panic!("{what}: {error}"));
        strict.invalidate_all().await.unwrap();
        for id in [1, 2] {
            assert_eq!(strict.find(id).await.unwrap().unwrap().name, name, "{what}");
        }
        let now: (u64, u64) = redis::cmd("TIME").query(&mut redis).unwrap();
        let kept: Vec<u8> = redis.hget(&binding, &field).unwrap();
        for line in String::from_utf8_lossy(&kept).lines() {
            let moments = line.split(' ').take(2).map(str::parse::<f64>);
            for moment in moments.filter_map(Result::ok) {
                assert!(moment <= (now.0 as f64 + 1.0) * 1_000.0, "{what}: {moment}");
            }
        }
        for line in &log::lines_with("entity", "Strict")[lines..] {
            let other = line.field("other").unwrap_or_default();
            assert!(
                !other.contains(['\n', '\u{1b}', '\u{202e}']),
                "{what}: {other:?}"
            );
        }
        assert!(
            log::lines_with("entity", "Strict").len() - lines <= 2 * MOST_MEMBERS,
            "{what}"
        );
    }
    for key in others {
        assert_eq!(redis.get::<_, String>(key).unwrap(), "theirs", "{key}");
        let _: () = redis.del(key).unwrap();
    }
    // The forged records are gone: the entity is cached again.
    let _: () = redis.hset(&binding, &field, &own).unwrap();
    let cache = program(world, &world.faults, &clock).await;
    let strict = Strict::repository(&cache, world.pool.clone());
    assert_eq!(hits!(strict, 1), 1);
}
