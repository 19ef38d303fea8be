//! The password of the Redis URL leaves the process only towards Redis: it is in no `Debug` text, no error and no line of the
//! log, at whatever level.

use std::{
    error::Error as _,
    fmt::{self, Write as _},
    sync::{Arc, Mutex},
};

use larder::{Cache, CacheBuilder};
use larder_testing::redis_server::RedisServer;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::{
    entities::Item,
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
    ]
    .map(|url| url.replace("PASSWORD", SECRET))
    .to_vec()
}

fn builder(url: &str) -> CacheBuilder {
    Cache::builder().redis(url).namespace(unique("secrets"))
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

fn assert_hidden(text: &str, whence: &str) {
    assert!(!text.contains(SECRET), "{whence}: {text}");
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
