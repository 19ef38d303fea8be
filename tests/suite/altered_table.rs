//! A table is altered while a pool is open: every operation goes on, on a connection that has prepared its statements before.
//!
//! The pool of these tests has one connection, so that its statements are certainly those that were prepared before.

use larder::{Cached, ErrorKind, Transaction};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, MySql, Pool, Postgres, Sqlite, pool::PoolOptions};

use crate::{
    entities::{Behind, BehindRepository, ITEMS, Item, ItemRepository, Through, ThroughRepository},
    world::{Tested, World, on_all_databases, on_postgres},
};

on_all_databases!(
    every_operation_goes_on_after_a_table_was_altered,
    a_check_of_the_schema_sees_the_altered_table,
    an_insert_with_a_generated_id_goes_on_after_a_table_was_altered,
    a_transaction_after_the_altering_is_not_disturbed_twice,
);
on_postgres!(
    an_operation_goes_on_after_a_type_was_made_again,
    a_read_goes_on_after_a_table_became_a_view,
    a_pool_with_many_old_connections_costs_each_a_repetition,
);

/// Ways to alter the table of the items, one after the other.
fn alterations<DB: Tested>() -> &'static [&'static [&'static str]] {
    const AGAIN: &str = "CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL, note VARCHAR(100), quantity BIGINT NOT NULL)";
    const ROW: &str = "INSERT INTO items (id, name, note, quantity) VALUES (1, 'one', NULL, 1)";
    match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => &[
            &["ALTER TABLE items ALTER COLUMN name TYPE TEXT"],
            &["ALTER TABLE items ALTER COLUMN name TYPE VARCHAR(300)"],
            &["ALTER TABLE items ALTER COLUMN name TYPE VARCHAR(200)"],
            &["ALTER TABLE items ALTER COLUMN name TYPE VARCHAR(200) COLLATE \"C\""],
            &[
                "ALTER TABLE items DROP COLUMN note",
                "ALTER TABLE items ADD COLUMN note TEXT",
            ],
            &["DROP TABLE items", AGAIN, ROW],
        ],
        name if name == <MySql as sqlx::Database>::NAME => &[
            &["ALTER TABLE items MODIFY name TEXT NOT NULL"],
            &["ALTER TABLE items MODIFY name VARCHAR(300) NOT NULL"],
            &[
                "ALTER TABLE items MODIFY name VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
            ],
            &[
                "ALTER TABLE items DROP COLUMN note",
                "ALTER TABLE items ADD COLUMN note TEXT FIRST",
            ],
            &["DROP TABLE items", AGAIN, ROW],
        ],
        name if name == <Sqlite as sqlx::Database>::NAME => &[
            &[
                "ALTER TABLE items DROP COLUMN note",
                "ALTER TABLE items ADD COLUMN note TEXT",
            ],
            &[
                "ALTER TABLE items RENAME COLUMN note TO remark",
                "ALTER TABLE items RENAME COLUMN remark TO note",
            ],
            &["DROP TABLE items", AGAIN, ROW],
        ],
        other => panic!("an unknown database: {other}"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Find,
    FindUncached,
    Insert,
    Update,
    Save,
    Modify,
    InsertMany,
    UpdateMany,
    Delete,
    Flush,
    FlushOfManyRows,
}

const OPERATIONS: [Operation; 11] = [
    Operation::Find,
    Operation::FindUncached,
    Operation::Insert,
    Operation::Update,
    Operation::Save,
    Operation::Modify,
    Operation::InsertMany,
    Operation::UpdateMany,
    Operation::Delete,
    Operation::Flush,
    Operation::FlushOfManyRows,
];

/// The items of a pool with one connection.
struct Rows<DB: Tested> {
    pool: Pool<DB>,
    items: ItemRepository<DB>,
    through: ThroughRepository<DB>,
    behind: BehindRepository<DB>,
    next: i64,
}

/// Alters a table on one connection: SQLite looks at the schema anew only when a statement runs, and not when it is
/// prepared.
async fn alter<DB: Tested>(world: &World<DB>, statements: &[&str]) {
    world.raw(statements.join("; ")).await;
}

async fn one_connection<DB: Tested>(world: &World<DB>) -> Pool<DB> {
    let options = PoolOptions::new().max_connections(1);
    options.connect(world.database.url()).await.unwrap()
}

impl<DB: Tested> Rows<DB> {
    async fn of(world: &World<DB>) -> Self {
        let pool = one_connection(world).await;
        let behind = Behind::repository(&world.cache, pool.clone());
        behind.install().await.unwrap();
        Self {
            items: Item::repository(&world.cache, pool.clone()),
            through: Through::repository(&world.cache, pool.clone()),
            behind,
            pool,
            next: 100,
        }
    }

    fn new_id(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// Runs an operation, and looks with plain SQL at what it did.
    async fn run(&mut self, operation: Operation, world: &World<DB>) {
        let id = self.new_id();
        let name = format!("name {id}");
        let row = |id| Through::new(id, &name);
        let written = match operation {
            Operation::Find => {
                self.items.invalidate(1).await.unwrap();
                let found = self.items.find(1).await.unwrap();
                assert_eq!(found.unwrap().id, 1);
                return;
            }
            Operation::FindUncached => {
                let found = self.items.find_uncached(1).await.unwrap();
                assert_eq!(found.unwrap().id, 1);
                return;
            }
            Operation::Insert => {
                let inserted = self.through.insert(&row(id)).await.unwrap();
                assert_eq!(*inserted, row(id));
                vec![id]
            }
            Operation::Update => {
                self.through.update(&row(1)).await.unwrap();
                vec![1]
            }
            Operation::Save => {
                self.through.save(&row(1)).await.unwrap();
                vec![1]
            }
            Operation::Modify => {
                // It loads the row, because no write of it is queued.
                self.behind.invalidate(1).await.unwrap();
                let changed = self.behind.modify(1, |row| row.name.clone_from(&name));
                changed.await.unwrap();
                self.behind.flush().await.unwrap();
                vec![1]
            }
            Operation::InsertMany => {
                let ids = [id, self.new_id()];
                self.through.insert_many(&ids.map(row)).await.unwrap();
                ids.to_vec()
            }
            Operation::UpdateMany => {
                self.through.update_many(&[row(1)]).await.unwrap();
                vec![1]
            }
            Operation::Delete => {
                world.put(&Item::new(id, "doomed")).await;
                self.through.delete(id).await.unwrap();
                assert!(!self.through.exists(id).await.unwrap());
                return;
            }
            Operation::Flush => {
                self.behind.save(&Behind::new(1, &name)).await.unwrap();
                self.behind.flush().await.unwrap();
                vec![1]
            }
            Operation::FlushOfManyRows => {
                let ids = [1, id];
                for id in ids {
                    self.behind.save(&Behind::new(id, &name)).await.unwrap();
                }
                self.behind.flush().await.unwrap();
                ids.to_vec()
            }
        };
        for id in written {
            let held = format!("SELECT name FROM items WHERE id = {id}");
            assert_eq!(world.text(held.leak()).await, name, "{operation:?} of {id}");
        }
    }
}

/// Whether sqlx's own statement, which was prepared before, is refused.
async fn is_refused(pool: &Pool<Postgres>, statement: &'static str) -> bool {
    let refused = sqlx::query(statement).fetch_optional(pool).await;
    let code = |error: sqlx::Error| {
        error
            .as_database_error()?
            .code()
            .map(|code| code == "0A000")
    };
    refused.is_err_and(|error| code(error).unwrap_or_default())
}

const PLAIN: &str = "SELECT id, name, note, quantity FROM items WHERE id < 2";

async fn every_operation_goes_on_after_a_table_was_altered<DB: Tested>(world: &World<DB>) {
    let mut rows = Rows::of(world).await;
    world.put(&Item::new(1, "one")).await;
    let postgres = (&rows.pool as &dyn std::any::Any)
        .downcast_ref::<Pool<Postgres>>()
        .cloned();
    for operation in OPERATIONS {
        for statements in alterations::<DB>() {
            if let Some(pool) = &postgres {
                // Some operations need no repetition, and then nobody has forgotten the statements of the last round.
                let mut connection = pool.acquire().await.unwrap();
                connection.clear_cached_statements().await.unwrap();
            }
            rows.run(operation, world).await;
            if let Some(pool) = &postgres {
                assert!(!is_refused(pool, PLAIN).await);
            }
            alter(world, statements).await;
            if let Some(pool) = &postgres {
                // Without larder's repetition, each operation would end like this.
                assert!(is_refused(pool, PLAIN).await, "{statements:?}");
            }
            rows.run(operation, world).await;
        }
    }
    let letters = rows.behind.dead_letters().list(10).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
}

async fn a_check_of_the_schema_sees_the_altered_table<DB: Tested>(world: &World<DB>) {
    let items = Item::repository(&world.cache, one_connection(world).await);
    items.check_schema().await.unwrap().into_result().unwrap();
    world.raw("DROP TABLE items").await;
    world
        .raw("CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, name BIGINT NOT NULL, note VARCHAR(200), quantity BIGINT NOT NULL)")
        .await;
    let report = items.check_schema().await.unwrap().to_string();
    assert!(
        report.contains("column name: the column has type"),
        "{report}"
    );
    world.raw("DROP TABLE items").await;
    world.raw(ITEMS).await;
    items.check_schema().await.unwrap().into_result().unwrap();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "numbered", strategy = "write_through")]
struct Numbered {
    #[cached(id, generated)]
    id: i64,
    name: String,
}

impl Numbered {
    fn new(name: &str) -> Self {
        Self {
            id: 0,
            name: name.to_owned(),
        }
    }
}

/// The statement of such a write is in a transaction of larder's own, which is repeated.
async fn an_insert_with_a_generated_id_goes_on_after_a_table_was_altered<DB: Tested>(
    world: &World<DB>,
) {
    let (id, alterations): (_, &[&str]) = match DB::NAME {
        name if name == <Postgres as sqlx::Database>::NAME => (
            "BIGSERIAL PRIMARY KEY",
            &[
                "ALTER TABLE numbered ALTER COLUMN name TYPE TEXT",
                "ALTER TABLE numbered ALTER COLUMN name TYPE VARCHAR(30)",
            ],
        ),
        name if name == <MySql as sqlx::Database>::NAME => (
            "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
            &[
                "ALTER TABLE numbered MODIFY name TEXT NOT NULL",
                "ALTER TABLE numbered MODIFY name VARCHAR(30) NOT NULL",
            ],
        ),
        _ => (
            "INTEGER PRIMARY KEY",
            &["ALTER TABLE numbered ADD COLUMN more TEXT"],
        ),
    };
    world
        .sql(format!(
            "CREATE TABLE numbered (id {id}, name VARCHAR(20) NOT NULL)"
        ))
        .await;
    let rows = Numbered::repository(&world.cache, one_connection(world).await);
    let pair = [Numbered::new("one"), Numbered::new("two")];
    rows.insert(&pair[0]).await.unwrap();
    rows.insert_many(&pair).await.unwrap();
    for alteration in alterations {
        alter(world, &[alteration]).await;
        let inserted = rows.insert(&pair[0]).await.unwrap();
        let found = rows.find_uncached(inserted.id).await.unwrap();
        assert_eq!(found, Some(inserted));
    }
}

/// A transaction of the caller cannot be repeated by larder. It fails once, says why, and leaves a good connection.
async fn a_transaction_after_the_altering_is_not_disturbed_twice<DB: Tested>(world: &World<DB>) {
    let mut rows = Rows::of(world).await;
    world.put(&Item::new(1, "one")).await;
    rows.run(Operation::Update, world).await;
    for (write, alteration) in [false, true].into_iter().zip(alterations::<DB>()) {
        let attempt = async || {
            let mut transaction = Transaction::begin(&rows.pool).await?;
            if write {
                let updated = Through::new(1, "in a transaction");
                rows.through
                    .within(&mut transaction)
                    .update(&updated)
                    .await?;
            } else {
                rows.items.within(&mut transaction).find(1).await?;
            }
            transaction.commit().await
        };
        attempt().await.unwrap();
        alter(world, alteration).await;
        if DB::NAME == <Postgres as sqlx::Database>::NAME {
            let error = attempt().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Database);
            assert!(
                error.to_string().contains("its table was altered"),
                "{error}"
            );
        }
        attempt().await.unwrap();
    }
}

async fn a_read_goes_on_after_a_table_became_a_view(world: &World<Postgres>) {
    let mut rows = Rows::of(world).await;
    world.put(&Item::new(1, "one")).await;
    let steps: [&[&str]; 3] = [
        &[
            "ALTER TABLE items RENAME TO shelf",
            "CREATE VIEW items AS SELECT id, name::varchar(50), note, quantity FROM shelf",
        ],
        &[
            "DROP VIEW items",
            "CREATE VIEW items AS SELECT id, name::text, note, quantity FROM shelf",
        ],
        &["DROP VIEW items", "ALTER TABLE shelf RENAME TO items"],
    ];
    for operation in [Operation::Find, Operation::FindUncached] {
        rows.run(operation, world).await;
        for step in steps {
            alter(world, step).await;
            rows.run(operation, world).await;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Good,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "moods", strategy = "write_through")]
struct Today {
    #[cached(id)]
    id: i64,
    mood: Mood,
}

async fn an_operation_goes_on_after_a_type_was_made_again(world: &World<Postgres>) {
    const TYPE: &str = "CREATE TYPE mood AS ENUM ('good', 'bad')";
    world.raw(TYPE).await;
    world
        .raw("CREATE TABLE moods (id BIGINT PRIMARY KEY, mood mood NOT NULL)")
        .await;
    let today = Today::repository(&world.cache, one_connection(world).await);
    let good = |id| Today {
        id,
        mood: Mood::Good,
    };
    today.insert(&good(0)).await.unwrap();
    for id in 1..4 {
        today.update(&good(0)).await.unwrap();
        world.raw("DROP TYPE mood CASCADE").await;
        world.raw(TYPE).await;
        world
            .raw("ALTER TABLE moods ADD COLUMN mood mood NOT NULL DEFAULT 'bad'")
            .await;
        match id {
            1 => drop(today.insert(&good(id)).await.unwrap()),
            2 => drop(today.update(&good(0)).await.unwrap()),
            _ => drop(today.insert_many(&[good(id)]).await.unwrap()),
        }
        let found = today.find_uncached(0).await.unwrap().unwrap();
        let expected = if id == 2 { Mood::Good } else { Mood::Bad };
        assert_eq!(found.mood, expected, "after {id}");
    }
}

/// Each connection has prepared the statements of a write that larder runs in a transaction.
async fn a_pool_with_many_old_connections_costs_each_a_repetition(world: &World<Postgres>) {
    const CONNECTIONS: u32 = 5;
    let options = PoolOptions::new().max_connections(CONNECTIONS);
    let pool: Pool<Postgres> = options.connect(world.database.url()).await.unwrap();
    let rows = Through::repository(&world.cache, pool.clone());
    let batch = |first: i64| [Through::new(first, "one"), Through::new(first + 1, "two")];
    rows.insert_many(&batch(0)).await.unwrap();
    let mut held = Vec::new();
    for number in 1..=i64::from(CONNECTIONS) {
        // The pool is left one new connection at a time.
        rows.insert_many(&batch(number * 10)).await.unwrap();
        held.push(pool.acquire().await.unwrap());
    }
    drop(held);
    world
        .raw("ALTER TABLE items ALTER COLUMN name TYPE TEXT")
        .await;
    rows.insert_many(&batch(1000)).await.unwrap();
    assert_eq!(rows.find_uncached(1001).await.unwrap().unwrap().name, "two");
}
