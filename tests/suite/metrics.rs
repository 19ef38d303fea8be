//! The metrics: they say what happened, pass the linter of Prometheus, have no label without bounds, and disturb nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use larder::{Cache, Cached, ErrorKind};
use larder_testing::{
    process::{Worker, WorkerFn, tell},
    redis_server::RedisServer,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};

use crate::{
    entities::{Item, made_of_id_and_name, of_items},
    world::{Kind, Tested, World, eventually, filled, on_redis, unique},
};

// One store for each test: its entity is counted for the whole process.
on_redis!(
    a_survey_tells_nobody_that_a_repository_is_used,
    reads_are_told_by_their_outcome,
    writes_are_told_by_their_result,
    bypasses_are_told_by_their_reason,
    what_a_dropped_repository_counted_stays,
    what_waits_in_a_queue_is_told,
    the_bookkeeping_of_tags_is_told,
    the_exposition_passes_the_linter_and_has_no_label_without_bounds,
);

// Each test has an entity of its own: those of one name are summed up.
of_items! {
    struct Reads
}
of_items! {
    struct Writes
}
of_items! {
    struct Bypasses
}
of_items! {
    struct Dropped
}
of_items! {
    #[cached(strategy = "write_behind", durability = "memory", partitions = 2)]
    struct Queued
}
of_items! {
    #[cached(tags("name:{name}"))]
    struct Tags
}
of_items! {
    #[cached(strategy = "write_behind", durability = "memory")]
    struct LintedQueue
}

made_of_id_and_name!(Writes, Queued, LintedQueue);

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "linted", tags("name:{name}"))]
struct Linted {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    name: String,
}

/// The exporter of this process.
fn exporter() -> &'static PrometheusHandle {
    static EXPORTER: OnceLock<PrometheusHandle> = OnceLock::new();
    EXPORTER.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        let builder = builder
            .set_buckets(&[0.0001, 0.001, 0.01, 0.1, 1.0])
            .unwrap();
        builder.install_recorder().unwrap()
    })
}

/// A line of the exposition: its labels and its value.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn samples() -> Vec<Sample> {
    let text = exporter().render();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split(',');
        let labels = labels.filter_map(|label| label.split_once('='));
        Sample {
            name: name.to_owned(),
            labels: labels
                .map(|(label, text)| (label.to_owned(), text.trim_matches('"').to_owned()))
                .collect(),
            value: value.parse().unwrap(),
        }
    });
    samples.collect()
}

/// Returns the value of a series, if there is one.
async fn value(cache: &Cache, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    cache.publish_metrics().await;
    let wanted: BTreeMap<_, _> = labels
        .iter()
        .map(|(label, text)| ((*label).to_owned(), (*text).to_owned()))
        .collect();
    let samples = samples().into_iter();
    let mut found = samples.filter(|sample| sample.name == name && sample.labels == wanted);
    let sample = found.next()?;
    assert!(found.next().is_none(), "{name} {labels:?} is there twice");
    Some(sample.value)
}

#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
async fn reads_are_told_by_their_outcome<DB: Tested>(world: &World<DB>) {
    exporter();
    let reads = Reads::repository(&world.cache, world.pool.clone());
    world.put(&Item::new(1, "row")).await;
    let told = async |outcome: &str| {
        let labels = [("entity", "Reads"), ("outcome", outcome)];
        value(&world.cache, "larder_reads_total", &labels)
            .await
            .unwrap()
    };
    for outcome in ["hit", "negative_hit", "load", "shared", "hit_after_wait"] {
        assert_eq!(
            told(outcome).await,
            0.0,
            "{outcome} is there from the start"
        );
    }
    for id in [1, 404] {
        reads.find(id).await.unwrap();
        filled(|| reads.stats()).await;
        for _ in 0..3 {
            reads.find(id).await.unwrap();
        }
    }
    let stats = reads.stats();
    assert_eq!(told("hit").await, stats.hits as f64);
    assert_eq!(told("negative_hit").await, stats.negative_hits as f64);
    assert!(stats.hits >= 3 && stats.negative_hits >= 3, "{stats:?}");
    let mut sum = 0.0;
    for outcome in ["hit", "negative_hit", "load", "shared", "hit_after_wait"] {
        sum += told(outcome).await;
    }
    assert_eq!(sum, 8.0, "each read has one outcome");
    let entity = [("entity", "Reads")];
    let loads = value(&world.cache, "larder_load_duration_seconds_count", &entity).await;
    assert_eq!(loads, Some(stats.loads as f64));
    for _ in 0..400 {
        reads.find(1).await.unwrap();
    }
    // One of eight is measured, counted by each thread for itself.
    let measured = value(&world.cache, "larder_read_duration_seconds_count", &entity).await;
    let measured = measured.unwrap();
    assert!((40.0..=60.0).contains(&measured), "{measured}");
}

/// What a caller has to expect is no failure.
async fn writes_are_told_by_their_result<DB: Tested>(world: &World<DB>) {
    exporter();
    let writes = Writes::repository(&world.cache, world.pool.clone());
    writes.insert(&Writes::new(1, "one")).await.unwrap();
    let twice = writes.insert(&Writes::new(1, "one")).await;
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::Duplicate);
    let missing = writes.update(&Writes::new(2, "two")).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    writes.modify(1, |row| row.name.push('!')).await.unwrap();
    writes
        .insert_many(&[Writes::new(3, "three"), Writes::new(4, "four")])
        .await
        .unwrap();
    let mut transaction = larder::Transaction::begin(&world.pool).await.unwrap();
    writes.within(&mut transaction).delete(3).await.unwrap();
    transaction.commit().await.unwrap();
    world.sql("ALTER TABLE items RENAME TO hidden").await;
    writes.delete(4).await.unwrap_err();
    let told = async |operation: &str, result: &str| {
        let labels = [
            ("entity", "Writes"),
            ("operation", operation),
            ("result", result),
        ];
        value(&world.cache, "larder_writes_total", &labels).await
    };
    assert_eq!(told("insert", "ok").await, Some(1.0));
    assert_eq!(told("insert", "duplicate").await, Some(1.0));
    assert_eq!(told("update", "not_found").await, Some(1.0));
    assert_eq!(told("update", "ok").await, None);
    assert_eq!(told("modify", "ok").await, Some(1.0));
    assert_eq!(told("insert_many", "ok").await, Some(1.0));
    assert_eq!(told("delete", "ok").await, Some(1.0));
    assert_eq!(told("delete", "error").await, Some(1.0));
    let entity = [("entity", "Writes")];
    let name = "larder_write_duration_seconds_count";
    assert_eq!(value(&world.cache, name, &entity).await, Some(7.0));
    let cache = [("cache", world.namespace.as_str())];
    let name = "larder_announcement_duration_seconds_count";
    assert!(value(&world.cache, name, &cache).await.unwrap() >= 7.0);
}

async fn bypasses_are_told_by_their_reason<DB: Tested>(world: &World<DB>) {
    exporter();
    let rows = Bypasses::repository(&world.cache, world.pool.clone());
    let told = async |reason: &str| {
        let labels = [("entity", "Bypasses"), ("reason", reason)];
        value(&world.cache, "larder_bypassed_reads_total", &labels).await
    };
    rows.pause_reads();
    rows.find(1).await.unwrap();
    rows.resume_reads();
    assert_eq!(told("paused").await, Some(1.0));
    world.faults.fail(larder::store::faulty::Operation::Get, 1);
    rows.find(1).await.unwrap();
    assert_eq!(told("store_failed").await, Some(1.0));
    assert_eq!(told("write_in_progress").await, Some(0.0));
}

async fn what_a_dropped_repository_counted_stays<DB: Tested>(world: &World<DB>) {
    exporter();
    let told = async || {
        let labels = [("entity", "Dropped"), ("outcome", "load")];
        value(&world.cache, "larder_reads_total", &labels)
            .await
            .unwrap()
    };
    for round in 1..=3 {
        let rows = Dropped::repository(&world.cache, world.pool.clone());
        rows.find(round).await.unwrap();
        drop(rows);
        eventually("each repository counts", async || {
            let expected = f64::from(i32::try_from(round).unwrap());
            assert!(told().await <= expected);
            told().await == expected
        })
        .await;
    }
}

async fn what_waits_in_a_queue_is_told<DB: Tested>(world: &World<DB>) {
    exporter();
    let rows = Queued::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    for id in 0..20 {
        rows.save(&Queued::new(id, "row")).await.unwrap();
    }
    let gauge = async |name: &str, partition: &str| {
        let labels = [("entity", "Queued"), ("partition", partition)];
        value(&world.cache, name, &labels).await.unwrap()
    };
    let depth =
        async || gauge("larder_queue_depth", "0").await + gauge("larder_queue_depth", "1").await;
    assert_eq!(depth().await, 20.0);
    eventually("the oldest gets older", async || {
        gauge("larder_queue_oldest_seconds", "0").await > 0.0
    })
    .await;
    rows.flush().await.unwrap();
    assert_eq!(depth().await, 0.0);
    assert_eq!(gauge("larder_queue_oldest_seconds", "0").await, 0.0);
    assert_eq!(gauge("larder_queue_lost", "0").await, 0.0);
    let entity = [("entity", "Queued")];
    let letters = value(&world.cache, "larder_dead_letters", &entity).await;
    assert_eq!(letters, Some(0.0));
    let name = "larder_flush_duration_seconds_count";
    assert!(value(&world.cache, name, &entity).await.unwrap() >= 1.0);
}

async fn the_bookkeeping_of_tags_is_told<DB: Tested>(world: &World<DB>) {
    exporter();
    let rows = Tags::repository(&world.cache, world.pool.clone());
    for name in ["a", "b", "c"] {
        rows.invalidate_tag(format!("name:{name}")).await.unwrap();
    }
    let entity = [("entity", "Tags")];
    let marks = value(&world.cache, "larder_tag_marks", &entity).await;
    assert_eq!(marks, Some(3.0));
    let floor = value(&world.cache, "larder_tag_floor", &entity).await;
    assert_eq!(floor, Some(0.0));
}

of_items! {
    struct Beside
}
of_items! {
    #[cached(strategy = "write_behind", durability = "memory")]
    struct Unused
}

/// An entity beside queued writes is not cached. A repository of queued writes that nobody uses does not count.
async fn a_survey_tells_nobody_that_a_repository_is_used<DB: Tested>(world: &World<DB>) {
    exporter();
    let unused = Unused::repository(&world.cache, world.pool.clone());
    unused.install().await.unwrap();
    world.cache.publish_metrics().await;
    let rows = Beside::repository(&world.cache, world.pool.clone());
    for _ in 0..3 {
        rows.find(1).await.unwrap();
        filled(|| rows.stats()).await;
        world.cache.publish_metrics().await;
    }
    assert_eq!((rows.stats().held_reads, rows.stats().loads), (0, 1));
    unused.find(1).await.unwrap();
    eventually("it counts when it is used", async || {
        rows.find(1).await.unwrap();
        rows.stats().held_reads > 0
    })
    .await;
}

/// Of every label the values that it may have. `None`: the name of something that the program declares.
const LABELS: [(&str, Option<&[&str]>); 9] = [
    ("cache", None),
    ("entity", None),
    ("partition", None),
    ("le", None),
    (
        "outcome",
        Some(&["hit", "negative_hit", "hit_after_wait", "shared", "load"]),
    ),
    (
        "reason",
        Some(&[
            "invalidation_pending",
            "paused",
            "write_in_progress",
            "not_cached_now",
            "store_failed",
            "waited_too_long",
            "error",
            "abandoned",
            "rejected",
            "outdated",
            "incompatible",
            "damaged",
            "changed_lookup",
            "too_large",
            "codec",
        ]),
    ),
    (
        "result",
        Some(&[
            "accepted",
            "refused",
            "done",
            "retried",
            "conflict",
            "ok",
            "not_found",
            "duplicate",
            "unknown",
            "error",
        ]),
    ),
    (
        "operation",
        Some(&[
            "insert",
            "update",
            "save",
            "delete",
            "modify",
            "insert_many",
            "update_many",
            "delete_many",
            "modify_by",
            "delete_by",
            "write_tagged",
        ]),
    ),
    (
        "kind",
        Some(&[
            "store_away",
            "store_not_trusted",
            "commands_refused",
            "no_wakeups",
            "no_large_entries",
            "invalidations_pending",
            "namespace_refused",
            "entity_not_cached",
            "paused",
        ]),
    ),
];

/// Returns what the linter of Prometheus finds wrong with an exposition.
fn complaints(exposition: &str) -> String {
    let mut linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(
            "`promtool` is in Debian's package `prometheus`, which `cargo xtask test` installs",
        );
    let mut input = linter.stdin.take().unwrap();
    input.write_all(exposition.as_bytes()).unwrap();
    drop(input);
    let linted = linter.wait_with_output().unwrap();
    let complaints = String::from_utf8(linted.stderr).unwrap();
    assert_eq!(linted.status.success(), complaints.is_empty());
    complaints
}

async fn the_exposition_passes_the_linter_and_has_no_label_without_bounds<DB: Tested>(
    world: &World<DB>,
) {
    exporter();
    world
        .sql("CREATE TABLE linted (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL)")
        .await;
    let cache = world.cache.with_namespace(unique("linted")).unwrap();
    let rows = Linted::repository(&cache, world.pool.clone());
    let queue = LintedQueue::repository(&world.cache, world.pool.clone());
    queue.install().await.unwrap();
    for id in 700_000..700_050 {
        rows.save(&Linted {
            id,
            name: format!("secret-{id}"),
        })
        .await
        .unwrap();
        rows.find(id).await.unwrap();
        rows.find_all_by_name(format!("secret-{id}")).await.unwrap();
        rows.invalidate_tag(format!("name:secret-{id}"))
            .await
            .unwrap();
        queue.save(&LintedQueue::new(id, "queued")).await.unwrap();
    }
    queue.flush().await.unwrap();
    cache.publish_metrics().await;
    // One of a cache in process, for its own metrics.
    Cache::in_process().publish_metrics().await;
    let text = exporter().render();
    assert_eq!(complaints(&text), "");
    let misnamed = text.replace("larder_loads_total", "larder_loads");
    assert!(
        complaints(&misnamed).contains("larder_loads"),
        "the linter sees mistakes"
    );
    assert!(
        !text.contains("70000") && !text.contains("secret"),
        "{text}"
    );
    let allowed: BTreeMap<_, _> = LABELS.into_iter().collect();
    for sample in samples() {
        for (label, text) in &sample.labels {
            match allowed.get(label.as_str()) {
                None => panic!("{} has the label {label}", sample.name),
                Some(Some(words)) => {
                    assert!(words.contains(&&**text), "{} {label}={text}", sample.name);
                }
                Some(None) => {}
            }
        }
    }
    let listed: BTreeSet<_> = include_str!("../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("larder_"))
        .collect();
    let told: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("larder_"))
        .collect();
    assert_eq!(told, listed, "docs/metrics.md lists each metric");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_is_told() {
    exporter();
    let mut server = RedisServer::start().await;
    let namespace = unique("health");
    let builder = Cache::builder()
        .redis(server.url())
        .listed(false)
        .namespace(&namespace);
    let cache = builder.connect().await.unwrap();
    let labels = [("cache", namespace.as_str())];
    let usable = async || value(&cache, "larder_store_usable", &labels).await.unwrap();
    let problem = async || {
        let labels = [("cache", namespace.as_str()), ("kind", "store_away")];
        value(&cache, "larder_problem", &labels).await.unwrap()
    };
    assert_eq!((usable().await, problem().await), (1.0, 0.0));
    server.stop().await;
    eventually("it is away", async || {
        (usable().await, problem().await) == (0.0, 1.0)
    })
    .await;
    server.restart().await;
    eventually("it is back", async || {
        (usable().await, problem().await) == (1.0, 0.0)
    })
    .await;
    let connections = value(&cache, "larder_store_connections_total", &labels).await;
    assert!(connections.unwrap() >= 2.0);
}

/// The function that this file runs in another process, which has one recorder for all.
pub(crate) const PANICKING: (&str, WorkerFn) = ("panicking_recorder", |arguments| {
    Box::pin(panicking(arguments))
});

/// Set when the recorder was called.
static WAS_CALLED: AtomicBool = AtomicBool::new(false);

/// A recorder that fails in every call.
struct Panicking;

fn fail<T>() -> T {
    WAS_CALLED.store(true, Ordering::SeqCst);
    panic!("this recorder always fails")
}

impl Recorder for Panicking {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        fail::<()>();
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        fail::<()>();
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        fail::<()>();
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        fail()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        fail()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        fail()
    }
}

async fn panicking(arguments: Vec<String>) {
    ::metrics::set_global_recorder(Panicking).unwrap();
    let pool = sqlx::PgPool::connect(&arguments[0]).await.unwrap();
    let items = Item::repository(&Cache::in_process(), pool);
    for round in 0..2 {
        let item = Item::new(round, "row");
        items.insert(&item).await.unwrap();
        for _ in 0..3 {
            assert_eq!(items.find(round).await.unwrap().as_deref(), Some(&item));
        }
        eventually("the recorder was called", async || {
            WAS_CALLED.load(Ordering::SeqCst)
        })
        .await;
    }
    assert!(items.stats().hits >= 2, "{:?}", items.stats());
    tell("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_panics_breaks_no_operation() {
    let world = World::<sqlx::Postgres>::open(Kind::Memory).await;
    let mut worker = Worker::spawn("panicking_recorder", &[world.database.url()]);
    worker.expect("done").await;
    worker.finish().await;
    world.database.close().await;
}

/// A task publishes by itself.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_published_without_a_call() {
    exporter();
    let world = World::<sqlx::Sqlite>::open(Kind::Memory).await;
    let namespace = unique("by_itself");
    let cache = Cache::builder().namespace(&namespace).build().unwrap();
    let items = Item::repository(&cache, world.pool.clone());
    items.find(1).await.unwrap();
    eventually("it is published", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        samples().iter().any(|sample| {
            sample.name == "larder_memory_entries"
                && sample.labels.get("cache") == Some(&namespace)
                && sample.value == 1.0
        })
    })
    .await;
}
