//! The spans of operations, and the line about a slow load.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use larder::{Cache, Transaction};
use larder_testing::log;
use sqlx::{Postgres, Sqlite};
use tracing::{
    Instrument, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use crate::{
    entities::{Behind, Item},
    world::{Kind, World, filled, unique},
};

/// The fields of a span that has ended, with its name and that of its parent.
type Fields = BTreeMap<String, String>;

/// Collects the spans of larder.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Fields>>>);

impl Spans {
    /// Returns the first span with this name and outcome that ends, and forgets it. A task that goes on after the operation keeps its
    /// span.
    async fn take(&self, name: &str, outcome: Option<&str>) -> Fields {
        let place = || {
            let spans = self.0.lock().unwrap();
            spans.iter().position(|span| {
                span["name"] == name && span.get("outcome").map(String::as_str) == outcome
            })
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while place().is_none() {
            let spans = || self.0.lock().unwrap().clone();
            let is_over = tokio::time::Instant::now() > deadline;
            assert!(!is_over, "no span {name} {outcome:?} in {:?}", spans());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let at = place().unwrap();
        self.0.lock().unwrap().remove(at)
    }
}

struct Visited<'f>(&'f mut Fields);

impl Visit for Visited<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.0
            .insert(field.name().to_owned(), text.trim_matches('"').to_owned());
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut fields = Fields::new();
        fields.insert("name".to_owned(), span.name().to_owned());
        let parent = span.parent().map_or("", |parent| parent.name());
        fields.insert("parent".to_owned(), parent.to_owned());
        attributes.record(&mut Visited(&mut fields));
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        record.record(&mut Visited(extensions.get_mut::<Fields>().unwrap()));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let fields = span.extensions_mut().remove::<Fields>().unwrap();
        self.0.lock().unwrap().push(fields);
    }
}

/// Runs a test under a subscriber of its own, which wants the spans that `wants` accepts. All tasks run on this thread, and Postgres has no
/// thread of its own as SQLite has: a span whose child ends on a thread with another subscriber would never end.
fn collecting(wants: fn(&Metadata<'_>) -> bool, test: impl AsyncFnOnce(Spans)) {
    // While another thread has a subscriber of its own, tracing may remember of a span that nobody wants it.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let spans = Spans::default();
    let filter = tracing_subscriber::filter::filter_fn(wants);
    let subscriber = Registry::default().with(spans.clone().with_filter(filter));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(test(spans)));
}

fn of_larder(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && matches!(metadata.target(), "larder" | "caller")
}

#[test]
fn operations_have_spans_with_their_outcome() {
    collecting(of_larder, async |spans| {
        let world = World::<Postgres>::open(Kind::Redis).await;
        let items = world.items();
        let request = tracing::info_span!(target: "caller", "request");
        async {
            items.insert(&Item::new(1, "one")).await.unwrap();
            items.find(1).await.unwrap();
            filled(|| items.stats()).await;
            items.find(1).await.unwrap();
            items.find_many(&[1, 404]).await.unwrap();
            items.update(&Item::new(2, "two")).await.unwrap_err();
            let mut transaction = Transaction::begin(&world.pool).await.unwrap();
            let mut within = items.within(&mut transaction);
            within.update(&Item::new(1, "new")).await.unwrap();
            transaction.commit().await.unwrap();
        }
        .instrument(request)
        .await;
        let insert = spans.take("larder.insert", Some("ok")).await;
        for (field, text) in [
            ("parent", "request"),
            ("entity", "Item"),
            ("db.system.name", "postgresql"),
            ("db.collection.name", "items"),
            ("db.operation.name", "insert"),
            ("db.response.returned_rows", "1"),
            ("outcome", "ok"),
        ] {
            assert_eq!(insert.get(field).map(String::as_str), Some(text), "{field}");
        }
        let load = spans.take("larder.load", Some("ok")).await;
        assert_eq!(load["parent"], "larder.find");
        let miss = spans.take("larder.find", Some("miss")).await;
        assert_eq!(miss["parent"], "request");
        let hit = spans.take("larder.find", Some("hit")).await;
        assert_eq!(hit["db.response.returned_rows"], "1");
        let many = spans.take("larder.find_many", Some("ok")).await;
        assert_eq!(many["db.response.returned_rows"], "1");
        let update = spans.take("larder.update", Some("error")).await;
        assert_eq!(update["error.type"], "NotFound");
        let within = spans.take("larder.update", Some("ok")).await;
        assert_eq!(within["parent"], "request");
    });
}

#[test]
fn a_flush_has_a_span_for_each_batch() {
    collecting(of_larder, async |spans| {
        let world = World::<Postgres>::open(Kind::Memory).await;
        let rows = Behind::repository(&world.cache, world.pool.clone());
        rows.install().await.unwrap();
        rows.save(&Behind::new(1, "one")).await.unwrap();
        rows.flush().await.unwrap();
        let batch = spans.take("larder.flush_batch", Some("ok")).await;
        assert_eq!(batch["entity"], "Behind");
        let flush = spans.take("larder.flush", Some("ok")).await;
        assert_eq!(flush["entity"], "Behind");
    });
}

/// They have the level `DEBUG`.
#[test]
fn spans_are_off_by_default() {
    let at_info = |metadata: &Metadata<'_>| *metadata.level() <= Level::INFO;
    collecting(at_info, async |spans| {
        let world = World::<Postgres>::open(Kind::Memory).await;
        world.items().find(1).await.unwrap();
        let spans = spans.0.lock().unwrap();
        let ours: Vec<_> = spans
            .iter()
            .filter(|span| span["name"].starts_with("larder"))
            .collect();
        assert!(ours.is_empty(), "{ours:?}");
    });
}

/// The span of a future that is dropped ends with its load, which nobody waits for any more, and says nothing of an outcome.
#[test]
fn a_dropped_operation_ends_its_span() {
    collecting(of_larder, async |spans| {
        let world = World::<Postgres>::open(Kind::Memory).await;
        let items = world.items();
        let acquire = world
            .faults
            .pause(larder::store::faulty::Operation::Acquire);
        {
            let mut read = Box::pin(async { items.find(1).await });
            tokio::select! {
                _read = &mut read => panic!("it waits"),
                () = acquire.reached() => {}
            }
        }
        acquire.resume();
        let find = spans.take("larder.find", None).await;
        assert_eq!(find["entity"], "Item");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_load_is_logged_with_its_key() {
    log::listen();
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let namespace = unique("slow");
    let at = |threshold: Option<Duration>, namespace: &str| {
        let builder = Cache::builder().namespace(namespace).slow_load(threshold);
        Item::repository(&builder.build().unwrap(), world.pool.clone())
    };
    let slow = at(Some(Duration::ZERO), &namespace);
    slow.find(7).await.unwrap();
    let key = format!("Item with key {namespace}:Item:7");
    let lines = log::lines_with("loaded", &key);
    assert_eq!(lines.len(), 1);
    assert_eq!(
        lines[0].field("message"),
        Some("a load from the database was slow")
    );
    assert_eq!(lines[0].field("keys"), Some("1"));
    slow.find(8).await.unwrap();
    let key = format!("Item with key {namespace}:Item:8");
    assert_eq!(
        log::lines_with("loaded", &key).len(),
        0,
        "one line in a second"
    );
    for threshold in [None, Some(Duration::from_secs(60))] {
        let namespace = unique("quick");
        at(threshold, &namespace).find(7).await.unwrap();
        let key = format!("Item with key {namespace}:Item:7");
        assert_eq!(log::lines_with("loaded", &key).len(), 0);
    }
}
