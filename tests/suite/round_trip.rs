//! Rows that a codec changes are never served and never acknowledged, with both stores.
//!
//! Each entity has a column of each type that is tested, with a value that the codec reproduces, and for most columns one
//! that it does not. What the derive cannot see (such as an attribute of a nested struct) is detected when a row is stored.
//! The controls disable the comparison, and show that each of the rows is changed.
//! comparison out and see each of the rows changed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use larder::{
    Cache, Cached, Codec, Entity, Error, ErrorKind, Origin, Repository,
    behind::{
        Batch, Image, Queued,
        apply::Hooks,
        letter_seal::LetterSeals,
        letters,
        offsets::{self, QueueIncarnation},
    },
    store::{Mechanism, faulty::Operation},
    writes,
};
use larder_testing::log;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;
use sqlx::{MySql, Postgres, Sqlite, types::Json};

use crate::world::{Kind, Tested, World, eventually, on_both_stores, on_mysql, on_postgres};

/// A row with many columns, each of a type that is tested.
trait Probes: Entity<Id = i64, Writes: writes::RowWrites> + Debug {
    const TABLE: &str;

    /// Returns a row that the codec reproduces.
    fn good(id: i64, name: &str) -> Self;
    fn rename(&mut self, name: &str);
    fn cases() -> Vec<Case<Self>>;
}

/// A value that the codec does not reproduce.
struct Case<P> {
    column: &'static str,
    /// The value in SQL, for a statement without larder.
    sql: &'static str,
    set: fn(&mut P),
}

/// Defines entities over one table with different strategies. Each column has a value that the codec reproduces, and may
/// have one that it does not.
macro_rules! probes {
    ($codec:literal, [$($name:ident $keys:tt)*], $columns:tt) => {
        $(probes!(@ $name, $keys, $codec, $columns);)*
    };
    (@ $name:ident, {$($keys:tt)*}, $codec:literal, {
        $($(#[$attribute:meta])* $column:ident: $type:ty, $in_table:literal, $good:expr $(, $bad:expr, $sql:literal)?;)*
    }) => {
        #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "probes", codec = $codec, $($keys)*)]
        struct $name {
            #[cached(id)]
            id: i64,
            name: String,
            $($(#[$attribute])* $column: $type,)*
        }

        impl Probes for $name {
            const TABLE: &str = concat!(
                "CREATE TABLE probes (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(50) NOT NULL",
                $(", ", stringify!($column), " ", $in_table,)* ")"
            );

            fn good(id: i64, name: &str) -> Self {
                Self { id, name: name.to_owned(), $($column: $good,)* }
            }

            fn rename(&mut self, name: &str) {
                self.name = name.to_owned();
            }

            fn cases() -> Vec<Case<Self>> {
                let cases = [$($(Case {
                    column: stringify!($column),
                    sql: $sql,
                    set: |row: &mut Self| row.$column = $bad,
                },)?)*];
                cases.into()
            }
        }
    };
}

/// serde writes other names than it reads.
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

/// A JSON type under another name.
type Alias = Json<Hidden>;

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
struct Wrapped(Json<Hidden>);

fn hidden<S: Serializer>(_: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_none()
}

/// In MessagePack an address is four bytes, which an untagged enum cannot recognize.
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

/// A text column with a map whose keys cannot be keys of a JSON object.
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

/// Reads what it writes, but without blanks at the ends.
#[derive(Clone, Debug, Serialize, sqlx::Type)]
#[sqlx(transparent)]
struct Trimmed(String);

impl<'de> Deserialize<'de> for Trimmed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer)?.trim().to_owned()))
    }
}

/// serde writes only whole seconds.
#[derive(Clone, Debug, Serialize, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
struct Stamp(#[serde(with = "chrono::serde::ts_seconds")] chrono::DateTime<chrono::Utc>);

/// A text that serde hides.
#[derive(Clone, Debug, PartialEq, Deserialize, sqlx::Type)]
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

fn host(name: &str) -> Host {
    Host::Name {
        name: name.to_owned(),
    }
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn history(text: &str) -> Stamp {
    Stamp(text.parse().unwrap())
}

fn secret() -> Hidden {
    Hidden {
        secret: Some("seen".to_owned()),
    }
}

const OPEN: Hidden = Hidden { secret: None };
const SEVEN: Renamed = Renamed {
    gate_number: Some(7),
};

fn masked(text: &str) -> Masked {
    Masked(text.to_owned())
}

fn trimmed(text: &str) -> Trimmed {
    Trimmed(text.to_owned())
}

fn cell() -> Grid {
    Grid(BTreeMap::from([((1, 2), 3)]))
}

probes!("msgpack", [
    Packed {strategy = "aside"}
    PackedThrough {strategy = "write_through"}
    PackedBehind {strategy = "write_behind", durability = "memory"}
], {
    #[sqlx(json)] renamed: Renamed, "JSONB", Renamed::default(), SEVEN, r#"{"gate_number": 7}"#;
    #[sqlx(json)] hidden: Hidden, "JSONB", OPEN, secret(), r#"{"secret": "seen"}"#;
    hidden_too: Json<Hidden>, "JSON", Json(OPEN), Json(secret()), r#"{"secret": "seen"}"#;
    hidden_alias: Alias, "JSON", Json(OPEN), Json(secret()), r#"{"secret": "seen"}"#;
    hidden_within: Wrapped, "JSON", Wrapped(Json(OPEN)), Wrapped(Json(secret())), r#"{"secret": "seen"}"#;
    #[sqlx(json(nullable))] untagged: Option<Host>, "JSONB", Some(host("a")), Some(Host::Address(LOCAL)), r#""127.0.0.1""#;
    #[sqlx(json)] tagged: TaggedHost, "JSONB", TaggedHost::Nothing, TaggedHost::Address { address: LOCAL },
        r#"{"kind": "Address", "address": "127.0.0.1"}"#;
    json_null: Option<serde_json::Value>, "JSONB", Some(json!({"a": [1, null]})), Some(serde_json::Value::Null), "null";
    // The derive cannot detect these.
    trimmed: Trimmed, "TEXT", trimmed("gate 7"), trimmed(" gate 7"), " gate 7";
    stamped: Stamp, "TIMESTAMPTZ", history("2026-02-28T23:59:59Z"), history("2026-02-28T23:59:59.5Z"), "2026-02-28T23:59:59.5Z";
    masked: Option<Masked>, "TEXT", None, Some(masked("seen")), "seen";
    #[sqlx(json)] sparse: Sparse, "JSONB", Sparse { stops: vec![1] }, Sparse { stops: vec![] }, r#"{"stops": []}"#;
});

probes!("json", [
    Written {strategy = "aside"}
    WrittenThrough {strategy = "write_through"}
    WrittenBehind {strategy = "write_behind", durability = "memory"}
], {
    #[sqlx(json)] renamed: Renamed, "JSONB", Renamed::default(), SEVEN, r#"{"gate_number": 7}"#;
    json_null: Option<serde_json::Value>, "JSONB", Some(json!({"a": [1, null]})), Some(serde_json::Value::Null), "null";
    not_a_number: Option<f64>, "DOUBLE PRECISION", Some(0.1 + 0.2), Some(f64::NAN), "NaN";
    // The derive cannot detect these.
    infinite: f64, "DOUBLE PRECISION", f64::MIN_POSITIVE / 3.0, f64::NEG_INFINITY, "-Infinity";
    infinite_small: Option<f32>, "REAL", Some(f32::MIN_POSITIVE / 3.0), Some(f32::INFINITY), "Infinity";
    #[sqlx(try_from = "String")] grid: Grid, "TEXT", Grid(BTreeMap::new()), cell(), "1 2 3 ";
    masked: Masked, "TEXT", masked("**"), masked("seen"), "seen";
});

async fn table<P: Probes, DB: Tested>(world: &World<DB>) {
    world.sql("DROP TABLE IF EXISTS probes").await;
    world.sql(P::TABLE).await;
}

/// Returns the rows of an entity. Others over the same table are in other namespaces, and not told of its writes.
fn rows<E: Entity, DB: Tested>(world: &World<DB>) -> Repository<E, DB> {
    Repository::new(&cache_of::<E, DB>(world), world.pool.clone())
}

fn cache_of<E: Entity, DB: Tested>(world: &World<DB>) -> Cache {
    let namespace = format!("{}-{}", world.namespace, E::SPEC.name);
    world.cache.with_namespace(namespace).unwrap()
}

/// Returns a row whose codec changes the value of one column.
fn bad<P: Probes>(id: i64, case: &Case<P>) -> P {
    let mut row = P::good(id, "bad");
    (case.set)(&mut row);
    row
}

/// Returns the row in the database as `Debug` text, which also compares NaN, or the error of reading it.
async fn stored<P: Probes, DB: Tested>(
    rows: &Repository<P, DB>,
    id: i64,
) -> Result<String, ErrorKind> {
    let row = rows.find_uncached(id).await;
    row.map(|row| format!("{:?}", row.unwrap()))
        .map_err(|error| error.kind())
}

/// Reads a row twice, the second time after the fill of the first was accepted or not. Returns the origin and the text of
/// the second result.
async fn read_twice<P: Probes, DB: Tested>(rows: &Repository<P, DB>, id: i64) -> (Origin, String) {
    let judged = || {
        let stats = rows.stats();
        stats.fills_accepted + stats.fills_refused + stats.codec_mismatches
    };
    let before = judged();
    rows.find(id).await.unwrap();
    eventually("the fill has been judged", async || judged() > before).await;
    let outcome = rows.find_outcome(id).await.unwrap();
    (outcome.origin, format!("{:?}", outcome.row.unwrap()))
}

on_postgres!(
    row_that_the_codec_changes_is_not_cached,
    row_that_the_codec_changes_is_no_cache_update,
    queued_write_that_the_codec_changes_is_refused,
    queued_write_over_a_row_that_the_codec_changes_is_an_error,
    order_without_meaning_is_no_change,
);

async fn row_that_the_codec_changes_is_not_cached(world: &World<Postgres>) {
    Box::pin(none_is_cached::<Packed, _>(world)).await;
    Box::pin(none_is_cached::<Written, _>(world)).await;
}

/// Inserts a row, and sets the value of a case without larder.
async fn put_bad<P: Probes, DB: Tested>(
    world: &World<DB>,
    rows: &Repository<P, DB>,
    id: i64,
    case: &Case<P>,
) {
    rows.insert(&P::good(id, "bad")).await.unwrap();
    let Case { column, sql, .. } = case;
    world
        .sql(format!(
            "UPDATE probes SET {column} = '{sql}' WHERE id = {id}"
        ))
        .await;
}

async fn none_is_cached<P: Probes, DB: Tested>(world: &World<DB>) {
    table::<P, DB>(world).await;
    let rows = rows::<P, DB>(world);
    rows.insert(&P::good(1, "good")).await.unwrap();
    let (origin, served) = read_twice(&rows, 1).await;
    assert_eq!(
        (origin, Ok(served)),
        (Origin::Cache, stored(&rows, 1).await)
    );
    assert_eq!(rows.stats().codec_mismatches, 0);
    for (id, case) in (10..).zip(P::cases()) {
        let (column, before) = (case.column, rows.stats());
        put_bad(world, &rows, id, &case).await;
        let fresh = stored(&rows, id).await.unwrap();
        assert_eq!(fresh, format!("{:?}", bad(id, &case)), "{column}");
        for _ in 0..2 {
            let expected = (Origin::Database, fresh.clone());
            assert_eq!(read_twice(&rows, id).await, expected, "{column}");
        }
        let stats = rows.stats();
        let counted = stats.codec_mismatches - before.codec_mismatches;
        assert!(counted >= 2, "{column}: {stats:?}");
        assert_eq!(
            (stats.hits, stats.corrupt_entries),
            (1, 0),
            "{column}: {stats:?}"
        );
        // An update writes back what was found. The result must be the same as without the cache. Some types write other
        // values to the database than they read from it.
        let mut row = P::clone(&rows.find(id).await.unwrap().unwrap());
        row.rename("changed");
        rows.update(&row).await.unwrap();
        let found = stored(&rows, id).await;
        world
            .sql(format!("DELETE FROM probes WHERE id = {id}"))
            .await;
        let mut row = bad(id, &case);
        row.rename("changed");
        rows.insert(&row).await.unwrap();
        assert_eq!(found, stored(&rows, id).await, "{column}");
    }
}

async fn row_that_the_codec_changes_is_no_cache_update(world: &World<Postgres>) {
    assert_eq!(
        Box::pin(none_is_a_cache_update::<PackedThrough, _>(world)).await,
        6
    );
    assert_eq!(
        Box::pin(none_is_a_cache_update::<WrittenThrough, _>(world)).await,
        6
    );
}

/// Returns the number of cases that were tested: those that the database stores unchanged.
async fn none_is_a_cache_update<P: Probes<Writes = writes::ToDatabase>, DB: Tested>(
    world: &World<DB>,
) -> usize {
    table::<P, DB>(world).await;
    let rows = rows::<P, DB>(world);
    rows.save(&P::good(1, "good")).await.unwrap();
    assert_eq!(rows.find_outcome(1).await.unwrap().origin, Origin::Cache);
    let mut seen = 0;
    for (step, case) in (1..).zip(P::cases()) {
        let (id, row) = (step * 10, bad(step * 10, &case));
        let _written = rows.insert(&row).await;
        if stored(&rows, id).await != Ok(format!("{row:?}")) {
            continue;
        }
        seen += 1;
        rows.update(&row).await.unwrap();
        let many = [bad(id + 1, &case), P::good(id + 2, "good")];
        rows.insert_many(&many).await.unwrap();
        for (id, is_published) in [(id, false), (id + 1, false), (id + 2, true)] {
            let outcome = rows.find_outcome(id).await.unwrap();
            let served = format!("{:?}", outcome.row.unwrap());
            let from = outcome.origin;
            assert_eq!(from == Origin::Cache, is_published, "{}", case.column);
            assert_eq!(Ok(served), stored(&rows, id).await, "{}", case.column);
        }
    }
    seen
}

async fn queued_write_that_the_codec_changes_is_refused(world: &World<Postgres>) {
    Box::pin(none_is_queued::<PackedBehind, _>(world)).await;
    Box::pin(none_is_queued::<WrittenBehind, _>(world)).await;
}

fn refused<T>(column: &str, written: Result<T, Error>) {
    let error = written.err().expect("it is refused");
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    let message = error.to_string();
    let names_field = message.contains(&format!("`{column}`"));
    assert!(names_field, "the field is not named: {message}");
    let names_way_out = message.contains("another `codec`");
    assert!(names_way_out, "the way out is not named: {message}");
}

async fn none_is_queued<P: Probes<Writes = writes::ToQueue>, DB: Tested>(world: &World<DB>) {
    table::<P, DB>(world).await;
    let rows = rows::<P, DB>(world);
    rows.install().await.unwrap();
    for (id, case) in (10..).zip(P::cases()) {
        let (column, row) = (case.column, bad(id, &case));
        if column.starts_with("hidden") {
            // serde hides the value, and the type does not write it to the database either, so nothing is lost.
            rows.save(&row).await.unwrap();
            let queued = rows.find(id).await.unwrap().unwrap();
            rows.flush().await.unwrap();
            let queued = format!("{queued:?}");
            assert_eq!(Ok(queued), stored(&rows, id).await, "{column}");
            continue;
        }
        let puts = world.faults.calls(Operation::Put);
        refused(column, rows.save(&row).await);
        refused(column, rows.insert(&row).await);
        refused(column, rows.update(&row).await);
        let refused_early = world.faults.calls(Operation::Put) == puts;
        assert!(refused_early, "{column} is refused before it is queued");
        assert!(rows.find(id).await.unwrap().is_none());

        let good = P::good(id, "good");
        rows.save(&good).await.unwrap();
        refused(column, rows.modify(id, |row| (case.set)(row)).await);
        let found = rows.find(id).await.unwrap().unwrap();
        assert_eq!(format!("{found:?}"), format!("{good:?}"), "{column}");
        rows.flush().await.unwrap();
        let flushed = stored(&rows, id).await;
        assert_eq!(flushed, Ok(format!("{good:?}")), "{column}");
    }
    assert_eq!(rows.dead_letters().list(10).await.unwrap().len(), 0);
}

/// The row was inserted without the queue. It is never cached, so no write can compare it.
async fn queued_write_over_a_row_that_the_codec_changes_is_an_error(world: &World<Postgres>) {
    table::<WrittenBehind, _>(world).await;
    let rows = rows::<WrittenBehind, _>(world);
    rows.install().await.unwrap();
    let good = WrittenBehind::good(1, "good");
    rows.save(&good).await.unwrap();
    rows.flush().await.unwrap();
    world.sql("UPDATE probes SET not_a_number = 'NaN'").await;
    rows.invalidate(1).await.unwrap();
    let loads = rows.stats().loads;
    let refused = [
        rows.update(&good).await.map(drop),
        rows.delete(1).await,
        rows.modify(1, |row| row.not_a_number = None)
            .await
            .map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
        let message = error.to_string();
        assert!(message.contains("`not_a_number`"), "{message}");
        assert!(
            message.contains("`save`"),
            "the way out is not named: {message}"
        );
    }
    assert_eq!(rows.stats().loads - loads, 3, "one load tells");
    let error = rows.insert(&good).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
    rows.save(&good).await.unwrap();
    rows.update(&WrittenBehind::good(1, "better"))
        .await
        .unwrap();
    rows.flush().await.unwrap();
    let flushed = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(flushed.name, "better");
}

#[tokio::test]
async fn without_the_round_trip_every_row_is_changed() {
    let world = World::<Postgres>::open(Kind::Redis).await;
    world.faults.leave_out(Mechanism::RoundTrip);
    Box::pin(all_are_changed::<Packed, _>(&world)).await;
    Box::pin(all_are_changed::<Written, _>(&world)).await;
    world.database.close().await;
}

/// Checks that each of these rows is served changed, or cannot be served.
async fn all_are_changed<P: Probes, DB: Tested>(world: &World<DB>) {
    table::<P, DB>(world).await;
    let rows = rows::<P, DB>(world);
    for (id, case) in (10..).zip(P::cases()) {
        put_bad(world, &rows, id, &case).await;
        let fresh = stored(&rows, id).await.unwrap();
        let before = rows.stats();
        let (_, served) = read_twice(&rows, id).await;
        let stats = rows.stats();
        // A value that cannot be written is an error of the codec.
        let is_lost = stats.corrupt_entries > before.corrupt_entries
            || stats.codec_mismatches > before.codec_mismatches;
        assert!(served != fresh || is_lost, "{} is not changed", case.column);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_round_trip_queued_writes_are_changed() {
    let world = World::<Postgres>::open(Kind::Redis).await;
    world.faults.leave_out(Mechanism::RoundTrip);
    table::<PackedBehind, _>(&world).await;
    let rows = rows::<PackedBehind, _>(&world);
    rows.install().await.unwrap();
    let mut row = PackedBehind::good(1, "bad");
    row.trimmed = trimmed(" gate 7");
    Box::pin(rows.save(&row)).await.unwrap();
    rows.flush().await.unwrap();
    let stored = rows.find_uncached(1).await.unwrap().unwrap();
    assert_eq!(stored.trimmed.0, "gate 7", "acknowledged, and another row");
    world.database.close().await;
}

#[tokio::test]
async fn without_the_round_trip_the_in_process_store_is_kinder() {
    let world = World::<Postgres>::open(Kind::Memory).await;
    world.faults.leave_out(Mechanism::RoundTrip);
    table::<Packed, _>(&world).await;
    let rows = rows::<Packed, _>(&world);
    for (id, case) in (10..).zip(Packed::cases()) {
        Box::pin(put_bad(&world, &rows, id, &case)).await;
        let fresh = stored(&rows, id).await.unwrap();
        assert_eq!(read_twice(&rows, id).await, (Origin::Cache, fresh));
    }
    world.database.close().await;
}

fn names() -> impl Iterator<Item = String> {
    (0..30).map(|number| format!("\"{number}\"\n\u{e4}"))
}

fn map() -> HashMap<String, i64> {
    names().zip(0..).collect()
}

fn sets() -> HashMap<String, HashSet<i64>> {
    names().map(|name| (name, (0..20).collect())).collect()
}

fn maps() -> Vec<Json<HashMap<String, i64>>> {
    vec![Json(map()), Json(HashMap::new()), Json(map())]
}

probes!("msgpack", [
    Unordered {strategy = "aside"}
    UnorderedBehind {strategy = "write_behind", durability = "memory"}
], {
    #[sqlx(json)] map: HashMap<String, i64>, "JSONB", map();
    sets: Json<HashMap<String, HashSet<i64>>>, "JSON", Json(sets());
    #[sqlx(json(nullable))] pending_index: Option<HashSet<String>>, "JSONB", Some(names().collect());
    maps: Vec<Json<HashMap<String, i64>>>, "JSONB[]", maps();
    whatever: serde_json::Value, "JSON", json!({"b": [1, 2.5, u64::MAX, "x", null, true], "a": {"z": 1, "y": {}}});
    nan: Option<f64>, "DOUBLE PRECISION", Some(f64::NAN);
    zero: f64, "DOUBLE PRECISION", -0.0;
    boxed: Option<Box<str>>, "TEXT", Some("text".into());
    borrowed: Cow<'static, str>, "TEXT", "text".into();
});

probes!("json", [
    UnorderedText {strategy = "aside"}
    UnorderedTextBehind {strategy = "write_behind", durability = "memory"}
], {
    sets: Json<HashMap<String, HashSet<i64>>>, "JSONB", Json(sets());
    // Must be read as the nearest double, and not as a neighbour.
    long: f64, "DOUBLE PRECISION", 5.954_199_438_299_617e-233;
    largest: f64, "DOUBLE PRECISION", f64::MAX;
    smallest: f64, "DOUBLE PRECISION", f64::from_bits(1);
    elsewhere: chrono::DateTime<chrono::FixedOffset>, "TIMESTAMPTZ", "2026-02-28T23:59:59.123456+05:45".parse().unwrap();
    blob: Vec<u8>, "BYTEA", vec![0, 255, 34];
    #[sqlx(json)] network: IpAddr, "JSONB", "::1".parse().unwrap();
});

/// A value that the codec returns in another order or form is cached and queued.
async fn order_without_meaning_is_no_change(world: &World<Postgres>) {
    Box::pin(survives::<Unordered, UnorderedBehind, _>(world)).await;
    Box::pin(survives::<UnorderedText, UnorderedTextBehind, _>(world)).await;
}

async fn survives<A: Probes, B: Probes<Writes = writes::ToQueue>, DB: Tested>(world: &World<DB>) {
    table::<A, DB>(world).await;
    let aside = rows::<A, DB>(world);
    aside.insert(&A::good(1, "row")).await.unwrap();
    let (origin, _) = read_twice(&aside, 1).await;
    assert_eq!(origin, Origin::Cache);
    let behind = rows::<B, DB>(world);
    behind.install().await.unwrap();
    behind.save(&B::good(1, "row")).await.unwrap();
    behind.flush().await.unwrap();
    let (aside, behind) = (aside.stats(), behind.stats());
    assert_eq!((aside.codec_mismatches, behind.codec_mismatches), (0, 0));
    assert_eq!(behind.dead_letters, 0);
}

/// Without its feature `float_roundtrip`, `serde_json` reads some numbers as a neighbouring double.
#[test]
fn every_double_comes_back_from_json() {
    let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..100_000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let number = f64::from_bits(bits ^ (bits >> 29));
        if number.is_finite() {
            let bytes = Codec::Json.encode(&number).unwrap();
            let back: f64 = Codec::Json.decode(&bytes).unwrap();
            assert_eq!(number.to_bits(), back.to_bits(), "{number}");
        }
    }
}

probes!("json", [
    Light {strategy = "aside"}
    LightBehind {strategy = "write_behind", durability = "memory"}
], {
    sets: Json<HashMap<String, HashSet<i64>>>, "TEXT", Json(sets());
    #[sqlx(json)] pending_index: HashSet<i64>, "TEXT", (0..40).collect();
    boxed: Option<Box<str>>, "TEXT", Some("\\\"".into());
    day: chrono::NaiveDate, "DATE", chrono::NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
    bytes: Option<Vec<u8>>, "BLOB", Some(vec![0, 255, 34]);
});

probes!("json", [
    Plain {strategy = "aside"}
    PlainThrough {strategy = "write_through"}
    PlainBehind {strategy = "write_behind", durability = "memory"}
], {
    #[sqlx(json)] renamed: Renamed, "TEXT", Renamed::default(), SEVEN, r#"{"gate_number": 7}"#;
    json_null: Option<serde_json::Value>, "TEXT", Some(json!({"a": 1})), Some(serde_json::Value::Null), "null";
    trimmed: Trimmed, "TEXT", trimmed("a"), trimmed("a "), "a ";
    masked: Option<Masked>, "TEXT", None, Some(masked("seen")), "seen";
    #[sqlx(try_from = "String")] grid: Grid, "TEXT", Grid(BTreeMap::new()), cell(), "1 2 3 ";
});

on_both_stores!(
    sqlite_tells_changed_rows_from_others,
    field_that_is_no_column_is_as_fresh_as_from_the_database,
    mismatch_is_logged_once_for_a_field,
    composite_id_that_the_codec_changes_deletes_no_row,
    dead_letter_is_written_with_a_codec_that_carries_it,
);
on_mysql!(mysql_tells_changed_rows_from_others);

async fn sqlite_tells_changed_rows_from_others(world: &World<Sqlite>) {
    tells_changed_rows_from_others(world).await;
}

async fn mysql_tells_changed_rows_from_others(world: &World<MySql>) {
    tells_changed_rows_from_others(world).await;
}

async fn tells_changed_rows_from_others<DB: Tested>(world: &World<DB>) {
    Box::pin(survives::<Light, LightBehind, _>(world)).await;
    Box::pin(none_is_cached::<Plain, _>(world)).await;
    assert_eq!(
        Box::pin(none_is_a_cache_update::<PlainThrough, _>(world)).await,
        4
    );
    Box::pin(none_is_queued::<PlainBehind, _>(world)).await;
}

/// The fields that are not columns hold values of the application, or the default of serde.
macro_rules! labelled {
    ($name:ident, $($keys:tt)*) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "items", $($keys)*)]
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

labelled!(Labelled, strategy = "aside");
labelled!(
    LabelledBehind,
    strategy = "write_behind",
    durability = "memory"
);

fn seven() -> i64 {
    7
}

async fn field_that_is_no_column_is_as_fresh_as_from_the_database(world: &World<Sqlite>) {
    let aside = Labelled::repository(&cache_of::<Labelled, _>(world), world.pool.clone());
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
    let cache = cache_of::<LabelledBehind, _>(world);
    let behind = LabelledBehind::repository(&cache, world.pool.clone());
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
    world
        .sql("CREATE TABLE probes (id BIGINT PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL)")
        .await;
    // The lines are identified by the name of the entity, which no other test uses.
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
        let again = Repository::<E, _>::new(&cache_of::<E, _>(world), world.pool.clone());
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
        Kind::Redis | Kind::Sealed => {
            read_all::<OnRedis>(world).await;
            "OnRedis"
        }
    };
    let lines = log::lines_with("entity", entity);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].field("field"), Some("value"));
    assert_eq!(lines[0].field("codec"), Some("MessagePack"));
}

/// The codec reproduces its row, but not its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "seats", strategy = "write_behind", durability = "memory")]
struct Seat {
    #[cached(id)]
    flight: i64,
    #[cached(id)]
    #[serde(with = "seat_as_it_is")]
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

mod seat_as_it_is {
    use super::*;

    pub(super) fn serialize<S: Serializer>(seat: &SeatName, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&seat.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SeatName, D::Error> {
        SeatName::deserialize(from)
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

/// The queue may have writes of another codec, with values that the present codec cannot carry.
async fn dead_letter_is_written_with_a_codec_that_carries_it(world: &World<Sqlite>) {
    let infinite = || LetterRow {
        id: 1,
        number: f64::INFINITY,
        text: masked(""),
    };
    let masked = || LetterRow {
        id: 0,
        text: masked("seen"),
        ..infinite()
    };
    // The database rejects every write.
    world
        .sql("CREATE TABLE letter_rows (id BIGINT PRIMARY KEY CHECK (id > 1), number REAL, text TEXT)")
        .await;
    let rows = rows::<LetterRow, _>(world);
    rows.install().await.unwrap();
    let incarnation = offsets::register(&world.pool, "letters", 0, 0).await;
    let place = QueueIncarnation {
        queue: "letters".into(),
        partition: 0,
        incarnation: incarnation.unwrap(),
    };
    let write = |number, row| Queued {
        number,
        key: larder::key::Key::from_bytes(b"letter"),
        image: Image::Row(Arc::new(row)),
    };
    let writes = [write(1, infinite()), write(2, masked())];
    let batch = Batch {
        place: &place,
        from: 0,
        to: 2,
        writes: &writes,
        lost: 0,
        lost_counted_to: None,
        compares: true,
        codec: Codec::Json,
        layout: 7,
        seals: LetterSeals::default(),
        now_ms: 0,
    };
    let applied = rows.apply_queued(&batch, &Hooks::default()).await.unwrap();
    assert_eq!(applied.dead.len(), 2);
    let letters =
        letters::list::<LetterRow, _>(&world.pool, "letters", 7, LetterSeals::default(), 10).await;
    let [first, second] = &letters.unwrap()[..] else {
        panic!("there are two letters");
    };
    assert_eq!(first.row(), Some(&infinite()), "JSON has no word for it");
    assert!(second.row().is_none(), "nobody may replay what is masked");
    let reason = second.decode_error().unwrap();
    assert!(reason.contains("no codec could carry"), "{reason}");
    let error = second.error();
    assert!(error.contains("for people only"), "{error}");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "letter_rows",
    strategy = "write_behind",
    durability = "memory",
    codec = "json"
)]
struct LetterRow {
    #[cached(id)]
    id: i64,
    number: f64,
    text: Masked,
}
