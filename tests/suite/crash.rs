//! Writers that die between announcing a write and ending the announcement, in processes of their own.

use larder::{
    Cache, Entity, Origin, Repository, Transaction,
    store::{Mechanism, Point, faulty::Faults},
};
use larder_testing::process::{Worker, WorkerFn};
use sqlx::{PgPool, Postgres, postgres::PgPoolOptions};

use crate::{
    entities::{Item, of_items},
    world::{Kind, World, eventually, redis_url, unique},
};

/// The function that this file runs in other processes.
pub(crate) const WRITER: (&str, WorkerFn) = ("writer", |arguments| Box::pin(writer(arguments)));

const POINTS: [(&str, Point); 6] = [
    ("before_begin", Point::BeforeBegin),
    ("after_begin", Point::AfterBegin),
    ("before_commit", Point::BeforeCommit),
    ("after_commit", Point::AfterCommit),
    ("before_end", Point::BeforeEnd),
    ("after_end", Point::AfterEnd),
];
const INTENT_TTL_MS: u64 = 2_000;

macro_rules! rows {
    ($($name:ident, $strategy:literal;)*) => {
        $(
            of_items! {
                #[cached(strategy = $strategy, intent(ttl = "2s"))]
                struct $name
            }

            impl Crashing for $name {
                fn row(id: i64, name: &str) -> Self {
                    Self { id, name: name.to_owned(), note: None, quantity: 1 }
                }

                fn name(&self) -> &str {
                    &self.name
                }
            }
        )*
    };
}

trait Crashing: Entity<Id = i64, Writes = larder::writes::ToDatabase> {
    fn row(id: i64, name: &str) -> Self;
    fn name(&self) -> &str;
}

rows! {
    Aside, "aside";
    Through, "write_through";
}

async fn rows<R: Crashing>(
    namespace: &str,
    pool: &PgPool,
    faults: &Faults,
) -> Repository<R, Postgres> {
    let builder = Cache::builder().namespace(namespace).faults(faults);
    let cache = builder
        .redis(redis_url())
        .listed(false)
        .connect()
        .await
        .unwrap();
    Repository::new(&cache, pool.clone())
}

/// Updates a row, and dies at a given point.
async fn writer(arguments: Vec<String>) {
    let [url, namespace, strategy, shape, point, id, broken] = &arguments[..] else {
        panic!("seven arguments: {arguments:?}")
    };
    let options = PgPoolOptions::new().max_connections(1);
    let pool = options.connect(url).await.unwrap();
    let faults = Faults::new();
    if broken == "broken" {
        faults.leave_out(Mechanism::Intent);
    }
    let (_, point) = POINTS.iter().find(|(name, _)| name == point).unwrap();
    faults.at(*point, || std::process::abort());
    let id = id.parse().unwrap();
    if strategy == "aside" {
        write::<Aside>(&rows(namespace, &pool, &faults).await, shape, id).await;
    } else {
        write::<Through>(&rows(namespace, &pool, &faults).await, shape, id).await;
    }
    panic!("the writer is still alive");
}

async fn write<R: Crashing>(rows: &Repository<R, Postgres>, shape: &str, id: i64) {
    let row = R::row(id, "new");
    if shape == "single" {
        rows.update(&row).await.unwrap();
    } else {
        let mut transaction = Transaction::begin(rows.pool()).await.unwrap();
        rows.within(&mut transaction).update(&row).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

/// The state that one writer has left.
struct Scene<R: Crashing> {
    rows: Repository<R, Postgres>,
    what: String,
    id: i64,
}

impl<R: Crashing> Scene<R> {
    /// Caches a row, and lets a writer of it die.
    async fn play(
        world: &World<Postgres>,
        strategy: &str,
        shape: &str,
        point: &str,
        id: i64,
        broken: bool,
    ) -> Self {
        let namespace = unique("crash");
        let rows = rows::<R>(&namespace, &world.pool, &Faults::new()).await;
        world.put(&Item::new(id, "old")).await;
        let what = format!("{strategy}, {shape}, {point}");
        eventually("the old row is cached", async || {
            rows.find_outcome(id).await.unwrap().origin == Origin::Cache
        })
        .await;
        let (number, broken) = (id.to_string(), if broken { "broken" } else { "whole" });
        let url = world.database.url();
        let arguments = [url, &namespace, strategy, shape, point, &number, broken];
        Worker::spawn("writer", &arguments).aborted().await;
        Self { rows, what, id }
    }

    /// Checks that no read is older than the database, and that the key is cached again after the intent has expired.
    async fn check(&self) {
        let Self { rows, what, id } = self;
        let key = rows.key(id).unwrap();
        let held = rows.find_uncached(id).await.unwrap().unwrap();
        let mut connection = redis::Client::open(redis_url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let left: i64 = redis::cmd("PTTL")
            .arg(key.as_bytes())
            .query_async(&mut connection)
            .await
            .unwrap();
        let first = rows.find_outcome(id).await.unwrap();
        if first.origin != Origin::Cache {
            let bound = i64::try_from(INTENT_TTL_MS).unwrap();
            assert!(left <= bound, "{what}: the key is blocked for {left} ms");
        }
        eventually(&format!("the key is cached again: {what}"), async || {
            let outcome = rows.find_outcome(id).await.unwrap();
            let row = outcome.row.unwrap();
            assert_eq!(row.name(), held.name(), "{what}: an old row is served");
            outcome.origin == Origin::Cache
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_dies_at_any_point_leaves_no_old_row_and_a_key_that_is_cached_again() {
    let world = World::<Postgres>::open(Kind::Redis).await;
    let (mut aside, mut through) = (Vec::new(), Vec::new());
    let mut id = 0;
    for (point, _) in POINTS {
        for shape in ["single", "transaction"] {
            id += 1;
            aside.push(Scene::<Aside>::play(&world, "aside", shape, point, id, false).await);
            id += 1;
            through.push(Scene::<Through>::play(&world, "through", shape, point, id, false).await);
        }
    }
    // All writers die first, so that their intents expire at the same time.
    for scene in &aside {
        scene.check().await;
    }
    for scene in &through {
        scene.check().await;
    }
    world.database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_intent_a_writer_that_dies_after_its_commit_leaves_the_old_row() {
    let world = World::<Postgres>::open(Kind::Redis).await;
    let scene = Scene::<Aside>::play(&world, "aside", "single", "after_commit", 1, true).await;
    let outcome = scene.rows.find_outcome(1).await.unwrap();
    assert_eq!(
        (outcome.origin, outcome.row.unwrap().name()),
        (Origin::Cache, "old")
    );
    let held = scene.rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(held.name(), "new");
    world.database.close().await;
}
