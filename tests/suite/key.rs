//! Keys: no two ids share one, their length is limited, and ids that the database treats as equal have keys of their own.

use std::collections::HashMap;

use larder::{Cached, ErrorKind, key::KeySpace, policy::Policy};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres, Sqlite};

use crate::world::{Tested, World, everywhere, on_both_stores};

everywhere!(
    composite_ids_do_not_collide,
    very_long_ids_are_found_again,
    text_ids_are_compared_byte_for_byte,
    converted_and_text_parts_make_one_id,
    a_column_that_is_not_there_is_an_error,
);
on_both_stores!(awkward_text_ids_are_found_again);

fn key<I: Serialize>(id: I) -> String {
    KeySpace::new("ns", "Entity", &Policy::DEFAULT)
        .key(&id)
        .unwrap()
        .to_string()
}

#[test]
fn keys_read_as_namespace_entity_and_id() {
    assert_eq!(key(42_i64), "ns:Entity:42");
    assert_eq!(key(i64::MIN), "ns:Entity:-9223372036854775808");
    assert_eq!(key(u64::MAX), "ns:Entity:18446744073709551615");
    assert_eq!(key(("LH", 400_u16)), "ns:Entity:LH:400");
    assert_eq!(key("a:b{c}%"), "ns:Entity:a%3Ab%7Bc%7D%25");
    assert_eq!(key("grün"), "ns:Entity:grün");
    let uuid = uuid::Uuid::from_u128(7);
    assert_eq!(key(uuid), "ns:Entity:00000000-0000-0000-0000-000000000007");
}

#[test]
fn a_hash_tag_surrounds_namespace_and_entity() {
    let space = KeySpace::new("ns", "Entity", &Policy::DEFAULT.hash_tag());
    assert_eq!(space.key("a}b").unwrap().to_string(), "{ns:Entity}:a%7Db");
}

#[test]
fn an_entity_names_its_own_namespace() {
    let space = KeySpace::new("ns", "Entity", &Policy::DEFAULT.namespace("billing"));
    assert_eq!(space.key(&1).unwrap().to_string(), "billing:Entity:1");
}

#[test]
fn ids_that_look_alike_have_keys_of_their_own() {
    #[derive(Serialize)]
    enum Kind {
        Plain,
        With(u8),
        Named { a: u8, b: u8 },
    }
    let mut seen: HashMap<String, String> = HashMap::new();
    let mut check = |name: &str, key: String| {
        if let Some(other) = seen.insert(key.clone(), name.to_owned()) {
            panic!("{name} and {other} share the key {key}");
        }
    };
    check("empty text", key(""));
    check("absent", key(None::<&str>));
    check("present and empty, twice over", key(Some(Some("x"))));
    check("absent inside present", key(Some(None::<&str>)));
    check("unit tuple of empty texts", key(("", "")));
    check("one colon", key(":"));
    check("colon in the first part", key(("a:b", "c")));
    check("colon in the second part", key(("a", "b:c")));
    check("three parts", key(("a", "b", "c")));
    check("percent", key("%-"));
    check("mark of absence as text", key("%~"));
    check("list", key(vec!["a", "b"]).replace("a:b", "list a:b"));
    check("nested list", key((vec!["a", "b"], "c")));
    check("nested list moved", key(("a", vec!["b", "c"])));
    check("nested list in text", key(("a", "(b,c)")));
    check("nul", key("\0"));
    check("bytes", key(serde_bytes(b"ab")));
    check("variant", key(("x", Kind::Plain)));
    check("variant with a value", key(("x", Kind::With(1))));
    check("variant with names", key(("x", Kind::Named { a: 1, b: 2 })));
    check("variant as text", key(("x", "With=1")));
}

/// Text that serializes as bytes and not as a sequence.
fn serde_bytes(bytes: &'static [u8]) -> impl Serialize {
    struct Bytes(&'static [u8]);
    impl Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
    Bytes(bytes)
}

#[test]
fn values_with_several_spellings_are_refused() {
    let space = KeySpace::new("ns", "Entity", &Policy::DEFAULT);
    let error = space.key(&1.5_f64).unwrap_err();
    assert!(error.to_string().contains("several spellings"), "{error}");
    assert!(space.key(&HashMap::from([(1, 2)])).is_err());
}

proptest! {
    #[test]
    fn different_ids_have_different_keys(
        a in (any::<String>(), any::<Option<String>>(), any::<i64>()),
        b in (any::<String>(), any::<Option<String>>(), any::<i64>()),
    ) {
        prop_assert_eq!(a == b, key(&a) == key(&b));
    }

    #[test]
    fn texts_of_separators_have_different_keys(a in "[:%{}(),=~.a-]{0,12}", b in "[:%{}(),=~.a-]{0,12}", c in "[:%a]{0,4}", d in "[:%a]{0,4}") {
        prop_assert_eq!(a == b, key(&a) == key(&b));
        prop_assert_eq!((&a, &c) == (&b, &d), key((&a, &c)) == key((&b, &d)));
    }

    #[test]
    fn keys_are_bounded(text in "\\PC{0,600}") {
        prop_assert!(key(&text).len() <= "ns:Entity:".len() + larder::key::MAX_ID);
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "legs")]
struct Leg {
    #[cached(id)]
    carrier: String,
    #[cached(id)]
    number: String,
    note: String,
}

fn leg(carrier: &str, number: &str) -> Leg {
    Leg {
        carrier: carrier.to_owned(),
        number: number.to_owned(),
        note: format!("<{carrier}><{number}>"),
    }
}

async fn composite_ids_do_not_collide<DB: Tested>(world: &World<DB>) {
    world
        .sql(
            "CREATE TABLE legs (carrier VARCHAR(100) NOT NULL, number VARCHAR(100) NOT NULL, note VARCHAR(250) NOT NULL, \
             PRIMARY KEY (carrier, number))",
        )
        .await;
    let legs = Leg::repository(&world.cache, world.pool.clone());
    let all = [
        ("a:b", "c"),
        ("a", "b:c"),
        ("a", ""),
        ("", "a"),
        ("", ""),
        ("%3A", ":"),
        (":", "%3A"),
        ("å", "\u{1F680}"),
    ];
    for (carrier, number) in all {
        legs.insert(&leg(carrier, number)).await.unwrap();
    }
    for _ in 0..2 {
        for (carrier, number) in all {
            let found = legs
                .find((carrier.to_owned(), number.to_owned()))
                .await
                .unwrap();
            assert_eq!(found.as_deref(), Some(&leg(carrier, number)));
        }
    }
    legs.delete(("a".to_owned(), "b:c".to_owned()))
        .await
        .unwrap();
    assert!(
        legs.exists(("a:b".to_owned(), "c".to_owned()))
            .await
            .unwrap()
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "pages", lease(ttl = "60s", wait = "20s"))]
struct Page {
    #[cached(id)]
    path: String,
    title: String,
}

async fn pages<DB: Tested>(world: &World<DB>) -> PageRepository<DB> {
    world.sql("CREATE TABLE pages (path VARCHAR(700) NOT NULL PRIMARY KEY, title VARCHAR(200) NOT NULL)").await;
    Page::repository(&world.cache, world.pool.clone())
}

fn page(path: &str, title: &str) -> Page {
    Page {
        path: path.to_owned(),
        title: title.to_owned(),
    }
}

async fn very_long_ids_are_found_again<DB: Tested>(world: &World<DB>) {
    let pages = pages(world).await;
    // They differ only in the last character, and are much longer than a key may be.
    for last in ["x", "y"] {
        pages
            .insert(&page(&format!("{}{last}", "/long".repeat(120)), last))
            .await
            .unwrap();
    }
    for _ in 0..2 {
        for last in ["x", "y"] {
            let found = pages
                .find(format!("{}{last}", "/long".repeat(120)))
                .await
                .unwrap();
            assert_eq!(found.unwrap().title, last);
        }
    }
    assert_eq!(pages.stats().loads, 2);
}

async fn awkward_text_ids_are_found_again<DB: Tested>(world: &World<DB>) {
    let pages = pages(world).await;
    let paths = [
        "", " ", "a b", "a\tb", "a\nb", "{tag}", "}{", "%", "%%", "%20", "\u{FEFF}", "e\u{301}",
        "\u{E9}", "'; --",
    ];
    for (number, path) in paths.iter().enumerate() {
        pages
            .insert(&page(path, &number.to_string()))
            .await
            .unwrap();
    }
    for _ in 0..2 {
        for (number, path) in paths.iter().enumerate() {
            assert_eq!(
                pages.find(*path).await.unwrap().unwrap().title,
                number.to_string(),
                "{path:?}"
            );
        }
    }
}

/// MariaDB's default collation treats `abc` and `ABC` as equal, and ignores trailing blanks. SQLite's NOCASE ignores case.
/// Reads, writes and absences compare the exact text.
async fn text_ids_are_compared_byte_for_byte<DB: Tested>(world: &World<DB>) {
    let pages = pages(world).await;
    if std::any::TypeId::of::<DB>() == std::any::TypeId::of::<Sqlite>() {
        world.sql("DROP TABLE pages").await;
        world.sql("CREATE TABLE pages (path TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, title TEXT NOT NULL)").await;
    }
    if std::any::TypeId::of::<DB>() == std::any::TypeId::of::<Postgres>() {
        world.sql("CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)").await;
        world
            .sql("ALTER TABLE pages ALTER COLUMN path TYPE text COLLATE folding")
            .await;
    }
    pages.insert(&page("/Home", "first")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            pages.find("/home").await.unwrap(),
            None,
            "another spelling is another id"
        );
        assert_eq!(pages.find("/Home").await.unwrap().unwrap().title, "first");
    }
    assert_eq!(
        pages
            .update(&page("/home", "wrong"))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        pages.delete("/home").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        pages
            .save(&page("/home", "wrong"))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Duplicate
    );
    if std::any::TypeId::of::<DB>() == std::any::TypeId::of::<MySql>() {
        assert_eq!(pages.find("/Home ").await.unwrap(), None);
        assert_eq!(
            pages
                .update(&page("/Home ", "wrong"))
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::NotFound
        );
    }
    assert_eq!(
        pages.find("/Home").await.unwrap().unwrap().title,
        "first",
        "nobody changed the row past its key"
    );
    pages.update(&page("/Home", "second")).await.unwrap();
    assert_eq!(pages.find("/Home").await.unwrap().unwrap().title, "second");
    pages.save(&page("/Home", "third")).await.unwrap();
    assert_eq!(pages.find("/Home").await.unwrap().unwrap().title, "third");
    pages.delete("/Home").await.unwrap();
    pages.insert(&page("/home", "fourth")).await.unwrap();
    assert_eq!(
        pages.find("/home").await.unwrap().unwrap().title,
        "fourth",
        "its absence is forgotten"
    );
    assert_eq!(pages.find("/Home").await.unwrap(), None);
}

/// A number in a type of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Gate(i64);

impl TryFrom<i64> for Gate {
    type Error = std::num::TryFromIntError;

    fn try_from(number: i64) -> Result<Self, Self::Error> {
        Ok(Self(number))
    }
}

impl From<Gate> for i64 {
    fn from(gate: Gate) -> Self {
        gate.0
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "stands")]
struct Stand {
    #[cached(id)]
    #[sqlx(try_from = "i64")]
    gate: Gate,
    #[cached(id)]
    letter: String,
    note: String,
}

async fn converted_and_text_parts_make_one_id<DB: Tested>(world: &World<DB>) {
    world
        .sql(
            "CREATE TABLE stands (gate BIGINT NOT NULL, letter VARCHAR(10) NOT NULL, note VARCHAR(20) NOT NULL, \
             PRIMARY KEY (gate, letter))",
        )
        .await;
    let stands = Stand::repository(&world.cache, world.pool.clone());
    let stand = Stand {
        gate: Gate(7),
        letter: "B".to_owned(),
        note: "first".to_owned(),
    };
    let id = (Gate(7), "B".to_owned());
    stands.insert(&stand).await.unwrap();
    for _ in 0..2 {
        assert_eq!(stands.find(&id).await.unwrap().as_deref(), Some(&stand));
    }
    let moved = Stand {
        note: "second".to_owned(),
        ..stand
    };
    stands.update(&moved).await.unwrap();
    assert_eq!(stands.find(&id).await.unwrap().as_deref(), Some(&moved));
    stands.delete(&id).await.unwrap();
    assert_eq!(stands.find(&id).await.unwrap(), None);
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "items")]
struct Misnamed {
    #[cached(id)]
    id: i64,
    naem: String,
}

/// SQLite would read the quoted name as a text, and return it for every row.
async fn a_column_that_is_not_there_is_an_error<DB: Tested>(world: &World<DB>) {
    world
        .sql("INSERT INTO items (id, name, quantity) VALUES (1, 'one', 1)")
        .await;
    let rows = Misnamed::repository(&world.cache, world.pool.clone());
    assert_eq!(rows.find(1).await.unwrap_err().kind(), ErrorKind::Database);
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "documents")]
struct Document {
    #[cached(id, generated)]
    id: uuid::Uuid,
    title: String,
}

/// MySQL reports a generated id only if it is a number.
#[tokio::test]
async fn an_id_that_the_database_would_not_return_is_refused_at_start() {
    let cache = larder::Cache::in_process();
    let pool = sqlx::MySqlPool::connect_lazy("mysql://nobody@127.0.0.1:1/none").unwrap();
    let error = Document::try_repository(&cache, pool).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(
        error
            .to_string()
            .contains("column id of Document cannot be `generated`"),
        "{error}"
    );
    let pool = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    Document::try_repository(&cache, pool).unwrap();
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "moments")]
struct Moment {
    #[cached(id)]
    at: chrono::DateTime<chrono::Utc>,
    name: String,
}

#[tokio::test]
async fn an_id_type_with_several_spellings_is_refused_at_start() {
    let pool = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
    let error = Moment::try_repository(&larder::Cache::in_process(), pool).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let message = error.to_string();
    assert!(
        message.contains("column at of Moment") && message.contains("use an integer"),
        "{message}"
    );
}

/// Returns the part of a key between its first `{` and the next `}`, which selects the Redis Cluster slot.
fn hash_tag(key: &str) -> Option<&str> {
    let (_, behind) = key.split_once('{')?;
    let (tag, _) = behind.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

#[test]
fn an_id_cannot_choose_the_cluster_slot_of_its_key() {
    let plain = KeySpace::new("ns", "Entity", &Policy::DEFAULT);
    let tagged = KeySpace::new("ns", "Entity", &Policy::DEFAULT.hash_tag());
    for id in ["a", "{b}", "c}", "", "{}"] {
        assert_eq!(hash_tag(&plain.key(id).unwrap().to_string()), None);
        assert_eq!(
            hash_tag(&tagged.key(id).unwrap().to_string()),
            Some("ns:Entity")
        );
    }
}
