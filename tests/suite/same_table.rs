//! Several entities over one table (`same_table`): a write through one is seen by the others, in every process.
//!
//! The control leaves out the announcement to the other entity, and shows that the same scene then serves an old row.

use larder::{Cached, Transaction, store::Mechanism};
use larder_testing::log;
use serde::{Deserialize, Serialize};

use crate::world::{Tested, World, everywhere, filled, on_both_stores, unique};

everywhere!(
    a_write_through_one_entity_is_seen_by_the_other,
    lists_and_absences_of_the_other_are_right,
);
on_both_stores!(
    entities_that_do_not_name_each_other_are_logged,
    without_the_announcement_the_other_entity_serves_an_old_row,
    changes_by_others_are_told_to_both,
);

const USERS: &str = "CREATE TABLE users (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(20) NOT NULL, city VARCHAR(20) NOT NULL)";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "users",
    ttl = "10m",
    negative_ttl = "10m",
    same_table(UserName)
)]
struct User {
    #[cached(id)]
    id: i64,
    name: String,
    city: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "users",
    ttl = "10m",
    negative_ttl = "10m",
    tags("all-of-them"),
    index(name),
    same_table(User)
)]
struct UserName {
    #[cached(id)]
    id: i64,
    name: String,
    #[cached(generated)]
    city: String,
}

fn user(id: i64, name: &str) -> User {
    User {
        id,
        name: name.to_owned(),
        city: "Bonn".to_owned(),
    }
}

/// Two processes: one writes users and has no repository of names, the other one reads both.
struct Scene<DB: Tested> {
    users: UserRepository<DB>,
    there: UserRepository<DB>,
    names: UserNameRepository<DB>,
}

impl<DB: Tested> Scene<DB> {
    async fn open(world: &World<DB>) -> Self {
        world.sql(USERS).await;
        world
            .sql("INSERT INTO users VALUES (1, 'ada', 'Bonn'), (2, 'bob', 'Cork')")
            .await;
        let cache = world.cache_elsewhere().await;
        let scene = Self {
            users: User::repository(&world.cache, world.pool.clone()),
            there: User::repository(&cache, world.pool.clone()),
            names: UserName::repository(&cache, world.pool.clone()),
        };
        scene.see(1, Some("ada")).await;
        scene.see(3, None).await;
        scene
    }

    /// Both entities of the other process see this name of a row, and then have it cached.
    async fn see(&self, id: i64, name: Option<&str>) {
        for _ in 0..2 {
            let user = self.there.find(id).await.unwrap();
            assert_eq!(user.as_ref().map(|user| user.name.as_str()), name);
            let found = self.names.find(id).await.unwrap();
            assert_eq!(found.as_ref().map(|found| found.name.as_str()), name);
            filled(|| self.there.stats()).await;
            filled(|| self.names.stats()).await;
        }
    }

    async fn ids_of(&self, name: &str) -> Vec<i64> {
        let page = self.names.find_all_by_name(name).await.unwrap();
        filled(|| self.names.stats()).await;
        page.rows.iter().map(|row| row.id).collect()
    }
}

async fn a_write_through_one_entity_is_seen_by_the_other<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    scene.users.update(&user(1, "anna")).await.unwrap();
    scene.see(1, Some("anna")).await;
    scene.users.insert(&user(3, "cleo")).await.unwrap();
    scene.see(3, Some("cleo")).await;
    scene
        .users
        .modify(3, |user| user.name = "chloe".to_owned())
        .await
        .unwrap();
    scene.see(3, Some("chloe")).await;
    scene
        .users
        .update_many(&[user(1, "a"), user(3, "c")])
        .await
        .unwrap();
    scene.see(1, Some("a")).await;
    scene.see(3, Some("c")).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    scene
        .users
        .within(&mut transaction)
        .delete(3)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    scene.see(3, None).await;
    // The other way round.
    scene
        .names
        .modify(1, |name| name.name = "b".to_owned())
        .await
        .unwrap();
    scene.see(1, Some("b")).await;
    assert_eq!(scene.users.find(1).await.unwrap().unwrap().name, "b");
}

async fn lists_and_absences_of_the_other_are_right<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    for _ in 0..2 {
        assert_eq!(scene.ids_of("ada").await, [1]);
        assert_eq!(scene.ids_of("cleo").await, [0; 0]);
    }
    scene.users.insert(&user(3, "cleo")).await.unwrap();
    assert_eq!(scene.ids_of("cleo").await, [3]);
    scene.users.update(&user(1, "cleo")).await.unwrap();
    assert_eq!(scene.ids_of("ada").await, [0; 0]);
    assert_eq!(scene.ids_of("cleo").await, [1, 3]);
    scene.users.delete(3).await.unwrap();
    assert_eq!(scene.ids_of("cleo").await, [1]);
}

async fn without_the_announcement_the_other_entity_serves_an_old_row<DB: Tested>(
    world: &World<DB>,
) {
    world.faults.leave_out(Mechanism::SameTable);
    let scene = Scene::open(world).await;
    scene.users.update(&user(1, "anna")).await.unwrap();
    let name = scene.names.find(1).await.unwrap().unwrap();
    assert_eq!(name.name, "ada", "the control shows what is prevented");
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users")]
struct Unnamed {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", read_only)]
struct OnlyRead {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", read_only)]
struct AlsoOnlyRead {
    #[cached(id)]
    id: i64,
}

async fn entities_that_do_not_name_each_other_are_logged<DB: Tested>(world: &World<DB>) {
    log::listen();
    let cache = world.cache.with_namespace(unique("test")).unwrap();
    let _read = OnlyRead::repository(&cache, world.pool.clone());
    let _also_read = AlsoOnlyRead::repository(&cache, world.pool.clone());
    assert_eq!(
        log::lines_with("entity", "AlsoOnlyRead").len(),
        0,
        "neither is written"
    );
    let before = log::lines_with("entity", "Unnamed").len();
    let _unnamed = Unnamed::repository(&cache, world.pool.clone());
    let lines = log::lines_with("entity", "Unnamed");
    let others = lines[before..]
        .iter()
        .filter_map(|line| line.field("other"));
    assert_eq!(others.collect::<Vec<_>>(), ["AlsoOnlyRead", "OnlyRead"]);
    let before = log::lines_with("entity", "UserName").len();
    let named = world.cache.with_namespace(unique("test")).unwrap();
    let _users = User::repository(&named, world.pool.clone());
    let _names = UserName::repository(&named, world.pool.clone());
    assert_eq!(log::lines_with("entity", "UserName").len(), before);
}

async fn changes_by_others_are_told_to_both<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    world
        .sql("UPDATE users SET name = 'anna' WHERE id = 1")
        .await;
    scene.users.invalidate(1).await.unwrap();
    scene.see(1, Some("anna")).await;
    world
        .sql("UPDATE users SET name = 'abel' WHERE id = 1")
        .await;
    scene.users.invalidate_all().await.unwrap();
    scene.see(1, Some("abel")).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let update = sqlx::AssertSqlSafe("UPDATE users SET name = 'axel' WHERE id = 1".to_owned());
    let update = sqlx::SqlSafeStr::into_sql_str(update);
    DB::execute(transaction.connection(), update, DB::Arguments::default())
        .await
        .unwrap();
    scene
        .users
        .within(&mut transaction)
        .mark_changed(1)
        .unwrap();
    transaction.commit().await.unwrap();
    scene.see(1, Some("axel")).await;
}
