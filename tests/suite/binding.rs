//! The binding: a namespace belongs to one database, and an entity's name in it to one table. The other tests use a
//! namespace each. These tests share namespaces.

use std::{path::Path, time::Duration};

use larder::{
    Backend, Cache, Entity, Error, ErrorKind, Origin, ProblemKind, Repository, Transaction,
    store::{
        Mechanism, Store,
        faulty::{Faults, Operation},
    },
    token::Token,
    writes::{ById, ToDatabase},
};
use larder_testing::{
    database::TestDatabase,
    process::{Worker, WorkerFn, tell},
    redis_server::RedisServer,
};
use sqlx::{
    AssertSqlSafe, Pool, Postgres, SqlSafeStr, Sqlite,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use crate::{
    entities::{Behind, Item, Kept, Through},
    world::{
        Kind, Tested, World, at_once, cache, eventually, everywhere, on_all_databases,
        on_both_stores, on_postgres, on_redis, unique,
    },
};

everywhere!(
    another_database_is_refused_by_every_operation,
    another_database_queues_nothing_and_flushes_nothing,
    without_the_binding_rows_and_queued_writes_reach_the_other_database,
    a_copy_is_refused_until_the_namespace_is_rebound,
    a_transaction_binds_on_its_own_connection,
    tenants_are_apart,
);
on_all_databases!(
    concurrent_installs_agree_on_one_id,
    a_database_is_the_same_under_two_pools,
);
on_both_stores!(
    two_entities_of_one_name_are_refused,
    without_the_binding_two_entities_of_one_name_share_their_queue,
    with_names_of_their_own_two_structs_live_together,
    a_namespace_of_an_entitys_own_is_bound_as_well,
    a_file_is_one_database_whatever_its_path,
    each_database_in_memory_is_its_own,
    a_database_that_was_created_again_is_another_one,
    a_namespace_may_hold_a_slash,
);
on_postgres!(two_schemas_with_one_table_are_two_tables);
on_redis!(
    in_another_process_two_entities_of_one_name_are_refused,
    a_store_that_cannot_be_asked_is_bypassed_until_it_can,
    a_binding_survives_the_connection_and_a_lost_one_is_made_again,
    a_database_that_gets_an_id_keeps_its_namespace_and_is_identified_by_the_id,
);

const ITEMS: &str = "CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, note VARCHAR(200), quantity BIGINT NOT NULL)";

async fn run<DB: Backend>(pool: &Pool<DB>, text: impl Into<String>) {
    let text: String = text.into();
    let mut connection = pool.acquire().await.unwrap();
    let text = AssertSqlSafe(text).into_sql_str();
    DB::run(&mut connection, text).await.unwrap();
}

/// Returns the texts that a statement returns.
async fn texts<DB: Backend>(pool: &Pool<DB>, text: &'static str) -> Vec<String> {
    let mut connection = pool.acquire().await.unwrap();
    let text = AssertSqlSafe(text).into_sql_str();
    let rows = DB::fetch_all(&mut connection, text, DB::Arguments::default())
        .await
        .unwrap();
    rows.iter()
        .map(|row| DB::text(row, 0).unwrap().unwrap_or_default())
        .collect()
}

async fn names<DB: Backend>(pool: &Pool<DB>) -> Vec<String> {
    texts(pool, "SELECT name FROM items ORDER BY name").await
}

/// Returns another database with an empty table of items.
async fn other<DB: Tested>() -> (TestDatabase<DB>, Pool<DB>) {
    let database = DB::create().await;
    let pool = database.pool();
    run(&pool, ITEMS).await;
    (database, pool)
}

#[track_caller]
fn refused<T>(result: Result<T, Error>) -> String {
    let Err(error) = result else {
        panic!("it was not refused");
    };
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    error.to_string()
}

/// Returns whether a repository of another database is already refused when it is created. For SQLite, the endpoint
/// identifies the database.
fn is_refused_at_creation<DB: Backend>(kind: Kind) -> bool {
    kind == Kind::Memory && DB::NAME == "SQLite"
}

/// Checks that every operation of the repository is refused.
async fn refuses_everything<
    E: Entity<Id = i64, Writes = ToDatabase, Deletes = ById>,
    DB: Backend,
>(
    rows: &Repository<E, DB>,
    row: &E,
    pool: &Pool<DB>,
) -> Vec<String> {
    let mut messages = vec![
        refused(rows.find(1).await),
        refused(rows.find_outcome(1).await),
        refused(rows.find_uncached(1).await),
        refused(rows.exists(1).await),
        refused(rows.insert(row).await),
        refused(rows.update(row).await),
        refused(rows.save(row).await),
        refused(rows.delete(1).await),
        refused(rows.insert_many(std::slice::from_ref(row)).await),
        refused(rows.update_many(std::slice::from_ref(row)).await),
        refused(rows.delete_many(&[1]).await),
        refused(rows.invalidate(1).await),
        refused(rows.invalidate_all().await),
        refused(rows.refresh(1).await),
    ];
    let mut transaction = Transaction::begin(pool).await.unwrap();
    messages.push(refused(rows.within(&mut transaction).find(1).await));
    messages.push(refused(rows.within(&mut transaction).insert(row).await));
    transaction.rollback().await.unwrap();
    messages
}

/// Staging and production on one Redis; two tenants on one in-process cache.
/// Returns what the health of a cache says of namespaces that it cannot use.
fn refusals(cache: &Cache) -> Vec<String> {
    let problems = cache.health().problems.into_iter();
    let refused = problems.filter(|problem| problem.kind == ProblemKind::NamespaceRefused);
    refused.map(|problem| problem.message).collect()
}

async fn another_database_is_refused_by_every_operation<DB: Tested>(world: &World<DB>) {
    let (database, pool) = other::<DB>().await;
    world.put(&Item::new(1, "ours")).await;
    let (items, through) = (
        world.items(),
        Through::repository(&world.cache, world.pool.clone()),
    );
    world.warm(&items, 1).await;
    through.update(&Through::new(1, "ours")).await.unwrap();
    let elsewhere = world.cache_elsewhere().await;
    let made = Item::try_repository(&elsewhere, pool.clone());
    if is_refused_at_creation::<DB>(world.kind) {
        refused(made.map(drop));
    } else {
        let theirs = made.unwrap();
        let row = Item::new(1, "theirs");
        for message in refuses_everything(theirs.inner(), &row, &pool).await {
            for part in [&*world.namespace, "rebind", "with_namespace", DB::NAME] {
                assert!(message.contains(part), "{message}");
            }
        }
        let refused = refusals(&elsewhere);
        assert!(
            refused[0].contains("Item cannot use the namespace"),
            "{refused:?}"
        );
        let theirs = Through::repository(&elsewhere, pool.clone());
        let row = Through::new(1, "theirs");
        refuses_everything(theirs.inner(), &row, &pool).await;
        assert_eq!(theirs.stats().hits, 0);
    }
    let asked = |database: &TestDatabase<DB>| database.statement_log().count_on("items");
    let before = asked(&database);
    assert_eq!(before, 0, "the table was not even read");
    assert_eq!(names(&pool).await, [""; 0]);
    assert_eq!(names(&world.pool).await, ["ours"]);
    let outcome = items.find_outcome(1).await.unwrap();
    assert_eq!(outcome.row.unwrap().name, "ours");
    database.close().await;
}

async fn another_database_queues_nothing_and_flushes_nothing<DB: Tested>(world: &World<DB>) {
    let (database, pool) = other::<DB>().await;
    let ours = Behind::repository(&world.cache, world.pool.clone());
    ours.install().await.unwrap();
    ours.save(&Behind::new(1, "ours")).await.unwrap();
    let elsewhere = world.cache_elsewhere().await;
    if is_refused_at_creation::<DB>(world.kind) {
        refused(Behind::try_repository(&elsewhere, pool.clone()).map(drop));
    } else {
        let theirs = Behind::repository(&elsewhere, pool.clone());
        theirs.install().await.unwrap();
        let row = Behind::new(2, "theirs");
        refused(theirs.find(1).await);
        refused(theirs.save(&row).await);
        refused(theirs.insert(&row).await);
        refused(theirs.update(&row).await);
        refused(theirs.delete(1).await);
        refused(theirs.modify(1, |row| row.quantity += 1).await);
        refused(theirs.flush().await);
        refused(theirs.pending().await);
        refused(theirs.start_flushing().await);
        refused(theirs.dead_letters().list(10).await);
    }
    assert_eq!(ours.pending().await.unwrap().count, 1);
    ours.flush().await.unwrap();
    assert_eq!(names(&world.pool).await, ["ours"]);
    assert_eq!(names(&pool).await, [""; 0]);
    database.close().await;
}

/// The control of the two tests above.
async fn without_the_binding_rows_and_queued_writes_reach_the_other_database<DB: Tested>(
    world: &World<DB>,
) {
    let (database, pool) = other::<DB>().await;
    let faults = Faults::new();
    faults.leave_out(Mechanism::Binding);
    let ours = cache(world.kind, &world.namespace, &faults).await;
    let elsewhere = match world.kind {
        Kind::Memory => ours.clone(),
        kind => cache(kind, &world.namespace, &faults).await,
    };
    world.put(&Item::new(1, "ours")).await;
    let items = Item::repository(&ours, world.pool.clone());
    world.warm(&items, 1).await;
    let theirs = Item::repository(&elsewhere, pool.clone());
    assert_eq!(theirs.find(1).await.unwrap().unwrap().name, "ours");
    let ours = Behind::repository(&ours, world.pool.clone());
    ours.install().await.unwrap();
    ours.save(&Behind::new(2, "queued by us")).await.unwrap();
    ours.flush().await.unwrap();
    let theirs = Behind::repository(&elsewhere, pool.clone());
    theirs.install().await.unwrap();
    theirs
        .save(&Behind::new(2, "queued by them"))
        .await
        .unwrap();
    ours.flush().await.unwrap();
    let all = names(&world.pool).await;
    assert!(all.contains(&"queued by them".to_owned()), "{all:?}");
    database.close().await;
}

/// Staging that was restored from a dump of production looks like production that has moved. Only `rebind` says which it is.
async fn a_copy_is_refused_until_the_namespace_is_rebound<DB: Tested>(world: &World<DB>) {
    let (database, pool) = other::<DB>().await;
    world.put(&Item::new(1, "before")).await;
    let ours = Behind::repository(&world.cache, world.pool.clone());
    ours.install().await.unwrap();
    let items = world.items();
    world.warm(&items, 1).await;
    ours.save(&Behind::new(2, "queued")).await.unwrap();
    // The dump.
    larder::schema::install(&pool).await.unwrap();
    let id = world.text("SELECT id FROM larder_database").await;
    run(&pool, format!("UPDATE larder_database SET id = '{id}'")).await;
    run(&pool, "INSERT INTO items VALUES (1, 'moved', NULL, 1)").await;
    let elsewhere = world.cache_elsewhere().await;
    if is_refused_at_creation::<DB>(world.kind) {
        refused(Item::try_repository(&elsewhere, pool.clone()).map(drop));
    } else {
        let early = Item::repository(&elsewhere, pool.clone());
        let message = refused(early.find(1).await);
        assert!(
            message.contains(&id) && message.contains("copy"),
            "{message}"
        );
        assert_eq!(refusals(&elsewhere).len(), 1);
        elsewhere.rebind(&pool).await.unwrap();
        early.find(1).await.unwrap();
    }
    elsewhere.rebind(&pool).await.unwrap();
    let theirs = Item::repository(&elsewhere, pool.clone());
    let found = theirs.find(1).await.unwrap().unwrap();
    assert_eq!(refusals(&elsewhere), [""; 0]);
    assert_eq!(found.name, "moved", "what was cached is dropped");
    assert_eq!(
        ours.find_uncached(2).await.is_ok(),
        world.kind == Kind::Redis
    );
    let behind = Behind::repository(&elsewhere, pool.clone());
    behind.install().await.unwrap();
    assert_eq!(
        behind.find(2).await.unwrap().map(|row| row.name.clone()),
        Some("queued".to_owned()),
        "what is queued stays"
    );
    // Now the former database is another one.
    let back = match world.kind {
        Kind::Memory => world.cache.clone(),
        Kind::Redis | Kind::Sealed => world.cache_elsewhere().await,
    };
    if is_refused_at_creation::<DB>(world.kind) {
        refused(Item::try_repository(&back, world.pool.clone()).map(drop));
    } else {
        refused(Item::repository(&back, world.pool.clone()).find(1).await);
    }
    database.close().await;
}

async fn pool_of_one<DB: Tested>(pool: &Pool<DB>) -> Pool<DB> {
    let options = pool.connect_options();
    sqlx::pool::PoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with((*options).clone())
        .await
        .unwrap()
}

/// The first operation of a repository runs in a transaction, which has the only connection of its pool.
async fn a_transaction_binds_on_its_own_connection<DB: Tested>(world: &World<DB>) {
    let pool = pool_of_one(&world.pool).await;
    let items = Item::repository(&world.cache, pool.clone());
    let mut transaction = Transaction::begin(&pool).await.unwrap();
    items
        .within(&mut transaction)
        .insert(&Item::new(1, "one"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    world.warm(&items, 1).await;
    assert_eq!(items.find_outcome(1).await.unwrap().origin, Origin::Cache);
}

async fn tenants_are_apart<DB: Tested>(world: &World<DB>) {
    let (database, pool) = other::<DB>().await;
    world.put(&Item::new(1, "ours")).await;
    let ours = world.items();
    let tenant = format!("{}-tenant", world.namespace);
    let theirs = world.cache.with_namespace(&tenant).unwrap();
    let theirs = Item::repository(&theirs, pool.clone());
    world.warm(&ours, 1).await;
    assert_eq!(theirs.find(1).await.unwrap(), None);
    theirs.insert(&Item::new(1, "theirs")).await.unwrap();
    world.warm(&theirs, 1).await;
    for (items, name) in [(&ours, "ours"), (&theirs, "theirs")] {
        let outcome = items.find_outcome(1).await.unwrap();
        assert_eq!(
            (outcome.origin, &*outcome.row.unwrap().name),
            (Origin::Cache, name)
        );
    }
    for namespace in ["", "a:b", "a b", "{a}"] {
        refused(world.cache.with_namespace(namespace));
    }
    database.close().await;
}

async fn concurrent_installs_agree_on_one_id<DB: Tested>(world: &World<DB>) {
    let pool = world.pool.clone();
    let installed = at_once(6, |_| {
        let pool = pool.clone();
        async move { larder::schema::install(&pool).await }
    });
    for installed in installed.await {
        installed.unwrap();
    }
    let ids = texts(&world.pool, "SELECT id FROM larder_database").await;
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(ids[0].len() >= 32, "{ids:?}");
    larder::schema::install(&world.pool).await.unwrap();
    assert_eq!(
        texts(&world.pool, "SELECT id FROM larder_database").await,
        ids
    );
    // As a migration does it.
    let (database, pool) = other::<DB>().await;
    for text in [
        larder::schema::database_sql::<DB>(),
        larder::schema::database_id_sql::<DB>(),
    ] {
        run(&pool, text).await;
    }
    let others = texts(&pool, "SELECT id FROM larder_database").await;
    assert!(others.len() == 1 && others != ids, "{others:?}");
    database.close().await;
}

/// A proxy, and the server that it connects to.
async fn a_database_is_the_same_under_two_pools<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    let directly = world.database.outside_pool().await;
    let others = Item::repository(&world.cache, directly);
    let outcome = others.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
}

mod orders {
    use larder::Cached;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "order_items", jitter = 0)]
    pub(super) struct Item {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "order_items", strategy = "write_through", jitter = 0)]
    pub(super) struct Through {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(
        table = "order_items",
        strategy = "write_behind",
        durability = "memory"
    )]
    pub(super) struct Queued {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }
}

mod carts {
    use larder::Cached;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "cart_items", jitter = 0)]
    pub(super) struct Item {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "cart_items", strategy = "write_through", jitter = 0)]
    pub(super) struct Through {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "cart_items", strategy = "write_behind", durability = "memory")]
    pub(super) struct Queued {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }
}

mod named {
    use larder::Cached;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(
        table = "cart_items",
        name = "CartItem",
        strategy = "write_behind",
        durability = "memory"
    )]
    pub(super) struct Queued {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }

    /// The `Item` of the orders, renamed.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "order_items", name = "Item", jitter = 0)]
    pub(super) struct OrderItem {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }
}

async fn tables_of_items<DB: Tested>(world: &World<DB>) {
    for table in ["order_items", "cart_items"] {
        let columns = "(id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL)";
        world.sql(format!("CREATE TABLE {table} {columns}")).await;
    }
}

async fn two_entities_of_one_name_are_refused<DB: Tested>(world: &World<DB>) {
    tables_of_items(world).await;
    let pool = || world.pool.clone();
    let _items = orders::Item::repository(&world.cache, pool());
    let _through = orders::Through::repository(&world.cache, pool());
    let queued = orders::Queued::repository(&world.cache, pool());
    queued.install().await.unwrap();
    let row = orders::Queued {
        id: 1,
        name: "ordered".to_owned(),
    };
    queued.save(&row).await.unwrap();
    for message in [
        refused(carts::Item::try_repository(&world.cache, pool()).map(drop)),
        refused(carts::Through::try_repository(&world.cache, pool()).map(drop)),
        refused(carts::Queued::try_repository(&world.cache, pool()).map(drop)),
    ] {
        for part in ["order_items", "cart_items", "#[cached(name = \"..\")]"] {
            assert!(message.contains(part), "{message}");
        }
    }
    queued.flush().await.unwrap();
    let ordered = texts(&world.pool, "SELECT name FROM order_items").await;
    assert_eq!(ordered, ["ordered"]);
    assert!(
        texts(&world.pool, "SELECT name FROM cart_items")
            .await
            .is_empty()
    );
}

/// The control of the test above.
async fn without_the_binding_two_entities_of_one_name_share_their_queue<DB: Tested>(
    world: &World<DB>,
) {
    tables_of_items(world).await;
    world.faults.leave_out(Mechanism::Binding);
    let orders = orders::Queued::repository(&world.cache, world.pool.clone());
    let carts = carts::Queued::repository(&world.cache, world.pool.clone());
    orders.install().await.unwrap();
    let row = orders::Queued {
        id: 1,
        name: "ordered".to_owned(),
    };
    orders.save(&row).await.unwrap();
    carts.flush().await.unwrap();
    let ordered = texts(&world.pool, "SELECT name FROM order_items").await;
    assert!(ordered.is_empty(), "{ordered:?}");
}

async fn with_names_of_their_own_two_structs_live_together<DB: Tested>(world: &World<DB>) {
    tables_of_items(world).await;
    let orders = orders::Queued::repository(&world.cache, world.pool.clone());
    let carts = named::Queued::repository(&world.cache, world.pool.clone());
    orders.install().await.unwrap();
    let name = |name: &str| name.to_owned();
    let (ordered, put) = (name("ordered"), name("put into a cart"));
    orders
        .save(&orders::Queued {
            id: 1,
            name: ordered,
        })
        .await
        .unwrap();
    carts
        .save(&named::Queued { id: 1, name: put })
        .await
        .unwrap();
    orders.flush().await.unwrap();
    carts.flush().await.unwrap();
    assert_eq!(
        carts.find(1).await.unwrap().unwrap().name,
        "put into a cart"
    );
    let in_table = |text| texts(&world.pool, text);
    assert_eq!(in_table("SELECT name FROM order_items").await, ["ordered"]);
    assert_eq!(
        in_table("SELECT name FROM cart_items").await,
        ["put into a cart"]
    );
    if world.kind == Kind::Memory {
        // In this process the two structs are different types.
        return;
    }
    // A renamed struct finds the rows that were cached under its former name.
    let apart = format!("{}-renamed", world.namespace);
    let apart = world.cache.with_namespace(&apart).unwrap();
    let former = orders::Item::repository(&apart, world.pool.clone());
    let renamed = named::OrderItem::repository(&apart, world.pool.clone());
    assert_eq!(
        former.inner().key(1).unwrap(),
        renamed.inner().key(1).unwrap()
    );
    former.find(1).await.unwrap();
    eventually("the fill has been judged", async || {
        former.stats().fills_accepted == 1
    })
    .await;
    let outcome = renamed.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
}

async fn in_another_process_two_entities_of_one_name_are_refused<DB: Tested>(world: &World<DB>) {
    tables_of_items(world).await;
    let orders = orders::Queued::repository(&world.cache, world.pool.clone());
    orders.install().await.unwrap();
    orders.find(1).await.unwrap();
    let elsewhere = world.cache_elsewhere().await;
    let carts = carts::Queued::repository(&elsewhere, world.pool.clone());
    let row = carts::Queued {
        id: 1,
        name: "put into a cart".to_owned(),
    };
    let message = refused(carts.save(&row).await);
    assert!(
        message.contains("order_items") && message.contains("cart_items"),
        "{message}"
    );
    refused(carts.flush().await);
    refused(carts.find(1).await);
    assert_eq!(orders.pending().await.unwrap().count, 0);
}

mod billing {
    use larder::Cached;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "items", namespace = "binding-tests-billing")]
    pub(super) struct Invoice {
        #[cached(id)]
        pub(super) id: i64,
        pub(super) name: String,
    }
}

/// Two tenants have a namespace each, and share the namespace of the entity.
async fn a_namespace_of_an_entitys_own_is_bound_as_well<DB: Tested>(world: &World<DB>) {
    let server = RedisServer::start().await;
    let cache = match world.kind {
        Kind::Memory => Cache::in_process(),
        Kind::Redis | Kind::Sealed => Cache::connect(&server.url()).await.unwrap(),
    };
    let (database, pool) = other::<DB>().await;
    let tenants = ["one", "two"].map(|tenant| cache.with_namespace(tenant).unwrap());
    let ours = billing::Invoice::repository(&tenants[0], world.pool.clone());
    assert_eq!(ours.find(1).await.unwrap(), None);
    let message = refused(billing::Invoice::try_repository(&tenants[1], pool.clone()).map(drop));
    assert!(message.contains("binding-tests-billing"), "{message}");
    let items = Item::repository(&tenants[1], pool);
    assert_eq!(
        items.find(1).await.unwrap(),
        None,
        "its own namespace is free"
    );
    database.close().await;
}

/// One file by a relative path, through a link, and by its canonical path.
async fn a_file_is_one_database_whatever_its_path<DB: Tested>(world: &World<DB>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().canonicalize().unwrap().join("app.db");
    std::fs::write(&file, b"").unwrap();
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let relative = format!("{up}{}", file.strip_prefix("/").unwrap().display());
    let open = async |path: &Path| {
        let options = SqliteConnectOptions::new().filename(path);
        SqlitePoolOptions::new()
            .connect_with(options)
            .await
            .unwrap()
    };
    let pool = open(&file).await;
    run(&pool, ITEMS).await;
    run(&pool, "INSERT INTO items VALUES (1, 'one', NULL, 1)").await;
    let items = Item::repository(&world.cache, pool);
    items.find(1).await.unwrap();
    for path in [Path::new(&relative), &link] {
        let items = Item::repository(&world.cache_elsewhere().await, open(path).await);
        assert_eq!(items.find(1).await.unwrap().unwrap().name, "one");
    }
    let another = folder.path().join("another.db");
    std::fs::copy(&file, &another).unwrap();
    let another = open(&another).await;
    refused(match Item::try_repository(&world.cache, another) {
        Ok(items) => items.find(1).await.map(drop),
        Err(error) => Err(error),
    });
}

async fn each_database_in_memory_is_its_own<DB: Tested>(world: &World<DB>) {
    let open = async || {
        let pool = sqlx::SqlitePool::connect("sqlite::memory:").await.unwrap();
        run(&pool, ITEMS).await;
        pool
    };
    let (first, second) = (open().await, open().await);
    let items = Item::repository(&world.cache, first.clone());
    items.insert(&Item::new(1, "first")).await.unwrap();
    let again = Item::repository(&world.cache, first);
    assert_eq!(again.find(1).await.unwrap().unwrap().name, "first");
    refused(Item::try_repository(&world.cache, second).map(drop));
    // Without a name, each connection is a database of its own.
    let unnamed = async || {
        let options = SqlitePoolOptions::new().max_connections(1);
        options
            .connect_with(SqliteConnectOptions::new())
            .await
            .unwrap()
    };
    refused(Item::try_repository(&world.cache, unnamed().await).map(drop));
    let free = world.cache.with_namespace(unique("unnamed")).unwrap();
    let (one, two) = (unnamed().await, unnamed().await);
    Item::try_repository(&free, one.clone()).unwrap();
    Item::try_repository(&free, one).unwrap();
    refused(Item::try_repository(&free, two).map(drop));
}

/// The database has the same address and server, but other rows.
async fn a_database_that_was_created_again_is_another_one<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "before")).await;
    larder::schema::install(&world.pool).await.unwrap();
    let items = world.items();
    world.warm(&items, 1).await;
    for statement in ["DROP TABLE larder_database", "DELETE FROM items"] {
        world.sql(statement).await;
    }
    let open = async || match world.kind {
        // Another process has no state of this one.
        Kind::Redis | Kind::Sealed => Some(world.cache_elsewhere().await),
        Kind::Memory => None,
    };
    if let Some(elsewhere) = open().await {
        let others = Item::repository(&elsewhere, world.pool.clone());
        let message = refused(others.find(1).await);
        assert!(message.contains("no id"), "{message}");
        larder::schema::install(&world.pool).await.unwrap();
        let message = refused(others.find(1).await);
        assert!(message.contains("created again"), "{message}");
        elsewhere.rebind(&world.pool).await.unwrap();
        assert_eq!(others.find(1).await.unwrap(), None);
    }
}

/// The name of a queue has a slash before the number of partitions.
async fn a_namespace_may_hold_a_slash<DB: Tested>(world: &World<DB>) {
    tables_of_items(world).await;
    let tenant = world.cache.with_namespace(unique("eu/1")).unwrap();
    let orders = orders::Queued::repository(&tenant, world.pool.clone());
    let items = Behind::repository(&tenant, world.pool.clone());
    orders.install().await.unwrap();
    let row = orders::Queued {
        id: 1,
        name: "ordered".to_owned(),
    };
    orders.save(&row).await.unwrap();
    items.save(&Behind::new(1, "item")).await.unwrap();
    orders.flush().await.unwrap();
    items.flush().await.unwrap();
    assert_eq!(names(&world.pool).await, ["item"]);
}

/// One table name in two schemas. The search path selects one.
async fn two_schemas_with_one_table_are_two_tables<DB: Tested>(world: &World<DB>) {
    let mut pools = Vec::new();
    for schema in ["north", "south"] {
        let options: PgConnectOptions = world.database.url().parse().unwrap();
        let options = options.options([("search_path", schema)]);
        let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
        run(&pool, format!("CREATE SCHEMA {schema}")).await;
        run(&pool, ITEMS).await;
        run(
            &pool,
            format!("INSERT INTO items VALUES (1, '{schema}', NULL, 1)"),
        )
        .await;
        pools.push(pool);
    }
    let north = Item::repository(&world.cache, pools[0].clone());
    assert_eq!(north.find(1).await.unwrap().unwrap().name, "north");
    let elsewhere = world.cache_elsewhere().await;
    let south = Item::repository(&elsewhere, pools[1].clone());
    let message = refused(south.find(1).await);
    for part in ["north.items", "south.items"] {
        assert!(message.contains(part), "{message}");
    }
    let tenant = world.cache.with_namespace(unique("south")).unwrap();
    let south = Item::repository(&tenant, pools[1].clone());
    assert_eq!(south.find(1).await.unwrap().unwrap().name, "south");
}

/// Redis is reachable, but fails to return the binding.
async fn a_store_that_cannot_be_asked_is_bypassed_until_it_can<DB: Tested>(world: &World<DB>) {
    world.put(&Item::new(1, "one")).await;
    world.faults.fail(Operation::Bind, u64::MAX);
    let items = world.items();
    for _ in 0..3 {
        assert_eq!(
            items.find_outcome(1).await.unwrap().origin,
            Origin::Database
        );
    }
    items.update(&Item::new(1, "uno")).await.unwrap();
    assert_eq!(items.find(1).await.unwrap().unwrap().name, "uno");
    assert_eq!(items.stats().fills_accepted, 0);
    // In a namespace of its own, because no other entity is cached beside queued writes.
    let apart = format!("{}-behind", world.namespace);
    let apart = world.cache.with_namespace(&apart).unwrap();
    let behind = Behind::repository(&apart, world.pool.clone());
    behind.install().await.unwrap();
    let error = behind.save(&Behind::new(2, "two")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CacheUnavailable, "{error}");
    world.faults.fail(Operation::Bind, 0);
    behind.save(&Behind::new(2, "two")).await.unwrap();
    eventually("the row is cached", async || {
        items.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
}

async fn bound(server: &RedisServer, namespace: &str) -> String {
    let key = format!("{namespace}::bound");
    let value = server.command(&["HGET", &key, "database"]).await.unwrap();
    redis::from_redis_value::<Option<String>>(value)
        .unwrap()
        .unwrap_or_default()
}

async fn connect(server: &RedisServer, namespace: &str) -> Cache {
    let builder = Cache::builder()
        .redis(server.url())
        .listed(false)
        .namespace(namespace);
    builder.connect().await.unwrap()
}

/// Closes all connections to a server.
async fn cut_connections(server: &RedisServer) {
    for kind in ["normal", "pubsub"] {
        let kill = ["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"];
        server.command(&kill).await.unwrap();
    }
}

async fn a_binding_survives_the_connection_and_a_lost_one_is_made_again<DB: Tested>(
    world: &World<DB>,
) {
    let server = RedisServer::start().await;
    let (database, pool) = other::<DB>().await;
    let (cache, others) = (
        connect(&server, "shop").await,
        connect(&server, "shop").await,
    );
    let ours = Item::repository(&cache, world.pool.clone());
    let theirs = Item::repository(&others, pool.clone());
    ours.find(1).await.unwrap();
    let before = bound(&server, "shop").await;
    refused(theirs.find(1).await);
    let runs = || {
        (
            cache.store().connection_number(),
            others.store().connection_number(),
        )
    };
    let first = runs();
    cut_connections(&server).await;
    eventually("there are new connections", async || {
        ours.find(1).await.unwrap();
        let now = runs();
        now.0 > first.0 && now.1 > first.1 && others.store().is_available()
    })
    .await;
    refused(theirs.find(1).await);
    ours.find(1).await.unwrap();
    assert_eq!(bound(&server, "shop").await, before);
    // After the binding is lost, the first process binds the namespace. The other one notices it after its next connection.
    server.command(&["FLUSHALL"]).await.unwrap();
    assert_eq!(theirs.find(1).await.unwrap(), None);
    assert_ne!(bound(&server, "shop").await, before);
    cut_connections(&server).await;
    eventually("the one that was first before is refused now", async || {
        ours.find(1).await.is_err()
    })
    .await;
    database.close().await;
}

/// A database that was bound by its address gets an id, which the binding then has.
async fn a_database_that_gets_an_id_keeps_its_namespace_and_is_identified_by_the_id<DB: Tested>(
    world: &World<DB>,
) {
    let server = RedisServer::start().await;
    let items = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    items.find(1).await.unwrap();
    assert!(!bound(&server, "shop").await.contains("\"id\""));
    larder::schema::install(&world.pool).await.unwrap();
    let later = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    later.find(1).await.unwrap();
    let id = world.text("SELECT id FROM larder_database").await;
    assert!(bound(&server, "shop").await.contains(&id));
    // The first process has identified the database before it had an id, and asks again.
    cut_connections(&server).await;
    items.find(1).await.unwrap();
    eventually("it caches again", async || {
        items.find_outcome(1).await.unwrap().origin == Origin::Cache
    })
    .await;
}

/// A failover, as the binding sees it: another server at a known address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_follows_its_database_to_another_server_under_its_address() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    let server = RedisServer::start().await;
    world.put(&Item::new(1, "one")).await;
    larder::schema::install(&world.pool).await.unwrap();
    let items = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    world.warm(&items, 1).await;
    let before = bound(&server, "shop").await;
    let at = before.find("\"server\":\"").unwrap() + 10;
    let former = format!("{}9{}", &before[..at], &before[at..]);
    server
        .command(&["HSET", "shop::bound", "database", &former])
        .await
        .unwrap();
    let items = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    let outcome = items.find_outcome(1).await.unwrap();
    assert_eq!(outcome.origin, Origin::Cache);
    assert_eq!(bound(&server, "shop").await, before);
    // A server that was set up separately cannot be the result of a failover.
    let at = before.find("\"cluster\":\"").unwrap() + 11;
    let other = format!("{}9{}", &before[..at], &before[at..]);
    server
        .command(&["HSET", "shop::bound", "database", &other])
        .await
        .unwrap();
    let items = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    let why = refused(items.find(1).await);
    assert!(why.contains("set up separately"), "{why}");
    world.database.close().await;
}

/// A process that has identified the database before a failover asks again before it changes the binding.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_answer_does_not_bring_back_a_former_server() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    let server = RedisServer::start().await;
    larder::schema::install(&world.pool).await.unwrap();
    world.put(&Item::new(1, "one")).await;
    let items = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    world.warm(&items, 1).await;
    let own = bound(&server, "shop").await;
    let at = own.find('@').unwrap() + 1;
    let successor = format!("{}9{}", &own[..at], &own[at..]);
    server
        .command(&["HSET", "shop::bound", "database", &successor])
        .await
        .unwrap();
    // The database is unreachable now. Its address is known, so cached rows are served.
    let proxy = world.database.proxy();
    proxy.refuse();
    proxy.reset();
    cut_connections(&server).await;
    eventually("rows are served", async || {
        let outcome = items.find_outcome(1).await;
        outcome.is_ok_and(|outcome| outcome.origin == Origin::Cache)
    })
    .await;
    assert_eq!(bound(&server, "shop").await, successor);
    proxy.heal();
    eventually("it is bound again", async || {
        items.find(1).await.is_ok() && bound(&server, "shop").await == own
    })
    .await;
    world.database.close().await;
}

/// A copy of the disk has the id and the cluster of the database, but another server and another address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_refused() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    let server = RedisServer::start().await;
    larder::schema::install(&world.pool).await.unwrap();
    let items = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    items.find(1).await.unwrap();
    // The binding of the production database that was copied.
    let own = bound(&server, "shop").await;
    let at = own.find('@').unwrap() + 1;
    let started = format!("{}9{}", &own[..at], &own[at..]);
    let at = started.find("\"endpoints\":[\"").unwrap() + 14;
    let production = format!("{}production-{}", &started[..at], &started[at..]);
    server
        .command(&["HSET", "shop::bound", "database", &production])
        .await
        .unwrap();
    let items = Item::repository(&connect(&server, "shop").await, world.pool.clone());
    let why = refused(items.find(1).await);
    assert!(why.contains("a copy of the other"), "{why}");
    assert_eq!(bound(&server, "shop").await, production);
    world.database.close().await;
}

/// The database is unreachable when a process starts. Cached rows are served if the binding has the database's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_database_down_a_new_process_serves_the_rows_of_its_own_database() {
    let world = World::<Postgres>::open(Kind::Redis).await;
    world.put(&Item::new(1, "one")).await;
    let items = world.items();
    world.warm(&items, 1).await;
    world.database.proxy().refuse();
    let lazily = |url: &str| {
        PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(300))
            .connect_lazy(url)
            .unwrap()
    };
    let known = lazily(world.database.url());
    let others = Item::repository(&world.cache_elsewhere().await, known);
    let outcome = others.find_outcome(1).await.unwrap();
    assert_eq!(outcome.row.unwrap().name, "one");
    assert_eq!(outcome.origin, Origin::Cache);
    let error = others.update(&Item::new(1, "uno")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    let unknown = lazily(&world.database.url().replace("127.0.0.1", "127.0.0.2"));
    let others = Item::repository(&world.cache_elsewhere().await, unknown);
    let error = others.find(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    world.database.proxy().heal();
    world.database.close().await;
}

/// 300 tenants use one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_namespaces_share_one_connection() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let server = RedisServer::start().await;
    let cache = connect(&server, "tenants").await;
    let connections = async || {
        let list = server.command(&["CLIENT", "LIST"]).await.unwrap();
        redis::from_redis_value::<String>(list)
            .unwrap()
            .lines()
            .count()
    };
    let before = connections().await;
    world.put(&Item::new(1, "one")).await;
    let tenants = (0..300).map(|tenant| {
        let tenant = cache.with_namespace(format!("tenant-{tenant}")).unwrap();
        Item::repository(&tenant, world.pool.clone())
    });
    let tenants: Vec<_> = tenants.collect();
    for tenant in &tenants {
        assert_eq!(tenant.find(1).await.unwrap().unwrap().name, "one");
        assert_eq!(tenant.stats().loads, 1, "each has its own keys");
    }
    assert_eq!(connections().await, before);
    world.database.close().await;
}

async fn journal_opened_by_another_database(is_bound: bool) {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let (database, pool) = other::<Sqlite>().await;
    let directory = tempfile::tempdir().unwrap();
    let open = |pool: &Pool<Sqlite>| {
        let faults = Faults::new();
        if !is_bound {
            faults.leave_out(Mechanism::Binding);
        }
        let builder = Cache::builder()
            .journal_dir(directory.path())
            .faults(&faults);
        let cache = builder.build().unwrap();
        (Kept::repository(&cache, pool.clone()), cache)
    };
    let (rows, _) = open(&world.pool);
    rows.install().await.unwrap();
    let row = Kept {
        id: 1,
        name: "kept".to_owned(),
        note: None,
        quantity: 1,
    };
    rows.save(&row).await.unwrap();
    drop(rows);
    // A copy of the database, with the positions of the queue.
    run(&pool, larder::schema::offsets_sql::<Sqlite>()).await;
    run(&pool, larder::schema::dead_letters_sql::<Sqlite>()).await;
    let attached = world.database.url().trim_start_matches("sqlite://");
    run(
        &pool,
        format!(
            "ATTACH '{attached}' AS original; \
             INSERT INTO main.larder_offsets SELECT * FROM original.larder_offsets; DETACH original"
        ),
    )
    .await;
    let (theirs, cache) = open(&pool);
    if is_bound {
        refused(theirs.find(1).await);
        refused(theirs.save(&row).await);
        refused(theirs.flush().await);
        refused(theirs.start_flushing().await);
        assert_eq!(names(&pool).await, [""; 0]);
        drop((theirs, cache));
        let (ours, _) = open(&world.pool);
        ours.flush().await.unwrap();
        assert_eq!(names(&world.pool).await, ["kept"]);
        drop(ours);
        // The database was moved on purpose.
        let cache = Cache::builder()
            .journal_dir(directory.path())
            .build()
            .unwrap();
        cache.rebind(&pool).await.unwrap();
        let theirs = Kept::repository(&cache, pool.clone());
        theirs.install().await.unwrap();
        assert_eq!(theirs.find(7).await.unwrap(), None);
    } else {
        theirs.flush().await.unwrap();
        assert_eq!(
            names(&pool).await,
            ["kept"],
            "the control: it is flushed there"
        );
    }
    database.close().await;
    world.database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_flushed_into_its_own_database_only() {
    journal_opened_by_another_database(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_binding_a_journal_is_flushed_into_whatever_database_opens_it() {
    journal_opened_by_another_database(false).await;
}

pub(crate) const FORKING: (&str, WorkerFn) = ("forking", |folder| Box::pin(forking(folder)));

/// Draws a token and forks twice. Each child writes its own token to a file.
async fn forking(folder: Vec<String>) {
    let folder = Path::new(&folder[0]);
    let parent = Token::draw();
    let mut children = Vec::new();
    for child in ["first", "second"] {
        match fork::fork().unwrap() {
            fork::Fork::Parent(process) => children.push(process),
            fork::Fork::Child => {
                let written = std::fs::write(folder.join(child), format!("{:?}", Token::draw()));
                std::process::exit(i32::from(written.is_err()));
            }
        }
    }
    for child in children {
        assert_eq!(
            fork::waitpid(child).unwrap(),
            0,
            "the child has written its token"
        );
    }
    std::fs::write(
        folder.join("parent"),
        format!("{parent:?} {:?}", Token::draw()),
    )
    .unwrap();
    tell("forked");
}

#[tokio::test]
async fn processes_that_were_forked_draw_tokens_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let mut worker = Worker::spawn("forking", &[&path]);
    worker.expect("forked").await;
    worker.finish().await;
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let parent = read("parent");
    let (before, after) = parent.split_once(' ').unwrap();
    assert_eq!(before[..16], after[..16], "the parent keeps its name");
    let process = |token: String| token[..16].to_owned();
    let (first, second) = (process(read("first")), process(read("second")));
    assert!(first != second && first != before[..16] && second != before[..16]);
}
