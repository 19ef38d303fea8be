//! A panic in the code of a type, when it reads or writes a value, is an error of that row and of nothing else. The error
//! says whether the row was written.

use larder::{Cached, Error, ErrorKind, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::{Decode, Encode, Postgres, Row, Sqlite, Type, encode::IsNull, error::BoxDynError};

use crate::world::{Kind, Tested, World, everywhere, on_all_databases, on_postgres};

everywhere!(
    a_decoder_that_panics_is_a_conversion_error_of_every_read,
    a_row_that_panics_does_not_hurt_other_rows,
    a_write_through_write_says_whether_its_row_was_written,
    an_encoder_that_panics_is_a_conversion_error_of_the_write,
);
on_all_databases!(
    a_from_row_that_panics_is_a_conversion_error,
    a_queued_write_whose_row_panics_is_flushed,
);
on_postgres!(an_infinity_is_a_conversion_error);

/// A number whose code panics below zero: at -1 when it is read, at -2 when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Touchy(i64);

impl<DB: sqlx::Database> Type<DB> for Touchy
where
    i64: Type<DB>,
{
    fn type_info() -> DB::TypeInfo {
        i64::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        i64::compatible(ty)
    }
}

impl<'r, DB: sqlx::Database> Decode<'r, DB> for Touchy
where
    i64: Decode<'r, DB>,
{
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        let number = i64::decode(value)?;
        assert!(number != -1, "no number is {number}");
        Ok(Self(number))
    }
}

impl<'q, DB: sqlx::Database> Encode<'q, DB> for Touchy
where
    i64: Encode<'q, DB>,
{
    fn encode_by_ref(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        if self.0 == -2 {
            std::panic::panic_any("minus two");
        }
        self.0.encode_by_ref(buffer)
    }
}

macro_rules! of_touchy {
    ($(#[$($attribute:tt)*])* $name:ident) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
        #[cached(table = "touchy")]
        $(#[$($attribute)*])*
        struct $name {
            #[cached(id)]
            id: i64,
            number: Touchy,
        }

        impl $name {
            fn new(id: i64, number: i64) -> Self {
                Self { id, number: Touchy(number) }
            }
        }
    };
}

of_touchy!(Plain);
of_touchy!(
    #[cached(strategy = "write_through")]
    Through
);
of_touchy!(
    #[cached(strategy = "write_behind", durability = "memory", linger = "1ms")]
    Queued
);

async fn create<DB: Tested>(world: &World<DB>) {
    for text in [
        "CREATE TABLE touchy (id BIGINT NOT NULL PRIMARY KEY, number BIGINT NOT NULL)",
        "INSERT INTO touchy (id, number) VALUES (1, 1), (2, -1), (3, 3)",
    ] {
        world.sql(text).await;
    }
}

#[track_caller]
fn is_panic(error: &Error, text: &str) {
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    assert!(
        error.to_string().contains(&format!("panicked: {text}")),
        "{error}"
    );
}

async fn a_decoder_that_panics_is_a_conversion_error_of_every_read<DB: Tested>(world: &World<DB>) {
    create(world).await;
    let rows = Plain::repository(&world.cache, world.pool.clone());
    for _ in 0..2 {
        is_panic(&rows.find(2).await.unwrap_err(), "no number is -1");
        is_panic(&rows.find_uncached(2).await.unwrap_err(), "no number is -1");
        is_panic(&rows.find_outcome(2).await.unwrap_err(), "no number is -1");
        is_panic(&rows.exists(2).await.unwrap_err(), "no number is -1");
        is_panic(&rows.refresh(2).await.unwrap_err(), "no number is -1");
    }
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let found = rows.within(&mut transaction).find(2).await;
    is_panic(&found.unwrap_err(), "no number is -1");
    transaction.rollback().await.unwrap();
}

async fn a_row_that_panics_does_not_hurt_other_rows<DB: Tested>(world: &World<DB>) {
    create(world).await;
    let rows = Plain::repository(&world.cache, world.pool.clone());
    rows.find(2).await.unwrap_err();
    for id in [1, 3, 1, 3] {
        assert_eq!(rows.find(id).await.unwrap().unwrap().number, Touchy(id));
    }
    world.sql("UPDATE touchy SET number = 2 WHERE id = 2").await;
    assert_eq!(rows.find(2).await.unwrap().unwrap().number, Touchy(2));
}

/// The statement of Postgres and SQLite returns the row after it has committed. MariaDB's row is read in the transaction.
async fn a_write_through_write_says_whether_its_row_was_written<DB: Tested>(world: &World<DB>) {
    create(world).await;
    let rows = Through::repository(&world.cache, world.pool.clone());
    let is_committed = DB::NAME != <sqlx::MySql as sqlx::Database>::NAME;
    let writes = [
        (1, rows.update(&Through::new(1, -1)).await.unwrap_err()),
        (3, rows.save(&Through::new(3, -1)).await.unwrap_err()),
        (4, rows.insert(&Through::new(4, -1)).await.unwrap_err()),
    ];
    for (id, error) in &writes {
        is_panic(error, "no number is -1");
        let text = error.to_string();
        assert_eq!(
            text.contains("written and committed"),
            is_committed,
            "{text}"
        );
        let expected = match (is_committed, id) {
            (true, _) => "-1".to_owned(),
            (false, 4) => "none".to_owned(),
            (false, id) => id.to_string(),
        };
        assert_eq!(number(world, *id).await, expected, "{id}");
    }
    // The entry is not the row before the write.
    assert_eq!(rows.find(1).await.is_err(), is_committed);
}

async fn number<DB: Tested>(world: &World<DB>, id: i64) -> String {
    world
        .text(match id {
            1 => {
                "SELECT COALESCE((SELECT CAST(number AS CHAR(5)) FROM touchy WHERE id = 1), 'none')"
            }
            3 => {
                "SELECT COALESCE((SELECT CAST(number AS CHAR(5)) FROM touchy WHERE id = 3), 'none')"
            }
            _ => {
                "SELECT COALESCE((SELECT CAST(number AS CHAR(5)) FROM touchy WHERE id = 4), 'none')"
            }
        })
        .await
        .trim()
        .to_owned()
}

async fn an_encoder_that_panics_is_a_conversion_error_of_the_write<DB: Tested>(world: &World<DB>) {
    create(world).await;
    let rows = Plain::repository(&world.cache, world.pool.clone());
    is_panic(
        &rows.insert(&Plain::new(4, -2)).await.unwrap_err(),
        "minus two",
    );
    is_panic(
        &rows.update(&Plain::new(1, -2)).await.unwrap_err(),
        "minus two",
    );
    is_panic(
        &rows.save(&Plain::new(1, -2)).await.unwrap_err(),
        "minus two",
    );
    let many = [Plain::new(5, 5), Plain::new(6, -2)];
    is_panic(&rows.insert_many(&many).await.unwrap_err(), "minus two");
    assert_eq!(rows.find(1).await.unwrap().unwrap().number, Touchy(1));
    assert_eq!(rows.find(5).await.unwrap(), None);
    rows.update(&Plain::new(1, 10)).await.unwrap();
    assert_eq!(rows.find(1).await.unwrap().unwrap().number, Touchy(10));
}

#[derive(Clone, Debug, Serialize, Deserialize, Cached)]
#[cached(table = "touchy")]
struct Handmade {
    #[cached(id)]
    id: i64,
    number: i64,
}

impl<'r, R: Row> sqlx::FromRow<'r, R> for Handmade
where
    &'static str: sqlx::ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let number: i64 = row.try_get("number")?;
        let numbers = [0, 1, 2, 3];
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Self {
            id: row.try_get("id")?,
            number: numbers[index],
        })
    }
}

async fn a_from_row_that_panics_is_a_conversion_error<DB: Tested>(world: &World<DB>)
where
    Handmade: for<'r> sqlx::FromRow<'r, DB::Row>,
{
    create(world).await;
    let rows = Handmade::repository(&world.cache, world.pool.clone());
    is_panic(&rows.find(2).await.unwrap_err(), "index out of bounds");
    is_panic(
        &rows.find_uncached(2).await.unwrap_err(),
        "index out of bounds",
    );
    assert_eq!(rows.find(3).await.unwrap().unwrap().number, 3);
}

async fn a_queued_write_whose_row_panics_is_flushed<DB: Tested>(world: &World<DB>) {
    create(world).await;
    let rows = Queued::repository(&world.cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&Queued::new(1, -1)).await.unwrap();
    rows.save(&Queued::new(3, 30)).await.unwrap();
    rows.flush().await.unwrap();
    assert_eq!(number(world, 1).await, "-1");
    assert_eq!(number(world, 3).await, "30");
    is_panic(&rows.find_uncached(1).await.unwrap_err(), "no number is -1");
    assert_eq!(
        rows.find_uncached(3).await.unwrap().unwrap().number,
        Touchy(30)
    );
    assert_eq!(rows.stats().dead_letters, 0);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "leases", strategy = "write_through")]
struct Contract {
    #[cached(id)]
    id: i64,
    name: String,
    #[cached(generated)]
    until: chrono::NaiveDate,
    #[cached(generated)]
    at: chrono::DateTime<chrono::Utc>,
}

async fn an_infinity_is_a_conversion_error(world: &World<Postgres>) {
    world
        .sql(
            "CREATE TABLE leases (id BIGINT PRIMARY KEY, name TEXT NOT NULL, until DATE NOT NULL DEFAULT 'infinity', \
             at TIMESTAMPTZ NOT NULL DEFAULT '-infinity')",
        )
        .await;
    world
        .sql("INSERT INTO leases VALUES (1, 'a', 'infinity', now()), (2, 'b', '2024-02-29', '-infinity')")
        .await;
    let rows = Contract::repository(&world.cache, world.pool.clone());
    let report = rows.check_schema().await.unwrap();
    assert!(
        report.is_ok() && report.to_string().contains("`infinity`"),
        "{report}"
    );
    for id in [1, 2] {
        for error in [
            rows.find(id).await.unwrap_err(),
            rows.find_uncached(id).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
            assert!(
                error
                    .to_string()
                    .contains("the decoder of the row panicked: "),
                "{error}"
            );
        }
    }
    let contract = Contract {
        id: 3,
        name: "c".to_owned(),
        until: chrono::NaiveDate::MIN,
        at: chrono::DateTime::UNIX_EPOCH,
    };
    let error = rows.insert(&contract).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    assert!(
        error
            .to_string()
            .contains("the row was written and committed"),
        "{error}"
    );
    assert_eq!(
        world.text("SELECT name FROM leases WHERE id = 3").await,
        "c"
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "moments")]
struct Moment {
    #[cached(id)]
    id: i64,
    at: time::PrimitiveDateTime,
}

/// sqlx's own decoder panics at a number that is no point in time.
#[tokio::test]
async fn a_number_that_is_no_time_is_a_conversion_error() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    world
        .sql("CREATE TABLE moments (id INTEGER PRIMARY KEY, at DATETIME NOT NULL)")
        .await;
    world
        .sql("INSERT INTO moments VALUES (1, 9223372036854775807)")
        .await;
    let rows = Moment::repository(&world.cache, world.pool.clone());
    let error = rows.find(1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conversion, "{error}");
    assert!(
        error
            .to_string()
            .contains("the decoder of the row panicked: "),
        "{error}"
    );
    world.database.close().await;
}
