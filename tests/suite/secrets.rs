//! The password of the Redis URL leaves the process only towards Redis: it is in no `Debug` text, no error and no line of the
//! log, at whatever level.

use std::{
    error::Error as _,
    fmt::{self, Write as _},
    sync::{Arc, Mutex},
};

use larder::{Cache, CacheBuilder, ErrorKind, Transaction};
use larder_testing::redis_server::RedisServer;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::{
    entities::{Behind, Item},
    world::{Tested as _, unique},
};

const SECRET: &str = "planted-secret";

/// URLs with the password in each place where one can be, and some that are not valid.
fn urls() -> Vec<String> {
    [
        "redis://:PASSWORD@127.0.0.1:1/",
        "redis://user:PASSWORD@127.0.0.1:1/3",
        "redis://user:PASSWORD@[::1]:1/?protocol=resp3",
        "redis+unix:///nowhere.sock?user=user&pass=PASSWORD",
        "rediss://user:PASSWORD@localhost:1/",
        "redis://user:PASSWORD@127.0.0.1:port/",
        "redis://user:PASSWORD@127.0.0.1:1/database",
        "postgres://user:PASSWORD@127.0.0.1:1/",
        "user:PASSWORD@127.0.0.1",
        "redis://user:planted%2Dsecret@127.0.0.1:1/",
        "redis://PASSWORD@127.0.0.1:1/",
        "redis://PASSWORD:other@127.0.0.1:1/",
        "valkey://user:PASSWORD@127.0.0.1:1/",
        "valkeys://user:PASSWORD@localhost:1/",
        "redis://127.0.0.1:1/?pass=PASSWORD",
        "redis://127.0.0.1:1/?protocol=PASSWORD",
        "redis://127.0.0.1:1/PASSWORD",
        "redis://127.0.0.1:1/#PASSWORD",
        "redis://PASSWORD#more@127.0.0.1:1/",
        "redis://user:PASSWORD#more@127.0.0.1:1/",
        "redis://user:PASSWORD/more@127.0.0.1:1/",
        "redis://user:PASSWORD?more@127.0.0.1:1/",
        "redis://user:PASSWORD%ff@127.0.0.1:1/",
        "redis://user:PASSWORD@0.0.0.0:1/",
        "rediss://user:PASSWORD@localhost:1/#insecure",
        "rediss://user:PASSWORD@localhost:1/#PASSWORD",
        "unix:///nowhere.sock?pass=PASSWORD&db=1",
        "unix://user:PASSWORD@/nowhere.sock",
        "unix:///nowhere.sock?db=PASSWORD",
        "unix:///nowhere.sock#PASSWORD",
        "redis+unix:///nowhere.sock?pass=planted%2Dsecret",
        "redis://user:PASSWORD\n@127.0.0.1:1/",
        " redis://user:PASSWORD@127.0.0.1:1/",
        "redis:user:PASSWORD@127.0.0.1",
        "http://user:PASSWORD@127.0.0.1:1/",
    ]
    .map(|url| url.replace("PASSWORD", SECRET))
    .to_vec()
}

fn builder(url: &str) -> CacheBuilder {
    Cache::builder()
        .redis(url)
        .listed(false)
        .namespace(unique("secrets"))
}

/// Returns all texts of an error and of its causes.
fn texts_of(error: &larder::Error) -> String {
    let mut texts = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        write!(texts, " {cause} {cause:?}").unwrap();
        source = cause.source();
    }
    texts
}

/// Checks that a text has neither the password, nor its bytes as numbers, nor its form in a URL.
#[track_caller]
fn assert_hidden(text: &str, whence: &str) {
    let numbers = format!("{:?}", SECRET.as_bytes());
    let text = text.to_lowercase();
    let forms = [SECRET, "planted%2dsecret", numbers.trim_matches(['[', ']'])];
    for form in forms {
        assert!(!text.contains(form), "{whence}: {text}");
    }
}

/// Returns the texts of something in both forms of `Debug`.
fn debug(value: &impl fmt::Debug) -> String {
    format!("{value:?} {value:#?}")
}

#[tokio::test]
async fn the_password_is_in_no_debug_text_and_no_error() {
    let mut built = 0;
    for url in urls() {
        let builder = builder(&url);
        assert_hidden(&format!("{builder:?} {builder:#?}"), &url);
        match builder.build() {
            Ok(cache) => {
                built += 1;
                assert_hidden(&format!("{cache:?} {cache:#?}"), &url);
                let pool = sqlx::Sqlite::create().await.pool();
                let items = Item::repository(&cache, pool);
                assert_hidden(&format!("{items:?}"), &url);
                let dropped = items.invalidate(1).await;
                let text = dropped.err().as_ref().map(texts_of);
                assert_hidden(&text.unwrap_or_default(), &url);
            }
            Err(error) => assert_hidden(&texts_of(&error), &url),
        }
    }
    assert!(built >= 4, "{built} of the URLs are valid");
}

/// Everything that a program holds of a cache and of a queue, with the password in the URL of the store.
#[tokio::test]
async fn the_password_is_in_nothing_that_a_program_holds() {
    let database = sqlx::Sqlite::create().await;
    let pool = database.pool();
    sqlx::query(crate::entities::ITEMS)
        .execute(&pool)
        .await
        .unwrap();
    let server = RedisServer::start().await;
    let url = format!("redis://default:{SECRET}@{}/", server.address());
    let password = ["CONFIG", "SET", "requirepass", SECRET];
    server.command(&password).await.unwrap();
    let cache = builder(&url).connect().await.unwrap();
    let rows = Behind::repository(&cache, pool.clone());
    rows.install().await.unwrap();
    let flusher = rows.start_flushing().await.unwrap();
    rows.save(&Behind::new(1, "one")).await.unwrap();
    rows.flush().await.unwrap();
    let transaction = Transaction::begin(&pool).await.unwrap();
    let letters = rows.dead_letters();
    for (what, text) in [
        ("cache", debug(&cache)),
        ("repository", debug(&rows)),
        ("inner", debug(rows.inner())),
        ("flusher", debug(&flusher)),
        ("letters", debug(&letters)),
        ("listed letters", debug(&letters.list(10).await.unwrap())),
        ("stats", debug(&rows.stats())),
        ("repairs", debug(&cache.repairs())),
        ("pending", debug(&rows.pending().await.unwrap())),
        ("transaction", debug(&transaction)),
        ("row", debug(&rows.find_outcome(1).await.unwrap())),
    ] {
        assert_hidden(&text, what);
    }
    drop(transaction);
    flusher
        .shutdown(std::time::Duration::from_secs(20))
        .await
        .unwrap();
}

/// A password in the options of a pool, of a database that does not answer.
#[tokio::test]
async fn the_password_of_a_database_is_in_no_debug_text_and_no_error() {
    let log = Everything::default();
    let _kept = tracing::subscriber::set_default(log.clone());
    macro_rules! is_hidden {
        ($($database:ident: $url:literal),*) => {
            $(let options: <<sqlx::$database as sqlx::Database>::Connection as sqlx::Connection>::Options =
                $url.replace("PASSWORD", SECRET).parse().unwrap();
            let pool = sqlx::pool::PoolOptions::<sqlx::$database>::new()
                .acquire_timeout(std::time::Duration::from_millis(200))
                .connect_lazy_with(options);
            let cache = Cache::builder().namespace(unique("secrets")).build().unwrap();
            let items = Item::repository(&cache, pool.clone());
            assert_hidden(&debug(&items), $url);
            assert_hidden(&debug(&cache), $url);
            assert_hidden(&texts_of(&items.find(1).await.unwrap_err()), $url);
            assert_hidden(&texts_of(&items.insert(&Item::new(1, "one")).await.unwrap_err()), $url);
            assert_hidden(&texts_of(&items.check_schema().await.unwrap_err()), $url);
            let rows = Behind::repository(&cache, pool.clone());
            assert_hidden(&texts_of(&rows.install().await.unwrap_err()), $url);
            if let Err(error) = rows.flush().await {
                assert_hidden(&texts_of(&error), $url);
            }
            let begun = Transaction::begin(&pool).await;
            assert_hidden(&texts_of(&begun.unwrap_err()), $url);)*
        };
    }
    is_hidden!(
        Postgres: "postgres://user:PASSWORD@127.0.0.1:1/larder?sslmode=disable",
        MySql: "mysql://user:PASSWORD@127.0.0.1:1/larder?ssl-mode=disabled"
    );
    assert_hidden(&log.0.lock().unwrap(), "the log");
}

#[test]
fn a_url_that_switches_the_check_of_certificates_off_is_refused() {
    for url in [
        "rediss://localhost:1/#insecure",
        "valkeys://localhost:1/#insecure",
        "redis://localhost:1/#insecure",
    ] {
        let error = builder(url).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(
            text.contains("`#insecure`") && text.contains("root_certificate"),
            "{text}"
        );
    }
}

#[cfg(feature = "tls")]
#[test]
fn debug_text_of_a_builder_has_no_bytes_of_a_certificate() {
    let builder =
        Cache::builder().root_certificate(format!("-----BEGIN PRIVATE KEY-----\n{SECRET}"));
    assert_hidden(&debug(&builder), "a certificate");
}

#[test]
fn debug_text_of_a_builder_names_the_address() {
    let text = format!("{:?}", builder(&urls()[1]));
    assert!(text.contains("127.0.0.1:1"), "{text}");
}

/// Keeps everything that is logged on this thread, with all fields of events and spans.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<String>>);

impl Visit for Everything {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = self.0.lock().unwrap();
        writeln!(text, "{}={value:?} {value:#?}", field.name()).unwrap();
    }
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The runtime of this test has one thread, so all lines are kept.
#[tokio::test]
async fn the_password_is_in_no_line_of_the_log() {
    let log = Everything::default();
    let _kept = tracing::subscriber::set_default(log.clone());
    let mut server = RedisServer::start().await;
    let password = ["CONFIG", "SET", "requirepass", "another"];
    server.command(&password).await.unwrap();
    let database = sqlx::Sqlite::create().await;
    let address = server.address();
    let mut urls = urls();
    // The password is wrong, then there is no server.
    urls.push(format!("redis://:{SECRET}@{address}/"));
    for url in &urls {
        if let Ok(cache) = builder(url).connect().await {
            let items = Item::repository(&cache, database.pool());
            // The table does not exist: the error of the database is logged or returned, too.
            if let Err(error) = items.find(1).await {
                assert_hidden(&texts_of(&error), url);
            }
        }
    }
    let cache = builder(&urls[urls.len() - 1]).connect().await.unwrap();
    server.stop().await;
    let items = Item::repository(&cache, database.pool());
    assert!(items.find(1).await.is_err());
    let text = log.0.lock().unwrap();
    assert!(text.contains(&address.to_string()), "larder has logged");
    assert_hidden(&text, "the log");
}
