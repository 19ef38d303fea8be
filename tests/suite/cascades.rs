//! Rows that the database deletes or changes when it deletes another one (`on_delete`): they are not served any more, in any
//! process, whether they were read by id, in a list, or not found.
//!
//! The controls leave out the announcement to the other entities, and the remarks on foreign keys that nothing names, and show that
//! the same scene then serves a deleted row.
//!
//! Not here: the clock that invalidates them (`tags`).

use larder::{
    Cached, Transaction,
    store::{Mechanism, faulty::Operation},
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, SqlSafeStr};

use crate::world::{Tested, World, everywhere, filled, on_both_stores};

everywhere!(
    rows_that_are_deleted_with_another_are_not_served,
    a_reference_that_is_set_to_null_is_not_served_any_more,
    deletes_of_many_rows_and_of_transactions_cascade_too,
    a_delete_that_is_rolled_back_changes_nothing,
    check_schema_lists_the_foreign_keys_that_nothing_names,
    without_the_remarks_nothing_tells_of_rows_that_stay_cached,
);
on_both_stores!(
    without_the_announcement_a_deleted_row_is_served,
    rows_that_are_deleted_with_those_are_not_served,
    between_the_commit_and_its_end_deleted_rows_are_not_served,
    deletes_by_others_are_told_by_invalidate_and_by_marks,
    queries_that_depend_on_the_deleted_rows_follow,
    an_entity_can_name_itself,
    other_entities_over_the_table_of_the_deleted_rows_follow,
);

/// In the order in which they can be created.
const TABLES: [&str; 5] = [
    "CREATE TABLE articles (id BIGINT NOT NULL PRIMARY KEY, title VARCHAR(20) NOT NULL)",
    "CREATE TABLE comments (id BIGINT NOT NULL PRIMARY KEY, article_id BIGINT NOT NULL, \
     FOREIGN KEY (article_id) REFERENCES articles (id) ON DELETE CASCADE)",
    "CREATE TABLE votes (id BIGINT NOT NULL PRIMARY KEY, comment_id BIGINT NOT NULL, \
     FOREIGN KEY (comment_id) REFERENCES comments (id) ON DELETE CASCADE)",
    "CREATE TABLE drafts (id BIGINT NOT NULL PRIMARY KEY, article_id BIGINT, \
     FOREIGN KEY (article_id) REFERENCES articles (id) ON DELETE SET NULL)",
    "CREATE TABLE folders (id BIGINT NOT NULL PRIMARY KEY, parent BIGINT, \
     FOREIGN KEY (parent) REFERENCES folders (id) ON DELETE CASCADE)",
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "articles",
    ttl = "10m",
    on_delete(Comment::article_id, Draft::article_id)
)]
struct Article {
    #[cached(id)]
    id: i64,
    title: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "comments",
    ttl = "10m",
    negative_ttl = "10m",
    tags("article:{article_id}"),
    index(article_id),
    queries,
    on_delete(Vote::comment_id)
)]
struct Comment {
    #[cached(id)]
    id: i64,
    article_id: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "votes", ttl = "10m", tags("comment:{comment_id}"))]
struct Vote {
    #[cached(id)]
    id: i64,
    comment_id: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "drafts",
    ttl = "10m",
    tags("article:{article_id}"),
    same_table(BareDraft, TaggedDraft)
)]
struct Draft {
    #[cached(id)]
    id: i64,
    article_id: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "drafts", ttl = "10m", read_only)]
struct BareDraft {
    #[cached(id)]
    id: i64,
    article_id: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "drafts", ttl = "10m", read_only, tags("of:{article}"))]
struct TaggedDraft {
    #[cached(id)]
    id: i64,
    #[sqlx(rename = "article_id")]
    article: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "folders",
    ttl = "10m",
    tags("parent:{parent}"),
    on_delete(Folder::parent)
)]
struct Folder {
    #[cached(id)]
    id: i64,
    parent: Option<i64>,
}

/// What one process sees.
struct Process<DB: Tested> {
    articles: ArticleRepository<DB>,
    comments: CommentRepository<DB>,
    votes: VoteRepository<DB>,
    drafts: DraftRepository<DB>,
}

/// Articles, as this process and another one see them. The other one has no repository of articles until it is asked.
struct Scene<DB: Tested> {
    here: Process<DB>,
    there: Process<DB>,
}

impl<DB: Tested> Scene<DB> {
    /// Two articles, each with a comment and a draft; the first comment has a vote. All are cached in both processes.
    async fn open(world: &World<DB>) -> Self {
        for table in TABLES {
            world.sql(table).await;
        }
        world
            .sql("INSERT INTO articles VALUES (1, 'one'), (2, 'two'), (3, 'three')")
            .await;
        world
            .sql("INSERT INTO comments VALUES (11, 1), (12, 2), (13, 3)")
            .await;
        world.sql("INSERT INTO votes VALUES (111, 11)").await;
        world
            .sql("INSERT INTO drafts VALUES (21, 1), (22, 2)")
            .await;
        world
            .sql("INSERT INTO folders VALUES (1, NULL), (2, 1), (3, 2)")
            .await;
        let process = async |cache: &larder::Cache| Process {
            articles: Article::repository(cache, world.pool.clone()),
            comments: Comment::repository(cache, world.pool.clone()),
            votes: Vote::repository(cache, world.pool.clone()),
            drafts: Draft::repository(cache, world.pool.clone()),
        };
        let scene = Self {
            here: process(&world.cache).await,
            there: process(&world.cache_elsewhere().await).await,
        };
        scene.see(&[11, 12, 13], &[Some(1), Some(2)]).await;
        scene.settle().await;
        scene
    }

    /// Waits until everything that was read is cached.
    async fn settle(&self) {
        for process in [&self.here, &self.there] {
            filled(|| process.comments.stats()).await;
            filled(|| process.votes.stats()).await;
            filled(|| process.drafts.stats()).await;
        }
    }

    /// Both see these comments, by id and in lists, and drafts of these articles.
    async fn see(&self, comments: &[i64], drafts: &[Option<i64>]) {
        for process in [&self.here, &self.there] {
            for id in [11, 12, 13] {
                let found = process.comments.find(id).await.unwrap();
                assert_eq!(found.is_some(), comments.contains(&id), "{id}");
                let list = process
                    .comments
                    .find_all_by_article_id(id - 10)
                    .await
                    .unwrap();
                let list: Vec<_> = list.rows.iter().map(|row| row.id).collect();
                let expected: Vec<_> = comments.iter().copied().filter(|one| *one == id).collect();
                assert_eq!(list, expected, "{id}");
            }
            let found = process.drafts.find_many(&[21, 22]).await.unwrap();
            let found = found.iter().map(|draft| draft.as_ref().unwrap().article_id);
            assert_eq!(found.collect::<Vec<_>>(), drafts);
            let vote = process.votes.find(111).await.unwrap();
            assert_eq!(vote.is_some(), comments.contains(&11));
        }
    }
}

async fn rows_that_are_deleted_with_another_are_not_served<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    scene.here.articles.delete(1).await.unwrap();
    scene.see(&[12, 13], &[None, Some(2)]).await;
    scene.settle().await;
    scene.see(&[12, 13], &[None, Some(2)]).await;
    scene.there.articles.delete(2).await.unwrap();
    scene.see(&[13], &[None, None]).await;
}

async fn a_reference_that_is_set_to_null_is_not_served_any_more<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    scene.there.articles.delete(2).await.unwrap();
    scene.see(&[11, 13], &[Some(1), None]).await;
}

async fn deletes_of_many_rows_and_of_transactions_cascade_too<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    scene.here.articles.delete_many(&[1, 3]).await.unwrap();
    scene.see(&[12], &[None, Some(2)]).await;
    scene.settle().await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    scene
        .here
        .articles
        .within(&mut transaction)
        .delete(2)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    scene.see(&[], &[None, None]).await;
}

async fn a_delete_that_is_rolled_back_changes_nothing<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let advances = world.faults.calls(Operation::BeginTagged);
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    scene
        .here
        .articles
        .within(&mut transaction)
        .delete(1)
        .await
        .unwrap();
    transaction.rollback().await.unwrap();
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let mut savepoint = transaction.savepoint().await.unwrap();
    scene
        .here
        .articles
        .within(&mut savepoint)
        .delete(1)
        .await
        .unwrap();
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(world.faults.calls(Operation::BeginTagged), advances);
    scene.see(&[11, 12, 13], &[Some(1), Some(2)]).await;
}

async fn without_the_announcement_a_deleted_row_is_served<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::Cascade);
    let scene = Scene::open(world).await;
    let bare = BareDraft::repository(&world.cache_elsewhere().await, world.pool.clone());
    bare.find(21).await.unwrap();
    filled(|| bare.stats()).await;
    scene.here.articles.delete(1).await.unwrap();
    let comment = scene.there.comments.find(11).await.unwrap();
    assert!(comment.is_some(), "the control shows what is prevented");
    let draft = bare.find(21).await.unwrap().unwrap();
    assert_eq!(draft.article_id, Some(1), "the other entity too");
}

async fn rows_that_are_deleted_with_those_are_not_served<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    for process in [&scene.here, &scene.there] {
        assert!(process.votes.find(111).await.unwrap().is_some());
    }
    scene.settle().await;
    scene.here.articles.delete(1).await.unwrap();
    for process in [&scene.here, &scene.there] {
        assert!(process.votes.find(111).await.unwrap().is_none());
    }
}

/// The article names neither of them. One has a tag with its id, and the other one has none.
async fn other_entities_over_the_table_of_the_deleted_rows_follow<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let elsewhere = world.cache_elsewhere().await;
    let bare =
        [&world.cache, &elsewhere].map(|cache| BareDraft::repository(cache, world.pool.clone()));
    let tagged =
        [&world.cache, &elsewhere].map(|cache| TaggedDraft::repository(cache, world.pool.clone()));
    let see = async |articles: [Option<i64>; 2]| {
        for (bare, tagged) in bare.iter().zip(&tagged) {
            for (id, article) in [21, 22].into_iter().zip(articles) {
                assert_eq!(bare.find(id).await.unwrap().unwrap().article_id, article);
                assert_eq!(tagged.find(id).await.unwrap().unwrap().article, article);
            }
            filled(|| bare.stats()).await;
            filled(|| tagged.stats()).await;
        }
    };
    see([Some(1), Some(2)]).await;
    let loads = || tagged[1].stats().loads;
    let before = loads();
    scene.here.articles.delete(1).await.unwrap();
    see([None, Some(2)]).await;
    assert!(loads() - before <= 1, "the other draft has another tag");
    scene.there.articles.delete_many(&[2, 3]).await.unwrap();
    see([None, None]).await;
}

async fn between_the_commit_and_its_end_deleted_rows_are_not_served<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let end = world.faults.pause(Operation::EndTagged);
    let delete = tokio::spawn({
        let articles = scene.here.articles.clone();
        async move { articles.delete(1).await }
    });
    end.reached().await;
    scene.see(&[12, 13], &[None, Some(2)]).await;
    end.resume();
    delete.await.unwrap().unwrap();
    scene.see(&[12, 13], &[None, Some(2)]).await;
}

async fn deletes_by_others_are_told_by_invalidate_and_by_marks<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    world.sql("DELETE FROM articles WHERE id = 1").await;
    scene.there.articles.invalidate(1).await.unwrap();
    scene.see(&[12, 13], &[None, Some(2)]).await;
    scene.settle().await;
    let mut transaction = Transaction::begin(&world.pool).await.unwrap();
    let delete = AssertSqlSafe("DELETE FROM articles WHERE id = 2".to_owned()).into_sql_str();
    DB::execute(transaction.connection(), delete, DB::Arguments::default())
        .await
        .unwrap();
    scene
        .here
        .articles
        .within(&mut transaction)
        .mark_changed(2)
        .unwrap();
    transaction.commit().await.unwrap();
    scene.see(&[13], &[None, None]).await;
    scene.settle().await;
    world.sql("DELETE FROM articles").await;
    scene.here.articles.invalidate_all().await.unwrap();
    scene.see(&[], &[None, None]).await;
}

async fn queries_that_depend_on_the_deleted_rows_follow<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let count = async |process: &Process<DB>| {
        let query = process.comments.query::<i64>("count");
        let fetched = query.fetch(|connection| {
            Box::pin(async move {
                let text = AssertSqlSafe("SELECT id FROM comments".to_owned()).into_sql_str();
                let rows = DB::fetch_all(connection, text, DB::Arguments::default()).await?;
                Ok(i64::try_from(rows.len()).expect("they are few"))
            })
        });
        *fetched.await.unwrap()
    };
    for process in [&scene.here, &scene.there] {
        assert_eq!(count(process).await, 3);
        filled(|| process.comments.inner().queries().unwrap().stats()).await;
    }
    scene.here.articles.delete(1).await.unwrap();
    for process in [&scene.here, &scene.there] {
        assert_eq!(count(process).await, 2);
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "articles", same_table(Article))]
struct BareArticle {
    #[cached(id)]
    id: i64,
    title: String,
}

async fn check_schema_lists_the_foreign_keys_that_nothing_names<DB: Tested>(world: &World<DB>) {
    let scene = Scene::open(world).await;
    let folders = Folder::repository(&world.cache, world.pool.clone());
    let named = [
        scene.here.articles.check_schema().await.unwrap(),
        scene.here.comments.check_schema().await.unwrap(),
        folders.check_schema().await.unwrap(),
    ];
    for report in named {
        let about_keys = report
            .remarks
            .iter()
            .filter(|remark| remark.message.contains("foreign key"));
        assert_eq!(about_keys.count(), 0, "{report:?}");
    }
    let bare = BareArticle::repository(&world.cache, world.pool.clone());
    let report = bare.check_schema().await.unwrap();
    assert!(report.is_ok(), "{report:?}");
    let remarks: Vec<_> = report
        .remarks
        .iter()
        .map(|remark| remark.message.as_str())
        .collect();
    let [cascade, set_null] = &remarks[..] else {
        panic!("{remarks:?}")
    };
    assert!(
        cascade.contains("`comments`.`article_id` says ON DELETE CASCADE"),
        "{cascade}"
    );
    assert!(
        set_null.contains("`drafts`.`article_id` says ON DELETE SET NULL"),
        "{set_null}"
    );
}

async fn without_the_remarks_nothing_tells_of_rows_that_stay_cached<DB: Tested>(world: &World<DB>) {
    world.faults.leave_out(Mechanism::CascadeRemarks);
    let scene = Scene::open(world).await;
    let bare = BareArticle::repository(&world.cache, world.pool.clone());
    let report = bare.check_schema().await.unwrap();
    assert!(report.is_ok() && report.remarks.is_empty(), "{report:?}");
    // What the remarks warn of.
    bare.delete(1).await.unwrap();
    let comments = &scene.there.comments;
    assert!(comments.find(11).await.unwrap().is_some());
    assert!(comments.find_uncached(11).await.unwrap().is_none());
    let drafts = &scene.there.drafts;
    let draft = drafts.find(21).await.unwrap().unwrap();
    assert_eq!(draft.article_id, Some(1));
    let draft = drafts.find_uncached(21).await.unwrap().unwrap();
    assert_eq!(draft.article_id, None);
}

async fn an_entity_can_name_itself<DB: Tested>(world: &World<DB>) {
    let _scene = Scene::open(world).await;
    let folders = Folder::repository(&world.cache, world.pool.clone());
    let there = Folder::repository(&world.cache_elsewhere().await, world.pool.clone());
    for folders in [&folders, &there] {
        for id in [1, 2, 3] {
            assert!(folders.find(id).await.unwrap().is_some());
        }
        filled(|| folders.stats()).await;
    }
    folders.delete(1).await.unwrap();
    for folders in [&folders, &there] {
        for id in [1, 2, 3] {
            assert!(folders.find(id).await.unwrap().is_none(), "{id}");
        }
    }
}
