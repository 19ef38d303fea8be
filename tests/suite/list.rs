//! Lists of rows by an index: what they cost, their pages, and that no row is missing and none is returned that has left.

use std::sync::Arc;

use larder::{
    Cached, Page, Transaction,
    store::{Mechanism, faulty::Operation},
};
use serde::{Deserialize, Serialize};

use crate::world::{Tested, World, everywhere, filled, on_both_stores};

everywhere!(
    a_list_comes_in_its_order_and_is_cached,
    a_row_that_moves_is_right_in_both_lists_at_once,
    pages_follow_each_other_without_gaps,
    pages_beyond_what_is_cached_come_from_the_database,
    a_page_begins_after_the_values_of_a_row_that_was_changed_or_deleted,
    lists_of_many_values_take_two_statements,
    rows_are_counted,
    a_list_of_two_columns_and_a_composite_id,
    a_list_in_the_order_of_what_the_database_counts,
);
on_both_stores!(
    inserts_and_deletes_are_seen_at_once,
    rows_that_have_left_are_made_up_for,
    a_list_read_before_an_insert_is_not_stored_after_it,
    without_the_announcement_a_list_misses_a_row,
    without_the_comparison_a_list_has_a_row_that_has_left,
    an_empty_list_is_cached,
    an_outage_of_the_store_changes_no_list,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "books",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0,
    lease(ttl = "20s", wait = "10s"),
    index(shelf, order_by = "year desc, title", max = 10)
)]
struct Book {
    #[cached(id)]
    id: i64,
    shelf: i64,
    #[cached(index)]
    author: Option<i64>,
    year: i64,
    title: String,
}

impl Book {
    fn new(id: i64, shelf: i64, year: i64) -> Self {
        Self {
            id,
            shelf,
            author: Some(id % 3),
            year,
            title: format!("title {}", id % 2),
        }
    }
}

async fn books<DB: Tested>(world: &World<DB>) -> BookRepository<DB> {
    world
        .sql("CREATE TABLE books (id BIGINT NOT NULL PRIMARY KEY, shelf BIGINT NOT NULL, author BIGINT, year BIGINT NOT NULL, title VARCHAR(100) NOT NULL)")
        .await;
    Book::repository(&world.cache, world.pool.clone())
}

async fn books_elsewhere<DB: Tested>(world: &World<DB>) -> BookRepository<DB> {
    Book::repository(&world.cache_elsewhere().await, world.pool.clone())
}

fn ids(page: &Page<Book>) -> Vec<i64> {
    page.iter().map(|book| book.id).collect()
}

async fn shelf<DB: Tested>(books: &BookRepository<DB>, shelf: i64) -> Vec<i64> {
    let page = books.find_all_by_shelf(shelf).await.unwrap();
    filled(|| books.stats()).await;
    ids(&page)
}

async fn a_list_comes_in_its_order_and_is_cached<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    for (id, year) in [(1, 1990), (2, 1999), (3, 1990), (4, 1990)] {
        books.insert(&Book::new(id, 7, year)).await.unwrap();
    }
    books.insert(&Book::new(5, 8, 1990)).await.unwrap();
    let before = world.database.statements();
    // By year, then title, then id.
    assert_eq!(shelf(&books, 7).await, [2, 4, 1, 3]);
    assert_eq!(world.database.statements() - before, 2);
    for _ in 0..3 {
        assert_eq!(shelf(&books, 7).await, [2, 4, 1, 3]);
    }
    assert_eq!(world.database.statements() - before, 2);
    let page = books.find_all_by_author(1).await.unwrap();
    assert_eq!(ids(&page), [1, 4]);
    assert!(!page.has_more);
}

async fn a_row_that_moves_is_right_in_both_lists_at_once<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    let elsewhere = books_elsewhere(world).await;
    for id in 1..=4 {
        books.insert(&Book::new(id, 7, 1990)).await.unwrap();
    }
    for repository in [&books, &elsewhere] {
        assert_eq!(shelf(repository, 7).await, [2, 4, 1, 3]);
        assert_eq!(shelf(repository, 8).await, [0_i64; 0]);
    }
    // Nobody has read the old row.
    let fresh = books_elsewhere(world).await;
    fresh.update(&Book::new(4, 8, 1990)).await.unwrap();
    for repository in [&elsewhere, &books] {
        assert_eq!(shelf(repository, 7).await, [2, 1, 3]);
        assert_eq!(shelf(repository, 8).await, [4]);
    }
    // Another place in the same list.
    fresh.update(&Book::new(3, 7, 2020)).await.unwrap();
    assert_eq!(shelf(&books, 7).await, [3, 2, 1]);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = books.within(&mut transaction);
    within.update(&Book::new(1, 8, 1980)).await.unwrap();
    within.delete(2).await.unwrap();
    within.insert(&Book::new(9, 7, 1970)).await.unwrap();
    transaction.commit().await.unwrap();
    for repository in [&elsewhere, &books] {
        assert_eq!(shelf(repository, 7).await, [3, 9]);
        assert_eq!(shelf(repository, 8).await, [4, 1]);
    }
}

/// Reads a list page by page.
async fn paged<DB: Tested>(books: &BookRepository<DB>, shelf: i64, limit: usize) -> Vec<i64> {
    let mut all = Vec::new();
    let mut last: Option<Arc<Book>> = None;
    loop {
        let mut page = books.find_all_by_shelf(shelf).limit(limit);
        if let Some(last) = &last {
            page = page.after(last);
        }
        let page = page.await.unwrap();
        assert!(page.len() <= limit);
        all.extend(ids(&page));
        if !page.has_more {
            return all;
        }
        assert_eq!(page.len(), limit);
        last = page.last().cloned();
    }
}

async fn pages_follow_each_other_without_gaps<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    for id in 1..=9 {
        books
            .insert(&Book::new(id, 7, 1990 + id / 4))
            .await
            .unwrap();
    }
    let all = shelf(&books, 7).await;
    assert_eq!(all, [8, 9, 4, 6, 5, 7, 2, 1, 3]);
    let before = world.database.statements();
    for limit in 1..=10 {
        assert_eq!(paged(&books, 7, limit).await, all, "{limit} at a time");
    }
    assert_eq!(world.database.statements(), before, "all of it is cached");
    let none = books.find_all_by_shelf(7).limit(0).await.unwrap();
    assert!(none.is_empty() && none.has_more);
}

async fn pages_beyond_what_is_cached_come_from_the_database<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    // Ten ids are cached.
    let rows: Vec<_> = (1..=25).map(|id| Book::new(id, 7, 2000 - id)).collect();
    books.insert_many(&rows).await.unwrap();
    let page = books.find_all_by_shelf(7).await.unwrap();
    assert_eq!(ids(&page), (1..=10).collect::<Vec<_>>());
    assert!(page.has_more);
    for limit in [1, 4, 7, 10, 11, 30] {
        assert_eq!(paged(&books, 7, limit).await, (1..=25).collect::<Vec<_>>());
    }
    let page = books.find_all_by_shelf(7).limit(100).await.unwrap();
    assert_eq!((page.len(), page.has_more), (25, false));
    filled(|| books.stats()).await;
    let before = world.database.statements();
    let page = books.find_all_by_shelf(7).limit(5).after(&rows[14]);
    assert_eq!(ids(&page.await.unwrap()), (16..=20).collect::<Vec<_>>());
    assert_eq!(
        world.database.statements() - before,
        1,
        "the rows are cached"
    );
}

async fn a_page_begins_after_the_values_of_a_row_that_was_changed_or_deleted<DB: Tested>(
    world: &World<DB>,
) {
    let books = books(world).await;
    for id in 1..=6 {
        books.insert(&Book::new(id, 7, 2000 - id)).await.unwrap();
    }
    let third = Book::new(3, 7, 1997);
    let after = async || {
        let page = books.find_all_by_shelf(7).limit(2).after(&third);
        ids(&page.await.unwrap())
    };
    assert_eq!(shelf(&books, 7).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(after().await, [4, 5]);
    books.update(&Book::new(3, 7, 1900)).await.unwrap();
    assert_eq!(after().await, [4, 5], "the row is the last one now");
    books.delete(3).await.unwrap();
    assert_eq!(after().await, [4, 5]);
    books.insert(&Book::new(7, 7, 1996)).await.unwrap();
    assert_eq!(after().await, [4, 7], "the new row has the year of row 4");
}

async fn lists_of_many_values_take_two_statements<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    let rows: Vec<_> = (0..60)
        .map(|id| Book::new(id, id % 20, 1990 + id))
        .collect();
    books.insert_many(&rows).await.unwrap();
    let asked: Vec<i64> = (0..25).chain([3]).collect();
    let before = world.database.statements();
    for _ in 0..2 {
        let pages = books.find_all_by_shelf_many(&asked).await.unwrap();
        assert_eq!(pages.len(), asked.len());
        for (shelf, page) in asked.iter().zip(&pages) {
            let expected: Vec<_> = match shelf {
                0..20 => vec![shelf + 40, shelf + 20, *shelf],
                _ => vec![],
            };
            assert_eq!(ids(page), expected);
        }
        filled(|| books.stats()).await;
    }
    assert_eq!(world.database.statements() - before, 2);
    // A list that is longer than what is cached.
    let rows: Vec<_> = (100..120).map(|id| Book::new(id, 3, id)).collect();
    books.insert_many(&rows).await.unwrap();
    let pages = books.find_all_by_shelf_many(&[4, 3]).await.unwrap();
    assert_eq!(ids(&pages[0]), [44, 24, 4]);
    assert_eq!((pages[1].len(), pages[1].has_more), (10, true));
}

async fn rows_are_counted<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    assert_eq!(books.count_by_shelf(7).await.unwrap(), 0);
    assert!(!books.exists_by_shelf(7).await.unwrap());
    for id in 1..=10 {
        books.insert(&Book::new(id, 7, 1990)).await.unwrap();
    }
    assert_eq!(books.count_by_shelf(7).await.unwrap(), 10);
    filled(|| books.stats()).await;
    let before = world.database.statements();
    assert_eq!(books.count_by_shelf(7).await.unwrap(), 10);
    assert!(books.exists_by_shelf(7).await.unwrap());
    assert_eq!(world.database.statements(), before);
    books.update(&Book::new(1, 8, 1990)).await.unwrap();
    assert_eq!(books.count_by_shelf(7).await.unwrap(), 9);
    for id in 11..=30 {
        books.insert(&Book::new(id, 7, 1990)).await.unwrap();
    }
    assert_eq!(books.count_by_shelf(7).await.unwrap(), 29);
    assert_eq!(books.count_by_author(0).await.unwrap(), 10);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "seatings",
    ttl = "10m",
    jitter = 0,
    index(room, class, order_by = "row desc")
)]
struct Seating {
    #[cached(id)]
    hall: i64,
    #[cached(id)]
    seat: String,
    room: String,
    class: i16,
    #[sqlx(rename = "row_number_")]
    row: i32,
}

async fn a_list_of_two_columns_and_a_composite_id<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE seatings (hall BIGINT NOT NULL, seat VARCHAR(10) NOT NULL, room VARCHAR(20) NOT NULL, class SMALLINT NOT NULL, row_number_ INTEGER NOT NULL, PRIMARY KEY (hall, seat))")
        .await;
    let seatings = Seating::repository(&world.cache, world.pool.clone());
    for number in 0..12_i32 {
        let seating = Seating {
            hall: i64::from(number % 2),
            seat: format!("s{number:02}"),
            room: "Room: 1".to_owned(),
            class: i16::try_from(number % 3).unwrap(),
            row: number / 6,
        };
        seatings.insert(&seating).await.unwrap();
    }
    let seats = |page: Page<Seating>| -> Vec<String> {
        page.iter().map(|seating| seating.seat.clone()).collect()
    };
    for _ in 0..2 {
        let page = seatings.find_all_by_room_and_class("Room: 1", 1).await;
        assert_eq!(seats(page.unwrap()), ["s10", "s07", "s04", "s01"]);
        let page = seatings.find_all_by_room_and_class("room: 1", 1).await;
        assert!(page.unwrap().is_empty());
    }
    let first = seatings.find_all_by_room_and_class("Room: 1", 1).limit(2);
    let first = first.await.unwrap();
    assert!(first.has_more);
    let last = first.last().unwrap();
    let next = seatings
        .find_all_by_room_and_class("Room: 1", 1)
        .after(last);
    assert_eq!(seats(next.await.unwrap()), ["s04", "s01"]);
    let many = [("Room: 1", 2_i16), ("none", 2), ("Room: 1", 0)];
    let pages = seatings.find_all_by_room_and_class_many(&many).await;
    let counts: Vec<_> = pages.unwrap().iter().map(|page| page.len()).collect();
    assert_eq!(counts, [4, 0, 4]);
}

async fn inserts_and_deletes_are_seen_at_once<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    let elsewhere = books_elsewhere(world).await;
    for round in 0..5 {
        books.insert(&Book::new(round, 7, round)).await.unwrap();
        let expected: Vec<_> = (0..=round).rev().collect();
        assert_eq!(shelf(&elsewhere, 7).await, expected);
        assert_eq!(shelf(&books, 7).await, expected);
    }
    for round in 0..5 {
        books.delete(round).await.unwrap();
        let expected: Vec<_> = (round + 1..5).rev().collect();
        assert_eq!(shelf(&elsewhere, 7).await, expected);
        assert_eq!(shelf(&books, 7).await, expected);
    }
}

async fn rows_that_have_left_are_made_up_for<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    let rows: Vec<_> = (1..=14).map(|id| Book::new(id, 7, 2000 - id)).collect();
    books.insert_many(&rows).await.unwrap();
    assert_eq!(shelf(&books, 7).await, (1..=10).collect::<Vec<_>>());
    for id in [1, 2, 3] {
        books.update(&Book::new(id, 8, 2000 - id)).await.unwrap();
    }
    let page = books.find_all_by_shelf(7).limit(4).await.unwrap();
    assert_eq!((ids(&page), page.has_more), (vec![4, 5, 6, 7], true));
    assert_eq!(shelf(&books, 7).await, (4..=13).collect::<Vec<_>>());
    let page = books.find_all_by_shelf(7).await.unwrap();
    assert!(page.has_more, "row 14 follows");
    assert!(books.stats().changed_lookups > 0);
    for id in 4..=14 {
        books.delete(id).await.unwrap();
    }
    assert_eq!(shelf(&books, 7).await, [0_i64; 0]);
}

/// A list is read, then a row is inserted elsewhere, and then the list is filled. Returns what the list has afterwards.
async fn list_filled_after_an_insert<DB: Tested>(world: &World<DB>) -> Vec<i64> {
    let books = books(world).await;
    let elsewhere = books_elsewhere(world).await;
    books.insert(&Book::new(1, 7, 1990)).await.unwrap();
    elsewhere.find(1).await.unwrap();
    filled(|| elsewhere.stats()).await;
    let fill = world.faults.pause(Operation::Fill);
    let reader = books.clone();
    let read =
        tokio::spawn(async move { reader.find_all_by_shelf(7).await.map(|page| ids(&page)) });
    fill.reached().await;
    assert_eq!(read.await.unwrap().unwrap(), [1]);
    books.insert(&Book::new(2, 7, 1990)).await.unwrap();
    fill.resume();
    filled(|| books.stats()).await;
    let found = shelf(&books, 7).await;
    assert_eq!(shelf(&elsewhere, 7).await, found);
    found
}

async fn a_list_read_before_an_insert_is_not_stored_after_it<DB: Tested>(world: &World<DB>) {
    assert_eq!(list_filled_after_an_insert(world).await, [2, 1]);
}

async fn without_the_announcement_a_list_misses_a_row<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::ListIntent);
    assert_eq!(list_filled_after_an_insert(world).await, [1]);
}

async fn without_the_comparison_a_list_has_a_row_that_has_left<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    books.insert(&Book::new(1, 7, 1990)).await.unwrap();
    assert_eq!(shelf(&books, 7).await, [1]);
    books.update(&Book::new(1, 8, 1990)).await.unwrap();
    world.faults.leave_out(Mechanism::LookupCheck);
    assert_eq!(shelf(&books, 7).await, [1], "the control");
}

async fn an_empty_list_is_cached<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    assert!(shelf(&books, 7).await.is_empty());
    let gate = world.close_gate().await;
    assert!(shelf(&books, 7).await.is_empty());
    drop(gate);
    books.save(&Book::new(1, 7, 1990)).await.unwrap();
    assert_eq!(shelf(&books, 7).await, [1]);
}

async fn an_outage_of_the_store_changes_no_list<DB: Tested>(world: &World<DB>) {
    let books = books(world).await;
    for id in 1..=3 {
        books.insert(&Book::new(id, 7, id)).await.unwrap();
    }
    assert_eq!(shelf(&books, 7).await, [3, 2, 1]);
    for operation in [Operation::Begin, Operation::End] {
        world.faults.fail(operation, 1);
    }
    books.insert(&Book::new(4, 7, 4)).await.unwrap();
    assert_eq!(shelf(&books, 7).await, [4, 3, 2, 1]);
    world.faults.fail(Operation::Get, 2);
    assert_eq!(shelf(&books, 7).await, [4, 3, 2, 1]);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "posts",
    ttl = "10m",
    jitter = 0,
    index(thread, order_by = "version desc")
)]
struct Post {
    #[cached(id)]
    id: i64,
    #[cached(immutable)]
    thread: i64,
    text: String,
    #[cached(version)]
    version: i64,
}

async fn a_list_in_the_order_of_what_the_database_counts<DB: Tested>(world: &World<DB>) {
    world
        .sql("CREATE TABLE posts (id BIGINT NOT NULL PRIMARY KEY, thread BIGINT NOT NULL, text VARCHAR(100) NOT NULL, version BIGINT NOT NULL)")
        .await;
    let posts = Post::repository(&world.cache, world.pool.clone());
    let elsewhere = Post::repository(&world.cache_elsewhere().await, world.pool.clone());
    for id in 1..=3 {
        let post = Post {
            id,
            thread: 7,
            text: String::new(),
            version: 1,
        };
        posts.insert(&post).await.unwrap();
    }
    let read = async || {
        let mut seen = Vec::new();
        for repository in [&posts, &elsewhere] {
            let page = repository.find_all_by_thread(7).limit(2).await.unwrap();
            filled(|| repository.stats()).await;
            seen.push(page.iter().map(|post| post.id).collect::<Vec<_>>());
        }
        assert_eq!(seen[0], seen[1]);
        seen.pop().unwrap()
    };
    assert_eq!(read().await, [1, 2]);
    let edit = |post: &mut Post| post.text.push('x');
    posts.modify(3, edit).await.unwrap();
    assert_eq!(read().await, [3, 1]);
    let mut post = (*elsewhere.find(2).await.unwrap().unwrap()).clone();
    edit(&mut post);
    let post = elsewhere.update(&post).await.unwrap();
    elsewhere.modify(post.id, edit).await.unwrap();
    assert_eq!(read().await, [2, 3]);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = posts.within(&mut transaction);
    for _ in 0..3 {
        within.modify(1, edit).await.unwrap();
    }
    assert_eq!(read().await, [2, 3]);
    transaction.commit().await.unwrap();
    assert_eq!(read().await, [1, 2]);
}
