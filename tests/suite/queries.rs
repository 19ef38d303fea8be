//! Cached queries, and entities that stand for a query: what is cached, for how long, and which writes are seen at once.
//!
//! The controls leave out the announcement of a write to the queries, and show that the same scene then serves the old answer.
//!
//! Not here: the clock that the answers are compared with (`tags`, and the model).

use std::time::Duration;

use larder::{
    Backend, Cache, Cached, DependsOn, ErrorKind, FetchFuture, Queries, Transaction,
    store::{
        Mechanism,
        faulty::{Faults, Operation},
    },
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Postgres, SqlSafeStr};

use crate::world::{
    Kind, Tested, World, at_once, everywhere, filled, on_both_stores, on_postgres, on_redis,
    redis_url,
};

everywhere!(
    an_answer_is_cached_until_a_row_is_written,
    every_kind_of_write_is_seen_at_once,
    a_transaction_is_seen_at_its_commit_and_not_before,
    rows_of_a_query_are_found_by_id_and_by_index,
    rows_of_a_query_follow_the_tables_that_it_reads,
);
on_both_stores!(
    without_the_announcement_an_old_answer_is_served,
    while_a_write_is_open_the_statements_run,
    a_load_from_before_a_write_is_not_served_after_it,
    answers_without_a_value_are_cached_too,
    an_error_is_not_cached,
    each_key_has_its_own_answer,
    a_key_that_cannot_be_written_is_an_error,
    a_tag_invalidates_its_answers_and_no_others,
    an_answer_with_other_dependencies_is_not_used,
    an_answer_that_does_not_survive_the_codec_is_not_cached,
    an_entity_of_another_namespace_is_refused,
    a_name_with_two_types_is_no_wrong_answer,
    callers_that_ask_together_share_one_run,
    without_the_store_the_statements_run,
    a_write_that_the_store_did_not_hear_of_is_not_forgotten,
    rows_that_others_have_changed_are_told_by_invalidate,
    a_consistent_entity_refuses_a_write_that_queries_would_not_hear_of,
    without_the_refusal_queries_do_not_hear_of_a_write,
    the_rows_of_a_query_are_invalidated_without_those_of_others,
    versions_of_a_namespace_do_not_share_entries_and_invalidate_each_other,
);
on_redis!(
    a_time_to_live_is_kept,
    a_query_is_one_round_trip,
    without_its_version_entries_of_a_namespace_are_shared,
);
on_postgres!(a_query_can_read_several_tables);

const ORDERS: &str = "CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, shop BIGINT NOT NULL, price BIGINT NOT NULL)";
const SHOPS: &str =
    "CREATE TABLE shops (id BIGINT NOT NULL PRIMARY KEY, city VARCHAR(20) NOT NULL)";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "orders", queries, ttl = "10m", index(shop))]
struct Order {
    #[cached(id)]
    id: i64,
    shop: i64,
    price: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "shops", queries, ttl = "10m")]
struct Shop {
    #[cached(id)]
    id: i64,
    city: String,
}

/// Each order with the city of its shop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    select = "SELECT o.id AS id, o.price AS price, s.city AS city FROM orders o JOIN shops s ON s.id = o.shop",
    depends_on(Order, Shop),
    ttl = "10m",
    negative_ttl = "10m",
    index(city)
)]
struct Sale {
    #[cached(id)]
    id: i64,
    price: i64,
    city: String,
}

fn order(id: i64, shop: i64, price: i64) -> Order {
    Order { id, shop, price }
}

/// The statements of a query that returns one number.
fn number<DB: Tested>(
    select: &'static str,
) -> impl for<'c> Fn(&'c mut DB::Connection) -> FetchFuture<'c, i64> + Send + Sync + 'static {
    number_for::<DB>(select, None)
}

type Statements<DB> = Box<
    dyn for<'c> Fn(&'c mut <DB as sqlx::Database>::Connection) -> FetchFuture<'c, i64>
        + Send
        + Sync,
>;

fn number_for<DB: Tested>(select: &'static str, shop: Option<i64>) -> Statements<DB> {
    Box::new(move |connection| {
        Box::pin(async move {
            let condition = shop.map_or(String::new(), |shop| format!(" WHERE shop = {shop}"));
            let text = format!("SELECT CAST({select} AS CHAR(20)) FROM orders{condition}");
            let text = AssertSqlSafe(text).into_sql_str();
            let row = DB::fetch(connection, text, DB::Arguments::default()).await?;
            let text = DB::text(&row.expect("an aggregate is a row"), 0)?;
            Ok(text.map_or(0, |text| text.trim().parse().expect("it is a number")))
        })
    })
}

/// Orders, as this process and another one see them, and the queries of both.
struct Scene<DB: Tested> {
    orders: OrderRepository<DB>,
    elsewhere: OrderRepository<DB>,
    here: Queries<DB>,
    there: Queries<DB>,
}

impl<DB: Tested> Scene<DB> {
    async fn open(world: &World<DB>) -> Self {
        world.sql(ORDERS).await;
        world.sql(SHOPS).await;
        world
            .sql("INSERT INTO shops VALUES (1, 'Bonn'), (2, 'Cork')")
            .await;
        world
            .sql("INSERT INTO orders VALUES (1, 1, 10), (2, 1, 20), (3, 2, 30)")
            .await;
        let cache = world.cache_elsewhere().await;
        let scene = Self {
            orders: Order::repository(&world.cache, world.pool.clone()),
            elsewhere: Order::repository(&cache, world.pool.clone()),
            here: world.cache.queries(world.pool.clone()),
            there: cache.queries(world.pool.clone()),
        };
        assert_eq!(scene.sums().await, [60, 60]);
        scene.settle().await;
        scene
    }

    /// Waits until everything that was read is cached.
    async fn settle(&self) {
        filled(|| self.here.stats()).await;
        filled(|| self.there.stats()).await;
    }

    /// The sum of all prices, as both processes see it.
    async fn sums(&self) -> [i64; 2] {
        let mut sums = [0; 2];
        for (sum, queries) in sums.iter_mut().zip([&self.here, &self.there]) {
            *sum = self.sum(queries).await;
        }
        sums
    }

    async fn sum(&self, queries: &Queries<DB>) -> i64 {
        let query = queries.query::<i64>("sum").depends_on(&self.orders);
        *query.fetch(number::<DB>("SUM(price)")).await.unwrap()
    }
}

async fn an_answer_is_cached_until_a_row_is_written<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let statements = world.database.statements();
    assert_eq!(scene.sums().await, [60, 60]);
    assert_eq!(world.database.statements(), statements, "they are cached");
    world.sql("UPDATE orders SET price = 11 WHERE id = 1").await;
    assert_eq!(scene.sums().await, [60, 60], "nobody was told");
    scene.elsewhere.update(&order(2, 1, 21)).await.unwrap();
    assert_eq!(scene.sums().await, [62, 62]);
    scene.settle().await;
    let statements = world.database.statements();
    assert_eq!(scene.sums().await, [62, 62]);
    assert_eq!(
        world.database.statements(),
        statements,
        "they are cached again"
    );
}

async fn every_kind_of_write_is_seen_at_once<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let orders = &scene.elsewhere;
    let check = async |sum: i64| {
        assert_eq!(scene.sums().await, [sum, sum]);
        scene.settle().await;
        assert_eq!(scene.sums().await, [sum, sum]);
    };
    orders.insert(&order(4, 2, 40)).await.unwrap();
    check(100).await;
    orders.save(&order(4, 2, 41)).await.unwrap();
    check(101).await;
    orders.modify(4, |order| order.price = 42).await.unwrap();
    check(102).await;
    orders.delete(4).await.unwrap();
    check(60).await;
    orders
        .insert_many(&[order(5, 1, 5), order(6, 1, 6)])
        .await
        .unwrap();
    check(71).await;
    orders
        .update_many(&[order(5, 1, 50), order(6, 1, 60)])
        .await
        .unwrap();
    check(170).await;
    orders.delete_many(&[5, 6]).await.unwrap();
    check(60).await;
}

async fn a_transaction_is_seen_at_its_commit_and_not_before<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    scene
        .orders
        .within(&mut transaction)
        .update(&order(1, 1, 1))
        .await
        .unwrap();
    if world.pool.options().get_max_connections() > 1 && DB::NAME != "SQLite" {
        assert_eq!(scene.sums().await, [60, 60]);
    }
    transaction.commit().await.unwrap();
    assert_eq!(scene.sums().await, [51, 51]);
    scene.settle().await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    scene
        .orders
        .within(&mut transaction)
        .update(&order(1, 1, 2))
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(scene.sums().await, [51, 51]);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let statement = AssertSqlSafe("UPDATE orders SET price = 3 WHERE id = 1".to_owned());
    DB::execute(
        transaction.connection(),
        statement.into_sql_str(),
        DB::Arguments::default(),
    )
    .await
    .unwrap();
    scene
        .orders
        .within(&mut transaction)
        .mark_changed(1)
        .unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(scene.sums().await, [53, 53]);
}

async fn without_the_announcement_an_old_answer_is_served<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Dependents);
    let scene = Scene::open(world).await;
    scene.orders.update(&order(1, 1, 1)).await.unwrap();
    assert_eq!(
        scene.sums().await,
        [60, 60],
        "the control shows what is prevented"
    );
}

async fn while_a_write_is_open_the_statements_run<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let end = world.faults.pause(Operation::EndTagged);
    let write = tokio::spawn({
        let orders = scene.orders.clone();
        async move { orders.update(&order(1, 1, 1)).await }
    });
    end.reached().await;
    // It is committed and not yet answered.
    assert_eq!(scene.sums().await, [51, 51]);
    let before = scene.here.stats().fills_accepted + scene.there.stats().fills_accepted;
    assert_eq!(scene.sums().await, [51, 51]);
    scene.settle().await;
    let after = scene.here.stats().fills_accepted + scene.there.stats().fills_accepted;
    assert_eq!(after, before, "nothing is cached while it is open");
    end.resume();
    write.await.unwrap().unwrap();
    assert_eq!(scene.sums().await, [51, 51]);
}

async fn a_load_from_before_a_write_is_not_served_after_it<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    scene.here.invalidate_all().await.unwrap();
    let fill = world.faults.pause(Operation::Fill);
    assert_eq!(
        scene.sum(&scene.here).await,
        60,
        "the caller need not wait for the fill"
    );
    fill.reached().await;
    scene.orders.update(&order(1, 1, 1)).await.unwrap();
    fill.resume();
    scene.settle().await;
    assert_eq!(scene.sums().await, [51, 51]);
}

async fn answers_without_a_value_are_cached_too<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let absent = async || {
        let query = scene
            .here
            .query::<Option<i64>>("nobody")
            .depends_on(&scene.orders);
        query.fetch(|_| Box::pin(async { Ok(None) })).await.unwrap()
    };
    let empty = async || {
        let query = scene
            .here
            .query::<Vec<String>>("nothing")
            .depends_on(&scene.orders);
        query
            .fetch(|_| Box::pin(async { Ok(Vec::new()) }))
            .await
            .unwrap()
    };
    assert_eq!((*absent().await, empty().await.len()), (None, 0));
    scene.settle().await;
    let loads = scene.here.stats().loads;
    assert_eq!((*absent().await, empty().await.len()), (None, 0));
    assert_eq!(scene.here.stats().loads, loads, "both are cached");
}

async fn an_error_is_not_cached<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let failed = scene
        .here
        .query::<i64>("failing")
        .fetch(|_| Box::pin(async { Err(sqlx::Error::RowNotFound) }))
        .await
        .unwrap_err();
    assert!(
        failed.to_string().contains("the query with key"),
        "{failed}"
    );
    let source = std::error::Error::source(&failed).unwrap().to_string();
    assert_eq!(source, sqlx::Error::RowNotFound.to_string());
    let query = scene.here.query::<i64>("failing");
    assert_eq!(
        *query.fetch(|_| Box::pin(async { Ok(7) })).await.unwrap(),
        7
    );
}

#[derive(Serialize)]
struct Shown {
    shop: i64,
    text: &'static str,
}

async fn each_key_has_its_own_answer<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    for _ in 0..2 {
        for (shop, sum) in [(1, 30), (2, 30), (3, 0)] {
            let query = scene
                .here
                .query::<i64>("of-shop")
                .key(&shop)
                .depends_on(&scene.orders);
            let fetched = query
                .fetch(number_for::<DB>("SUM(price)", Some(shop)))
                .await;
            assert_eq!(*fetched.unwrap(), sum, "{shop}");
        }
        scene.settle().await;
    }
    assert_eq!(scene.here.stats().loads, 1 + 3, "each was run once");
    let answer = async |shop: i64, text: &'static str, answer: i64| {
        let query = scene.here.query::<i64>("shown").key(&Shown { shop, text });
        *query
            .fetch(move |_| Box::pin(async move { Ok(answer) }))
            .await
            .unwrap()
    };
    // Separators inside texts do not make two keys one.
    assert_eq!(answer(1, "2:x", 1).await, 1);
    assert_eq!(answer(1, "2", 2).await, 2);
    assert_eq!(answer(12, "", 3).await, 3);
}

async fn a_key_that_cannot_be_written_is_an_error<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let query = scene.here.query::<i64>("by-size").key(&1.5);
    let error = query.fetch(number::<DB>("SUM(price)")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion);
    assert!(error.to_string().contains("`by-size`"), "{error}");
}

async fn a_tag_invalidates_its_answers_and_no_others<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let tagged = async |queries: &Queries<DB>, tag: &'static str| {
        let query = queries.query::<i64>(tag).tags([tag]);
        *query.fetch(number::<DB>("SUM(price)")).await.unwrap()
    };
    for queries in [&scene.here, &scene.there] {
        assert_eq!(tagged(queries, "a").await, 60);
        assert_eq!(tagged(queries, "b").await, 60);
    }
    scene.settle().await;
    scene.orders.update(&order(1, 1, 1)).await.unwrap();
    for queries in [&scene.here, &scene.there] {
        assert_eq!(
            tagged(queries, "a").await,
            60,
            "it does not depend on the orders"
        );
    }
    scene.there.invalidate_tag("a").await.unwrap();
    for queries in [&scene.here, &scene.there] {
        assert_eq!(tagged(queries, "a").await, 51);
        assert_eq!(tagged(queries, "b").await, 60);
    }
    scene.here.invalidate_all().await.unwrap();
    for queries in [&scene.here, &scene.there] {
        assert_eq!(tagged(queries, "a").await, 51);
        assert_eq!(tagged(queries, "b").await, 51);
    }
    scene.settle().await;
    scene.orders.update(&order(1, 1, 10)).await.unwrap();
    scene
        .here
        .query::<i64>("b")
        .tags(["b"])
        .invalidate()
        .await
        .unwrap();
    for queries in [&scene.there, &scene.here] {
        assert_eq!(tagged(queries, "a").await, 51);
        assert_eq!(tagged(queries, "b").await, 60, "it alone was dropped");
    }
}

/// As a program would leave it whose query did not say yet what it depends on.
async fn an_answer_with_other_dependencies_is_not_used<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let query = || scene.there.query::<i64>("changed");
    let sum = query().fetch(number::<DB>("SUM(price)")).await.unwrap();
    assert_eq!(*sum, 60);
    scene.settle().await;
    scene.orders.update(&order(1, 1, 1)).await.unwrap();
    let sum = query().fetch(number::<DB>("SUM(price)")).await.unwrap();
    assert_eq!(*sum, 60, "it is cached, and depends on nothing");
    let query = query().depends_on(&scene.orders);
    let sum = query.fetch(number::<DB>("SUM(price)")).await.unwrap();
    assert_eq!(*sum, 51);
}

/// A value that serde does not give back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lossy {
    #[serde(skip)]
    sum: i64,
}

async fn an_answer_that_does_not_survive_the_codec_is_not_cached<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    for (sum, mismatches) in [(1, 1), (2, 2)] {
        let query = scene.here.query::<Lossy>("lossy");
        let fetched = query
            .fetch(move |_| Box::pin(async move { Ok(Lossy { sum }) }))
            .await;
        assert_eq!(fetched.unwrap().sum, sum);
        let is_judged = || scene.here.stats().codec_mismatches == mismatches;
        crate::world::until("the answer was judged", is_judged).await;
    }
}

async fn an_entity_of_another_namespace_is_refused<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let other = world
        .cache
        .with_namespace(format!("{}-other", world.namespace))
        .unwrap();
    let queries = other.queries(world.pool.clone());
    let query = queries.query::<i64>("sum").depends_on(&scene.orders);
    let error = query.fetch(number::<DB>("SUM(price)")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(
        error.to_string().contains("cannot depend on Order"),
        "{error}"
    );
}

async fn a_name_with_two_types_is_no_wrong_answer<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let query = scene.here.query::<i64>("either");
    assert_eq!(
        *query.fetch(|_| Box::pin(async { Ok(7) })).await.unwrap(),
        7
    );
    scene.settle().await;
    let query = scene.here.query::<String>("either");
    let text = query
        .fetch(|_| Box::pin(async { Ok("seven".to_owned()) }))
        .await;
    assert_eq!(*text.unwrap(), "seven");
    scene.settle().await;
    let query = scene.here.query::<i64>("either");
    assert_eq!(
        *query.fetch(|_| Box::pin(async { Ok(7) })).await.unwrap(),
        7
    );
}

async fn callers_that_ask_together_share_one_run<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    scene.here.invalidate_all().await.unwrap();
    let gate = world.close_gate().await;
    let loads = scene.here.stats().loads;
    let asking = at_once(50, |_| {
        let (queries, orders) = (scene.here.clone(), scene.orders.clone());
        async move {
            let query = queries.query::<i64>("sum").depends_on(&orders);
            *query.fetch(number::<DB>("SUM(price)")).await.unwrap()
        }
    });
    let opened = async {
        crate::world::until("all are waiting", || scene.here.stats().misses > 50).await;
        drop(gate);
    };
    let (answers, ()) = tokio::join!(asking, opened);
    assert_eq!(answers, [60; 50]);
    assert_eq!(scene.here.stats().loads - loads, 1);
}

async fn without_the_store_the_statements_run<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    for operation in [Operation::Get, Operation::ReadClock, Operation::Acquire] {
        world.faults.fail(operation, 100);
    }
    assert_eq!(scene.sum(&scene.here).await, 60);
    assert!(scene.here.stats().store_errors > 0);
}

async fn a_write_that_the_store_did_not_hear_of_is_not_forgotten<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    world.faults.fail(Operation::BeginTagged, 1);
    world.faults.fail(Operation::EndTagged, 1);
    scene.orders.update(&order(1, 1, 1)).await.unwrap();
    // This process knows that it has missed it.
    assert_eq!(scene.sum(&scene.here).await, 51);
    let is_delivered = || world.cache.repairs().pending == 0;
    crate::world::until("the invalidation was delivered", is_delivered).await;
    assert_eq!(scene.sums().await, [51, 51]);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "orders", queries, on_outage = "consistent")]
struct CarefulOrder {
    #[cached(id)]
    id: i64,
    shop: i64,
    price: i64,
}

async fn a_consistent_entity_refuses_a_write_that_queries_would_not_hear_of<DB: Tested>(
    world: &World<DB>,
) {
    let scene = Scene::open(world).await;
    let orders = CarefulOrder::repository(&world.cache, world.pool.clone());
    let sum = async || {
        let query = scene.there.query::<i64>("careful").depends_on(&orders);
        let sum = *query.fetch(number::<DB>("SUM(price)")).await.unwrap();
        filled(|| scene.there.stats()).await;
        sum
    };
    assert_eq!(sum().await, 60);
    let row = CarefulOrder {
        id: 1,
        shop: 1,
        price: 1,
    };
    world.faults.fail(Operation::BeginTagged, u64::MAX);
    let error = orders.update(&row).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CacheUnavailable);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    orders.within(&mut transaction).update(&row).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CacheUnavailable);
    world.faults.fail(Operation::BeginTagged, 0);
    scene.there.invalidate_all().await.unwrap();
    assert_eq!(sum().await, 60, "nothing was changed");
    orders.update(&row).await.unwrap();
    assert_eq!(sum().await, 51);
}

async fn without_the_refusal_queries_do_not_hear_of_a_write<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::StrictBeside);
    let scene = Scene::open(world).await;
    let orders = CarefulOrder::repository(&world.cache, world.pool.clone());
    let sum = async || {
        let query = scene.there.query::<i64>("careful").depends_on(&orders);
        *query.fetch(number::<DB>("SUM(price)")).await.unwrap()
    };
    assert_eq!(sum().await, 60);
    scene.settle().await;
    world.faults.fail(Operation::BeginTagged, u64::MAX);
    let end = world.faults.pause(Operation::EndTagged);
    let write = tokio::spawn({
        let orders = orders.clone();
        async move {
            let row = CarefulOrder {
                id: 1,
                shop: 1,
                price: 1,
            };
            orders.update(&row).await
        }
    });
    end.reached().await;
    let row = orders.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(row.price, 1, "it is committed");
    assert_eq!(sum().await, 60, "the control shows what is prevented");
    end.resume();
    write.await.unwrap().unwrap();
    assert_eq!(sum().await, 51);
}

async fn rows_that_others_have_changed_are_told_by_invalidate<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    world.sql("UPDATE orders SET price = 1 WHERE id = 1").await;
    scene.elsewhere.invalidate(1).await.unwrap();
    assert_eq!(scene.sums().await, [51, 51]);
    scene.settle().await;
    world.sql("UPDATE orders SET price = 2 WHERE id = 1").await;
    scene.elsewhere.invalidate_all().await.unwrap();
    assert_eq!(scene.sums().await, [52, 52]);
}

async fn a_time_to_live_is_kept<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let query = scene
        .here
        .query::<i64>("short")
        .ttl(Duration::from_secs(100));
    query.fetch(number::<DB>("SUM(price)")).await.unwrap();
    scene.settle().await;
    let client = redis::Client::open(redis_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let pattern = format!("{}:@queries:short*", world.namespace);
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg(pattern)
        .query_async(&mut connection)
        .await
        .unwrap();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    let left: i64 = redis::cmd("PTTL")
        .arg(key)
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!((80_000..=100_000).contains(&left), "{left}");
}

async fn a_query_is_one_round_trip<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let before =
        [Operation::Get, Operation::ReadClock].map(|operation| world.faults.calls(operation));
    assert_eq!(scene.sum(&scene.here).await, 60);
    let after =
        [Operation::Get, Operation::ReadClock].map(|operation| world.faults.calls(operation));
    assert!(
        after[0] - before[0] <= 1 && after[1] - before[1] <= 1,
        "{before:?} {after:?}"
    );
    assert_eq!(world.faults.calls(Operation::ReadMarks), 0);
}

async fn a_query_can_read_several_tables(world: &World<Postgres>) {
    let scene = Scene::open(world).await;
    let shops = Shop::repository(&world.cache, world.pool.clone());
    let cities = async || {
        let query = scene.here.query::<Vec<(String, i64)>>("cities");
        let query = query.depends_on(&scene.orders).depends_on(&shops);
        let fetched = query.fetch(|connection| {
            let select = "SELECT city, SUM(price)::bigint FROM orders o JOIN shops s ON s.id = o.shop GROUP BY city ORDER BY city";
            Box::pin(sqlx::query_as(select).fetch_all(connection))
        });
        let fetched = fetched.await.unwrap();
        fetched
            .iter()
            .map(|(city, sum)| format!("{city} {sum}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(cities().await, ["Bonn 30", "Cork 30"]);
    scene.settle().await;
    let bern = Shop {
        id: 1,
        city: "Bern".to_owned(),
    };
    shops.update(&bern).await.unwrap();
    assert_eq!(cities().await, ["Bern 30", "Cork 30"]);
    scene.settle().await;
    scene.orders.update(&order(1, 2, 10)).await.unwrap();
    assert_eq!(cities().await, ["Bern 20", "Cork 40"]);
    // The short form, which depends on its own entity.
    let count = async || {
        let query = scene.orders.query::<i64>("count");
        *query.fetch(number::<Postgres>("COUNT(*)")).await.unwrap()
    };
    assert_eq!(count().await, 3);
    filled(|| scene.orders.inner().queries().unwrap().stats()).await;
    scene.elsewhere.delete(3).await.unwrap();
    assert_eq!(count().await, 2);
}

async fn rows_of_a_query_are_found_by_id_and_by_index<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let sales = Sale::repository(&world.cache, world.pool.clone());
    for _ in 0..2 {
        assert_eq!(sales.find(1).await.unwrap().unwrap().city, "Bonn");
        assert!(sales.find(9).await.unwrap().is_none());
        let rows = sales.find_many(&[3, 2]).await.unwrap();
        let prices = rows.iter().map(|row| row.as_ref().unwrap().price);
        assert_eq!(prices.collect::<Vec<_>>(), [30, 20]);
        let bonn = sales.find_all_by_city("Bonn").await.unwrap();
        assert_eq!(
            bonn.rows.iter().map(|row| row.id).collect::<Vec<_>>(),
            [1, 2]
        );
        filled(|| sales.stats()).await;
    }
    let statements = world.database.statements();
    assert_eq!(sales.find(1).await.unwrap().unwrap().price, 10);
    assert!(sales.find(9).await.unwrap().is_none());
    assert_eq!(world.database.statements(), statements, "they are cached");
    let report = sales.check_schema().await.unwrap();
    assert!(report.is_ok() && !report.remarks.is_empty(), "{report:?}");
    drop(scene);
}

async fn rows_of_a_query_follow_the_tables_that_it_reads<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let elsewhere = world.cache_elsewhere().await;
    let shops = Shop::repository(&elsewhere, world.pool.clone());
    let sales = [
        Sale::repository(&world.cache, world.pool.clone()),
        Sale::repository(&elsewhere, world.pool.clone()),
    ];
    let check = async |id: i64, sale: Option<(&str, i64)>, bonn: &[i64]| {
        for _ in 0..2 {
            for sales in &sales {
                let found = sales.find(id).await.unwrap();
                let found = found.as_ref().map(|sale| (sale.city.as_str(), sale.price));
                assert_eq!(found, sale);
                let list = sales.find_all_by_city("Bonn").await.unwrap();
                assert_eq!(list.rows.iter().map(|row| row.id).collect::<Vec<_>>(), bonn);
                filled(|| sales.stats()).await;
            }
        }
    };
    check(4, None, &[1, 2]).await;
    scene.orders.insert(&order(4, 1, 40)).await.unwrap();
    check(4, Some(("Bonn", 40)), &[1, 2, 4]).await;
    scene.elsewhere.update(&order(4, 2, 41)).await.unwrap();
    check(4, Some(("Cork", 41)), &[1, 2]).await;
    let bern = Shop {
        id: 1,
        city: "Bern".to_owned(),
    };
    shops.update(&bern).await.unwrap();
    check(1, Some(("Bern", 10)), &[]).await;
    scene.orders.delete(1).await.unwrap();
    check(1, None, &[]).await;
}

async fn the_rows_of_a_query_are_invalidated_without_those_of_others<DB: Tested>(
    world: &World<DB>,
) {
    let scene = Scene::open(world).await;
    let sales = Sale::repository(&world.cache, world.pool.clone());
    assert_eq!(sales.find(1).await.unwrap().unwrap().price, 10);
    filled(|| sales.stats()).await;
    world.sql("UPDATE orders SET price = 1 WHERE id = 1").await;
    sales.invalidate_all().await.unwrap();
    assert_eq!(sales.find(1).await.unwrap().unwrap().price, 1);
    assert_eq!(scene.sums().await, [60, 60], "they are others");
}

async fn versions_of_a_namespace_do_not_share_entries_and_invalidate_each_other<DB: Tested>(
    world: &World<DB>,
) {
    if world.kind == Kind::Memory {
        // Its entries end with the process.
        let cache = Cache::builder().namespace_version("2").build().unwrap();
        let items = crate::entities::Item::repository(&cache, world.pool.clone());
        assert!(items.find(1).await.unwrap().is_none());
        return;
    }
    let scene = Scene::open(world).await;
    let builder = Cache::builder()
        .namespace(&world.namespace)
        .namespace_version(&2);
    let cache = builder
        .redis(redis_url())
        .listed(false)
        .connect()
        .await
        .unwrap();
    let (next, queries) = (
        Order::repository(&cache, world.pool.clone()),
        cache.queries(world.pool.clone()),
    );
    assert_eq!(scene.orders.find(1).await.unwrap().unwrap().price, 10);
    filled(|| scene.orders.stats()).await;
    world.sql("UPDATE orders SET price = 1 WHERE id = 1").await;
    assert_eq!(
        scene.orders.find(1).await.unwrap().unwrap().price,
        10,
        "it is cached"
    );
    assert_eq!(
        next.find(1).await.unwrap().unwrap().price,
        1,
        "not for this version"
    );
    assert_eq!(scene.sum(&queries).await, 51);
    filled(|| next.stats()).await;
    filled(|| queries.stats()).await;
    // Each writes, and the other sees it.
    next.update(&order(1, 1, 2)).await.unwrap();
    assert_eq!(scene.orders.find(1).await.unwrap().unwrap().price, 2);
    assert_eq!(scene.sums().await, [52, 52]);
    filled(|| scene.orders.stats()).await;
    scene.orders.update(&order(1, 1, 3)).await.unwrap();
    assert_eq!(next.find(1).await.unwrap().unwrap().price, 3);
    assert_eq!(scene.sum(&queries).await, 53);
}

/// Two caches with different versions of one namespace, over one store.
async fn without_its_version_entries_of_a_namespace_are_shared<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    assert_eq!(scene.orders.find(1).await.unwrap().unwrap().price, 10);
    filled(|| scene.orders.stats()).await;
    world.sql("UPDATE orders SET price = 1 WHERE id = 1").await;
    for (left_out, price, sum) in [(true, 10, 60), (false, 1, 51)] {
        let faults = Faults::new();
        if left_out {
            faults.leave_out(Mechanism::NamespaceVersion);
        }
        let builder = Cache::builder()
            .namespace(&world.namespace)
            .namespace_version(&2)
            .faults(&faults);
        let cache = builder
            .redis(redis_url())
            .listed(false)
            .connect()
            .await
            .unwrap();
        let next = Order::repository(&cache, world.pool.clone());
        let queries = cache.queries(world.pool.clone());
        let found = next.find(1).await.unwrap().unwrap();
        assert_eq!(found.price, price, "the version is left out: {left_out}");
        assert_eq!(scene.sum(&queries).await, sum);
    }
}

/// What is generic over repositories can ask for one that queries can depend on.
#[expect(dead_code, reason = "it compiles")]
fn is_dependency<DB: Backend>(orders: &OrderRepository<DB>) -> &dyn DependsOn {
    orders
}
