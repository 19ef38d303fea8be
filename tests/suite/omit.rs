//! Columns that are not in the cache (`omit`): no read returns them but `complete`, and no update loses them.

use larder::{Cached, Error, ErrorKind, Origin, Transaction, store::Mechanism};
use serde::{Deserialize, Serialize};

use crate::world::{
    Kind, Tested, World, eventually, everywhere, on_both_stores, on_redis, redis_url,
};

everywhere!(
    no_row_has_the_column,
    complete_reads_the_column,
    an_update_of_a_cached_row_leaves_the_column,
    a_save_of_a_cached_row_leaves_the_column,
    an_update_of_many_rows_leaves_the_column_where_it_is_empty,
    a_change_sees_the_column_and_can_empty_it,
    a_change_after_a_conflict_sees_the_column,
    a_row_that_is_found_is_changed_with_the_column,
    a_transaction_leaves_the_column,
);
on_both_stores!(
    a_column_that_is_not_null_is_no_difference,
    without_the_mechanism_the_column_is_in_the_row,
);
on_redis!(the_column_is_not_in_the_store);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "users", index(team))]
struct User {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    name: String,
    team: i64,
    #[cached(omit)]
    password: Option<String>,
    #[cached(omit)]
    #[sqlx(json(nullable))]
    profile: Option<Vec<String>>,
}

/// The same columns, with a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "accounts", strategy = "write_through")]
struct Account {
    #[cached(id)]
    id: i64,
    name: String,
    #[cached(omit)]
    #[serde(skip)]
    password: Option<String>,
    #[cached(version)]
    version: i64,
}

/// The users and the accounts of a world, and what is in their tables.
struct Stage<DB: Tested> {
    users: UserRepository<DB>,
    accounts: AccountRepository<DB>,
}

impl<DB: Tested> Stage<DB> {
    async fn open(world: &World<DB>) -> Self {
        let json = match DB::NAME {
            "PostgreSQL" => "JSONB",
            "MySQL" => "JSON",
            _ => "TEXT",
        };
        world
            .sql(format!(
                "CREATE TABLE users (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL UNIQUE, team BIGINT NOT NULL, \
                 password VARCHAR(40) NOT NULL, profile {json})"
            ))
            .await;
        world
            .sql(
                "CREATE TABLE accounts (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL, \
                 password VARCHAR(40) NOT NULL, version BIGINT NOT NULL)",
            )
            .await;
        let stage = Self {
            users: User::repository(&world.cache, world.pool.clone()),
            accounts: Account::repository(&world.cache, world.pool.clone()),
        };
        for id in 1..=3 {
            stage.users.insert(&whole(id)).await.unwrap();
        }
        stage.accounts.insert(&account(1)).await.unwrap();
        stage
    }

    /// Reads the row of a user until it comes from the cache.
    async fn cached(&self, id: i64) -> User {
        let mut found = None;
        eventually("the row comes from the cache", async || {
            let outcome = self.users.find_outcome(id).await.unwrap();
            found = outcome.row;
            outcome.origin == Origin::Cache
        })
        .await;
        (*found.expect("the user exists")).clone()
    }

    /// Returns the password and the profile of a user as they are in the table.
    async fn secrets(&self, id: i64) -> (Option<String>, Option<Vec<String>>) {
        let row = self.users.find(id).complete().await.unwrap();
        let row = row.expect("the user exists");
        (row.password.clone(), row.profile.clone())
    }

    async fn password_of_account(&self) -> Option<String> {
        let row = self.accounts.find(1).complete().await.unwrap();
        row.expect("the account exists").password.clone()
    }
}

/// The user with an id as the database has it.
fn whole(id: i64) -> User {
    User {
        id,
        name: format!("user {id}"),
        team: 7,
        password: Some(format!("secret {id}")),
        profile: Some(vec!["private".to_owned()]),
    }
}

/// The user with an id as the cache has it.
fn public(id: i64) -> User {
    User {
        password: None,
        profile: None,
        ..whole(id)
    }
}

fn account(id: i64) -> Account {
    Account {
        id,
        name: "one".to_owned(),
        password: Some("secret".to_owned()),
        version: 1,
    }
}

/// What the database has for a user that nobody has changed.
fn secret(id: i64) -> (Option<String>, Option<Vec<String>>) {
    let User {
        password, profile, ..
    } = whole(id);
    (password, profile)
}

async fn no_row_has_the_column<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let (users, accounts) = (&stage.users, &stage.accounts);
    assert_eq!(*users.find(1).await.unwrap().unwrap(), public(1));
    assert_eq!(stage.cached(1).await, public(1));
    let outcome = users.find_outcome(1).await.unwrap();
    assert_eq!(*outcome.row.unwrap(), public(1));
    assert_eq!(*users.find_uncached(1).await.unwrap().unwrap(), public(1));
    assert_eq!(*users.find(1).bypass().await.unwrap().unwrap(), public(1));
    assert_eq!(*users.find(1).refresh().await.unwrap().unwrap(), public(1));
    let by_name = users.find_by_name("user 2").await.unwrap();
    assert_eq!(*by_name.unwrap(), public(2));
    for _ in 0..2 {
        let all = users.find_many(&[1, 2, 3]).await.unwrap();
        let all: Vec<_> = all
            .into_iter()
            .flatten()
            .map(|row| (*row).clone())
            .collect();
        assert_eq!(all, [public(1), public(2), public(3)]);
        let team = users.find_all_by_team(7).await.unwrap();
        let team: Vec<_> = team.iter().map(|row| (**row).clone()).collect();
        assert_eq!(team, all);
        stage.cached(2).await;
        stage.cached(3).await;
    }

    let written = users.insert(&whole(4)).await.unwrap();
    assert_eq!(*written, public(4));
    let many = users.insert_many(&[whole(5), whole(6)]).await.unwrap();
    assert_eq!((&*many[0], &*many[1]), (&public(5), &public(6)));
    assert_eq!(*users.update(&whole(4)).await.unwrap(), public(4));
    assert_eq!(*users.save(&whole(7)).await.unwrap(), public(7));
    let many = users.update_many(&[whole(5), whole(6)]).await.unwrap();
    assert_eq!((&*many[0], &*many[1]), (&public(5), &public(6)));
    let changed = users.modify(5, |user| user.team = 8).await.unwrap();
    assert_eq!(changed.password, None);
    let unchanged = users.modify(5, |_| {}).await.unwrap();
    assert_eq!(unchanged.password, None);
    let found = users.modify_by_team(7, |user| {
        if user.id < 3 {
            user.team = 9;
        }
    });
    assert!(
        found
            .await
            .unwrap()
            .iter()
            .all(|row| row.password.is_none())
    );

    for _ in 0..2 {
        let row = accounts.find(1).await.unwrap().unwrap();
        assert_eq!(row.password, None);
    }
    let changed = accounts.modify(1, |account| account.name = "two".to_owned());
    assert_eq!(changed.await.unwrap().password, None);
    assert_eq!(accounts.modify(1, |_| {}).await.unwrap().password, None);
    assert_eq!(accounts.find(1).await.unwrap().unwrap().password, None);
}

async fn complete_reads_the_column<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let users = &stage.users;
    assert_eq!(stage.cached(1).await, public(1));
    let complete = users.find(1).complete().await.unwrap();
    assert_eq!(*complete.unwrap(), whole(1));
    assert_eq!(users.find(9).complete().await.unwrap(), None);
    let outcome = users.find_outcome(1).complete().await.unwrap();
    assert_eq!(*outcome.row.unwrap(), whole(1));
    // The cached row is what it was.
    assert_eq!(*users.find(1).await.unwrap().unwrap(), public(1));
    world
        .sql("UPDATE users SET profile = NULL WHERE id = 1")
        .await;
    assert_eq!(stage.secrets(1).await, (secret(1).0, None));

    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = users.within(&mut transaction);
    assert_eq!(*within.find(2).await.unwrap().unwrap(), public(2));
    let complete = within.find_complete(2).await.unwrap();
    assert_eq!(*complete.unwrap(), whole(2));
    assert_eq!(within.find_complete(9).await.unwrap(), None);
    transaction.rollback().await.unwrap();
}

async fn an_update_of_a_cached_row_leaves_the_column<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let mut user = stage.cached(1).await;
    user.team = 8;
    stage.users.update(&user).await.unwrap();
    assert_eq!(stage.cached(1).await.team, 8);
    assert_eq!(stage.secrets(1).await, secret(1));
    // One of them only.
    user.password = Some("new".to_owned());
    stage.users.update(&user).await.unwrap();
    assert_eq!(
        stage.secrets(1).await,
        (Some("new".to_owned()), secret(1).1)
    );

    let mut account = (*stage.accounts.find(1).await.unwrap().unwrap()).clone();
    account.name = "two".to_owned();
    let written = stage.accounts.update(&account).await.unwrap();
    assert_eq!((written.version, written.name.as_str()), (2, "two"));
    assert_eq!(stage.password_of_account().await.as_deref(), Some("secret"));
    let conflict = stage.accounts.update(&account).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    assert_eq!(conflict.current::<Account>().unwrap().password, None);
}

async fn a_save_of_a_cached_row_leaves_the_column<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let mut user = stage.cached(1).await;
    user.team = 8;
    stage.users.save(&user).await.unwrap();
    assert_eq!(stage.cached(1).await.team, 8);
    assert_eq!(stage.secrets(1).await, secret(1));
    user.profile = Some(Vec::new());
    stage.users.save(&user).await.unwrap();
    assert_eq!(stage.secrets(1).await, (secret(1).0, Some(Vec::new())));
    // A row that does not exist needs the column.
    let refused = stage.users.save(&public(9)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Database, "{refused}");
    stage.users.save(&whole(9)).await.unwrap();
    assert_eq!(stage.secrets(9).await, secret(9));

    let account = (*stage.accounts.find(1).await.unwrap().unwrap()).clone();
    let saved = stage.accounts.save(&account).await.unwrap();
    assert_eq!(saved.version, 2);
    assert_eq!(stage.password_of_account().await.as_deref(), Some("secret"));
    let conflict = stage.accounts.save(&account).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict, "{conflict}");
}

async fn an_update_of_many_rows_leaves_the_column_where_it_is_empty<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let mut rows = Vec::new();
    for id in 1..=3 {
        rows.push(User {
            team: 8,
            ..stage.cached(id).await
        });
    }
    rows[1].password = Some("new".to_owned());
    let written = stage.users.update_many(&rows).await.unwrap();
    let ids: Vec<_> = written.iter().map(|row| (row.id, row.team)).collect();
    assert_eq!(ids, [(1, 8), (2, 8), (3, 8)]);
    assert_eq!(stage.secrets(1).await, secret(1));
    assert_eq!(
        stage.secrets(2).await,
        (Some("new".to_owned()), secret(2).1)
    );
    assert_eq!(stage.secrets(3).await, secret(3));
    // All or nothing, also when the rows differ in what they leave out.
    rows.push(whole(9));
    rows[0].team = 9;
    let refused = stage.users.update_many(&rows).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}");
    assert_eq!(stage.cached(1).await.team, 8);
}

async fn a_change_sees_the_column_and_can_empty_it<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.cached(1).await;
    let check = |user: &mut User| {
        let seen = user.password.replace("new".to_owned());
        user.profile = None;
        Ok::<_, Error>(seen)
    };
    let changed = stage.users.modify(1, check).await.unwrap();
    assert_eq!(changed.value, secret(1).0);
    assert_eq!(stage.secrets(1).await, (Some("new".to_owned()), None));
    let add = |user: &mut User| user.profile = user.password.clone().map(|text| vec![text]);
    stage.users.modify_or_insert(&public(1), add).await.unwrap();
    let profile = Some(vec!["new".to_owned()]);
    assert_eq!(stage.secrets(1).await, (Some("new".to_owned()), profile));

    stage.accounts.find(1).await.unwrap();
    let check = |account: &mut Account| {
        assert_eq!(account.password.as_deref(), Some("secret"));
        account.password = Some("new".to_owned());
    };
    stage.accounts.modify(1, check).await.unwrap();
    assert_eq!(stage.password_of_account().await.as_deref(), Some("new"));
}

async fn a_change_after_a_conflict_sees_the_column<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let mut seen = Vec::new();
    let (pool, handle) = (world.pool.clone(), tokio::runtime::Handle::current());
    let change = |account: &mut Account| {
        seen.push(account.password.clone());
        if seen.len() == 1 {
            let other = other_writer(pool.clone());
            tokio::task::block_in_place(|| handle.block_on(other));
        }
        account.name = "mine".to_owned();
    };
    let changed = stage.accounts.modify(1, change).await.unwrap();
    assert_eq!((changed.version, changed.password.clone()), (3, None));
    assert_eq!(seen, [Some("secret".to_owned()), Some("other".to_owned())]);
    assert_eq!(stage.password_of_account().await.as_deref(), Some("other"));
}

/// Changes the account without larder.
async fn other_writer<DB: Tested>(pool: sqlx::Pool<DB>) {
    let mut connection = pool.acquire().await.unwrap();
    let text = "UPDATE accounts SET password = 'other', version = version + 1";
    let text = sqlx::SqlStr::from_static(text);
    DB::execute(&mut connection, text, DB::Arguments::default())
        .await
        .unwrap();
}

async fn a_row_that_is_found_is_changed_with_the_column<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let change = |user: &mut User| {
        assert_eq!(user.password, secret(user.id).0);
        match user.id {
            1 => user.profile = None,
            2 => user.password = Some("new".to_owned()),
            _ => {}
        }
    };
    stage.users.modify_by_team(7, change).await.unwrap();
    assert_eq!(stage.secrets(1).await, (secret(1).0, None));
    assert_eq!(
        stage.secrets(2).await,
        (Some("new".to_owned()), secret(2).1)
    );
    assert_eq!(stage.secrets(3).await, secret(3));
}

async fn a_transaction_leaves_the_column<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = stage.users.within(&mut transaction);
    let mut user = (*within.find(1).await.unwrap().unwrap()).clone();
    user.team = 8;
    assert_eq!(*within.update(&user).await.unwrap(), user);
    user.team = 9;
    assert_eq!(*within.save(&user).await.unwrap(), user);
    assert_eq!(*within.insert(&whole(9)).await.unwrap(), public(9));
    let changed = within.modify(2, |user| user.password = Some("new".to_owned()));
    assert_eq!(changed.await.unwrap().password, None);
    transaction.commit().await.unwrap();
    assert_eq!(stage.cached(1).await.team, 9);
    assert_eq!(stage.secrets(1).await, secret(1));
    assert_eq!(
        stage.secrets(2).await,
        (Some("new".to_owned()), secret(2).1)
    );
    assert_eq!(stage.secrets(9).await, secret(9));
}

async fn a_column_that_is_not_null_is_no_difference<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    let report = stage.users.check_schema().await.unwrap();
    assert!(report.is_ok() && report.remarks.is_empty(), "{report}");
}

async fn the_column_is_not_in_the_store<DB: Tested>(world: &World<DB>) {
    let stage = Stage::open(world).await;
    stage.cached(1).await;
    stage.accounts.update(&account(1)).await.unwrap();
    assert_eq!(world.kind, Kind::Redis);
    let client = redis::Client::open(redis_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let user = stage.users.inner().key(1).unwrap();
    let account = stage.accounts.inner().key(1).unwrap();
    for (key, name) in [(user, "user 1"), (account, "one")] {
        let mut get = redis::cmd("GET");
        let get = get.arg(key.as_bytes());
        let entry: Vec<u8> = get.query_async(&mut connection).await.unwrap();
        let has = |text: &str| {
            entry
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        assert!(has(name), "{entry:?}");
        assert!(!has("secret") && !has("private"), "{entry:?}");
    }
}

async fn without_the_mechanism_the_column_is_in_the_row<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Omit);
    let stage = Stage::open(world).await;
    assert_eq!(*stage.users.find(1).await.unwrap().unwrap(), whole(1));
}
