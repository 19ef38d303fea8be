//! Rows that a codec changes are never served and never acknowledged, on both stores alike.
//!
//! Each probe is a type of one column, with a value that the codec gives back and one that it does not. What nobody can see
//! from outside the type (an attribute of a nested struct, say) is found when a row is stored. The controls leave the
//! comparison out and see each of the rows changed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use larder::{
    Cached, Codec, Entity, Error, ErrorKind, Origin, Repository,
    behind::{
        Image, Queued,
        apply::{Batch, Hooks},
        letters,
        mark::Incarnation,
        offsets::{self, Place},
    },
    store::faulty::{Mechanism, Operation},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;
use sqlx::{Postgres, Sqlite, types::Json};

use crate::{
    support::log,
    world::{Kind, Tested, World, eventually, on_both_stores, on_postgres, on_redis},
};

/// A row with one column whose type is tried.
trait Probe: Entity<Id = i64> {
    type Value: Clone + Debug + Send + Sync;
    const TABLE: &str;

    fn new(id: i64, name: &str, value: Self::Value) -> Self;
    fn name(&self) -> &str;
    fn rename(&mut self, name: &str);
    fn value(&self) -> &Self::Value;
    fn set(&mut self, value: Self::Value);
}

/// One type of column in three entities over one table: cached aside, written through, written behind.
macro_rules! probe {
    ($module:ident, $codec:literal, $column:literal, $(#[$attribute:meta])* $type:ty) => {
        mod $module {
            use super::*;

            probe!(entity Aside, "aside", $module, $codec, $column, $(#[$attribute])* $type);
            probe!(entity Through, "write_through", $module, $codec, $column, $(#[$attribute])* $type);
            probe!(entity Behind, "write_behind", $module, $codec, $column, $(#[$attribute])* $type);
        }
    };
    (entity $name:ident, $strategy:literal, $module:ident, $codec:literal, $column:literal, $(#[$attribute:meta])* $type:ty) => {
        #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "probes", strategy = $strategy, codec = $codec)]
        pub(super) struct $name {
            #[cached(id)]
            id: i64,
            name: String,
            $(#[$attribute])*
            value: $type,
        }

        impl Probe for $name {
            type Value = $type;
            const TABLE: &str = concat!(
                "CREATE TABLE probes (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(50) NOT NULL, value ", $column, ")"
            );

            fn new(id: i64, name: &str, value: $type) -> Self {
                Self { id, name: name.to_owned(), value }
            }

            fn name(&self) -> &str {
                &self.name
            }

            fn rename(&mut self, name: &str) {
                self.name = name.to_owned();
            }

            fn value(&self) -> &$type {
                &self.value
            }

            fn set(&mut self, value: $type) {
                self.value = value;
            }
        }
    };
}

/// An API writes it in one way, and nobody reads it so.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all(serialize = "camelCase"), default)]
struct Renamed {
    gate_number: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hidden {
    #[serde(serialize_with = "hidden")]
    secret: Option<String>,
}

fn hidden<S: Serializer>(_: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_none()
}

/// In MessagePack an address is four bytes, of which an untagged enum cannot tell what they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Host {
    Address(IpAddr),
    Name { name: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum TaggedHost {
    Address { address: IpAddr },
    Nothing,
}

/// A text column with a map whose keys JSON cannot write.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Grid(BTreeMap<(i64, i64), i64>);

impl TryFrom<String> for Grid {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let numbers = text
            .split_terminator(' ')
            .map(str::parse)
            .collect::<Result<Vec<i64>, _>>()?;
        Ok(Self(
            numbers
                .chunks(3)
                .map(|cell| ((cell[0], cell[1]), cell[2]))
                .collect(),
        ))
    }
}

impl From<Grid> for String {
    fn from(grid: Grid) -> Self {
        grid.0
            .iter()
            .map(|((x, y), value)| format!("{x} {y} {value} "))
            .collect()
    }
}

/// Reads what it writes, but for spaces at the ends.
#[derive(Clone, Debug, Serialize, sqlx::Type)]
#[sqlx(transparent)]
struct Trimmed(String);

impl<'de> Deserialize<'de> for Trimmed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer)?.trim().to_owned()))
    }
}

/// Whole seconds are written.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
struct Stamp(#[serde(with = "chrono::serde::ts_seconds")] chrono::DateTime<chrono::Utc>);

/// A text that an API must not see.
#[derive(Clone, Debug, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
struct Masked(String);

impl Serialize for Masked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&"*".repeat(self.0.len()))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sparse {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stops: Vec<i64>,
}

probe!(
    renamed,
    "msgpack",
    "JSONB",
    #[sqlx(json)]
    Renamed
);
probe!(
    renamed_json,
    "json",
    "JSONB",
    #[sqlx(json)]
    Renamed
);
probe!(
    hidden_field,
    "msgpack",
    "JSONB",
    #[sqlx(json)]
    Hidden
);
probe!(hidden_column, "json", "JSON", Json<Hidden>);
probe!(untagged, "msgpack", "JSONB", #[sqlx(json(nullable))] Option<Host>);
probe!(
    tagged,
    "msgpack",
    "JSONB",
    #[sqlx(json)]
    TaggedHost
);
probe!(json_null, "msgpack", "JSONB", Option<serde_json::Value>);
probe!(json_null_json, "json", "JSONB", Option<serde_json::Value>);
probe!(not_a_number, "json", "DOUBLE PRECISION", Option<f64>);
// Beside those that were seen.
probe!(infinite, "json", "DOUBLE PRECISION", f64);
probe!(infinite_small, "json", "REAL", Option<f32>);
probe!(
    grid,
    "json",
    "TEXT",
    #[sqlx(try_from = "String")]
    Grid
);
probe!(trimmed, "postcard", "TEXT", Trimmed);
probe!(stamped, "msgpack", "TIMESTAMPTZ", Stamp);
probe!(masked, "msgpack", "TEXT", Option<Masked>);
probe!(
    sparse,
    "msgpack",
    "JSONB",
    #[sqlx(json)]
    Sparse
);
probe!(twice_optional, "msgpack", "JSONB", #[sqlx(json(nullable))] Option<Option<i64>>);

fn host(name: &str) -> Host {
    Host::Name {
        name: name.to_owned(),
    }
}

fn stamp(text: &str) -> Stamp {
    Stamp(text.parse().unwrap())
}

/// A value that comes back from the codec, one that does not, and that one in SQL.
struct Tried<'a, V> {
    good: &'a V,
    bad: &'a V,
    sql: &'a str,
}

/// Calls a function with each probe: its three entities and the values to try.
macro_rules! each_probe {
    ($call:ident($world:expr)) => {{
        let (v4, null) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Some(serde_json::Value::Null));
        let secret = || Some("seen".to_owned());
        each_probe!(@ $call($world) {
            renamed: Renamed::default(), Renamed { gate_number: Some(7) }, r#"{"gate_number": 7}"#;
            renamed_json: Renamed::default(), Renamed { gate_number: Some(7) }, r#"{"gate_number": 7}"#;
            hidden_field: Hidden { secret: None }, Hidden { secret: secret() }, r#"{"secret": "seen"}"#;
            hidden_column: Json(Hidden { secret: None }), Json(Hidden { secret: secret() }), r#"{"secret": "seen"}"#;
            untagged: Some(host("localhost")), Some(Host::Address(v4)), r#""127.0.0.1""#;
            tagged: TaggedHost::Nothing, TaggedHost::Address { address: v4 }, r#"{"kind": "Address", "address": "127.0.0.1"}"#;
            json_null: Some(json!({"a": [1, null]})), null.clone(), "null";
            json_null_json: Some(json!({"a": [1, null]})), null, "null";
            not_a_number: Some(0.1 + 0.2), Some(f64::NAN), "NaN";
            infinite: f64::MIN_POSITIVE / 3.0, f64::NEG_INFINITY, "-Infinity";
            infinite_small: Some(f32::MIN_POSITIVE / 3.0), Some(f32::INFINITY), "Infinity";
            grid: Grid(BTreeMap::new()), Grid(BTreeMap::from([((1, 2), 3)])), "1 2 3 ";
            trimmed: Trimmed("gate 7".to_owned()), Trimmed(" gate 7".to_owned()), " gate 7";
            stamped: stamp("2026-02-28T23:59:59Z"), stamp("2026-02-28T23:59:59.5Z"), "2026-02-28T23:59:59.5Z";
            masked: None, Some(Masked("seen".to_owned())), "seen";
            sparse: Sparse { stops: vec![1] }, Sparse { stops: vec![] }, r#"{"stops": []}"#;
            twice_optional: Some(Some(1)), Some(None), "null";
        })
    }};
    (@ $call:ident($world:expr) {$($module:ident: $good:expr, $bad:expr, $sql:expr;)*}) => {{$(
        println!("{}", stringify!($module));
        let tried = Tried { good: &$good, bad: &$bad, sql: $sql };
        $call::<$module::Aside, $module::Through, $module::Behind, _>($world, tried).await;
    )*}};
}

/// A value in words, by which also those are compared that are not equal to themselves.
fn text<T: Debug>(value: &T) -> String {
    format!("{value:?}")
}

async fn table<P: Probe, DB: Tested>(world: &World<DB>) {
    world.sql("DROP TABLE IF EXISTS probes").await;
    world.sql(P::TABLE).await;
}

fn rows<E: Entity, DB: Tested>(world: &World<DB>) -> Repository<E, DB> {
    Repository::new(&world.cache, world.pool.clone())
}

/// Reads a row twice, the second time when the fill of the first was judged. Where the second answer came from, and what it
/// was.
async fn read_twice<P: Probe, DB: Tested>(rows: &Repository<P, DB>, id: i64) -> (Origin, P::Value) {
    let before = rows.stats();
    rows.find(id).await.unwrap();
    eventually("the fill has been judged", async || {
        let now = rows.stats();
        now.fills_accepted + now.fills_refused + now.codec_mismatches
            > before.fills_accepted + before.fills_refused + before.codec_mismatches
    })
    .await;
    let outcome = rows.find_outcome(id).await.unwrap();
    let row = outcome.row.unwrap();
    (outcome.origin, row.value().clone())
}

on_postgres!(
    row_that_the_codec_changes_is_not_cached,
    row_that_the_codec_changes_is_not_published,
    queued_write_that_the_codec_changes_is_refused,
    queued_write_over_a_row_that_the_codec_changes_says_so,
    order_without_meaning_is_no_change,
);

async fn row_that_the_codec_changes_is_not_cached(world: &World<Postgres>) {
    each_probe!(is_not_cached(world));
}

async fn is_not_cached<A: Probe, T: Probe, B: Probe, DB: Tested>(
    world: &World<DB>,
    tried: Tried<'_, A::Value>,
) {
    table::<A, DB>(world).await;
    let rows = rows::<A, DB>(world);
    rows.insert(&A::new(1, "good", tried.good.clone()))
        .await
        .unwrap();
    world
        .sql(format!(
            "INSERT INTO probes VALUES (2, 'bad', '{}')",
            tried.sql
        ))
        .await;
    // Whatever the database makes of it: what the struct itself writes may be what it does not read.
    let fresh = async |id| {
        let row = rows.find_uncached(id).await;
        row.map(|row| text(row.unwrap().value()))
            .map_err(|error| error.kind())
    };
    let (origin, served) = read_twice(&rows, 1).await;
    assert_eq!((origin, Ok(text(&served))), (Origin::Cache, fresh(1).await));
    assert_eq!(rows.stats().codec_mismatches, 0);

    assert_eq!(fresh(2).await.unwrap(), text(tried.bad));
    for _ in 0..2 {
        let (origin, served) = read_twice(&rows, 2).await;
        assert_eq!((origin, text(&served)), (Origin::Database, text(tried.bad)));
    }
    let stats = rows.stats();
    assert!(stats.codec_mismatches >= 2, "{stats:?}");
    assert_eq!((stats.hits, stats.undecodable), (1, 0), "{stats:?}");

    // What was read is written back with another name, and is what a row is that never met the cache.
    let mut row = A::clone(&rows.find(2).await.unwrap().unwrap());
    row.rename("changed");
    rows.update(&row).await.unwrap();
    rows.insert(&A::new(3, "uncached", tried.bad.clone()))
        .await
        .unwrap();
    assert_eq!(
        fresh(2).await,
        fresh(3).await,
        "the update has changed another column"
    );
}

async fn row_that_the_codec_changes_is_not_published(world: &World<Postgres>) {
    let before = PUBLISHED.load(Ordering::Relaxed);
    each_probe!(is_not_published(world));
    assert!(PUBLISHED.load(Ordering::Relaxed) - before >= 12);
}

async fn is_not_published<A: Probe, T: Probe<Value = A::Value>, B: Probe, DB: Tested>(
    world: &World<DB>,
    tried: Tried<'_, A::Value>,
) {
    table::<T, DB>(world).await;
    let rows = rows::<T, DB>(world);
    rows.save(&T::new(1, "good", tried.good.clone()))
        .await
        .unwrap();
    // What the struct itself writes may be read by nobody, or as a row that comes back.
    let bad = T::new(2, "bad", tried.bad.clone());
    let is_kept = rows
        .insert(&bad)
        .await
        .is_ok_and(|row| text(row.value()) == text(tried.bad));
    let many = [
        T::new(3, "bad", tried.bad.clone()),
        T::new(4, "good", tried.good.clone()),
    ];
    if is_kept {
        rows.update(&bad).await.unwrap();
        rows.insert_many(&many).await.unwrap();
        for (id, published) in [(1, true), (2, false), (3, false), (4, true)] {
            let outcome = rows.find_outcome(id).await.unwrap();
            let served = outcome.row.unwrap();
            let stored = rows.find_uncached(id).await.unwrap().unwrap();
            assert_eq!(outcome.origin == Origin::Cache, published, "row {id}");
            assert_eq!(text(served.value()), text(stored.value()), "row {id}");
        }
        assert!(rows.stats().codec_mismatches >= 3);
    }
    PUBLISHED.fetch_add(u32::from(is_kept), Ordering::Relaxed);
}

/// How many probes have met [`is_not_published`] with a row that the database keeps as it is.
static PUBLISHED: AtomicU32 = AtomicU32::new(0);

async fn queued_write_that_the_codec_changes_is_refused(world: &World<Postgres>) {
    each_probe!(is_not_queued(world));
}

fn refused<T>(written: Result<T, Error>) {
    let error = written.err().expect("it is refused");
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    assert!(
        error.to_string().contains("`value`"),
        "the field is named: {error}"
    );
    assert!(
        error.to_string().contains("another `codec`"),
        "the way out is named: {error}"
    );
}

async fn is_not_queued<A: Probe, T: Probe, B: Probe<Value = A::Value>, DB: Tested>(
    world: &World<DB>,
    tried: Tried<'_, A::Value>,
) {
    let Tried { good, bad, .. } = tried;
    table::<B, DB>(world).await;
    let rows = rows::<B, DB>(world);
    rows.install().await.unwrap();
    if text(bad).contains("Hidden") {
        // What is hidden is not written to the database either: there is nothing to lose.
        return hidden_is_queued_as_the_database_gets_it(&rows, bad).await;
    }
    let puts = world.faults.calls(Operation::Put);
    refused(rows.save(&B::new(1, "bad", bad.clone())).await);
    refused(rows.insert(&B::new(1, "bad", bad.clone())).await);
    refused(rows.update(&B::new(1, "bad", bad.clone())).await);
    assert_eq!(
        world.faults.calls(Operation::Put),
        puts,
        "refused before it is queued"
    );
    assert!(rows.find(1).await.unwrap().is_none());

    let row = B::new(1, "good", good.clone());
    rows.save(&row).await.unwrap();
    refused(rows.modify(1, |row| row.set(bad.clone())).await);
    let found = rows.find(1).await.unwrap().unwrap();
    assert_eq!((found.name(), text(found.value())), ("good", text(good)));
    rows.flush().await.unwrap();
    let stored = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!((stored.name(), text(stored.value())), ("good", text(good)));
    assert_eq!(rows.dead_letters().list(10).await.unwrap().len(), 0);
    rows.delete(1).await.unwrap();
    rows.flush().await.unwrap();
}

async fn hidden_is_queued_as_the_database_gets_it<B: Probe, DB: Tested>(
    rows: &Repository<B, DB>,
    bad: &B::Value,
) {
    rows.save(&B::new(1, "bad", bad.clone())).await.unwrap();
    let queued = rows.find(1).await.unwrap().unwrap();
    rows.flush().await.unwrap();
    let stored = rows.find_uncached(1).await.unwrap().unwrap();
    let value = |row: &B| text(row.value());
    assert_eq!(value(&queued), value(&stored));
    assert_eq!(rows.stats().codec_mismatches, 0);
}

/// Such a row got there past the queue. It is never cached, so no write can find it there.
async fn queued_write_over_a_row_that_the_codec_changes_says_so(world: &World<Postgres>) {
    use not_a_number::Behind;
    table::<Behind, _>(world).await;
    world
        .sql("INSERT INTO probes VALUES (1, 'bad', 'NaN')")
        .await;
    let rows = rows::<Behind, _>(world);
    rows.install().await.unwrap();
    let good = Behind::new(1, "good", Some(1.5));
    let loads = rows.stats().loads;
    let refused = [
        rows.update(&good).await.map(drop),
        rows.delete(1).await,
        rows.modify(1, |row| row.set(None)).await.map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
        assert!(error.to_string().contains("`value`"), "{error}");
        assert!(
            error.to_string().contains("`save`"),
            "the way out is named: {error}"
        );
    }
    assert_eq!(rows.stats().loads - loads, 3, "one load tells");
    let error = rows.insert(&good).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
    rows.save(&good).await.unwrap();
    rows.update(&Behind::new(1, "better", None)).await.unwrap();
    rows.flush().await.unwrap();
    let stored = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!((stored.name(), *stored.value()), ("better", None));
}

on_redis!(
    without_the_round_trip_every_probe_is_changed,
    without_the_round_trip_queued_writes_are_changed,
);

/// Shows that the probes would be changed: each is served as another row, or cannot be served at all.
async fn without_the_round_trip_every_probe_is_changed(_: &World<Sqlite>) {
    let world = World::<Postgres>::open(Kind::Redis).await;
    world.faults.leave_out(Mechanism::RoundTrip);
    each_probe!(is_changed(&world));
    world.database.close().await;
}

async fn is_changed<A: Probe, T: Probe, B: Probe, DB: Tested>(
    world: &World<DB>,
    tried: Tried<'_, A::Value>,
) {
    let Tried { bad, sql, .. } = tried;
    table::<A, DB>(world).await;
    let rows = rows::<A, DB>(world);
    world
        .sql(format!("INSERT INTO probes VALUES (2, 'bad', '{sql}')"))
        .await;
    let fresh = rows.find(2).await.unwrap().unwrap();
    let stats = || rows.stats();
    eventually("the fill has been judged", async || {
        stats().fills_accepted + stats().codec_mismatches > 0
    })
    .await;
    let outcome = rows.find_outcome(2).await.unwrap();
    let served = outcome.row.unwrap();
    let is_other = text(served.value()) != text(fresh.value());
    // What cannot even be written is told by the codec itself.
    let is_lost = stats().undecodable > 0 || stats().codec_mismatches > 0;
    assert!(is_other || is_lost, "{bad:?} is not changed");
}

async fn without_the_round_trip_queued_writes_are_changed(_: &World<Sqlite>) {
    let world = World::<Postgres>::open(Kind::Redis).await;
    world.faults.leave_out(Mechanism::RoundTrip);
    table::<renamed::Behind, _>(&world).await;
    let rows = rows::<renamed::Behind, _>(&world);
    rows.install().await.unwrap();
    let value = Renamed {
        gate_number: Some(7),
    };
    rows.save(&renamed::Behind::new(1, "bad", value))
        .await
        .unwrap();
    rows.flush().await.unwrap();
    let stored = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(stored.value().gate_number, None, "acknowledged and lost");
    world.database.close().await;
}

/// The same row is cached on both stores or on none; without the round trip the in-process store is kinder.
#[tokio::test]
async fn without_the_round_trip_the_in_process_store_is_kinder() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    world.faults.leave_out(Mechanism::RoundTrip);
    table::<renamed::Aside, _>(&world).await;
    let rows = rows::<renamed::Aside, _>(&world);
    let value = Renamed {
        gate_number: Some(7),
    };
    rows.insert(&renamed::Aside::new(1, "bad", value))
        .await
        .unwrap();
    let (origin, served) = read_twice(&rows, 1).await;
    assert_eq!((origin, served.gate_number), (Origin::Cache, Some(7)));
    world.database.close().await;
}

probe!(hash_map, "msgpack", "JSONB", #[sqlx(json)] HashMap<String, i64>);
probe!(
    hash_map_column,
    "json",
    "JSONB",
    Json<HashMap<String, HashSet<i64>>>
);
probe!(hash_set, "postcard", "JSON", #[sqlx(json(nullable))] Option<HashSet<String>>);
probe!(
    hash_maps,
    "msgpack",
    "JSONB[]",
    Vec<Json<HashMap<String, i64>>>
);
probe!(any_json, "msgpack", "JSON", serde_json::Value);
probe!(nan, "msgpack", "DOUBLE PRECISION", Option<f64>);
probe!(long_number, "json", "DOUBLE PRECISION", f64);
probe!(boxed, "msgpack", "TEXT", Option<Box<str>>);
probe!(borrowed, "postcard", "TEXT", Cow<'static, str>);
probe!(
    offset,
    "json",
    "TIMESTAMPTZ",
    chrono::DateTime<chrono::FixedOffset>
);
probe!(blob, "json", "BYTEA", Vec<u8>);
probe!(
    network,
    "msgpack",
    "JSONB",
    #[sqlx(json)]
    IpAddr
);

/// What a codec may give back in another order, or in another guise, is cached and queued all the same.
async fn order_without_meaning_is_no_change(world: &World<Postgres>) {
    let names = || (0..30).map(|number| format!("name {number}"));
    let map = || names().zip(0..).collect::<HashMap<_, _>>();
    let sets = || {
        names()
            .map(|name| (name, (0..20).collect()))
            .collect::<HashMap<_, _>>()
    };
    survives::<hash_map::Aside, hash_map::Behind, _>(world, map()).await;
    survives::<hash_map_column::Aside, hash_map_column::Behind, _>(world, Json(sets())).await;
    survives::<hash_set::Aside, hash_set::Behind, _>(world, Some(names().collect())).await;
    survives::<hash_set::Aside, hash_set::Behind, _>(world, None).await;
    let maps = vec![Json(map()), Json(HashMap::new()), Json(map())];
    survives::<hash_maps::Aside, hash_maps::Behind, _>(world, maps).await;
    let value = json!({"b": [1, 2.5, u64::MAX, "x", null, true], "a": {"z": 1, "y": {}}});
    survives::<any_json::Aside, any_json::Behind, _>(world, value).await;
    survives::<nan::Aside, nan::Behind, _>(world, Some(f64::NAN)).await;
    survives::<nan::Aside, nan::Behind, _>(world, Some(-0.0)).await;
    // Read to the nearest double, and not to one beside it.
    for number in [
        5.954_199_438_299_617e-233,
        1.797_693_134_862_315_7e308,
        f64::from_bits(1),
    ] {
        survives::<long_number::Aside, long_number::Behind, _>(world, number).await;
    }
    survives::<boxed::Aside, boxed::Behind, _>(world, Some("text".into())).await;
    survives::<borrowed::Aside, borrowed::Behind, _>(world, "text".into()).await;
    let at = "2026-02-28T23:59:59.123456+05:45".parse().unwrap();
    survives::<offset::Aside, offset::Behind, _>(world, at).await;
    survives::<blob::Aside, blob::Behind, _>(world, vec![0, 255, 34]).await;
    survives::<network::Aside, network::Behind, _>(world, "::1".parse().unwrap()).await;
}

async fn survives<A: Probe, B: Probe<Value = A::Value>, DB: Tested>(
    world: &World<DB>,
    value: A::Value,
) {
    table::<A, DB>(world).await;
    let aside = rows::<A, DB>(world);
    aside
        .insert(&A::new(1, "row", value.clone()))
        .await
        .unwrap();
    let (origin, _) = read_twice(&aside, 1).await;
    assert_eq!(origin, Origin::Cache, "{value:?}");
    let behind = rows::<B, DB>(world);
    behind.install().await.unwrap();
    behind.save(&B::new(1, "row", value.clone())).await.unwrap();
    behind.flush().await.unwrap();
    assert_eq!(
        aside.stats().codec_mismatches + behind.stats().codec_mismatches,
        0
    );
    assert_eq!(behind.stats().dead_letters, 0);
}

probe!(
    sqlite_maps,
    "msgpack",
    "TEXT",
    Json<HashMap<String, HashSet<String>>>
);
probe!(sqlite_set, "json", "TEXT", #[sqlx(json)] HashSet<i64>);
probe!(sqlite_text, "json", "TEXT", Option<Box<str>>);
probe!(sqlite_day, "msgpack", "TEXT", chrono::NaiveDate);
probe!(
    sqlite_renamed,
    "msgpack",
    "TEXT",
    #[sqlx(json)]
    Renamed
);
probe!(sqlite_null, "msgpack", "TEXT", Option<serde_json::Value>);
probe!(sqlite_trimmed, "json", "TEXT", Trimmed);
probe!(sqlite_endless, "json", "REAL", f64);

on_both_stores!(
    sqlite_tells_changed_rows_from_others,
    field_that_is_no_column_is_as_fresh_as_from_the_database,
    mismatch_is_logged_once_for_a_field,
    composite_id_that_the_codec_changes_deletes_no_row,
    dead_letter_is_written_with_a_codec_that_carries_it,
);

async fn sqlite_tells_changed_rows_from_others(world: &World<Sqlite>) {
    let names = || (0..30).map(|number| format!("\"{number}\"\n\u{e4}"));
    let maps = Json(names().map(|name| (name, names().collect())).collect());
    survives::<sqlite_maps::Aside, sqlite_maps::Behind, _>(world, maps).await;
    survives::<sqlite_set::Aside, sqlite_set::Behind, _>(world, (0..40).collect()).await;
    survives::<sqlite_text::Aside, sqlite_text::Behind, _>(world, Some("\\\"".into())).await;
    let day = chrono::NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
    survives::<sqlite_day::Aside, sqlite_day::Behind, _>(world, day).await;
    macro_rules! tried {
        ($check:ident, $module:ident, $good:expr, $bad:expr, $sql:expr) => {{
            let (good, bad, sql) = (&$good, &$bad, $sql);
            let tried = Tried { good, bad, sql };
            $check::<$module::Aside, $module::Through, $module::Behind, _>(world, tried).await;
        }};
    }
    let seven = Renamed {
        gate_number: Some(7),
    };
    let null = Some(serde_json::Value::Null);
    let (good, bad) = (Trimmed("a".to_owned()), Trimmed("a ".to_owned()));
    tried!(
        is_not_cached,
        sqlite_renamed,
        Renamed::default(),
        seven,
        r#"{"gate_number": 7}"#
    );
    tried!(
        is_not_cached,
        sqlite_null,
        Some(json!({"a": 1})),
        null,
        "null"
    );
    tried!(
        is_not_queued,
        sqlite_null,
        Some(json!({"a": 1})),
        null,
        "null"
    );
    tried!(is_not_cached, sqlite_trimmed, good, bad, "a ");
    tried!(is_not_published, sqlite_endless, 1.5, f64::INFINITY, "");
}

/// The fields beside the columns hold what an application has put there, or what serde thinks is their default.
macro_rules! labelled {
    ($name:ident, $strategy:literal) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "items", strategy = $strategy)]
        struct $name {
            #[cached(id)]
            id: i64,
            name: String,
            note: Option<String>,
            quantity: i64,
            #[sqlx(skip)]
            label: String,
            #[sqlx(skip)]
            #[serde(skip, default = "seven")]
            computed: i64,
            #[cached(skip)]
            #[sqlx(default)]
            hint: Option<String>,
        }

        impl $name {
            fn filled() -> Self {
                Self {
                    id: 1,
                    name: "one".to_owned(),
                    note: None,
                    quantity: 1,
                    label: "label".to_owned(),
                    computed: 1,
                    hint: Some("hint".to_owned()),
                }
            }
        }
    };
}

labelled!(Labelled, "aside");
labelled!(LabelledBehind, "write_behind");

fn seven() -> i64 {
    7
}

async fn field_that_is_no_column_is_as_fresh_as_from_the_database(world: &World<Sqlite>) {
    let aside = Labelled::repository(&world.cache, world.pool.clone());
    aside.insert(&Labelled::filled()).await.unwrap();
    let fresh = aside.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(
        (fresh.label.as_str(), fresh.computed, &fresh.hint),
        ("", 0, &None)
    );
    eventually("the row is served from the cache", async || {
        let outcome = aside.find_outcome(1).await.unwrap();
        assert_eq!(outcome.row.unwrap(), fresh);
        outcome.origin == Origin::Cache
    })
    .await;
    let behind = LabelledBehind::repository(&world.cache, world.pool.clone());
    behind.install().await.unwrap();
    behind.save(&LabelledBehind::filled()).await.unwrap();
    let queued = behind.find_outcome(1).await.unwrap();
    assert_eq!(queued.origin, Origin::Cache);
    behind.flush().await.unwrap();
    let stored = behind.find_uncached(1).await.unwrap();
    assert_eq!(queued.row, stored);
}

async fn mismatch_is_logged_once_for_a_field(world: &World<Sqlite>) {
    log::listen();
    table::<sqlite_renamed::Aside, _>(world).await;
    // The lines are told apart by the name of the entity, which no other test has.
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "probes")]
    struct OnMemory {
        #[cached(id)]
        id: i64,
        name: String,
        #[sqlx(json)]
        value: Renamed,
    }
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "probes")]
    struct OnRedis {
        #[cached(id)]
        id: i64,
        name: String,
        #[sqlx(json)]
        value: Renamed,
    }
    for id in 1..=20 {
        let values = format!(r#"({id}, 'bad', '{{"gate_number": 7}}')"#);
        world
            .sql(format!("INSERT INTO probes VALUES {values}"))
            .await;
    }
    async fn read_all<E: Entity<Id = i64>>(world: &World<Sqlite>) {
        let rows = rows::<E, _>(world);
        let again = Repository::<E, _>::new(&world.cache, world.pool.clone());
        for id in 1..=20 {
            rows.find(id).await.unwrap();
            again.find(id).await.unwrap();
        }
        eventually("all fills have been judged", async || {
            rows.stats().codec_mismatches + again.stats().codec_mismatches == 40
        })
        .await;
    }
    let entity = match world.kind {
        Kind::Memory => {
            read_all::<OnMemory>(world).await;
            "OnMemory"
        }
        Kind::Redis => {
            read_all::<OnRedis>(world).await;
            "OnRedis"
        }
    };
    let lines = log::lines_with("entity", entity);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].field("field"), Some("value"));
    assert_eq!(lines[0].field("codec"), Some("MessagePack"));
}

/// Half of an id that is read with another value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", strategy = "write_behind")]
struct Seat {
    #[cached(id)]
    flight: i64,
    #[cached(id)]
    seat: SeatName,
    taken: bool,
}

/// A text that is written in upper case.
#[derive(Clone, Debug, PartialEq, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
struct SeatName(String);

impl Serialize for SeatName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_uppercase())
    }
}

async fn composite_id_that_the_codec_changes_deletes_no_row(world: &World<Sqlite>) {
    world
        .sql("CREATE TABLE seats (flight BIGINT NOT NULL, seat TEXT NOT NULL, taken BOOLEAN NOT NULL, PRIMARY KEY (flight, seat))")
        .await;
    world
        .sql("INSERT INTO seats VALUES (1, '7A', true), (1, '7a', true)")
        .await;
    let seats = Seat::repository(&world.cache, world.pool.clone());
    seats.install().await.unwrap();
    let (upper, lower) = (
        (1, SeatName("7A".to_owned())),
        (1, SeatName("7a".to_owned())),
    );
    let error = seats.delete(&lower).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    assert!(error.to_string().contains("`seat`"), "{error}");
    seats.flush().await.unwrap();
    assert!(seats.find_uncached(&upper).await.unwrap().is_some());
    assert!(seats.find_uncached(&lower).await.unwrap().is_some());
    seats.delete(&upper).await.unwrap();
    seats.flush().await.unwrap();
    assert!(seats.find_uncached(&upper).await.unwrap().is_none());
    assert!(seats.find_uncached(&lower).await.unwrap().is_some());
}

/// The queue may hold what another codec wrote, with values that the codec of now cannot carry.
async fn dead_letter_is_written_with_a_codec_that_carries_it(world: &World<Sqlite>) {
    table::<sqlite_endless::Behind, _>(world).await;
    let rows = rows::<sqlite_endless::Behind, _>(world);
    rows.install().await.unwrap();
    let queue = "letters";
    let incarnation = offsets::register(&world.pool, queue, 0, 0).await.unwrap();
    let place = Place {
        queue: queue.into(),
        part: 0,
        incarnation,
    };
    let bad = sqlite_endless::Behind::new(1, "bad", f64::INFINITY);
    let writes = [Queued {
        number: 1,
        key: rows.key(1).unwrap(),
        image: Image::Row(Arc::new(bad)),
    }];
    let batch = Batch {
        place: &place,
        from: 0,
        to: 1,
        writes: &writes,
        lost: 0,
        buried: Some(1),
        codec: Codec::Json,
        layout: 7,
        now_ms: 0,
    };
    let applied = rows.apply_queued(&batch, &Hooks::default()).await.unwrap();
    assert_eq!(applied.dead.len(), 1);
    let letters = letters::list::<sqlite_endless::Behind, _>(&world.pool, queue, 7, 10).await;
    let letters = letters.unwrap();
    let row = letters[0].row().expect("it can be read");
    assert_eq!(*row.value(), f64::INFINITY);
}
