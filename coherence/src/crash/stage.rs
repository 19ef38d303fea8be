//! One database with its Redis, its writers and flushers, round by round.
//! 1. The database and Redis are made once; what the queue remembers goes from round to round. 2. A round has rows, processes and
//!    logs of its own. Faults are injected (`faults`), and processes that die are replaced. 3. The writers finish, the flushers
//!    are killed or stopped, a fresh process brings what is left to the database, and the round is judged.
//!
//! Invariant: a range of ids is given to one process, once.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use larder_coherence::{
    harness::{
        attacker::Attacker,
        points::QUEUE_POINTS,
        process::Process,
        program::Played,
        site::{self, Address, Site},
    },
    options::Database,
    queue::{
        judge::{Kept, Violation, judge},
        log::{Account, IDS_OF_ROUND, IDS_OF_WORKER, collect},
        options::Broken,
        summary::Summary,
    },
    random::Random,
};
use larder_testing::redis_server::RedisServer;
use sqlx::Connection;
use tempfile::TempDir;

use crate::{
    faults::{Evictions, Fault},
    mariadb::Successor,
    orders::{Orders, Role},
    rows,
    writing::COUNTERS,
};

/// How many processes write, and how many flush.
const WRITERS: usize = 2;
const FLUSHERS: usize = 2;

/// How many writes and changes of a row are shown with a violation.
const MAX_SHOWN: usize = 12;

/// The rounds after which each named point must have been met.
const ROUNDS_FOR_ALL_POINTS: u64 = 30;

/// How long a process may take to hear that it need not die.
const DISARMED: Duration = Duration::from_millis(50);

/// What an acknowledgement stands on here: the write is in the file.
const REDIS: [&str; 6] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--auto-aof-rewrite-percentage",
    "0",
];

/// What to play.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    pub(crate) rounds: u64,
    /// Whether the queue is in Redis, or in the one process that writes and flushes.
    pub(crate) redis: bool,
    /// Whether somebody writes into Redis.
    pub(crate) attack: bool,
    pub(crate) broken: Option<Broken>,
    pub(crate) seed: u64,
    pub(crate) keep: Option<PathBuf>,
}

pub(crate) struct Stage<DB: Site> {
    pub(crate) play: Play,
    pub(crate) random: Random,
    pub(crate) address: Address,
    pub(crate) redis: Option<RedisServer>,
    /// In place of a server that was killed.
    pub(crate) successor: Successor,
    pub(crate) writers: Vec<Process<Orders>>,
    pub(crate) flushers: Vec<Process<Orders>>,
    /// The faults that come next.
    pub(crate) deck: Vec<Fault>,
    /// The points that come next.
    pub(crate) points: VecDeque<&'static str>,
    /// How often each fault was injected, and each point met.
    pub(crate) met: BTreeMap<&'static str, usize>,
    outcome: Played<Summary>,
    reads: usize,
    /// How many writes were not acknowledged, by the kind of their errors.
    failed: BTreeMap<String, usize>,
    evicted: u64,
    /// How many entries somebody without the keys has written.
    attacks: u64,
    round: i64,
    next_worker: i64,
    folder: TempDir,
    server: Option<String>,
    _database: std::marker::PhantomData<DB>,
}

impl<DB: Site> Stage<DB>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    /// Makes the database and starts Redis.
    pub(crate) async fn open(play: Play) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let (server, address) = site::make::<DB>("larder_crash", folder.path()).await;
        rows::create_tables::<DB>(&address)
            .await
            .expect("a new database takes tables");
        rows::install::<DB>(&address).await;
        let redis = if play.redis {
            Some(RedisServer::start_with(&REDIS).await)
        } else {
            None
        };
        let mut random = Random::seeded(play.seed);
        let mut points: Vec<_> = QUEUE_POINTS.iter().map(|(name, _)| *name).collect();
        random.shuffle(&mut points);
        Self {
            random,
            address,
            redis,
            successor: Successor::default(),
            writers: Vec::new(),
            flushers: Vec::new(),
            deck: Vec::new(),
            points: points.into(),
            met: BTreeMap::new(),
            outcome: Played {
                name: match DB::KIND {
                    Database::Mysql => "mariadb",
                    Database::Sqlite if !play.redis => "sqlite in process",
                    kind => kind.name(),
                }
                .to_owned(),
                ..Played::default()
            },
            reads: 0,
            failed: BTreeMap::new(),
            evicted: 0,
            attacks: 0,
            round: 0,
            next_worker: 0,
            folder,
            server,
            play,
            _database: std::marker::PhantomData,
        }
    }

    /// Plays all rounds.
    pub(crate) async fn play(&mut self) {
        for _ in 0..self.play.rounds {
            self.round += 1;
            self.next_worker = 1;
            let counters = self.counters();
            fs::create_dir(self.logs()).expect("a folder of ours takes another one");
            rows::create_counters::<DB>(&self.address, counters)
                .await
                .expect("the counters are new");
            let (writers, flushers, writer) = match self.redis {
                Some(_) => (WRITERS, FLUSHERS, Role::Writer),
                None => (1, 0, Role::Alone),
            };
            for _ in 0..flushers {
                let flusher = self.start(Role::Flusher).await;
                self.flushers.push(flusher);
            }
            for _ in 0..writers {
                let writer = self.start(writer).await;
                self.writers.push(writer);
            }
            let evicts =
                self.play.broken == Some(Broken::PendingIndex) || self.random.per_mille(600);
            let url = self.redis.as_ref().map(RedisServer::url);
            let evictions = Evictions::start(url.clone().filter(|_| evicts));
            let attacker = Attacker::start(url.filter(|_| self.play.attack), self.random.draw());
            self.go_wrong().await;
            self.evicted += evictions.end();
            self.attacks += attacker.end();
            self.finish().await;
            if self.play.broken.is_some() && self.outcome.summary.violations() > 0 {
                // What was to be seen has been seen.
                break;
            }
        }
    }

    /// Lets the writers finish, brings what is left to the database, and judges.
    async fn finish(&mut self) {
        for writer in std::mem::take(&mut self.writers) {
            self.let_finish(writer).await;
        }
        for flusher in std::mem::take(&mut self.flushers) {
            // Dropped is killed.
            if self.random.per_mille(500) {
                self.let_finish(flusher).await;
            }
        }
        let drainer = self.start(Role::Drainer).await;
        let letters = drainer.orders.log.clone();
        if let Err(failure) = drainer.finish().await {
            self.fail(failure);
        }
        if let Err(failure) = self.judge(&letters).await {
            self.fail(failure);
        }
        self.outcome.summary.rounds += 1;
    }

    async fn let_finish(&mut self, mut process: Process<Orders>) {
        // One that came to a point just before it heard that it need not die there has died.
        if !process.died(DISARMED).await
            && let Err(failure) = process.finish().await
        {
            self.fail(failure);
        }
    }

    fn fail(&mut self, mut failure: String) {
        failure.insert_str(0, &format!("round {}: ", self.round));
        self.outcome.failures.push(failure);
    }

    async fn judge(&mut self, letters: &Path) -> Result<(), String> {
        let of_database = |error| format!("failed to read the rows: {error}");
        site::left_alone::<DB>(&self.address)
            .await
            .map_err(of_database)?;
        let ids = self.ids();
        let mut kept = rows::kept::<DB>(&self.address, ids.clone())
            .await
            .map_err(of_database)?;
        let dead = crate::letters::read(letters, &ids, &mut kept)?;
        let accounts = self.accounts()?;
        if let Some(folder) = &self.play.keep {
            let folder = folder.join(&self.outcome.name);
            keep(&folder.join(self.round.to_string()), &self.logs(), &kept)
                .map_err(|error| format!("failed to keep the logs: {error}"))?;
        }
        let summary = &mut self.outcome.summary;
        summary.dead += dead;
        for (id, account) in &accounts {
            let acknowledged = account.writes.iter();
            let acknowledged = acknowledged.filter(|write| write.acknowledged.is_some());
            summary.acknowledged += acknowledged.count();
            self.reads += account.reads.len();
            for why in &account.failed {
                let kind = why.split(' ').next().unwrap_or_default();
                *self.failed.entry(kind.to_owned()).or_default() += 1;
            }
            let kept = kept.remove(id).unwrap_or_default();
            summary.applied += kept.changes.len();
            let violations = judge(*id, account, &kept);
            summary.count(&violations);
            let told = violations.iter();
            let told = told.map(|violation| tell(&self.outcome.name, violation, account, &kept));
            self.outcome.told.extend(told);
        }
        let counters = self.counters();
        match kept.keys().find(|id| !counters.contains(id)) {
            Some(id) => Err(format!("row {id} was written by nobody")),
            None => Ok(()),
        }
    }

    fn accounts(&self) -> Result<BTreeMap<i64, Account>, String> {
        let mut accounts = BTreeMap::new();
        for entry in fs::read_dir(self.logs()).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
                collect(&text, &mut accounts)?;
            }
        }
        Ok(accounts)
    }

    /// Ends everything and reports.
    pub(crate) async fn close(mut self) -> Played<Summary> {
        if let Some(url) = &self.server {
            let dropped = site::create_or_drop::<DB>(url, &self.address.name, false).await;
            if let Err(error) = dropped {
                self.fail(format!("the database cannot be dropped: {error}"));
            }
        }
        if self.play.attack && self.attacks == 0 {
            self.fail("there was nothing to attack; this proves nothing".to_owned());
        }
        let rounds = self.play.rounds;
        for (point, _) in QUEUE_POINTS {
            if rounds >= ROUNDS_FOR_ALL_POINTS
                && self.play.broken.is_none()
                && !self.met.contains_key(point)
            {
                self.fail(format!("nobody died at {point}; this proves too little"));
            }
        }
        let met = self.met.iter();
        let met: Vec<_> = met.map(|(name, count)| format!("{name}={count}")).collect();
        self.outcome.remarks = format!(
            "reads={} evicted={} attacks={} failed={:?} {}",
            self.reads,
            self.evicted,
            self.attacks,
            self.failed,
            met.join(" ")
        );
        self.outcome
    }

    /// Starts a process that nobody has been before.
    pub(crate) async fn start(&mut self, role: Role) -> Process<Orders> {
        let number = self.next_worker;
        self.next_worker += 1;
        let extension = match role {
            Role::Writer | Role::Alone => "log",
            Role::Flusher => "none",
            Role::Drainer => "letters",
        };
        let name = format!("{}-{}-{number}", role.name(), self.round);
        let orders = Orders {
            role,
            log: self.logs().join(format!("{name}.{extension}")),
            name,
            first_id: self.ids().start + number * IDS_OF_WORKER,
            counters: self.counters().start,
            address: self.address.clone(),
            redis: self.redis.as_ref().map(RedisServer::url),
            journal_dir: self.folder.path().to_owned(),
            seed: self.random.draw(),
            attack: self.play.attack,
            broken: self.play.broken,
            database: DB::KIND,
        };
        Process::start(orders).await
    }

    /// The ids of this round.
    fn ids(&self) -> Range<i64> {
        let first = self.round * IDS_OF_ROUND;
        first..first + IDS_OF_ROUND
    }

    fn counters(&self) -> Range<i64> {
        let first = self.ids().start;
        first..first + COUNTERS
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join(self.round.to_string())
    }
}

/// A violation with what led to it.
fn tell(database: &str, violation: &Violation, account: &Account, kept: &Kept) -> String {
    let last = |length: usize| length.saturating_sub(MAX_SHOWN);
    let writes = account.writes.iter().skip(last(account.writes.len()));
    let writes: Vec<_> = writes
        .map(|write| {
            let answer = match write.acknowledged {
                Some(at) => format!("acknowledged at {at}"),
                None => "never acknowledged".to_owned(),
            };
            let (number, deed) = (write.number, write.deed);
            format!("  {deed:?} {number} asked at {}, {answer}", write.asked)
        })
        .collect();
    let changes = &kept.changes[last(kept.changes.len())..];
    format!(
        "{database}: {}\n{}\n  applied: {changes:?}\n  left: {:?}, dead: {:?}",
        violation.what,
        writes.join("\n"),
        kept.left,
        kept.dead
    )
}

/// Copies what the verdict was made from.
fn keep(folder: &Path, logs: &Path, kept: &BTreeMap<i64, Kept>) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(logs)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    let rows = kept.iter().map(|(id, kept)| format!("{id} {kept:?}\n"));
    fs::write(folder.join("kept"), rows.collect::<String>())
}
