//! Every type of column: the value is the same after database, codec and store, to the last bit.

use std::collections::BTreeMap;

use larder::{Cache, Cached, Codec, Columns, ErrorKind, Origin, Repository};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};
use uuid::Uuid;

use crate::world::{Tested, World, eventually, on_postgres, redis_url, unique};

on_postgres!(every_postgres_type_survives);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
    Grumpy,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
struct Metres(i64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Extra {
    Text { text: String },
    Map { map: BTreeMap<String, Option<i64>> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Columns)]
struct QueueIncarnation {
    latitude: f64,
    #[sqlx(rename = "lon")]
    longitude: f64,
}

/// A number that is stored as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Written(u64);

impl TryFrom<String> for Written {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<Written> for String {
    fn from(written: Written) -> Self {
        written.0.to_string()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "wide", lease(ttl = "60s", wait = "20s"))]
#[sqlx(rename_all = "camelCase")]
struct Wide {
    #[cached(id)]
    id: Uuid,
    big_number: i64,
    small_number: i16,
    ratio: f64,
    flag: bool,
    #[sqlx(rename = "free text")]
    text: String,
    empty: Option<String>,
    bytes: Vec<u8>,
    price: Decimal,
    at: chrono::DateTime<chrono::Utc>,
    day: chrono::NaiveDate,
    moment: time::OffsetDateTime,
    mood: Mood,
    distance: Metres,
    tags: Vec<String>,
    #[sqlx(json)]
    extra: Extra,
    #[sqlx(json(nullable))]
    maybe: Option<Vec<i64>>,
    #[sqlx(flatten)]
    place: QueueIncarnation,
    #[sqlx(try_from = "String")]
    written: Written,
    #[sqlx(skip)]
    computed: u32,
    no_number: Option<i64>,
    no_bytes: Option<Vec<u8>>,
    no_price: Option<Decimal>,
    no_moment: Option<chrono::DateTime<chrono::Utc>>,
    no_uuid: Option<Uuid>,
    no_mood: Option<Mood>,
    no_tags: Option<Vec<String>>,
}

fn wide() -> Wide {
    Wide {
        id: Uuid::from_u128(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF),
        big_number: (1 << 53) + 1,
        small_number: i16::MIN,
        ratio: 0.1 + 0.2,
        flag: true,
        text: "zero \u{1F9CA} tab\t".to_owned(),
        empty: Some(String::new()),
        bytes: vec![0, 255, 128, 7],
        price: "1234567890.12345678".parse().unwrap(),
        at: "2026-02-28T23:59:59.123456Z".parse().unwrap(),
        day: chrono::NaiveDate::from_ymd_opt(2024, 2, 29).unwrap(),
        moment: time::macros::datetime!(1999-12-31 23:59:59.999999 UTC),
        mood: Mood::Grumpy,
        distance: Metres(i64::MAX),
        tags: vec!["a,b".to_owned(), String::new(), "\"quoted\"".to_owned()],
        extra: Extra::Map {
            map: [
                ("none".to_owned(), None),
                ("big".to_owned(), Some(i64::MAX)),
            ]
            .into(),
        },
        maybe: None,
        place: QueueIncarnation {
            latitude: -33.9461,
            longitude: 151.1772,
        },
        written: Written(u64::MAX),
        computed: 0,
        no_number: None,
        no_bytes: None,
        no_price: None,
        no_moment: None,
        no_uuid: None,
        no_mood: None,
        no_tags: None,
    }
}

const WIDE: &str = r#"CREATE TABLE wide (id UUID PRIMARY KEY, "bigNumber" BIGINT NOT NULL, "smallNumber" SMALLINT NOT NULL,
    ratio DOUBLE PRECISION NOT NULL, flag BOOLEAN NOT NULL, "free text" TEXT NOT NULL, empty TEXT, bytes BYTEA NOT NULL,
    price NUMERIC(30, 8) NOT NULL, at TIMESTAMPTZ NOT NULL, day DATE NOT NULL, moment TIMESTAMPTZ NOT NULL, mood mood NOT NULL,
    distance BIGINT NOT NULL, tags TEXT[] NOT NULL, extra JSONB NOT NULL, maybe JSONB, latitude DOUBLE PRECISION NOT NULL,
    lon DOUBLE PRECISION NOT NULL, written TEXT NOT NULL, "noNumber" BIGINT, "noBytes" BYTEA, "noPrice" NUMERIC,
    "noMoment" TIMESTAMPTZ, "noUuid" UUID, "noMood" mood, "noTags" TEXT[])"#;

async fn every_postgres_type_survives(world: &World<Postgres>) {
    world
        .sql("CREATE TYPE mood AS ENUM ('happy', 'grumpy')")
        .await;
    world.sql(WIDE).await;
    let rows = Wide::repository(&world.cache, world.pool.clone());
    let report = rows.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    let row = wide();
    rows.insert(&row).await.unwrap();
    assert_eq!(
        rows.find(row.id).await.unwrap().as_deref(),
        Some(&row),
        "from the database"
    );
    assert_eq!(
        rows.find(row.id).await.unwrap().as_deref(),
        Some(&row),
        "from the cache"
    );
    assert_eq!(rows.stats().loads, 1);
    assert_eq!(rows.stats().codec_mismatches, 0);
    let full = Wide {
        empty: None,
        extra: Extra::Text {
            text: "now text".to_owned(),
        },
        maybe: Some(vec![i64::MIN, 0]),
        no_number: Some(i64::MIN),
        no_bytes: Some(vec![]),
        no_price: Some(Decimal::MAX),
        no_moment: Some("1969-07-20T20:17:40Z".parse().unwrap()),
        no_uuid: Some(Uuid::max()),
        no_mood: Some(Mood::Happy),
        no_tags: Some(vec![]),
        ..row
    };
    rows.update(&full).await.unwrap();
    assert_eq!(rows.find(full.id).await.unwrap().as_deref(), Some(&full));
    assert_eq!(rows.find(full.id).await.unwrap().as_deref(), Some(&full));
    rows.save(&wide()).await.unwrap();
    assert_eq!(rows.find(full.id).await.unwrap().as_deref(), Some(&wide()));
    rows.delete(full.id).await.unwrap();
    assert_eq!(rows.find(full.id).await.unwrap(), None);
}

/// Without the types that MariaDB and SQLite do not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "narrow")]
struct Narrow {
    #[cached(id)]
    id: Uuid,
    number: i64,
    ratio: f64,
    flag: bool,
    r#type: String,
    bytes: Vec<u8>,
    at: chrono::DateTime<chrono::Utc>,
    day: chrono::NaiveDate,
    distance: Metres,
    #[sqlx(json)]
    extra: Extra,
    #[sqlx(flatten)]
    place: QueueIncarnation,
    #[sqlx(try_from = "String")]
    written: Written,
    missing: Option<i64>,
}

async fn narrow_row_survives<DB: Tested>(kind: crate::world::Kind, table: &str) {
    let world = World::<DB>::open(kind).await;
    world.sql(table).await;
    let wide = wide();
    let row = Narrow {
        id: wide.id,
        number: i64::MIN,
        ratio: wide.ratio,
        flag: false,
        r#type: wide.text,
        bytes: wide.bytes,
        at: wide.at,
        day: wide.day,
        distance: wide.distance,
        extra: wide.extra,
        place: wide.place,
        written: wide.written,
        missing: None,
    };
    let rows = Narrow::repository(&world.cache, world.pool.clone());
    let report = rows.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    rows.insert(&row).await.unwrap();
    assert_eq!(
        rows.find(row.id).await.unwrap().as_deref(),
        Some(&row),
        "from the database"
    );
    assert_eq!(
        rows.find(row.id).await.unwrap().as_deref(),
        Some(&row),
        "from the cache"
    );
    eventually("the row is served from the cache", async || {
        rows.find_outcome(row.id).await.unwrap().origin == Origin::Cache
    })
    .await;
    assert_eq!(rows.stats().codec_mismatches, 0);
    let changed = Narrow {
        missing: Some(0),
        r#type: String::new(),
        ..row
    };
    rows.save(&changed).await.unwrap();
    assert_eq!(
        rows.find(changed.id).await.unwrap().as_deref(),
        Some(&changed)
    );
    world.database.close().await;
}

const MYSQL_NARROW: &str = "CREATE TABLE narrow (id BINARY(16) PRIMARY KEY, number BIGINT NOT NULL, ratio DOUBLE NOT NULL, \
    flag BOOLEAN NOT NULL, type VARCHAR(100) NOT NULL, bytes VARBINARY(100) NOT NULL, at TIMESTAMP(6) NOT NULL, day DATE NOT NULL, \
    distance BIGINT NOT NULL, extra JSON NOT NULL, latitude DOUBLE NOT NULL, lon DOUBLE NOT NULL, written VARCHAR(30) NOT NULL, \
    missing BIGINT)";
const SQLITE_NARROW: &str = "CREATE TABLE narrow (id BLOB NOT NULL PRIMARY KEY, number INTEGER NOT NULL, ratio REAL NOT NULL, \
    flag BOOLEAN NOT NULL, type TEXT NOT NULL, bytes BLOB NOT NULL, at DATETIME NOT NULL, day DATE NOT NULL, \
    distance INTEGER NOT NULL, extra TEXT NOT NULL, latitude REAL NOT NULL, lon REAL NOT NULL, written TEXT NOT NULL, missing INTEGER)";

#[tokio::test]
async fn every_mysql_type_survives_memory() {
    narrow_row_survives::<MySql>(crate::world::Kind::Memory, MYSQL_NARROW).await;
}

#[tokio::test]
async fn every_mysql_type_survives_redis() {
    narrow_row_survives::<MySql>(crate::world::Kind::Redis, MYSQL_NARROW).await;
}

#[tokio::test]
async fn every_sqlite_type_survives_memory() {
    narrow_row_survives::<Sqlite>(crate::world::Kind::Memory, SQLITE_NARROW).await;
}

#[tokio::test]
async fn every_sqlite_type_survives_redis() {
    narrow_row_survives::<Sqlite>(crate::world::Kind::Redis, SQLITE_NARROW).await;
}

#[test]
fn every_type_survives_the_codecs_that_can_carry_it() {
    let row = wide();
    for codec in [Codec::MessagePack, Codec::Json] {
        let bytes = codec.encode(&row).unwrap();
        assert_eq!(codec.decode::<Wide>(&bytes).unwrap(), row, "{codec:?}");
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Plain {
        map: BTreeMap<u64, Option<Mood>>,
        number: u64,
        at: chrono::DateTime<chrono::FixedOffset>,
        id: Uuid,
        bytes: Vec<u8>,
        nested: Option<Box<Plain>>,
    }
    let plain = Plain {
        map: [(u64::MAX, None), (0, Some(Mood::Happy))].into(),
        number: u64::MAX,
        at: "2026-02-28T23:59:59.123456+05:45".parse().unwrap(),
        id: Uuid::nil(),
        bytes: vec![0, 255],
        nested: None,
    };
    let nested = Plain {
        nested: Some(Box::new(plain.clone())),
        ..plain
    };
    for codec in [Codec::MessagePack, Codec::Postcard, Codec::Json] {
        let bytes = codec.encode(&nested).unwrap();
        assert_eq!(codec.decode::<Plain>(&bytes).unwrap(), nested, "{codec:?}");
    }
}

/// A positional codec cannot carry a self-describing value. The repository reports that when it is made.
#[tokio::test]
async fn postcard_refuses_self_describing_fields_at_start() {
    let cache = Cache::builder().codec(Codec::Postcard).build().unwrap();
    let pool = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    let error = Wide::try_repository(&cache, pool).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(
        error
            .to_string()
            .contains("Wide cannot be cached with Postcard"),
        "{error}"
    );
    assert!(
        error.to_string().contains("msgpack"),
        "the way out is named: {error}"
    );
}

/// Code that is generic over the entity finds out when the repository is made, from the message that the compiler has.
#[tokio::test]
async fn repository_of_the_runtime_names_every_column_that_does_not_fit() {
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
    #[cached(table = "counted")]
    struct Counted {
        #[cached(id)]
        id: i64,
        views: u64,
        #[sqlx(flatten)]
        nested: Nested,
    }
    #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Columns)]
    struct Nested {
        price: Option<Decimal>,
        names: Vec<u8>,
    }
    let cache = Cache::in_process();
    let pool = sqlx::SqlitePool::connect_lazy("sqlite::memory:").unwrap();
    let error = Repository::<Counted, _>::try_new(&cache, pool).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert_eq!(
        error.to_string(),
        "failed to create the repository of Counted: SQLite cannot store every column of `Counted`\n\
         - column `views`: it cannot store `u64`; use `i64`, or mark the field `#[sqlx(try_from = \"i64\")]`\n\
         - column `price`: it cannot store `Option<Decimal>`; enable the feature `rust_decimal` of sqlx, or mark the field \
         `#[sqlx(json)]` or `#[sqlx(try_from = \"..\")]`"
    );
    let pool = sqlx::MySqlPool::connect_lazy("mysql://nobody@127.0.0.1:1/none").unwrap();
    Repository::<Counted, _>::try_new(&cache, pool).unwrap();
}

#[tokio::test]
async fn postcard_and_json_carry_a_row_through_redis() {
    use crate::{entities::Item, world::Kind};
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let item = Item {
        note: Some("ä".to_owned()),
        ..Item::new(1, "one")
    };
    world.put(&item).await;
    for codec in [Codec::Postcard, Codec::Json] {
        let cache = Cache::builder()
            .redis(redis_url())
            .listed(false)
            .namespace(unique("codec"))
            .codec(codec)
            .connect()
            .await
            .unwrap();
        let items = Item::repository(&cache, world.pool.clone());
        world.warm(&items, 1).await;
        assert_eq!(items.find(1).await.unwrap().as_deref(), Some(&item));
        assert_eq!(items.stats().hits, 1, "{codec:?}");
    }
    world.database.close().await;
}

/// Further types of MariaDB: exact numbers, times of the `time` crate, enums as text, unsigned integers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "exact")]
struct Exact {
    #[cached(id)]
    id: u64,
    price: Decimal,
    moment: time::OffsetDateTime,
    day: time::Date,
    // sqlx compares the flags of a text column, so it accepts an ENUM only if the column may be NULL.
    mood: Option<Mood>,
    nothing: Option<Decimal>,
    small: u8,
}

async fn exact_row_survives(kind: crate::world::Kind) {
    let world = World::<MySql>::open(kind).await;
    world
        .sql(
            "CREATE TABLE exact (id BIGINT UNSIGNED PRIMARY KEY, price DECIMAL(30, 8) NOT NULL, moment TIMESTAMP(6) NOT NULL, \
             day DATE NOT NULL, mood ENUM('happy', 'grumpy'), nothing DECIMAL(10, 2), small TINYINT UNSIGNED NOT NULL)",
        )
        .await;
    let rows = Exact::repository(&world.cache, world.pool.clone());
    let report = rows.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    let row = Exact {
        id: u64::MAX,
        price: "-1234567890123456789012.12345678".parse().unwrap(),
        moment: time::macros::datetime!(2024-02-29 23:59:59.999999 UTC),
        day: time::macros::date!(1999 - 12 - 31),
        mood: Some(Mood::Happy),
        nothing: None,
        small: u8::MAX,
    };
    rows.insert(&row).await.unwrap();
    assert_eq!(
        rows.find(u64::MAX).await.unwrap().as_deref(),
        Some(&row),
        "from the database"
    );
    assert_eq!(
        rows.find(u64::MAX).await.unwrap().as_deref(),
        Some(&row),
        "from the cache"
    );
    eventually("the row is served from the cache", async || {
        rows.find_outcome(row.id).await.unwrap().origin == Origin::Cache
    })
    .await;
    assert_eq!(rows.stats().codec_mismatches, 0);
    let changed = Exact {
        nothing: Some("0.10".parse().unwrap()),
        mood: Some(Mood::Grumpy),
        ..row
    };
    rows.save(&changed).await.unwrap();
    assert_eq!(
        rows.find(u64::MAX).await.unwrap().as_deref(),
        Some(&changed)
    );
    rows.delete(u64::MAX).await.unwrap();
    assert_eq!(rows.find(u64::MAX).await.unwrap(), None);
    world.database.close().await;
}

#[tokio::test]
async fn every_exact_mysql_type_survives_memory() {
    exact_row_survives(crate::world::Kind::Memory).await;
}

#[tokio::test]
async fn every_exact_mysql_type_survives_redis() {
    exact_row_survives(crate::world::Kind::Redis).await;
}
