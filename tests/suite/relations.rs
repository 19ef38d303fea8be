//! Relations: the rows that belong to many rows, in one batch, and what a page with its relations costs.

use std::sync::Arc;

use larder::{Cached, Transaction, store::faulty::Operation};
use serde::{Deserialize, Serialize};

use crate::world::{Tested, World, everywhere, filled, on_both_stores};

everywhere!(
    a_page_with_two_relations_takes_three_statements_and_then_none,
    the_rows_of_many_parents_come_in_one_batch,
    a_child_that_moves_is_with_its_new_parent_at_once,
);
on_both_stores!(
    rows_that_belong_to_nothing_need_no_statement,
    one_repository_may_be_of_another_database,
);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "authors",
    ttl = "10m",
    negative_ttl = "30s",
    jitter = 0,
    has_many(Book::author_id),
    has_many(Book::editor_id, name = "edited_books")
)]
struct Author {
    #[cached(id)]
    id: i64,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "countries", ttl = "10m", negative_ttl = "30s", jitter = 0)]
struct Country {
    #[cached(id)]
    code: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "books", ttl = "10m", negative_ttl = "30s", jitter = 0)]
struct Book {
    #[cached(id)]
    id: i64,
    #[cached(index(max = 3), belongs_to = Author)]
    author_id: i64,
    #[cached(index, belongs_to(Author, name = "editors"))]
    editor_id: Option<i64>,
    #[cached(belongs_to = Country)]
    country: String,
}

impl Book {
    fn new(id: i64, author_id: i64) -> Self {
        Self {
            id,
            author_id,
            editor_id: (id % 2 == 0).then_some(author_id + 1),
            country: format!("C{}", id % 4),
        }
    }
}

struct Library<DB: Tested> {
    authors: AuthorRepository<DB>,
    books: BookRepository<DB>,
    countries: CountryRepository<DB>,
}

impl<DB: Tested> Library<DB> {
    async fn open(world: &World<DB>) -> Self {
        world
            .sql(
                "CREATE TABLE authors (id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL)",
            )
            .await;
        world
            .sql("CREATE TABLE countries (code VARCHAR(10) NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL)")
            .await;
        world
            .sql("CREATE TABLE books (id BIGINT NOT NULL PRIMARY KEY, author_id BIGINT NOT NULL, editor_id BIGINT, country VARCHAR(10) NOT NULL)")
            .await;
        let library = Self {
            authors: Author::repository(&world.cache, world.pool.clone()),
            books: Book::repository(&world.cache, world.pool.clone()),
            countries: Country::repository(&world.cache, world.pool.clone()),
        };
        let name = || "name".to_owned();
        let authors: Vec<_> = (1..=9).map(|id| Author { id, name: name() }).collect();
        library.authors.insert_many(&authors).await.unwrap();
        for code in ["C0", "C1", "C2"] {
            let (code, name) = (code.to_owned(), name());
            let country = Country { code, name };
            library.countries.insert(&country).await.unwrap();
        }
        library
    }

    async fn filled(&self) {
        filled(|| self.authors.stats()).await;
        filled(|| self.books.stats()).await;
        filled(|| self.countries.stats()).await;
    }
}

async fn a_page_with_two_relations_takes_three_statements_and_then_none<DB: Tested>(
    world: &World<DB>,
) {
    let library = Library::open(world).await;
    let Library {
        authors,
        books,
        countries,
    } = &library;
    let rows: Vec<_> = (0..50).map(|id| Book::new(id, id % 9 + 1)).collect();
    books.insert_many(&rows).await.unwrap();
    let ids: Vec<_> = (0..50).collect();
    let read = async || {
        let (statements, gets) = (
            world.database.statements(),
            world.faults.calls(Operation::Get),
        );
        let page = books.find_many(&ids).await.unwrap();
        let page: Vec<Arc<Book>> = page.into_iter().flatten().collect();
        let authors = books.authors_of(&page, authors).await.unwrap();
        let countries = books.countries_of(&page, countries).await.unwrap();
        for ((book, author), country) in page.iter().zip(&authors).zip(&countries) {
            assert_eq!(
                author.as_ref().map(|author| author.id),
                Some(book.author_id)
            );
            let code = country.as_ref().map(|country| country.code.as_str());
            assert_eq!(code, (book.country != "C3").then_some(&*book.country));
        }
        assert_eq!((page.len(), authors.len(), countries.len()), (50, 50, 50));
        (
            world.database.statements() - statements,
            world.faults.calls(Operation::Get) - gets,
        )
    };
    assert_eq!(read().await, (3, 3), "statements and reads of the cache");
    library.filled().await;
    for _ in 0..2 {
        assert_eq!(read().await, (0, 3), "statements and reads of the cache");
    }
}

async fn the_rows_of_many_parents_come_in_one_batch<DB: Tested>(world: &World<DB>) {
    let library = Library::open(world).await;
    let Library { authors, books, .. } = &library;
    for (id, author) in [(1, 5), (2, 5), (3, 7), (4, 5), (5, 5)] {
        books.insert(&Book::new(id, author)).await.unwrap();
    }
    let parents = authors.find_many(&[7, 5, 6]).await.unwrap();
    let parents: Vec<_> = parents.into_iter().flatten().collect();
    library.filled().await;
    for statements in [2, 0] {
        let before = world.database.statements();
        let found = authors.books_of(&parents, books).await.unwrap();
        let ids: Vec<Vec<_>> = found
            .iter()
            .map(|page| page.iter().map(|book| book.id).collect())
            .collect();
        // The index caches three ids.
        assert_eq!(ids, [vec![3], vec![1, 2, 4], vec![]]);
        assert!(found[1].has_more && !found[0].has_more);
        assert_eq!(world.database.statements() - before, statements);
        library.filled().await;
    }
    let edited = authors.edited_books_of(&parents, books).await.unwrap();
    let ids: Vec<Vec<_>> = edited
        .iter()
        .map(|page| page.iter().map(|book| book.id).collect())
        .collect();
    assert_eq!(ids, [vec![], vec![], vec![2, 4]]);
}

async fn a_child_that_moves_is_with_its_new_parent_at_once<DB: Tested>(world: &World<DB>) {
    let library = Library::open(world).await;
    let Library { authors, books, .. } = &library;
    books.insert(&Book::new(1, 5)).await.unwrap();
    books.insert(&Book::new(3, 6)).await.unwrap();
    let parents = authors.find_many(&[5, 6]).await.unwrap();
    let parents: Vec<_> = parents.into_iter().flatten().collect();
    let children = async || {
        let found = authors.books_of(&parents, books).await.unwrap();
        library.filled().await;
        let ids = found
            .iter()
            .map(|page| page.iter().map(|book| book.id).collect::<Vec<_>>());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(children().await, [vec![1], vec![3]]);
    books.insert(&Book::new(5, 5)).await.unwrap();
    assert_eq!(children().await, [vec![1, 5], vec![3]]);
    // By another process that never read the row.
    let elsewhere = Book::repository(&world.cache_elsewhere().await, world.pool.clone());
    elsewhere.update(&Book::new(1, 6)).await.unwrap();
    assert_eq!(children().await, [vec![5], vec![1, 3]]);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut within = elsewhere.within(&mut transaction);
    within.update(&Book::new(3, 5)).await.unwrap();
    within.delete(5).await.unwrap();
    assert_eq!(children().await, [vec![5], vec![1, 3]]);
    transaction.commit().await.unwrap();
    assert_eq!(children().await, [vec![3], vec![1]]);
    let page = books.find_many(&[1, 3]).await.unwrap();
    let page: Vec<_> = page.into_iter().flatten().collect();
    let found = books.authors_of(&page, authors).await.unwrap();
    let found: Vec<_> = found.into_iter().flatten().map(|row| row.id).collect();
    assert_eq!(found, [6, 5]);
}

async fn rows_that_belong_to_nothing_need_no_statement<DB: Tested>(world: &World<DB>) {
    let library = Library::open(world).await;
    let rows: Vec<_> = [1, 3].map(|id| Arc::new(Book::new(id, 1))).into();
    let calls = || {
        (
            world.database.statements(),
            world.faults.calls(Operation::Get),
        )
    };
    let before = calls();
    let (books, authors) = (&library.books, &library.authors);
    let found = books.editors_of(&rows, authors).await.unwrap();
    assert_eq!(found, [None, None]);
    assert!(books.authors_of(&[], authors).await.unwrap().is_empty());
    assert!(authors.books_of(&[], books).await.unwrap().is_empty());
    assert_eq!(calls(), before);
    let mixed: Vec<_> = [1, 2, 3, 4].map(|id| Arc::new(Book::new(id, id))).into();
    let found = books.editors_of(&mixed, authors).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|row| row.as_ref().map(|row| row.id))
        .collect();
    assert_eq!(found, [None, Some(3), None, Some(5)]);
}

async fn one_repository_may_be_of_another_database<DB: Tested>(world: &World<DB>) {
    let library = Library::open(world).await;
    let pool = sqlx::SqlitePool::connect("sqlite::memory:").await.unwrap();
    sqlx::query("CREATE TABLE authors (id BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)")
        .execute(&pool)
        .await
        .unwrap();
    let elsewhere = Author::repository(&larder::Cache::in_process(), pool);
    let name = "of another database".to_owned();
    elsewhere.insert(&Author { id: 4, name }).await.unwrap();
    let rows = [Arc::new(Book::new(1, 4)), Arc::new(Book::new(3, 9))];
    let found = library.books.authors_of(&rows, &elsewhere).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().name, "of another database");
    assert!(found[1].is_none());
}
