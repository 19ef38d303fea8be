//! Lookups and lists inside a transaction: they see what the transaction has written, nobody else does, and nothing is cached.

use std::sync::Arc;

use larder::{Cached, ErrorKind, Page, Transaction};
use serde::{Deserialize, Serialize};

use crate::world::{Tested, World, everywhere, filled, on_both_stores};

everywhere!(
    a_transaction_finds_rows_by_the_values_it_has_written,
    lists_and_pages_are_those_of_the_transaction,
    a_lookup_of_two_rows_is_an_error_and_the_transaction_continues,
);
on_both_stores!(
    what_is_read_in_a_transaction_is_cached_for_nobody,
    a_transaction_reads_past_what_is_cached,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "members",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0,
    unique(team, number),
    index(team, order_by = "number desc", max = 3)
)]
struct Member {
    #[cached(id)]
    id: i64,
    team: i64,
    number: i64,
    #[cached(unique(fold = "lower"))]
    login: String,
}

impl Member {
    fn new(id: i64, team: i64) -> Self {
        Self {
            id,
            team,
            number: id * 10,
            login: format!("Login{id}"),
        }
    }
}

async fn members<DB: Tested>(world: &World<DB>) -> MemberRepository<DB> {
    world
        .sql("CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, team BIGINT NOT NULL, number BIGINT NOT NULL, login VARCHAR(100) NOT NULL)")
        .await;
    Member::repository(&world.cache, world.pool.clone())
}

fn id(member: Option<Arc<Member>>) -> Option<i64> {
    member.map(|member| member.id)
}

fn ids(page: &Page<Member>) -> Vec<i64> {
    page.iter().map(|member| member.id).collect()
}

async fn a_transaction_finds_rows_by_the_values_it_has_written<DB: Tested>(world: &World<DB>) {
    let members = members(world).await;
    members.insert(&Member::new(1, 7)).await.unwrap();
    members.insert(&Member::new(2, 7)).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = members.within(&mut transaction);
    within.insert(&Member::new(3, 7)).await.unwrap();
    within.delete(2).await.unwrap();
    let mut moved = Member::new(1, 8);
    moved.login = "Other".to_owned();
    within.update(&moved).await.unwrap();

    let before = world.database.statements();
    assert_eq!(id(within.find_by_login("LOGIN3").await.unwrap()), Some(3));
    assert_eq!(
        world.database.statements() - before,
        2,
        "the id and the row"
    );
    assert_eq!(id(within.find_by_login("login1").await.unwrap()), None);
    assert_eq!(id(within.find_by_login("other").await.unwrap()), Some(1));
    assert_eq!(
        id(within.find_by_team_and_number(8, 10).await.unwrap()),
        Some(1)
    );
    assert_eq!(
        id(within.find_by_team_and_number(7, 10).await.unwrap()),
        None
    );
    assert!(within.exists_by_login("login3").await.unwrap());
    assert!(!within.exists_by_login("login2").await.unwrap());
    let asked = ["login3", "none", "OTHER", "login3", "login2"];
    let before = world.database.statements();
    let found = within.find_many_by_login(&asked).await.unwrap();
    let found: Vec<_> = found.into_iter().map(id).collect();
    assert_eq!(found, [Some(3), None, Some(1), Some(3), None]);
    assert_eq!(world.database.statements() - before, 2);
    assert!(
        within
            .find_many_by_login(&[""; 0])
            .await
            .unwrap()
            .is_empty()
    );
    // The operations of every entity are there too.
    assert_eq!(within.find(3).await.unwrap().unwrap().team, 7);
    transaction.commit().await.unwrap();
    assert_eq!(id(members.find_by_login("login1").await.unwrap()), None);
    assert_eq!(id(members.find_by_login("Login3").await.unwrap()), Some(3));
}

async fn lists_and_pages_are_those_of_the_transaction<DB: Tested>(world: &World<DB>) {
    let members = members(world).await;
    for id in 1..=5 {
        members.insert(&Member::new(id, 7)).await.unwrap();
    }
    assert_eq!(ids(&members.find_all_by_team(7).await.unwrap()), [5, 4, 3]);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = members.within(&mut transaction);
    within.delete(4).await.unwrap();
    within.update(&Member::new(2, 8)).await.unwrap();
    let before = world.database.statements();
    let page = within.find_all_by_team(7).await.unwrap();
    assert_eq!((ids(&page), page.has_more), (vec![5, 3, 1], false));
    assert_eq!(world.database.statements() - before, 2, "ids and rows");
    let page = within.find_all_by_team(7).limit(2).await.unwrap();
    assert_eq!((ids(&page), page.has_more), (vec![5, 3], true));
    let next = within.find_all_by_team(7).limit(2).after(&page[1]);
    let next = next.await.unwrap();
    assert_eq!((ids(&next), next.has_more), (vec![1], false));
    within.insert(&Member::new(6, 7)).await.unwrap();
    assert_eq!(within.count_by_team(7).await.unwrap(), 4);
    assert!(within.exists_by_team(8).await.unwrap());
    assert!(!within.exists_by_team(9).await.unwrap());
    let before = world.database.statements();
    let pages = within.find_all_by_team_many(&[8, 7, 9, 8]).await.unwrap();
    let found: Vec<_> = pages.iter().map(ids).collect();
    assert_eq!(found, [vec![2], vec![6, 5, 3], vec![], vec![2]]);
    assert!(pages[1].has_more && !pages[0].has_more);
    assert_eq!(world.database.statements() - before, 2);
    transaction.rollback().await.unwrap();
    assert_eq!(ids(&members.find_all_by_team(7).await.unwrap()), [5, 4, 3]);
    assert_eq!(members.count_by_team(7).await.unwrap(), 5);
}

async fn a_lookup_of_two_rows_is_an_error_and_the_transaction_continues<DB: Tested>(
    world: &World<DB>,
) {
    let members = members(world).await;
    let mut twin = Member::new(2, 8);
    "login1".clone_into(&mut twin.login);
    members.insert(&Member::new(1, 7)).await.unwrap();
    members.insert(&twin).await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = members.within(&mut transaction);
    let error = within.find_by_login("LOGIN1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Duplicate);
    assert!(error.to_string().contains("several rows"), "{error}");
    within.delete(2).await.unwrap();
    assert_eq!(id(within.find_by_login("LOGIN1").await.unwrap()), Some(1));
    transaction.commit().await.unwrap();
    assert_eq!(id(members.find_by_login("login1").await.unwrap()), Some(1));
}

async fn what_is_read_in_a_transaction_is_cached_for_nobody<DB: Tested>(world: &World<DB>) {
    let members = members(world).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = members.within(&mut transaction);
    within.insert(&Member::new(1, 7)).await.unwrap();
    assert_eq!(id(within.find_by_login("login1").await.unwrap()), Some(1));
    assert_eq!(ids(&within.find_all_by_team(7).await.unwrap()), [1]);
    assert_eq!(
        within.find_all_by_team_many(&[7]).await.unwrap()[0].len(),
        1
    );
    let stats = members.stats();
    assert_eq!((stats.hits, stats.misses, stats.loads), (0, 0, 0));
    drop(transaction);
    assert_eq!(id(members.find_by_login("login1").await.unwrap()), None);
    assert_eq!(ids(&members.find_all_by_team(7).await.unwrap()), [0_i64; 0]);
}

async fn a_transaction_reads_past_what_is_cached<DB: Tested>(world: &World<DB>) {
    let members = members(world).await;
    members.insert(&Member::new(1, 7)).await.unwrap();
    assert_eq!(id(members.find_by_login("login1").await.unwrap()), Some(1));
    assert_eq!(id(members.find_by_login("login2").await.unwrap()), None);
    assert_eq!(ids(&members.find_all_by_team(7).await.unwrap()), [1]);
    filled(|| members.stats()).await;
    // Past larder, so that the cache does not know.
    world
        .sql("INSERT INTO members VALUES (2, 7, 20, 'login2')")
        .await;
    world
        .sql("UPDATE members SET login = 'new1' WHERE id = 1")
        .await;
    assert_eq!(id(members.find_by_login("login1").await.unwrap()), Some(1));
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = members.within(&mut transaction);
    assert_eq!(id(within.find_by_login("login1").await.unwrap()), None);
    assert_eq!(id(within.find_by_login("NEW1").await.unwrap()), Some(1));
    assert_eq!(id(within.find_by_login("login2").await.unwrap()), Some(2));
    assert_eq!(ids(&within.find_all_by_team(7).await.unwrap()), [2, 1]);
    assert_eq!(within.count_by_team(7).await.unwrap(), 2);
    transaction.commit().await.unwrap();
}
