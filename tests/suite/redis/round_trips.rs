//! How many round trips each operation makes, counted by the server: what is sent together arrives with one read.
//!
//! A link also sends commands of its own from time to time, which only add to a count. So each operation is counted several
//! times, and the least is what it makes.

use larder::{Cache, CacheBuilder, Cached, SecretKey, Transaction};
use larder_testing::redis_server::RedisServer;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use sqlx::{Pool, Sqlite};

use crate::{
    entities::{Behind, BehindRepository},
    world::{Kind, World, filled},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "teams", ttl = "10m", jitter = 0, has_many(Player::team))]
struct Team {
    #[cached(id)]
    id: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "players",
    ttl = "10m",
    negative_ttl = "10m",
    jitter = 0,
    lease(ttl = "20s", wait = "10s")
)]
struct Player {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    email: String,
    #[cached(index, belongs_to = Team)]
    team: i64,
    #[cached(belongs_to(Player, name = "captains"))]
    captain: i64,
    score: i64,
}

impl Player {
    fn new(id: i64) -> Self {
        Self {
            id,
            email: email(id),
            team: id % 4,
            captain: id % 4,
            score: 0,
        }
    }
}

fn email(id: i64) -> String {
    format!("p{id}@x")
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "players",
    ttl = "10m",
    negative_ttl = "10m",
    jitter = 0,
    lease(ttl = "20s", wait = "10s"),
    tags("players", "team:{team}")
)]
struct TaggedPlayer {
    #[cached(id)]
    id: i64,
    team: i64,
}

/// Few enough that their commands arrive with one read: Redis reads 16 KiB at a time.
const BATCH: i64 = 100;
const PLAYERS: i64 = 200;
const TRIES: i64 = 5;

struct Scene {
    pool: Pool<Sqlite>,
    players: PlayerRepository<Sqlite>,
    teams: TeamRepository<Sqlite>,
    tagged: TaggedPlayerRepository<Sqlite>,
    statistics: MultiplexedConnection,
}

impl Scene {
    async fn open(world: &World<Sqlite>, server: &RedisServer) -> Self {
        world
            .sql("CREATE TABLE teams (id BIGINT PRIMARY KEY)")
            .await;
        world
            .sql("CREATE TABLE players (id BIGINT PRIMARY KEY, email TEXT NOT NULL UNIQUE, team BIGINT NOT NULL, captain BIGINT NOT NULL, score BIGINT NOT NULL)")
            .await;
        let cache = Cache::builder()
            .redis(server.url())
            .listed(false)
            .connect()
            .await
            .unwrap();
        let pool = world.pool.clone();
        let players = Player::repository(&cache, pool.clone());
        let teams = Team::repository(&cache, pool.clone());
        let all: Vec<_> = (0..4).map(|id| Team { id }).collect();
        teams.insert_many(&all).await.unwrap();
        let all: Vec<_> = (0..PLAYERS).map(Player::new).collect();
        players.insert_many(&all).await.unwrap();
        let client = redis::Client::open(server.url()).unwrap();
        let statistics = client.get_multiplexed_async_connection().await.unwrap();
        Self {
            pool,
            players,
            teams,
            // A namespace of its own: otherwise the writes of each entity would be announced to the other.
            tagged: TaggedPlayer::repository(
                &cache.with_namespace("tagged").unwrap(),
                world.pool.clone(),
            ),
            statistics,
        }
    }

    /// Returns how often the server has read from its clients.
    async fn reads(&mut self) -> u64 {
        let mut info = redis::cmd("INFO");
        let info = info.arg("stats").query_async(&mut self.statistics).await;
        let info: String = info.unwrap();
        let lines = info.lines();
        let mut reads = lines.filter_map(|line| line.strip_prefix("total_reads_processed:"));
        reads.next_back().unwrap().parse().unwrap()
    }

    /// Asserts that an operation makes this many round trips. It gets the number of the try.
    async fn makes(&mut self, what: &str, expected: u64, mut operation: impl AsyncFnMut(i64)) {
        let mut least = u64::MAX;
        for number in 0..TRIES {
            let before = self.reads().await;
            operation(number).await;
            filled(|| self.players.stats()).await;
            filled(|| self.teams.stats()).await;
            filled(|| self.tagged.stats()).await;
            // The question itself is a read.
            least = least.min(self.reads().await - before - 1);
        }
        assert_eq!(least, expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_operation_makes_the_round_trips_that_it_needs() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let server = RedisServer::start().await;
    let mut scene = Scene::open(&world, &server).await;
    let (players, teams, pool) = (
        scene.players.clone(),
        scene.teams.clone(),
        scene.pool.clone(),
    );
    let batch: Vec<_> = (0..BATCH).collect();
    let emails: Vec<_> = batch.iter().copied().map(email).collect();

    // Other rows in each try, of which none is cached: look, lease and fill, for all of them together.
    let share = PLAYERS / TRIES;
    scene
        .makes("find_many, nothing cached", 3, async |number| {
            let ids: Vec<_> = (number * share..(number + 1) * share).collect();
            let rows = players.find_many(&ids).await.unwrap();
            assert!(rows.iter().all(Option::is_some));
        })
        .await;

    // From here on, everything is cached after the first try.
    scene
        .makes("find", 1, async |_| {
            players.find(7).await.unwrap().unwrap();
        })
        .await;
    scene
        .makes("find_many", 1, async |_| {
            players.find_many(&batch).await.unwrap();
        })
        .await;
    scene
        .makes("find_by", 2, async |_| {
            players.find_by_email(email(7)).await.unwrap().unwrap();
        })
        .await;
    scene
        .makes("find_by, absent", 1, async |_| {
            assert!(players.find_by_email("nobody").await.unwrap().is_none());
        })
        .await;
    scene
        .makes("find_many_by", 2, async |_| {
            players.find_many_by_email(&emails).await.unwrap();
        })
        .await;
    scene
        .makes("find_all_by", 2, async |_| {
            let page = players.find_all_by_team(1).await.unwrap();
            assert_eq!(page.len(), 50);
        })
        .await;
    scene
        .makes("find_all_by_many", 2, async |_| {
            let pages = players.find_all_by_team_many(&[1, 2]).await.unwrap();
            assert_eq!(pages.len(), 2);
        })
        .await;
    scene
        .makes("count_by", 2, async |_| {
            assert_eq!(players.count_by_team(1).await.unwrap(), 50);
        })
        .await;
    let parents: Vec<_> = (0..50).collect();
    scene
        .makes("fifty rows and two relations", 3, async |_| {
            let page = players.find_many(&parents).await.unwrap();
            let page: Vec<_> = page.into_iter().flatten().collect();
            players.teams_of(&page, &teams).await.unwrap();
            players.captains_of(&page, &players).await.unwrap();
        })
        .await;
    scene
        .makes("has_many", 2, async |_| {
            let all = teams.find_many(&[]).await.unwrap();
            assert!(all.is_empty());
            let two = [1, 2].map(|id| std::sync::Arc::new(Team { id }));
            teams.players_of(&two, &players).await.unwrap();
        })
        .await;

    // The clock of the tags comes with the entry.
    let tagged = scene.tagged.clone();
    scene
        .makes("find with tags", 1, async |_| {
            tagged.find(7).await.unwrap().unwrap();
        })
        .await;
    scene
        .makes("find_many with tags", 1, async |_| {
            tagged.find_many(&batch).await.unwrap();
        })
        .await;
    scene
        .makes("invalidate_tag", 1, async |_| {
            tagged.invalidate_team(99).await.unwrap();
        })
        .await;
    scene
        .makes("a hundred rows under one tag", 1, async |_| {
            tagged.invalidate_players().await.unwrap();
        })
        .await;
    scene
        .makes("invalidate_all with tags", 1, async |_| {
            tagged.invalidate_all().await.unwrap();
        })
        .await;

    // A write is announced and ended, at the keys of its lookups too.
    scene
        .makes("update", 2, async |number| {
            let mut row = Player::new(7);
            row.score = number;
            players.update(&row).await.unwrap();
        })
        .await;
    scene
        .makes("insert", 2, async |number| {
            let row = Player::new(PLAYERS + number);
            players.insert(&row).await.unwrap();
        })
        .await;
    scene
        .makes("delete", 2, async |number| {
            players.delete(PLAYERS + number).await.unwrap();
        })
        .await;
    scene
        .makes("a transaction of four writes", 2, async |number| {
            let mut transaction = Transaction::begin(&pool).await.unwrap();
            let mut within = players.within(&mut transaction);
            for id in 8..12 {
                let mut row = Player::new(id);
                row.score = number;
                row.team = number % 4;
                within.update(&row).await.unwrap();
            }
            transaction.commit().await.unwrap();
        })
        .await;
    world.database.close().await;
}

/// What is sent in two parts is two reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_round_trips_are_not_counted_as_one() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let server = RedisServer::start().await;
    let mut scene = Scene::open(&world, &server).await;
    let players = scene.players.clone();
    scene
        .makes("two reads, one after the other", 2, async |_| {
            players.find(7).await.unwrap().unwrap();
            players.find(8).await.unwrap().unwrap();
        })
        .await;
    world.database.close().await;
}

/// A write with a condition compares it with what is stored. With keys, the entry is verified here first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_write_makes_one_round_trip_and_with_keys_a_conditional_one_two() {
    let world = World::<Sqlite>::open(Kind::Memory).await;
    let server = RedisServer::start().await;
    let mut scene = Scene::open(&world, &server).await;
    let plain = behind(&world, &server, "plain", |builder| builder).await;
    let keys = [SecretKey::new([1; 32])];
    let sealed = |builder: CacheBuilder| builder.authenticate(keys);
    let sealed = behind(&world, &server, "sealed", sealed).await;
    for (what, rows, conditional) in [("", plain, 1), (" with keys", sealed, 2)] {
        scene
            .makes(&format!("save{what}"), 1, async |number| {
                let row = Behind::new(1, &number.to_string());
                rows.save(&row).await.unwrap();
            })
            .await;
        scene
            .makes(&format!("update{what}"), conditional, async |number| {
                let row = Behind::new(1, &format!("updated {number}"));
                rows.update(&row).await.unwrap();
            })
            .await;
    }
    world.database.close().await;
}

async fn behind(
    world: &World<Sqlite>,
    server: &RedisServer,
    namespace: &str,
    set: impl FnOnce(CacheBuilder) -> CacheBuilder,
) -> BehindRepository<Sqlite> {
    let builder = Cache::builder().redis(server.url()).namespace(namespace);
    let cache = set(builder.listed(false)).connect().await.unwrap();
    let rows = Behind::repository(&cache, world.pool.clone());
    rows.install().await.unwrap();
    rows.save(&Behind::new(1, "first")).await.unwrap();
    rows
}
