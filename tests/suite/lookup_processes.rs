//! Lookups, lists and batches of processes that share nothing but the servers: what one of them has written, all see at once.
//!
//! One process after the other writes a row, alone or in a transaction. After each step every process reads everything: by id,
//! by value, in lists and in batches. So each of them has cached the rows, the ids and the absences of before, and has never
//! read the rows that the others change.
//!
//! The controls run the same steps with a mechanism left out, and must see a wrong answer.

use std::{collections::BTreeMap, fmt::Write as _};

use larder::{
    Cache, Cached, Error, Transaction,
    store::{Mechanism, faulty::Faults},
};
use larder_testing::process::{Worker, WorkerFn, hear, tell};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Pool, Postgres, Sqlite};

use crate::world::{Tested, World, redis_url, unique};

macro_rules! on_redis_with_each_database {
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            crate::world::case!($case, redis_postgres, Redis, Postgres);
            crate::world::case!($case, redis_mysql, Redis, MySql);
            crate::world::case!($case, redis_sqlite, Redis, Sqlite);
        })*
    };
}

on_redis_with_each_database!(
    every_process_sees_each_change_at_once,
    what_a_transaction_has_not_committed_no_process_sees,
);

mod a_mechanism_that_is_left_out_is_missed {
    crate::world::case!(
        a_mechanism_that_is_left_out_is_missed,
        redis,
        Redis,
        Postgres
    );
}

/// The function that this file runs in other processes.
pub(crate) const MEMBER: (&str, WorkerFn) = ("member", |arguments| Box::pin(member(arguments)));

const PROCESSES: usize = 3;
const IDS: [i64; 4] = [1, 2, 3, 4];
const EMAILS: [&str; 5] = ["a@x", "b@x", "c@x", "d@x", "e@x"];
const TEAMS: [i64; 3] = [1, 2, 3];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow, Cached)]
#[cached(
    table = "people",
    ttl = "10m",
    negative_ttl = "10m",
    jitter = 0,
    index(team, order_by = "email desc", max = 3)
)]
struct Person {
    #[cached(id)]
    id: i64,
    #[cached(unique)]
    email: String,
    team: i64,
}

impl Person {
    /// Reads `id email team`.
    fn parse(words: &[&str]) -> Self {
        let number = |word: &str| word.parse().unwrap();
        Self {
            id: number(words[0]),
            email: words[1].to_owned(),
            team: number(words[2]),
        }
    }
}

/// Runs what the test sends, one line after the other, and answers each with one line.
async fn member(arguments: Vec<String>) {
    let [database, url, namespace, left_out] = &arguments[..] else {
        panic!("four arguments: {arguments:?}")
    };
    let faults = Faults::new();
    match &**left_out {
        "pointer-intent" => faults.leave_out(Mechanism::PointerIntent),
        "list-intent" => faults.leave_out(Mechanism::ListIntent),
        "lookup-check" => faults.leave_out(Mechanism::LookupCheck),
        _ => {}
    }
    let builder = Cache::builder().namespace(namespace).faults(&faults);
    let cache = builder
        .redis(redis_url())
        .listed(false)
        .connect()
        .await
        .unwrap();
    match &**database {
        "PostgreSQL" => serve(&cache, Pool::<Postgres>::connect(url).await.unwrap()).await,
        "MySQL" => serve(&cache, Pool::<MySql>::connect(url).await.unwrap()).await,
        _ => serve(&cache, Pool::<Sqlite>::connect(url).await.unwrap()).await,
    }
}

async fn serve<DB: Tested>(cache: &Cache, pool: Pool<DB>) {
    let people = Person::repository(cache, pool.clone());
    let mut transaction = None;
    tell("ready");
    loop {
        let line = hear().await;
        let words: Vec<_> = line.split(' ').collect();
        match (words[0], transaction.take()) {
            ("end", None) => return,
            ("see", open) => {
                tell(seen(&people).await.unwrap());
                transaction = open;
                continue;
            }
            ("begin", None) => transaction = Some(Transaction::begin(&pool).await.unwrap()),
            ("commit", Some(open)) => open.commit().await.unwrap(),
            ("rollback", Some(open)) => open.rollback().await.unwrap(),
            (verb, None) => write_alone(&people, verb, &words[1..]).await.unwrap(),
            (verb, Some(mut open)) => {
                let mut within = people.within(&mut open);
                match verb {
                    "insert" => drop(within.insert(&Person::parse(&words[1..])).await.unwrap()),
                    "delete" => within
                        .delete(words[1].parse::<i64>().unwrap())
                        .await
                        .unwrap(),
                    _ => drop(within.update(&Person::parse(&words[1..])).await.unwrap()),
                }
                transaction = Some(open);
            }
        }
        tell("done");
    }
}

async fn write_alone<DB: Tested>(
    people: &PersonRepository<DB>,
    verb: &str,
    words: &[&str],
) -> Result<(), Error> {
    if verb == "delete" {
        return people.delete(words[0].parse::<i64>().unwrap()).await;
    }
    let row = Person::parse(words);
    match verb {
        "insert" => people.insert(&row).await.map(drop),
        "update" => people.update(&row).await.map(drop),
        "save" => people.save(&row).await.map(drop),
        "update_many" => people.update_many(&[row]).await.map(drop),
        "modify" => {
            let change = |current: &mut Person| row.clone_into(current);
            people.modify(row.id, change).await.map(drop)
        }
        _ => panic!("`{verb}` is no write"),
    }
}

/// Reads everything, in every way.
async fn seen<DB: Tested>(people: &PersonRepository<DB>) -> Result<String, Error> {
    let mut seen = String::new();
    for id in IDS {
        let row = people.find(id).await?;
        note(&mut seen, row.as_deref());
    }
    for row in people.find_many(&IDS).await? {
        note(&mut seen, row.as_deref());
    }
    for email in EMAILS {
        let row = people.find_by_email(email).await?;
        assert_eq!(people.exists_by_email(email).await?, row.is_some());
        note(&mut seen, row.as_deref());
    }
    for row in people.find_many_by_email(&EMAILS).await? {
        note(&mut seen, row.as_deref());
    }
    let pages = people.find_all_by_team_many(&TEAMS).await?;
    for (team, page) in TEAMS.into_iter().zip(pages) {
        let alone = people.find_all_by_team(team).await?;
        let count = people.count_by_team(team).await?;
        write!(seen, "{team} {count}: ").unwrap();
        for row in page.iter().chain(&alone) {
            note(&mut seen, Some(row));
        }
    }
    Ok(seen)
}

/// What a process must see if the database has these rows.
fn expected(rows: &BTreeMap<i64, Person>) -> String {
    let mut seen = String::new();
    for id in IDS.into_iter().chain(IDS) {
        note(&mut seen, rows.get(&id));
    }
    for email in EMAILS.into_iter().chain(EMAILS) {
        note(&mut seen, rows.values().find(|row| row.email == email));
    }
    for team in TEAMS {
        let mut list: Vec<_> = rows.values().filter(|row| row.team == team).collect();
        list.sort_by(|one, other| other.email.cmp(&one.email));
        write!(seen, "{team} {}: ", list.len()).unwrap();
        list.truncate(3);
        for row in list.iter().chain(&list) {
            note(&mut seen, Some(row));
        }
    }
    seen
}

fn note(seen: &mut String, row: Option<&Person>) {
    match row {
        Some(Person { id, email, team }) => write!(seen, "{id} {email} {team}, ").unwrap(),
        None => seen.push_str("-, "),
    }
}

/// The processes, and the rows that are committed.
struct Team {
    members: Vec<Worker>,
    rows: BTreeMap<i64, Person>,
    /// The state of the generator of choices.
    choice: u64,
}

impl Team {
    async fn start<DB: Tested>(world: &World<DB>, left_out: &str) -> Self {
        let collation = match DB::NAME {
            "PostgreSQL" => " COLLATE \"C\"",
            "MySQL" => " COLLATE utf8mb4_general_ci",
            _ => "",
        };
        world
            .sql(format!(
                "CREATE TABLE people (id BIGINT NOT NULL PRIMARY KEY, email VARCHAR(100){collation} NOT NULL UNIQUE, team BIGINT NOT NULL)"
            ))
            .await;
        let namespace = unique("team");
        let arguments = [DB::NAME, world.database.url(), &namespace, left_out];
        let mut members: Vec<_> = (0..PROCESSES)
            .map(|_| Worker::spawn("member", &arguments))
            .collect();
        for member in &mut members {
            member.expect("ready").await;
        }
        Self {
            members,
            rows: BTreeMap::new(),
            choice: 1,
        }
    }

    /// Returns a number below `most`, the same in every run.
    fn choose(&mut self, most: usize) -> usize {
        // The constants of Knuth's MMIX.
        self.choice = self
            .choice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.choice >> 33).unwrap() % most
    }

    async fn run(&mut self, member: usize, line: &str) {
        self.members[member].send(line);
        self.members[member].expect("done").await;
    }

    /// Returns what a process sees that it should not.
    async fn mistake(&mut self) -> Option<String> {
        let expected = expected(&self.rows);
        for (number, member) in self.members.iter_mut().enumerate() {
            member.send("see");
            let seen = member.line().await;
            if seen != expected {
                return Some(format!("process {number} sees\n{seen}and not\n{expected}"));
            }
        }
        None
    }

    /// Chooses a write, and does it in `rows`. Returns its words.
    fn write(&mut self, rows: &mut BTreeMap<i64, Person>) -> String {
        let id = IDS[self.choose(IDS.len())];
        let free: Vec<_> = EMAILS
            .into_iter()
            .filter(|email| rows.values().all(|row| row.id == id || row.email != *email))
            .collect();
        let email = free[self.choose(free.len())].to_owned();
        let team = TEAMS[self.choose(TEAMS.len())];
        let row = Person { id, email, team };
        let words = format!("{} {} {}", row.id, row.email, row.team);
        let verbs = ["update", "delete", "modify", "save", "update_many"];
        let verb = verbs[self.choose(verbs.len())];
        let is_there = rows.remove(&id).is_some();
        if is_there && verb == "delete" {
            return format!("delete {id}");
        }
        rows.insert(id, row);
        match is_there {
            true => format!("{verb} {words}"),
            false => format!("insert {words}"),
        }
    }

    async fn end(mut self) {
        for member in &mut self.members {
            member.send("end");
        }
        for member in self.members {
            member.finish().await;
        }
    }
}

async fn every_process_sees_each_change_at_once<DB: Tested>(world: &World<DB>) {
    let mut team = Team::start(world, "").await;
    assert_eq!(team.mistake().await, None);
    for step in 0..60 {
        let mut rows = team.rows.clone();
        let write = team.write(&mut rows);
        let member = team.choose(PROCESSES);
        team.run(member, &write).await;
        team.rows = rows;
        let mistake = team.mistake().await;
        assert_eq!(
            mistake, None,
            "after step {step}, `{write}` of process {member}"
        );
    }
    team.end().await;
}

async fn what_a_transaction_has_not_committed_no_process_sees<DB: Tested>(world: &World<DB>) {
    let mut team = Team::start(world, "").await;
    for step in 0..12 {
        let member = team.choose(PROCESSES);
        let mut rows = team.rows.clone();
        team.run(member, "begin").await;
        let mut writes = Vec::new();
        for _ in 0..3 {
            let write = team.write(&mut rows);
            team.run(member, &write).await;
            writes.push(write);
            let mistake = team.mistake().await;
            assert_eq!(
                mistake, None,
                "in step {step}, {writes:?} of process {member}"
            );
        }
        let end = ["commit", "rollback", "commit"][team.choose(3)];
        team.run(member, end).await;
        if end == "commit" {
            team.rows = rows;
        }
        let mistake = team.mistake().await;
        assert_eq!(
            mistake, None,
            "after step {step}, {writes:?} and {end} of process {member}"
        );
    }
    team.end().await;
}

async fn a_mechanism_that_is_left_out_is_missed(world: &World<Postgres>) {
    for left_out in ["pointer-intent", "list-intent", "lookup-check"] {
        let mut team = Team::start(world, left_out).await;
        let mut mistake = team.mistake().await;
        for _ in 0..60 {
            if mistake.is_some() {
                break;
            }
            let mut rows = team.rows.clone();
            let write = team.write(&mut rows);
            let member = team.choose(PROCESSES);
            team.run(member, &write).await;
            team.rows = rows;
            mistake = team.mistake().await;
        }
        assert!(mistake.is_some(), "nobody missed {left_out}");
        world.sql("DROP TABLE people").await;
    }
}
