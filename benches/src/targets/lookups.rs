//! Batches, lookups and lists, beside what a programmer writes by hand, and what an update of an entity with lists costs.

use std::sync::Arc;

use larder::Cached;
use redis::{AsyncCommands, aio::MultiplexedConnection};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres};

use super::{
    expect_ratio,
    reads::{TTL_SECONDS, Twice, present},
};
use crate::{
    Failure,
    entity::ROWS,
    measure::{Contest, Effort, Figure, Operation, Variant},
    report::{self, Goal},
    servers,
};

/// How many rows a batch has.
const BATCH: i64 = 100;
/// How many rows a list has.
const LIST: i64 = 50;
/// The distance of the ids of a batch.
const STEP: i64 = 97;

/// Entities of the same columns over one table.
macro_rules! members {
    ($($(#[$attribute:meta])* $name:ident $(($($unique:meta),*; $($index:meta),*))? $($fixed:ident)?;)*) => {
        $(
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
            $(#[$attribute])*
            struct $name {
                #[cached(id)]
                id: i64,
                $(#[cached($($unique),*)])?
                email: String,
                $(#[cached($($index),*)])?
                team: i64,
                $(#[cached($fixed)])?
                score: i64,
                note: String,
            }
        )*
    };
}

members! {
    /// A member that is found by e-mail and by team.
    #[cached(table = "larder_benches.members", name = "Member", ttl = "1h", jitter = 0, index(team, score))]
    Member (unique; index(order_by = "score desc"));

    /// The same, whose lookups no update changes.
    #[cached(table = "larder_benches.members", name = "Fixed", ttl = "1h", jitter = 0, index(team, score))]
    Fixed (unique, immutable; index(order_by = "score desc"), immutable) immutable;

    /// The same, found by its id only.
    #[cached(table = "larder_benches.members", name = "Plain", ttl = "1h", jitter = 0)]
    Plain;

    /// The same, whose entries expire at once.
    #[cached(table = "larder_benches.members", name = "Fleeting", ttl = "1ms", jitter = 0)]
    Fleeting;
}

async fn create_table(pool: &PgPool) -> Result<(), Failure> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "SET client_min_messages = warning;
         CREATE SCHEMA IF NOT EXISTS larder_benches;
         DROP TABLE IF EXISTS larder_benches.members;
         CREATE TABLE larder_benches.members (
             id bigint PRIMARY KEY, email text NOT NULL UNIQUE, team bigint NOT NULL, score bigint NOT NULL, note text NOT NULL
         );
         INSERT INTO larder_benches.members
         SELECT id, 'member' || id || '@example.com', id % ({ROWS} / {LIST}), id * 7919 % 10007,
                'joined in the spring, plays on the left, has a locker near the door, and pays by the year'
         FROM generate_series(1, {ROWS}) AS id;
         CREATE INDEX ON larder_benches.members (team, score DESC, id);
         ANALYZE larder_benches.members;"
    )))
    .execute(pool)
    .await?;
    Ok(())
}

/// The ids of a batch.
fn batch(id: i64) -> Vec<i64> {
    let rows = i64::try_from(ROWS).unwrap_or(i64::MAX);
    (0..BATCH)
        .map(|place| (id + place * STEP) % rows + 1)
        .collect()
}

fn email(id: i64) -> String {
    format!("member{id}@example.com")
}

/// Programs without larder.
#[derive(Clone)]
struct ByHand {
    connection: MultiplexedConnection,
    prefix: Arc<str>,
    pool: PgPool,
}

impl ByHand {
    async fn new(pool: &PgPool, part: &str) -> Result<Self, Failure> {
        Ok(Self {
            connection: servers::redis().await?,
            prefix: servers::namespace(part).into(),
            pool: pool.clone(),
        })
    }

    fn keys(&self, ids: &[i64]) -> Vec<String> {
        ids.iter()
            .map(|id| format!("{}:{id}", self.prefix))
            .collect()
    }

    async fn select(&self, ids: &[i64]) -> Result<Vec<Plain>, Failure> {
        let rows = sqlx::query_as("SELECT * FROM larder_benches.members WHERE id = ANY($1)");
        Ok(rows.bind(ids).fetch_all(&self.pool).await?)
    }

    /// Stores all rows.
    async fn fill(&mut self) -> Result<(), Failure> {
        let ids: Vec<_> = (1..=i64::try_from(ROWS)?).collect();
        for row in self.select(&ids).await? {
            let key = format!("{}:{}", self.prefix, row.id);
            let () = self
                .connection
                .set_ex(key, serde_json::to_vec(&row)?, TTL_SECONDS)
                .await?;
        }
        Ok(())
    }

    async fn cached(&mut self, ids: &[i64]) -> Result<Vec<Option<Plain>>, Failure> {
        let entries: Vec<Option<Vec<u8>>> = self.connection.mget(self.keys(ids)).await?;
        let rows = entries.into_iter().map(|entry| {
            entry
                .map(|bytes| serde_json::from_slice(&bytes))
                .transpose()
        });
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// MGET and decode.
#[derive(Clone)]
struct MgetByHand(ByHand);

impl Operation for MgetByHand {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        for row in self.0.cached(&batch(id)).await? {
            present(row)?;
        }
        Ok(())
    }
}

/// MGET that finds nothing, a statement, and a pipeline that stores its rows.
#[derive(Clone)]
struct AnyByHand(ByHand);

impl Operation for AnyByHand {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let ids = batch(id);
        // A few may be there still, for a millisecond.
        let _found: Vec<Option<Vec<u8>>> = self.0.connection.mget(self.0.keys(&ids)).await?;
        let rows = self.0.select(&ids).await?;
        let mut stores = redis::pipe();
        for row in &rows {
            let key = format!("{}:{}", self.0.prefix, row.id);
            stores.pset_ex(key, serde_json::to_vec(row)?, 1).ignore();
        }
        let () = stores.query_async(&mut self.0.connection).await?;
        match rows.len() {
            found if found == ids.len() => Ok(()),
            found => Err(format!("{found} rows were found").into()),
        }
    }
}

/// `find_many`, with hits or with misses.
#[derive(Clone)]
struct FindMany<E: larder::Entity>(larder::Repository<E, Postgres>);

impl<E: larder::Entity<Id = i64>> Operation for FindMany<E> {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        for row in self.0.find_many(&batch(id)).await? {
            present(row)?;
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Find(MemberRepository<Postgres>);

impl Operation for Find {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.0.find(id).await?)
    }
}

#[derive(Clone)]
struct FindBy(MemberRepository<Postgres>);

impl Operation for FindBy {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        present(self.0.find_by_email(email(id)).await?)
    }
}

/// A list of [`LIST`] rows.
#[derive(Clone)]
struct List(MemberRepository<Postgres>);

impl Operation for List {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let team = id % (i64::try_from(ROWS)? / LIST);
        let page = self.0.find_all_by_team(team).await?;
        match i64::try_from(page.len())? {
            LIST => Ok(()),
            found => Err(format!("{found} rows were found").into()),
        }
    }
}

/// A list of ids by hand, and an MGET of the rows.
#[derive(Clone)]
struct ListByHand(ByHand);

impl Operation for ListByHand {
    async fn call(&mut self, id: i64) -> Result<(), Failure> {
        let teams = i64::try_from(ROWS)? / LIST;
        let key = format!("{}:team:{}", self.0.prefix, id % teams);
        let ids: Option<Vec<u8>> = self.0.connection.get(key).await?;
        let ids: Vec<i64> = serde_json::from_slice(&ids.ok_or("the list is not there")?)?;
        for row in self.0.cached(&ids).await? {
            present(row)?;
        }
        Ok(())
    }
}

/// An update of an entity with two lists and a unique value, and of one without.
#[derive(Clone)]
struct Update<R>(R);

/// Updates a row in its note.
macro_rules! updates {
    ($($name:ident $repository:ident),*) => {
        $(impl Operation for Update<$repository<Postgres>> {
            async fn call(&mut self, id: i64) -> Result<(), Failure> {
                let row = $name {
                    id,
                    email: email(id),
                    team: id % (i64::try_from(ROWS)? / LIST),
                    score: id * 7919 % 10007,
                    note: "changed".to_owned(),
                };
                self.0.update(&row).await?;
                Ok(())
            }
        })*
    };
}

updates!(Plain PlainRepository, Member MemberRepository, Fixed FixedRepository);

async fn prepare() -> Result<PgPool, Failure> {
    let pool = servers::pool(servers::POOL_SIZE).await?;
    create_table(&pool).await?;
    let packages = ["larder", "redis", "sqlx", "serde_json", "rmp-serde"];
    servers::describe(Some(&pool), &packages).await?;
    Ok(pool)
}

/// Runs variants of which the first two are compared.
async fn compare(
    name: &str,
    goal: Goal,
    contest: Contest,
    effort: Effort,
) -> Result<Vec<Variant>, Failure> {
    let variants = contest.run(effort).await?;
    report::variants(&variants);
    let ratio = variants[1].ratio(&variants[0], Figure::Latency);
    report::ratio(name, ratio, goal);
    Ok(variants)
}

/// A hundred ids.
pub(crate) async fn find_many(effort: Effort) -> Result<(), Failure> {
    let pool = prepare().await?;
    println!("  {BATCH} ids a call, one task");
    let cache = servers::cache("find-many")?.connect().await?;
    let plain = Plain::repository(&cache, pool.clone());
    let mut by_hand = ByHand::new(&pool, "mget").await?;
    by_hand.fill().await?;
    let all: Vec<_> = (1..=i64::try_from(ROWS)?).collect();
    // The second pass waits for the fills of the first.
    for _ in 0..2 {
        for ids in all.chunks(500) {
            plain.find_many(ids).await?;
        }
    }
    let misses = plain.stats().misses;
    let contest = Contest::new(1, ROWS)
        .enter("MGET + serde_json by hand", MgetByHand(by_hand))
        .enter("find_many, all cached", FindMany(plain.inner().clone()));
    compare("find-many-hits", Goal::AtMost(1.15), contest, effort).await?;
    if plain.stats().misses != misses {
        return Err("some reads were no hits".into());
    }
    let fleeting = Fleeting::repository(&cache, pool.clone());
    let contest = Contest::new(1, ROWS)
        .enter(
            "MGET, ANY, pipeline of SET by hand",
            AnyByHand(ByHand::new(&pool, "any").await?),
        )
        .enter(
            "find_many, nothing cached",
            FindMany(fleeting.inner().clone()),
        );
    compare("find-many-misses", Goal::AtMost(1.1), contest, effort).await?;
    Ok(())
}

async fn members(pool: &PgPool) -> Result<MemberRepository<Postgres>, Failure> {
    let cache = servers::cache("lookups")?.connect().await?;
    let members = Member::repository(&cache, pool.clone());
    let emails: Vec<_> = (1..=i64::try_from(ROWS)?).map(email).collect();
    let teams: Vec<_> = (0..i64::try_from(ROWS)? / LIST).collect();
    for _ in 0..2 {
        for emails in emails.chunks(500) {
            members.find_many_by_email(emails).await?;
        }
        for teams in teams.chunks(20) {
            members.find_all_by_team_many(teams).await?;
        }
    }
    Ok(members)
}

/// A hit by e-mail, beside one by id.
pub(crate) async fn find_by(effort: Effort) -> Result<(), Failure> {
    let pool = prepare().await?;
    let members = members(&pool).await?;
    let misses = members.stats().misses;
    let contest = Contest::new(1, ROWS)
        .enter("find", Find(members.clone()))
        .enter("find_by_email", FindBy(members.clone()));
    compare("find-by", Goal::AtMost(2.1), contest, effort).await?;
    match members.stats().misses - misses {
        0 => Ok(()),
        misses => Err(format!("{misses} reads were no hits").into()),
    }
}

/// A list of fifty rows, all cached.
pub(crate) async fn list(effort: Effort) -> Result<(), Failure> {
    let pool = prepare().await?;
    let members = members(&pool).await?;
    let mut by_hand = ByHand::new(&pool, "list").await?;
    by_hand.fill().await?;
    let teams = i64::try_from(ROWS)? / LIST;
    for team in 0..teams {
        let ids: Vec<_> = (1..=i64::try_from(ROWS)?)
            .filter(|id| id % teams == team)
            .collect();
        let key = format!("{}:team:{team}", by_hand.prefix);
        let ids = serde_json::to_vec(&ids)?;
        let () = by_hand.connection.set_ex(key, ids, TTL_SECONDS).await?;
    }
    let misses = members.stats().misses;
    println!("  {LIST} rows a list, one task");
    let contest = Contest::new(1, ROWS)
        .enter("GET of ids, MGET of rows by hand", ListByHand(by_hand))
        .enter("find_all_by_team", List(members.clone()));
    compare("list-50", Goal::None, contest, effort).await?;
    match members.stats().misses - misses {
        0 => Ok(()),
        misses => Err(format!("{misses} reads were no hits").into()),
    }
}

/// An update with lookups, beside one without.
pub(crate) async fn update(effort: Effort) -> Result<(), Failure> {
    let pool = prepare().await?;
    let cache = servers::cache("update")?.connect().await?;
    let contest = Contest::new(1, ROWS)
        .enter(
            "update, no lookups",
            Update(Plain::repository(&cache, pool.clone())),
        )
        .enter(
            "update, a unique value and two lists",
            Update(Member::repository(&cache, pool.clone())),
        )
        .enter(
            "the same, immutable",
            Update(Fixed::repository(&cache, pool.clone())),
        );
    compare("update-indexed", Goal::None, contest, effort).await?;
    Ok(())
}

/// Two batches take twice as long as one.
pub(crate) async fn control(effort: Effort) -> Result<(), Failure> {
    let pool = prepare().await?;
    let mut by_hand = ByHand::new(&pool, "control").await?;
    by_hand.fill().await?;
    let mget = MgetByHand(by_hand);
    let variants = Contest::new(1, ROWS)
        .enter("once", mget.clone())
        .enter("once again", mget.clone())
        .enter("twice", Twice(mget))
        .run(effort)
        .await?;
    report::variants(&variants);
    let ratio = |place: usize| variants[place].ratio(&variants[0], Figure::Latency);
    expect_ratio("the same batch", ratio(1), 0.97, 1.03)?;
    expect_ratio("two batches to one", ratio(2), 1.9, 2.1)
}
