//! Unique lookups: what they cost, and that they never return a row without the value, nor hide one that has it.

use std::sync::Arc;

use larder::{
    Cached, ErrorKind, Transaction,
    store::{Mechanism, faulty::Operation},
};
use serde::{Deserialize, Serialize};

use crate::world::{Tested, World, everywhere, filled, on_both_stores, on_redis, redis_url};

everywhere!(
    a_hit_makes_no_statement_and_a_miss_two,
    a_changed_value_is_found_at_once_and_the_old_one_is_absent,
    a_value_moves_from_a_deleted_row_to_a_new_one,
    a_rolled_back_change_leaves_both_values_as_they_were,
    two_columns_together_are_one_value,
    null_is_no_value,
    text_is_compared_byte_for_byte,
    folded_text_is_compared_in_lower_case,
    many_values_are_found_with_two_statements,
    a_value_that_the_database_generates_is_found,
    values_that_are_not_unique_are_an_error,
    check_schema_knows_which_values_the_table_keeps_unique,
    values_of_any_text_neither_collide_nor_miss,
    a_savepoint_takes_its_values_along,
);
on_redis!(a_damaged_lookup_is_a_miss_and_is_repaired);
on_both_stores!(
    absences_are_cached_and_end_with_the_write,
    a_committed_row_is_not_hidden_by_an_absence_that_was_read_before,
    without_the_announcement_an_absence_hides_a_committed_row,
    without_the_comparison_a_row_is_returned_that_has_left,
    a_row_that_was_changed_without_larder_is_found_by_its_new_value_after_invalidation,
    saves_batches_and_transactions_announce_their_values,
    an_outage_of_the_store_changes_no_answer,
    concurrent_writers_that_share_values_do_not_block_each_other,
    all_is_dropped_with_the_entity,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "users",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0,
    lease(ttl = "20s", wait = "10s"),
    unique(tenant, email)
)]
struct User {
    #[cached(id)]
    id: i64,
    tenant: i64,
    #[cached(unique)]
    email: String,
    #[cached(unique)]
    badge: Option<i64>,
    #[cached(unique(fold = "lower"))]
    login: String,
}

impl User {
    fn new(id: i64, email: &str) -> Self {
        Self {
            id,
            tenant: 1,
            email: email.to_owned(),
            badge: None,
            login: format!("Login{id}"),
        }
    }
}

async fn users<DB: Tested>(world: &World<DB>) -> UserRepository<DB> {
    let collation = match DB::NAME {
        "MySQL" => " COLLATE utf8mb4_general_ci",
        "SQLite" => " COLLATE NOCASE",
        _ => "",
    };
    world
        .sql(format!(
            "CREATE TABLE users (id BIGINT NOT NULL PRIMARY KEY, tenant BIGINT NOT NULL, \
             email VARCHAR(100){collation} NOT NULL UNIQUE, badge BIGINT UNIQUE, login VARCHAR(100) NOT NULL)"
        ))
        .await;
    User::repository(&world.cache, world.pool.clone())
}

async fn users_elsewhere<DB: Tested>(world: &World<DB>) -> UserRepository<DB> {
    User::repository(&world.cache_elsewhere().await, world.pool.clone())
}

fn id_of(user: Option<Arc<User>>) -> Option<i64> {
    user.map(|user| user.id)
}

async fn a_hit_makes_no_statement_and_a_miss_two<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    let before = world.database.statements();
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
    filled(|| users.stats()).await;
    assert_eq!(
        world.database.statements() - before,
        2,
        "the id and the row"
    );
    for _ in 0..3 {
        assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
        assert!(users.exists_by_email("a@x".to_owned()).await.unwrap());
    }
    assert_eq!(world.database.statements() - before, 2);
    assert_eq!(id_of(users.find_by_email("b@x").await.unwrap()), None);
    filled(|| users.stats()).await;
    assert!(!users.exists_by_email(&"b@x".to_owned()).await.unwrap());
    assert_eq!(world.database.statements() - before, 3);
    assert_eq!(users.stats().changed_lookups, 0);
}

async fn a_changed_value_is_found_at_once_and_the_old_one_is_absent<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    let elsewhere = users_elsewhere(world).await;
    users.insert(&User::new(1, "old@x")).await.unwrap();
    for repository in [&users, &elsewhere] {
        assert_eq!(
            id_of(repository.find_by_email("old@x").await.unwrap()),
            Some(1)
        );
        assert_eq!(
            id_of(repository.find_by_email("new@x").await.unwrap()),
            None
        );
        filled(|| repository.stats()).await;
    }
    users.update(&User::new(1, "new@x")).await.unwrap();
    for repository in [&elsewhere, &users] {
        assert_eq!(
            id_of(repository.find_by_email("new@x").await.unwrap()),
            Some(1)
        );
        assert_eq!(
            id_of(repository.find_by_email("old@x").await.unwrap()),
            None
        );
    }
}

async fn a_value_moves_from_a_deleted_row_to_a_new_one<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    let elsewhere = users_elsewhere(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    assert_eq!(
        id_of(elsewhere.find_by_email("a@x").await.unwrap()),
        Some(1)
    );
    filled(|| elsewhere.stats()).await;
    users.delete(1).await.unwrap();
    assert_eq!(id_of(elsewhere.find_by_email("a@x").await.unwrap()), None);
    filled(|| elsewhere.stats()).await;
    users.insert(&User::new(2, "a@x")).await.unwrap();
    assert_eq!(
        id_of(elsewhere.find_by_email("a@x").await.unwrap()),
        Some(2)
    );
    // Without a read between the two writes.
    filled(|| elsewhere.stats()).await;
    users.delete(2).await.unwrap();
    users.insert(&User::new(3, "a@x")).await.unwrap();
    assert_eq!(
        id_of(elsewhere.find_by_email("a@x").await.unwrap()),
        Some(3)
    );
}

async fn a_rolled_back_change_leaves_both_values_as_they_were<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    users.find_by_email("a@x").await.unwrap();
    users.find_by_email("b@x").await.unwrap();
    filled(|| users.stats()).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = users.within(&mut transaction);
    within.update(&User::new(1, "b@x")).await.unwrap();
    transaction.rollback().await.unwrap();
    let before = world.database.statements();
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
    assert_eq!(id_of(users.find_by_email("b@x").await.unwrap()), None);
    assert_eq!(world.database.statements(), before, "nothing was dropped");
}

async fn two_columns_together_are_one_value<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    let found = users.find_by_tenant_and_email(1, "a@x").await.unwrap();
    assert_eq!(id_of(found), Some(1));
    let found = users.find_by_tenant_and_email(2, "a@x").await.unwrap();
    assert_eq!(id_of(found), None);
    filled(|| users.stats()).await;
    let moved = User {
        tenant: 2,
        ..User::new(1, "a@x")
    };
    users.update(&moved).await.unwrap();
    let found = users
        .find_many_by_tenant_and_email(&[(1, "a@x"), (2, "a@x"), (3, "a@x")])
        .await
        .unwrap();
    let found: Vec<_> = found.into_iter().map(id_of).collect();
    assert_eq!(found, [None, Some(1), None]);
}

async fn null_is_no_value<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    for id in 1..=3 {
        let user = User::new(id, &format!("{id}@x"));
        users.insert(&user).await.unwrap();
    }
    assert_eq!(id_of(users.find_by_badge(7).await.unwrap()), None);
    filled(|| users.stats()).await;
    let with_badge = User {
        badge: Some(7),
        ..User::new(2, "2@x")
    };
    users.update(&with_badge).await.unwrap();
    assert_eq!(id_of(users.find_by_badge(7).await.unwrap()), Some(2));
    filled(|| users.stats()).await;
    users.update(&User::new(2, "2@x")).await.unwrap();
    assert_eq!(id_of(users.find_by_badge(7).await.unwrap()), None);
}

async fn text_is_compared_byte_for_byte<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    for (id, email) in [(1, "Ada@x"), (2, ""), (3, "a:b@x"), (4, "100%@x")] {
        users.insert(&User::new(id, email)).await.unwrap();
    }
    for _ in 0..2 {
        for (email, id) in [
            ("Ada@x", Some(1)),
            ("ada@x", None),
            ("", Some(2)),
            ("a:b@x", Some(3)),
            ("a%3Ab@x", None),
            ("100%@x", Some(4)),
            ("Ada@x ", None),
        ] {
            assert_eq!(
                id_of(users.find_by_email(email).await.unwrap()),
                id,
                "{email}"
            );
        }
        filled(|| users.stats()).await;
    }
    users.update(&User::new(1, "ada@x")).await.unwrap();
    assert_eq!(id_of(users.find_by_email("ada@x").await.unwrap()), Some(1));
    assert_eq!(id_of(users.find_by_email("Ada@x").await.unwrap()), None);
}

async fn folded_text_is_compared_in_lower_case<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    for login in ["login1", "LOGIN1", "Login1"] {
        assert_eq!(id_of(users.find_by_login(login).await.unwrap()), Some(1));
    }
    assert_eq!(id_of(users.find_by_login("LoGin2").await.unwrap()), None);
    filled(|| users.stats()).await;
    let renamed = User {
        login: "LOGIN2".to_owned(),
        ..User::new(1, "a@x")
    };
    users.update(&renamed).await.unwrap();
    assert_eq!(id_of(users.find_by_login("login2").await.unwrap()), Some(1));
    assert_eq!(id_of(users.find_by_login("login1").await.unwrap()), None);
    let found = users.find_many_by_login(&["LOGIN2", "login2", "x"]).await;
    let found: Vec<_> = found.unwrap().into_iter().map(id_of).collect();
    assert_eq!(found, [Some(1), Some(1), None]);
}

async fn many_values_are_found_with_two_statements<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    let rows: Vec<_> = (1..=50)
        .map(|id| User::new(id, &format!("{id}@x")))
        .collect();
    users.insert_many(&rows).await.unwrap();
    let emails: Vec<_> = (0..=51).rev().map(|id| format!("{id}@x")).collect();
    let before = world.database.statements();
    for _ in 0..2 {
        let found = users.find_many_by_email(&emails).await.unwrap();
        let found: Vec<_> = found.into_iter().map(id_of).collect();
        let expected: Vec<_> = (0..=51)
            .rev()
            .map(|id| (1..=50).contains(&id).then_some(id))
            .collect();
        assert_eq!(found, expected);
        filled(|| users.stats()).await;
    }
    assert_eq!(world.database.statements() - before, 2);
    assert!(
        users
            .find_many_by_email(&[] as &[&str])
            .await
            .unwrap()
            .is_empty()
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "tickets", ttl = "10m", negative_ttl = "30s", jitter = 0)]
struct Ticket {
    #[cached(id)]
    id: i64,
    seat: i64,
    #[cached(unique, generated)]
    code: i64,
}

async fn a_value_that_the_database_generates_is_found<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE tickets (id BIGINT NOT NULL PRIMARY KEY, seat BIGINT NOT NULL, code BIGINT GENERATED ALWAYS AS (seat * 10) STORED)")
        .await;
    let tickets = Ticket::repository(&world.cache, world.pool.clone());
    let ticket = |id, seat| Ticket { id, seat, code: 0 };
    let id_of = |ticket: Option<Arc<Ticket>>| ticket.map(|ticket| ticket.id);
    for code in [30, 40, 50] {
        assert_eq!(id_of(tickets.find_by_code(code).await.unwrap()), None);
    }
    tickets.insert(&ticket(1, 3)).await.unwrap();
    assert_eq!(id_of(tickets.find_by_code(30).await.unwrap()), Some(1));
    tickets.update(&ticket(1, 4)).await.unwrap();
    assert_eq!(id_of(tickets.find_by_code(40).await.unwrap()), Some(1));
    assert_eq!(id_of(tickets.find_by_code(30).await.unwrap()), None);
    tickets.save(&ticket(1, 5)).await.unwrap();
    assert_eq!(id_of(tickets.find_by_code(50).await.unwrap()), Some(1));
}

async fn values_that_are_not_unique_are_an_error<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    for id in 1..=2 {
        let user = User {
            login: "same".to_owned(),
            ..User::new(id, &format!("{id}@x"))
        };
        users.insert(&user).await.unwrap();
    }
    for _ in 0..2 {
        let error = users.find_by_login("Same").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Duplicate);
        let message = error.to_string();
        assert!(message.contains("several rows of `users`"), "{message}");
        assert!(message.contains("`login`"), "{message}");
    }
    users.delete(2).await.unwrap();
    assert_eq!(id_of(users.find_by_login("same").await.unwrap()), Some(1));
}

async fn check_schema_knows_which_values_the_table_keeps_unique<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    let report = users.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report}");
    let said = report.to_string();
    assert!(said.contains("lookup `login` unique"), "{said}");
    let folds = DB::NAME != "PostgreSQL";
    assert_eq!(said.contains("use `fold = \"lower\"`"), folds, "{said}");
    world.sql("DROP TABLE users").await;
    world
        .sql("CREATE TABLE users (id BIGINT NOT NULL PRIMARY KEY, tenant BIGINT NOT NULL, email VARCHAR(100) NOT NULL, badge BIGINT UNIQUE, login VARCHAR(100) NOT NULL)")
        .await;
    let report = users.check_schema().await.unwrap();
    let messages: Vec<_> = report.differences.iter().map(|one| &one.message).collect();
    assert_eq!(messages.len(), 2, "{report}");
    for (message, lookup) in messages.iter().zip(["`tenant+email`", "`email`"]) {
        assert!(
            message.starts_with(&format!("the lookup {lookup} is `unique`")),
            "{message}"
        );
    }
    world
        .sql("CREATE UNIQUE INDEX u ON users (email, tenant)")
        .await;
    let report = users.check_schema().await.unwrap();
    assert_eq!(report.differences.len(), 1, "{report}");
}

async fn absences_are_cached_and_end_with_the_write<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), None);
    filled(|| users.stats()).await;
    let gate = world.close_gate().await;
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), None);
    drop(gate);
    users.insert(&User::new(1, "a@x")).await.unwrap();
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
}

/// An absence is read, then a row is inserted elsewhere, and then the absence is filled. Returns what is found afterwards.
async fn absence_filled_after_an_insert<DB: Tested>(world: &World<DB>) -> Option<i64> {
    let users = users(world).await;
    let elsewhere = users_elsewhere(world).await;
    // Bound before.
    elsewhere.find(9).await.unwrap();
    filled(|| elsewhere.stats()).await;
    let fill = world.faults.pause(Operation::Fill);
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), None);
    fill.reached().await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    fill.resume();
    filled(|| users.stats()).await;
    let found = id_of(users.find_by_email("a@x").await.unwrap());
    assert_eq!(id_of(elsewhere.find_by_email("a@x").await.unwrap()), found);
    found
}

async fn a_committed_row_is_not_hidden_by_an_absence_that_was_read_before<DB: Tested>(
    world: &World<DB>,
) {
    assert_eq!(absence_filled_after_an_insert(world).await, Some(1));
}

async fn without_the_announcement_an_absence_hides_a_committed_row<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::PointerIntent);
    assert_eq!(absence_filled_after_an_insert(world).await, None);
}

async fn without_the_comparison_a_row_is_returned_that_has_left<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    users.find_by_email("a@x").await.unwrap();
    filled(|| users.stats()).await;
    users.update(&User::new(1, "b@x")).await.unwrap();
    world.faults.leave_out(Mechanism::LookupCheck);
    let found = users.find_by_email("a@x").await.unwrap().unwrap();
    assert_eq!(found.email, "b@x", "the control");
}

async fn a_row_that_was_changed_without_larder_is_found_by_its_new_value_after_invalidation<
    DB: Tested,
>(
    world: &World<DB>,
) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    users.find_by_email("a@x").await.unwrap();
    users.find_by_email("b@x").await.unwrap();
    filled(|| users.stats()).await;
    world
        .sql("UPDATE users SET email = 'b@x' WHERE id = 1")
        .await;
    users.invalidate(1).await.unwrap();
    users.invalidate_by_email("b@x").await.unwrap();
    assert_eq!(id_of(users.find_by_email("b@x").await.unwrap()), Some(1));
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), None);
}

async fn saves_batches_and_transactions_announce_their_values<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    let absent = async |emails: &[&str]| {
        for email in emails {
            assert_eq!(
                id_of(users.find_by_email(*email).await.unwrap()),
                None,
                "{email}"
            );
        }
        filled(|| users.stats()).await;
    };
    let found = async |email: &str, id: i64| {
        assert_eq!(
            id_of(users.find_by_email(email).await.unwrap()),
            Some(id),
            "{email}"
        );
        filled(|| users.stats()).await;
    };
    absent(&["a@x", "b@x", "c@x", "d@x", "e@x", "f@x", "g@x"]).await;
    users.save(&User::new(1, "a@x")).await.unwrap();
    found("a@x", 1).await;
    users.save(&User::new(1, "b@x")).await.unwrap();
    found("b@x", 1).await;
    users
        .insert_many(&[User::new(2, "c@x"), User::new(3, "d@x")])
        .await
        .unwrap();
    found("c@x", 2).await;
    found("d@x", 3).await;
    users
        .update_many(&[User::new(2, "e@x"), User::new(3, "f@x")])
        .await
        .unwrap();
    found("e@x", 2).await;
    found("f@x", 3).await;
    absent(&["c@x", "d@x"]).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = users.within(&mut transaction);
    within.delete(2).await.unwrap();
    within.update(&User::new(1, "e@x")).await.unwrap();
    within.insert(&User::new(4, "b@x")).await.unwrap();
    transaction.commit().await.unwrap();
    found("e@x", 1).await;
    found("b@x", 4).await;
    users
        .inner()
        .delete_row(&User::new(3, "f@x"))
        .await
        .unwrap();
    absent(&["f@x"]).await;
}

async fn an_outage_of_the_store_changes_no_answer<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    users.find_by_email("a@x").await.unwrap();
    users.find_by_email("b@x").await.unwrap();
    filled(|| users.stats()).await;
    for operation in [Operation::Begin, Operation::End] {
        world.faults.fail(operation, 1);
    }
    users.update(&User::new(1, "b@x")).await.unwrap();
    assert_eq!(id_of(users.find_by_email("b@x").await.unwrap()), Some(1));
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), None);
    world.faults.fail(Operation::Get, 2);
    assert_eq!(id_of(users.find_by_email("b@x").await.unwrap()), Some(1));
    world.faults.fail(Operation::Get, 1);
    let found = users.find_many_by_email(&["a@x", "b@x"]).await.unwrap();
    let found: Vec<_> = found.into_iter().map(id_of).collect();
    assert_eq!(found, [None, Some(1)]);
}

async fn concurrent_writers_that_share_values_do_not_block_each_other<DB: Tested>(
    world: &World<DB>,
) {
    let users = users(world).await;
    let rows: Vec<_> = (0..8).map(|id| User::new(id, &format!("{id}@x"))).collect();
    users.insert_many(&rows).await.unwrap();
    let tasks = (0..64).map(|number: i64| {
        let users = users.clone();
        tokio::spawn(async move {
            // Most are refused: the values are taken.
            let user = User::new(number % 8, &format!("{}@x", (number * 5) % 8));
            let _refused = users.update(&user).await;
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for id in 0..8 {
        let email = users
            .find_uncached(id)
            .await
            .unwrap()
            .unwrap()
            .email
            .clone();
        assert_eq!(id_of(users.find_by_email(&email).await.unwrap()), Some(id));
    }
}

async fn all_is_dropped_with_the_entity<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    for email in ["a@x", "b@x"] {
        users.find_by_email(email).await.unwrap();
    }
    filled(|| users.stats()).await;
    world
        .sql("UPDATE users SET email = 'b@x' WHERE id = 1")
        .await;
    users.invalidate_all().await.unwrap();
    assert_eq!(id_of(users.find_by_email("b@x").await.unwrap()), Some(1));
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), None);
    filled(|| users.stats()).await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    users.within(&mut transaction).mark_all_changed().unwrap();
    let statement = sqlx::SqlStr::from_static("UPDATE users SET email = 'a@x' WHERE id = 1");
    DB::run(transaction.connection(), statement).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "labels",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0,
    unique(shelf, label),
    index(shelf, section)
)]
struct Label {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    shelf: String,
    section: Option<String>,
    #[cached(unique)]
    label: String,
}

/// Texts that something on the way to a key, a statement or a column could take for one another.
fn texts() -> Vec<String> {
    let mut texts: Vec<_> = [
        "",
        " ",
        "a",
        "a ",
        " a",
        "A",
        "\u{e4}",
        "a\u{308}",
        "\u{e9}",
        "e\u{301}",
        "a:b",
        "a:",
        ":b",
        "a+b",
        "a/b",
        "a%3Ab",
        "%",
        "%~",
        "%.",
        "{a}",
        "#",
        "@",
        "*",
        "?",
        "_",
        "'",
        "\"",
        "`",
        "\\",
        "\n",
        "\t",
        "NULL",
        "null",
        "0",
        "00",
        "1",
        "1.0",
        "\u{1f980}",
        "\u{200b}",
        "\u{202e}a",
        "\u{df}",
        "ss",
        "\u{130}",
        "i",
    ]
    .map(str::to_owned)
    .into();
    // Beyond what is written into a key as it is, and different at the end only.
    let long = "long ".repeat(40);
    texts.extend([long.clone() + "a", long.clone() + "b", long.clone()]);
    texts.push(long.repeat(3));
    texts
}

async fn values_of_any_text_neither_collide_nor_miss<DB: Tested>(world: &World<DB>) {
    let exact = match DB::NAME {
        // Without the padding that makes a text equal to the same with blanks at its end.
        "MySQL" => " CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        _ => "",
    };
    world
        .sql(format!(
            "CREATE TABLE labels (id BIGINT NOT NULL PRIMARY KEY, shelf VARCHAR(700){exact} NOT NULL, section VARCHAR(700){exact}, \
             label VARCHAR(700){exact} NOT NULL UNIQUE)"
        ))
        .await;
    let labels = Label::repository(&world.cache, world.pool.clone());
    let texts = texts();
    let rows: Vec<_> = (0_i64..)
        .zip(&texts)
        .map(|(id, label)| Label {
            id,
            // The two parts of a value meet in every way.
            shelf: texts[texts.len() - 1 - usize::try_from(id).unwrap()].clone(),
            section: (id % 3 > 0).then(|| label.clone()),
            label: label.clone(),
        })
        .collect();
    labels.insert_many(&rows).await.unwrap();
    for _ in 0..2 {
        for row in &rows {
            let found = labels.find_by_label(&row.label).await.unwrap();
            assert_eq!(found.as_deref(), Some(row), "{:?}", row.label);
            let found = labels.find_by_shelf_and_label(&row.shelf, &row.label);
            assert_eq!(found.await.unwrap().as_deref(), Some(row), "{row:?}");
            // The parts the other way round are another value.
            let other = labels.find_by_shelf_and_label(&row.label, &row.shelf);
            let expected = rows
                .iter()
                .find(|other| other.shelf == row.label && other.label == row.shelf);
            assert_eq!(other.await.unwrap().as_deref(), expected, "{row:?}");
            let shelf = labels.find_all_by_shelf(&row.shelf).await.unwrap();
            assert_eq!(shelf.rows, [Arc::new(row.clone())], "{:?}", row.shelf);
            if let Some(section) = &row.section {
                let page = labels.find_all_by_shelf_and_section(&row.shelf, section);
                assert_eq!(page.await.unwrap().rows, [Arc::new(row.clone())]);
            }
            assert!(
                labels
                    .find_by_label(format!("{}x", row.label))
                    .await
                    .unwrap()
                    .is_none()
            );
        }
        let found = labels.find_many_by_label(&texts).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|row| row.map(|row| row.id)).collect();
        let expected: Vec<_> = rows.iter().map(|row| Some(row.id)).collect();
        assert_eq!(found, expected);
        filled(|| labels.stats()).await;
    }
}

async fn a_savepoint_takes_its_values_along<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    let elsewhere = users_elsewhere(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    let emails = ["a@x", "b@x", "c@x", "d@x"];
    let seen = async |users: &UserRepository<DB>| {
        let found = users.find_many_by_email(&emails).await.unwrap();
        filled(|| users.stats()).await;
        found.into_iter().map(id_of).collect::<Vec<_>>()
    };
    assert_eq!(seen(&users).await, [Some(1), None, None, None]);
    assert_eq!(seen(&elsewhere).await, [Some(1), None, None, None]);
    for commits in [false, true] {
        let mut transaction = Transaction::begin(&world.pool).await.unwrap();
        let mut within = users.within(&mut transaction);
        within.update(&User::new(1, "b@x")).await.unwrap();
        let mut savepoint = transaction.savepoint().await.unwrap();
        let mut within = users.within(&mut savepoint);
        within.update(&User::new(1, "c@x")).await.unwrap();
        within.insert(&User::new(2, "b@x")).await.unwrap();
        savepoint.rollback().await.unwrap();
        let mut savepoint = transaction.savepoint().await.unwrap();
        let mut within = users.within(&mut savepoint);
        within.insert(&User::new(3, "d@x")).await.unwrap();
        savepoint.commit().await.unwrap();
        assert_eq!(seen(&elsewhere).await, [Some(1), None, None, None]);
        match commits {
            false => transaction.rollback().await.unwrap(),
            true => transaction.commit().await.unwrap(),
        }
        let expected = match commits {
            false => [Some(1), None, None, None],
            true => [None, Some(1), None, Some(3)],
        };
        assert_eq!(seen(&users).await, expected);
        assert_eq!(seen(&elsewhere).await, expected);
    }
}

async fn a_damaged_lookup_is_a_miss_and_is_repaired<DB: Tested>(world: &World<DB>) {
    let users = users(world).await;
    users.insert(&User::new(1, "a@x")).await.unwrap();
    let client = redis::Client::open(redis_url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("{}:User#email:a@x", world.namespace);
    for damaged in [
        b"damaged".as_slice(),
        b"",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
        filled(|| users.stats()).await;
        let before = users.stats();
        let exists: bool = redis::cmd("EXISTS")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!(exists, "the ids are at {key}");
        let () = redis::cmd("SET")
            .arg(&key)
            .arg(damaged)
            .arg("PX")
            .arg(60_000)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
        filled(|| users.stats()).await;
        assert!(users.stats().misses > before.misses);
        let statements = world.database.statements();
        assert_eq!(id_of(users.find_by_email("a@x").await.unwrap()), Some(1));
        assert_eq!(world.database.statements(), statements, "it is repaired");
    }
    assert!(users.stats().corrupt_entries >= 3, "{:?}", users.stats());
}
