//! What a program finds in its log after a start: once, that an in-process cache is not shared, and nothing from sqlx.

use larder::Cache;
use larder_testing::log;
use sqlx::{ConnectOptions, Executor, Sqlite};

use crate::{
    entities::{Behind, Item, Through},
    world::{Kind, Tested, World, everywhere, unique},
};

everywhere!(an_in_process_cache_over_a_server_is_noted_once);

async fn an_in_process_cache_over_a_server_is_noted_once<DB: Tested>(world: &World<DB>) {
    log::listen();
    let _first = Item::repository(&world.cache, world.pool.clone());
    let _second = Item::repository(&world.cache, world.pool.clone());
    let _third = Through::repository(&world.cache, world.pool.clone());
    let lines = log::lines_with("namespace", &world.namespace);
    let notes = lines.iter().filter_map(|line| line.field("message"));
    let notes: Vec<_> = notes
        .filter(|note| note.contains("the cache is in the memory of this process"))
        .collect();
    let is_server = DB::NAME != <Sqlite as sqlx::Database>::NAME;
    let is_due = world.kind == Kind::Memory && is_server;
    assert_eq!(notes.len(), usize::from(is_due), "{notes:?}");
    assert!(notes.iter().all(|note| note.contains("`Cache::connect`")));
    assert!(
        lines.iter().all(|line| !line.summary().0),
        "it is no trouble"
    );
    // Another cache owes it again, and its namespaces do not.
    let other = Cache::builder().namespace(unique("test")).build().unwrap();
    let tenants = [unique("test"), unique("test")];
    for tenant in &tenants {
        let cache = other.with_namespace(tenant).unwrap();
        let _items = Item::repository(&cache, world.pool.clone());
    }
    let count = |tenant: &String| log::lines_with("namespace", tenant).len();
    assert_eq!(count(&tenants[0]), usize::from(is_server));
    assert_eq!(count(&tenants[1]), 0);
}

/// Runs on a thread of a name that no other test has, as sqlx's thread for SQLite does.
fn on_a_thread_of_its_own(thread: &str, test: impl AsyncFnOnce() + Send + 'static) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(test());
    };
    let builder = std::thread::Builder::new().name(thread.to_owned());
    builder.spawn(run).unwrap().join().unwrap();
}

/// The lines of sqlx on a thread. A statement that was slow is not a matter of the start.
fn lines_of(thread: &str) -> Vec<String> {
    let lines = log::lines_with("thread", thread).into_iter();
    let texts = lines.filter_map(|line| {
        let text = line.field("message").or(line.field("summary"));
        text.map(str::to_owned)
    });
    texts.filter(|text| !text.contains("slow")).collect()
}

macro_rules! a_second_start_is_silent {
    ($($name:ident: $database:ident $(.$thread_name:ident)?),*) => {
        mod a_second_start_is_silent {
            use super::*;

            $(#[test]
            fn $name() {
                log::listen();
                let thread = unique(stringify!($name));
                let named = thread.clone();
                on_a_thread_of_its_own(&thread, async move || {
                    let database = sqlx::$database::create().await;
                    let mut options: <<sqlx::$database as sqlx::Database>::Connection as sqlx::Connection>::Options =
                        database.url().parse().unwrap();
                    $(let worker = named.clone();
                    options = options.$thread_name(move |_| worker.clone());)?
                    options = options.log_statements("debug".parse().unwrap());
                    let start = async |pool: sqlx::Pool<sqlx::$database>| {
                        let cache = Cache::builder().namespace(unique("test")).build().unwrap();
                        let rows = Behind::repository(&cache, pool.clone());
                        larder::schema::install(&pool).await.unwrap();
                        rows.install().await.unwrap();
                        rows.check_schema().await.unwrap().into_result().unwrap();
                        let flusher = rows.start_flushing().await.unwrap();
                        rows.save(&Behind::new(1, "one")).await.unwrap();
                        rows.flush().await.unwrap();
                        rows.find(1).await.unwrap().unwrap();
                        flusher.shutdown(std::time::Duration::from_secs(20)).await.unwrap();
                        pool.close().await;
                    };
                    let open = async |options| {
                        let pool = sqlx::pool::PoolOptions::new().max_connections(3);
                        pool.connect_with(options).await.unwrap()
                    };
                    open(options.clone()).await.execute(crate::entities::ITEMS).await.unwrap();
                    // What the tests themselves do has its lines too.
                    let before = lines_of(&named).len();
                    for _ in 0..3 {
                        start(open(options.clone()).await).await;
                        assert_eq!(lines_of(&named)[before..], [""; 0]);
                    }
                    // A line of sqlx would have been seen.
                    match stringify!($name) {
                        "postgres" => {
                            let known = "CREATE TABLE IF NOT EXISTS larder_offsets (one INT)";
                            open(options).await.execute(known).await.unwrap();
                            assert_eq!(lines_of(&named).len(), before + 1);
                        }
                        _ => {
                            // Statements are reported on the thread of the connection.
                            let talkative = options.log_statements("info".parse().unwrap());
                            open(talkative).await.execute("SELECT 1").await.unwrap();
                            assert!(lines_of(&named).len() > before);
                        }
                    }
                });
            })*
        }
    };
}

a_second_start_is_silent!(postgres: Postgres, mysql: MySql, sqlite: Sqlite.thread_name);
