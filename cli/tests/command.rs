//! The command as a process, against a real server and the repositories of a program.

#![expect(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use larder::{Cache, Cached, Origin};
use larder_testing::redis_server::RedisServer;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Sqlite, SqlitePool, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio::time::Instant;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "products",
    ttl = "10m",
    negative_ttl = "10m",
    tags("category:{category}")
)]
struct Product {
    #[cached(id)]
    id: i64,
    #[cached(index)]
    category: i64,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(table = "scores", ttl = "10m")]
struct Score {
    #[cached(id)]
    player: String,
    #[cached(id)]
    game: i64,
    points: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "visits",
    strategy = "write_behind",
    durability = "memory",
    partitions = 2
)]
struct Visit {
    #[cached(id)]
    id: i64,
    page: String,
}

const TABLES: [&str; 3] = [
    "CREATE TABLE products (id BIGINT PRIMARY KEY NOT NULL, category BIGINT NOT NULL, name TEXT NOT NULL)",
    "CREATE TABLE scores (player TEXT NOT NULL, game BIGINT NOT NULL, points BIGINT NOT NULL, PRIMARY KEY (player, game))",
    "CREATE TABLE visits (id BIGINT PRIMARY KEY NOT NULL, page TEXT NOT NULL CHECK (page <> 'refused'))",
];

/// A program with its Redis and its database, and the command beside it.
struct Scene {
    server: RedisServer,
    folder: TempDir,
    pool: SqlitePool,
    cache: Cache,
    products: ProductRepository<Sqlite>,
    scores: ScoreRepository<Sqlite>,
    visits: VisitRepository<Sqlite>,
}

impl Scene {
    async fn open() -> Self {
        Self::with(&[]).await
    }

    /// `options`: those of the server.
    async fn with(options: &[&str]) -> Self {
        let server = RedisServer::start_with(options).await;
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("shop.db"))
            .create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        for table in TABLES {
            sqlx::query(table).execute(&pool).await.unwrap();
        }
        let builder = Cache::builder().redis(server.url()).namespace("shop");
        let cache = builder.connect().await.unwrap();
        let scene = Self {
            products: Product::repository(&cache, pool.clone()),
            scores: Score::repository(&cache, pool.clone()),
            visits: Visit::repository(&cache, pool.clone()),
            server,
            folder,
            pool,
            cache,
        };
        scene.visits.install().await.unwrap();
        for id in 1..=3 {
            let product = scene.product(id, "tea");
            scene.products.insert(&product).await.unwrap();
        }
        scene
    }

    fn product(&self, id: i64, name: &str) -> Product {
        Product {
            id,
            category: id % 2,
            name: name.to_owned(),
        }
    }

    /// Caches a product, whatever its name in the database is.
    async fn warm(&self, id: i64) {
        eventually("the product is cached", async || {
            let outcome = self.products.find_outcome(id).await.unwrap();
            outcome.origin == Origin::Cache
        })
        .await;
    }

    /// Waits until the entities are listed.
    async fn listed(&self) {
        eventually("the entities are listed", async || {
            let answer = self.json(&["entities"]);
            answer["entities"].as_object().unwrap().len() == 3
        })
        .await;
    }

    fn database(&self) -> String {
        format!("sqlite://{}", self.folder.path().join("shop.db").display())
    }

    fn command(&self, words: &[&str]) -> Command {
        command(&self.server.url(), words)
    }

    /// Runs the command. It must end with this exit code.
    fn run(&self, words: &[&str], code: i32) -> Output {
        let output = self.command(words).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        output
    }

    /// Returns what the command writes. It must end well.
    fn text(&self, words: &[&str]) -> String {
        String::from_utf8(self.run(words, 0).stdout).unwrap()
    }

    /// Returns what the command says is wrong.
    fn error(&self, words: &[&str], code: i32) -> String {
        String::from_utf8(self.run(words, code).stderr).unwrap()
    }

    /// Returns what the command writes as JSON, whether something is wrong or not.
    fn json(&self, words: &[&str]) -> Value {
        let output = self
            .command(&[words, &["--json"]].concat())
            .output()
            .unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1)), "{words:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Renames a product in the database, past larder.
    async fn rename(&self, id: i64, name: &str) {
        let update = sqlx::query("UPDATE products SET name = ? WHERE id = ?");
        let update = update.bind(name.to_owned()).bind(id);
        update.execute(&self.pool).await.unwrap();
    }

    async fn name(&self, id: i64) -> String {
        self.products.find(id).await.unwrap().unwrap().name.clone()
    }
}

fn command(redis: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command
        .env("LARDER_REDIS", redis)
        .env("LARDER_NAMESPACE", "shop")
        .args(words)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

/// Waits for something that must happen.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_are_listed_with_their_processes() {
    let scene = Scene::open().await;
    scene.listed().await;
    let answer = scene.json(&["entities"]);
    let product = &answer["entities"]["Product"];
    assert_eq!(product["table"], "products");
    assert_eq!(product["database"], "sqlite");
    assert_eq!(product["tags"][0], "category:{category}");
    assert_eq!(answer["entities"]["Score"]["id"][1], "game");
    assert_eq!(answer["processes"].as_object().unwrap().len(), 1);
    let text = scene.text(&["entities"]);
    for word in [
        "Product",
        "write_behind",
        "index(category)",
        "player+game",
        "msgpack",
        "pid",
    ] {
        let word = word.replace("msgpack", "messagepack");
        assert!(text.contains(&word), "{word} in\n{text}");
    }
    assert!(
        !text.contains('\u{1b}'),
        "no colours where there is no terminal"
    );
    let nothing = scene.run(&["--namespace", "other", "entities"], 1);
    let nothing = String::from_utf8(nothing.stdout).unwrap();
    assert!(
        nothing.contains("no entity is listed in the namespace other"),
        "{nothing}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_a_key_is_shown() {
    let scene = Scene::open().await;
    scene.listed().await;
    scene.warm(1).await;
    scene.warm(404).await;
    let shown = scene.json(&["show", "Product", "1"]);
    assert_eq!(shown["key"], "shop:Product:1");
    assert_eq!(shown["state"], "value");
    assert_eq!(
        shown["row"],
        serde_json::json!({ "id": 1, "category": 1, "name": "tea" })
    );
    assert!(shown["ttl_left_ms"].as_u64().unwrap() <= 600_000);
    assert!(shown["age_ms"].as_u64().unwrap() < 60_000);
    assert_eq!(shown["processes"].as_array().unwrap().len(), 1);
    assert!(shown["stamp"].is_u64(), "it has tags");
    assert_eq!(shown["unused_because"], serde_json::json!([]));
    let text = scene.text(&["show", "Product", "1"]);
    assert!(text.contains("\"name\": \"tea\""), "{text}");
    assert_eq!(scene.json(&["show", "Product", "404"])["state"], "negative");
    let absent = scene.run(&["show", "Product", "7", "--json"], 1);
    let absent: Value = serde_json::from_slice(&absent.stdout).unwrap();
    assert_eq!(absent["state"], "absent");

    let score = Score {
        player: "a:b".to_owned(),
        game: 7,
        points: 3,
    };
    scene.scores.insert(&score).await.unwrap();
    eventually("the score is cached", async || {
        scene.scores.find(("a:b", 7)).await.unwrap();
        scene.json(&["show", "Score", "a:b", "7"])["state"] == "value"
    })
    .await;
    let visit = Visit {
        id: 1,
        page: "home".to_owned(),
    };
    scene.visits.save(&visit).await.unwrap();
    let shown = scene.json(&["show", "Visit", "1"]);
    assert_eq!(
        (&shown["state"], &shown["row"]["page"]),
        (&"pending".into(), &"home".into())
    );
    assert_eq!(shown["ttl_left_ms"], Value::Null);

    // What others have written there.
    let forged = "\u{1b}[2Jforged";
    scene
        .server
        .command(&["SET", "shop:Product:8", forged])
        .await
        .unwrap();
    assert_eq!(scene.json(&["show", "Product", "8"])["state"], "damaged");
    scene
        .server
        .command(&["RPUSH", "shop:Product:9", "x"])
        .await
        .unwrap();
    assert_eq!(scene.json(&["show", "Product", "9"])["state"], "damaged");

    let error = scene.error(&["show", "Products", "1"], 2);
    assert!(
        error.contains("there is no entity Products; there are Product, Score, Visit"),
        "{error}"
    );
    let error = scene.error(&["show", "Score", "a"], 2);
    assert!(
        error.contains("2 parts (player, game), and 1 were given"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_and_escaped() {
    let scene = Scene::open().await;
    scene.listed().await;
    for id in 1..=3 {
        scene.warm(id).await;
    }
    let found = scene.json(&["find", "shop:Product:*"]);
    assert_eq!(found["keys"].as_array().unwrap().len(), 3);
    assert_eq!(found["is_cut"], false);
    let found = scene.json(&["find", "shop:Product:*", "--limit", "2"]);
    assert_eq!(
        (found["keys"].as_array().unwrap().len(), &found["is_cut"]),
        (2, &true.into())
    );
    scene.run(&["find", "nothing:*"], 1);
    scene
        .server
        .command(&["SET", "shop:\u{1b}[31mred\n", "x"])
        .await
        .unwrap();
    let text = scene.text(&["find", "shop:*red*"]);
    assert!(
        !text.contains('\u{1b}') && text.lines().count() == 1,
        "{text:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_dropped_by_id_by_tag_and_all() {
    let scene = Scene::open().await;
    scene.listed().await;
    let drops: [(&[&str], &[i64]); 3] = [
        (&["1", "2"], &[1, 2]),
        (&["--tag", "category:1"], &[1, 3]),
        (&["--all"], &[1, 2, 3]),
    ];
    for (round, (what, dropped)) in drops.into_iter().enumerate() {
        for id in 1..=3 {
            scene.warm(id).await;
            scene.rename(id, &format!("round {round}")).await;
            assert_ne!(
                scene.name(id).await,
                format!("round {round}"),
                "it is cached"
            );
        }
        let words = [&["drop", "Product"], what].concat();
        let error = scene.error(&words, 2);
        assert!(error.contains("use --yes"), "{error}");
        scene.run(&[&words[..], &["--yes"]].concat(), 0);
        for id in 1..=3 {
            let is_new = scene.name(id).await == format!("round {round}");
            assert_eq!(is_new, dropped.contains(&id), "{what:?}: {id}");
            scene.products.invalidate(id).await.unwrap();
        }
    }
    scene.scores.find(("nobody", 1)).await.unwrap();
    scene.run(&["drop", "Score", "--all", "--yes"], 0);
    let error = scene.error(&["drop", "Product", "--yes"], 2);
    assert!(error.contains("name ids, or use --tag or --all"), "{error}");
    let error = scene.error(&["drop", "Score", "--tag", "x", "--yes"], 2);
    assert!(error.contains("Score has no tags"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_write_is_never_dropped() {
    let scene = Scene::open().await;
    scene.listed().await;
    let visit = Visit {
        id: 1,
        page: "home".to_owned(),
    };
    scene.visits.save(&visit).await.unwrap();
    for what in ["1", "--all"] {
        scene.run(&["drop", "Visit", what, "--yes"], 0);
        assert_eq!(scene.json(&["show", "Visit", "1"])["state"], "pending");
    }
    scene.visits.flush().await.unwrap();
    let row = scene.visits.find(1).bypass().await.unwrap();
    assert_eq!(*row.unwrap(), visit);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_letters_are_shown() {
    let scene = Scene::open().await;
    scene.listed().await;
    for id in 0..10 {
        let page = if id == 3 { "refused" } else { "home" };
        let visit = Visit {
            id,
            page: page.to_owned(),
        };
        scene.visits.save(&visit).await.unwrap();
    }
    let waiting = || {
        let partitions = scene.json(&["queues", "--database", &scene.database()]);
        let partitions = partitions.as_array().unwrap().clone();
        assert_eq!(partitions.len(), 2);
        assert!(partitions.iter().all(|partition| partition["lost"] == 0));
        let depths = partitions
            .iter()
            .map(|partition| partition["depth"].as_u64().unwrap());
        depths.sum::<u64>()
    };
    assert_eq!(waiting(), 10);
    let text = scene.text(&["queues", "Visit"]);
    assert!(text.contains("WAITING"), "{text}");
    scene.visits.flush().await.unwrap();
    assert_eq!(waiting(), 0);

    let database = scene.database();
    let of_letters = ["letters", "--database", &database];
    let listed = scene.json(&[&of_letters[..], &["list", "Visit"]].concat());
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let letter = &listed[0];
    assert_eq!(
        (&letter["content"]["page"], &letter["is_deletion"]),
        (&"refused".into(), &false.into())
    );
    let place = format!(
        "{}/{}/{}",
        letter["partition"], letter["epoch"], letter["number"]
    );
    let shown = scene.text(&[&of_letters[..], &["show", "Visit", &place]].concat());
    assert!(shown.contains("CHECK constraint failed"), "{shown}");
    let error = scene.error(&[&of_letters[..], &["show", "Visit", "1/1"]].concat(), 2);
    assert!(error.contains("partition/epoch/number"), "{error}");
    let error = scene.error(&[&of_letters[..], &["list", "Product"]].concat(), 2);
    assert!(error.contains("Product has no queue"), "{error}");
    // The database refuses it again, so it becomes another letter.
    let replay = [&of_letters[..], &["replay", "Visit", &place]].concat();
    let error = scene.error(&replay, 2);
    assert!(error.contains("use --yes"), "{error}");
    let replayed = scene.text(&[&replay[..], &["--yes"]].concat());
    assert_eq!(replayed.trim(), "queued again");
    let error = scene.error(&[&replay[..], &["--yes"]].concat(), 2);
    assert!(error.contains("there is no such letter"), "{error}");
    scene.visits.flush().await.unwrap();
    let listed = scene.json(&[&of_letters[..], &["list", "Visit"]].concat());
    let letter = &listed[0];
    let place = format!(
        "{}/{}/{}",
        letter["partition"], letter["epoch"], letter["number"]
    );
    let visit = Visit {
        id: 3,
        page: "written since".to_owned(),
    };
    scene.visits.save(&visit).await.unwrap();
    let replay = [&of_letters[..], &["replay", "Visit", &place, "--yes"]].concat();
    let output = scene.run(&replay, 1);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("its row was written since"), "{text}");

    let error = scene.error(
        &[&of_letters[..], &["discard", "Visit", &place]].concat(),
        2,
    );
    assert!(error.contains("use --yes"), "{error}");
    scene.run(
        &[&of_letters[..], &["discard", "Visit", &place, "--yes"]].concat(),
        0,
    );
    assert_eq!(
        scene.json(&[&of_letters[..], &["list", "Visit"]].concat()),
        serde_json::json!([])
    );
    let error = scene.error(
        &[&of_letters[..], &["discard", "Visit", &place, "--yes"]].concat(),
        2,
    );
    assert!(error.contains("there is no such letter"), "{error}");
    let words = ["letters", "--database", "oracle://x", "list", "Visit"];
    let error = scene.error(&words, 2);
    assert!(
        error.contains("`postgres:`, `mysql:` or `sqlite:`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_paused_and_resumed_in_every_process() {
    let scene = Scene::open().await;
    scene.listed().await;
    scene.warm(1).await;
    let origin = async || scene.products.find_outcome(1).await.unwrap().origin;
    scene.run(&["pause", "reads", "Product"], 0);
    eventually("reads are paused", async || {
        origin().await == Origin::Database
    })
    .await;
    assert_eq!(
        scene.cache.health().to_string(),
        "reads of Product are paused"
    );
    let text = scene.text(&["entities"]);
    let line = text
        .lines()
        .find(|line| line.starts_with("Product"))
        .unwrap();
    assert!(line.ends_with("reads"), "{line}");
    let update = scene.product(1, "new");
    scene.products.update(&update).await.unwrap();
    scene.run(&["resume", "Product"], 0);
    eventually("reads are resumed", async || {
        origin().await == Origin::Cache
    })
    .await;
    assert_eq!(scene.name(1).await, "new");
    let error = scene.error(&["pause", "reads", "Nothing"], 2);
    assert!(error.contains("there is no entity Nothing"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_what_is_wrong_with_a_server() {
    let scene = Scene::open().await;
    scene.listed().await;
    let about = |findings: &Value, about: &str| {
        let findings = findings.as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["about"] == about);
        let finding = finding.unwrap_or_else(|| panic!("{about} in {findings:?}"));
        (
            finding["severity"].as_str().unwrap().to_owned(),
            finding["text"].as_str().unwrap().to_owned(),
        )
    };
    let findings = scene.json(&["doctor"]);
    assert_eq!(about(&findings, "version").0, "ok");
    assert_eq!(about(&findings, "role").0, "ok");
    assert_eq!(about(&findings, "rights").0, "ok");
    assert_eq!(about(&findings, "maxmemory").0, "warning");
    scene.text(&["doctor"]);
    for (name, value, finding) in [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy"),
        ("maxmemory-policy", "noeviction", ""),
    ] {
        let set = ["CONFIG", "SET", name, value];
        scene.server.command(&set).await.unwrap();
        match finding {
            "" => drop(scene.run(&["doctor"], 0)),
            finding => {
                scene.run(&["doctor"], 1);
                let (severity, text) = about(&scene.json(&["doctor"]), finding);
                assert_eq!(severity, "error");
                assert!(text.contains("may evict queues"), "{text}");
            }
        }
    }
    let user = "ACL SETUSER weak on >secret ~* &* +@all -zadd -evalsha";
    let words: Vec<_> = user.split(' ').collect();
    scene.server.command(&words).await.unwrap();
    let url = scene
        .server
        .url()
        .replace("redis://", "redis://weak:secret@");
    let output = command(&url, &["doctor", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let findings = serde_json::from_slice(&output.stdout).unwrap();
    let (severity, text) = about(&findings, "rights");
    assert_eq!(severity, "error");
    assert!(text.contains("the user weak lacks evalsha, zadd"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_of_a_program_with_another_database() {
    let scene = Scene::open().await;
    scene.listed().await;
    let about = |findings: &Value| {
        let findings = findings.as_array().unwrap();
        let mut found = findings
            .iter()
            .filter(|finding| finding["about"] == "database");
        found.next().unwrap().clone()
    };
    assert_eq!(about(&scene.json(&["doctor"]))["severity"], "ok");
    let other = SqliteConnectOptions::new()
        .filename(scene.folder.path().join("other.db"))
        .create_if_missing(true);
    let other = SqlitePool::connect_with(other).await.unwrap();
    let builder = Cache::builder().redis(scene.server.url()).namespace("shop");
    let cache = builder.connect().await.unwrap();
    let products = Product::repository(&cache, other);
    products.find(1).await.unwrap_err();
    eventually("it is listed", async || {
        let finding = about(&scene.json(&["doctor"]));
        let text = finding["text"].as_str().unwrap();
        finding["severity"] == "error" && text.contains("other.db")
    })
    .await;
    scene.run(&["doctor"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_or_refuses_is_an_error_of_its_own() {
    let mut scene = Scene::open().await;
    scene.listed().await;
    let user = "ACL SETUSER blind on >secret ~* &* +@all -hgetall";
    let words: Vec<_> = user.split(' ').collect();
    scene.server.command(&words).await.unwrap();
    let url = scene
        .server
        .url()
        .replace("redis://", "redis://blind:secret@");
    let refused = command(&url, &["entities"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .contains("no permissions to run the 'hgetall' command")
    );
    let wrong = command("http://127.0.0.1", &["entities"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let password = scene
        .server
        .url()
        .replace("redis://", "redis://nobody:hunter2@");
    let wrong = command(&password, &["entities"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
    assert!(!String::from_utf8(wrong.stderr).unwrap().contains("hunter2"));
    scene.server.stop().await;
    for words in [
        &["entities"][..],
        &["show", "Product", "1"],
        &["doctor"],
        &["top"],
    ] {
        let error = scene.error(words, 3);
        assert!(error.contains("Redis"), "{error}");
    }
    for words in [
        &["nonsense"][..],
        &["show", "Product"],
        &["top", "--every", "0"],
    ] {
        let output = scene.command(words).output().unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(2 | 3)), "{words:?}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_a_row_that_was_changed_past_larder() {
    let scene = Scene::open().await;
    scene.listed().await;
    for id in 1..=3 {
        scene.warm(id).await;
    }
    let audits = scene.json(&["audit"]);
    let of_products = |audits: &Value| {
        let audits = audits.as_array().unwrap();
        let audit = audits.iter().find(|audit| audit["entity"] == "Product");
        audit.unwrap().clone()
    };
    assert_eq!(audits.as_array().unwrap().len(), 3);
    let audit = of_products(&audits);
    assert_eq!((&audit["checked"], &audit["stale"]), (&3.into(), &0.into()));
    scene.rename(2, "changed").await;
    let output = scene.run(&["audit", "Product"], 1);
    let text = String::from_utf8(output.stdout).unwrap();
    let counts = "Product: 3 entries checked, of them 0 lists, 1 stale";
    assert!(text.contains(counts), "{text}");
    assert!(
        text.contains("stale: shop:Product:2 differs in name"),
        "{text}"
    );
    scene.run(&["drop", "Product", "2", "--yes"], 0);
    scene.run(&["audit", "Product"], 0);
    let visit = Visit {
        id: 1,
        page: "home".to_owned(),
    };
    scene.visits.save(&visit).await.unwrap();
    let audits = scene.json(&["audit", "Visit"]);
    let audit = &audits[0];
    assert_eq!(
        (&audit["checked"], &audit["changing"]),
        (&0.into(), &1.into())
    );
    let error = scene.error(&["audit", "Nothing"], 2);
    assert!(error.contains("there is no entity Nothing"), "{error}");
    assert!(
        scene.json(&["entities"])["paused"]
            .as_object()
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn top_tells_what_entities_do() {
    let scene = Scene::open().await;
    scene.listed().await;
    for _ in 0..50 {
        scene.products.find(1).await.unwrap();
    }
    eventually("the reads are listed", async || {
        let look = scene.json(&["top"]);
        let entities = look["entities"].as_array().unwrap();
        let product = entities.iter().find(|shown| shown["entity"] == "Product");
        product.is_some_and(|product| product["hit_ratio"].as_f64().is_some_and(|hits| hits > 0.9))
    })
    .await;
    let text = scene.text(&["top", "--looks", "2", "--every", "0.1"]);
    assert_eq!(text.matches("READS/s").count(), 2, "{text}");
}

/// On a terminal it is drawn, until `q` is pressed.
#[tokio::test(flavor = "multi_thread")]
async fn top_is_drawn_on_a_terminal() {
    let scene = Scene::open().await;
    scene.listed().await;
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let path = PathBuf::from(name.into_string().unwrap());
    let open = || {
        let options = std::fs::File::options().read(true).write(true).open(&path);
        options.unwrap()
    };
    let size = Winsize {
        ws_row: 30,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    let mut child = scene
        .command(&["top", "--every", "0.2"])
        .env("TERM", "xterm-256color")
        .stdin(open())
        .stdout(open())
        .stderr(open())
        .spawn()
        .unwrap();
    let mut screen = std::fs::File::from(terminal);
    let mut keyboard = screen.try_clone().unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // It ends with an error when the other side is closed.
        while let Ok(count @ 1..) = screen.read(&mut bytes) {
            if told.send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    let has = |seen: &[u8], text: &str| String::from_utf8_lossy(seen).contains(text);
    while !(has(&seen, "larder top: shop") && has(&seen, "Product") && has(&seen, "READS/s")) {
        let left = deadline.saturating_duration_since(Instant::now());
        let bytes = heard.recv_timeout(left);
        seen.extend(bytes.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&seen))));
    }
    keyboard.write_all(b"q").unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(ended.code(), Some(0));
    drop((keyboard, heard));
    reader.join().unwrap();
}

#[test]
fn there_are_completions_and_a_man_page() {
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("doctor"), "{shell}");
    }
    assert!(run(&["man"]).starts_with(".ie"));
    assert!(run(&["--help"]).contains("Exit codes"));
}
