//! The in-process queue with a journal: acknowledged writes survive the process.

use larder::{Cache, ErrorKind};
use sqlx::Sqlite;
use tempfile::TempDir;

use crate::{
    entities::{Item, Kept, KeptRepository, of_items},
    world::{Kind, World},
};

/// Returns the rows as a process sees them that opens the journal now.
fn open(world: &World<Sqlite>, directory: &TempDir) -> KeptRepository<Sqlite> {
    let cache = Cache::builder()
        .journal_dir(directory.path())
        .build()
        .unwrap();
    Kept::repository(&cache, world.pool.clone())
}

async fn in_database(rows: &KeptRepository<Sqlite>, id: i64) -> Option<String> {
    let row = rows.find_uncached(id).await.unwrap();
    row.map(|row| row.name.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_are_served_and_flushed_by_the_next_process() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let directory = tempfile::tempdir().unwrap();
    world.put(&Item::new(3, "deleted later")).await;
    let rows = open(&world, &directory);
    rows.install().await.unwrap();
    rows.save(&Kept::new(1, "flushed")).await.unwrap();
    rows.flush().await.unwrap();
    for name in ["one", "two", "three"] {
        rows.save(&Kept::new(1, name)).await.unwrap();
        rows.save(&Kept::new(2, name)).await.unwrap();
    }
    rows.delete(3).await.unwrap();
    drop(rows);
    let rows = open(&world, &directory);
    assert_eq!(rows.find(1).await.unwrap().unwrap().name, "three");
    assert_eq!(rows.find(3).await.unwrap(), None);
    assert_eq!(in_database(&rows, 1).await.unwrap(), "flushed");
    rows.modify(2, |row| row.name += " and more").await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(in_database(&rows, 1).await.unwrap(), "three");
    assert_eq!(in_database(&rows, 2).await.unwrap(), "three and more");
    assert_eq!(in_database(&rows, 3).await, None);
    assert_eq!(rows.stats().lost_writes, 0);
    // The writes that are still in the journal were flushed, and are not flushed again.
    world
        .sql("UPDATE items SET name = 'changed past the queue'")
        .await;
    drop(rows);
    let rows = open(&world, &directory);
    assert_eq!(
        rows.find(1).await.unwrap().unwrap().name,
        "changed past the queue"
    );
    rows.flush().await.unwrap();
    assert_eq!(
        in_database(&rows, 2).await.unwrap(),
        "changed past the queue"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_open_elsewhere_is_refused() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let directory = tempfile::tempdir().unwrap();
    let rows = open(&world, &directory);
    let cache = Cache::builder()
        .journal_dir(directory.path())
        .build()
        .unwrap();
    let refused = larder::Repository::<Kept, Sqlite>::try_new(&cache, world.pool.clone());
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("items.journal"), "{error}");
    drop(rows);
}

of_items! {
    #[cached(strategy = "write_behind", journal = "items.journal")]
    struct Other
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_one_entitys() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::builder()
        .journal_dir(directory.path())
        .build()
        .unwrap();
    let _rows = Kept::repository(&cache, world.pool.clone());
    let refused = larder::Repository::<Other, Sqlite>::try_new(&cache, world.pool.clone());
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("another entity"), "{error}");
}

/// As above, but the journal belongs to the entity: all repositories of one cache share it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_shared_by_the_repositories_of_its_entity() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::builder()
        .journal_dir(directory.path())
        .build()
        .unwrap();
    let rows = Kept::repository(&cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&Kept::new(1, "kept")).await.unwrap();
    let again = larder::Repository::<Kept, Sqlite>::try_new(&cache, world.pool.clone());
    assert_eq!(again.unwrap().find(1).await.unwrap().unwrap().name, "kept");
    let beside = larder::Repository::<Beside, Sqlite>::try_new(&cache, world.pool.clone());
    assert_eq!(beside.unwrap().find(1).await.unwrap(), None);
}

of_items! {
    #[cached(strategy = "write_behind", journal = "beside.journal")]
    struct Beside
}
