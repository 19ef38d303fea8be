//! One database with its Redis, its workers and their logs: what a run plays on.
//! 1. The database is made, Redis and the workers are started. 2. Faults are injected (`faults`), workers that die are replaced.
//!    3. The workers finish, the database is left alone, and what they logged is held against what it recorded.
//!
//! Invariant: a worker's name is never used again, so what it did can be told from what its successor does.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use larder_coherence::{
    cascades::{self, is_parent},
    checker::{Loss, Violation, check, check_lacks},
    commits::{self, Commit},
    harness::{
        attacker::Attacker,
        process::Process,
        site::{self, Address, Site},
    },
    history::{self, History, Origin, Series, Shown},
    options::{Broken, Database, Strategy},
    random::Random,
    summary::Summary,
    timeline::{self, Injected},
};
use larder_testing::{clock::now, proxy::Proxy};
use sqlx::Connection;
use tempfile::TempDir;

use crate::{orders::Orders, redis::Redis};

/// How many workers there are, where more than one process may use the database.
const WORKERS: usize = 3;

/// What to play.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    pub(crate) strategies: Vec<Strategy>,
    /// Whether the rows have tags.
    pub(crate) tags: bool,
    /// Whether somebody writes into Redis.
    pub(crate) attack: bool,
    pub(crate) broken: Option<Broken>,
    pub(crate) seed: u64,
    /// Whether rows are cached in Redis or in the one worker.
    pub(crate) redis: bool,
    pub(crate) keep: Option<PathBuf>,
}

pub(crate) struct Stage<DB: Site> {
    pub(crate) play: Play,
    pub(crate) random: Random,
    /// The database, for the run itself.
    pub(crate) address: Address,
    /// In front of the database, for all workers but the first.
    pub(crate) door: Option<Proxy>,
    pub(crate) redis: Option<Redis>,
    pub(crate) workers: Vec<Process<Orders>>,
    pub(crate) injected: Vec<Injected>,
    pub(crate) losses: Vec<Loss>,
    /// Which of the named points is next.
    pub(crate) next_point: usize,
    started: u64,
    attacker: Attacker,
    folder: TempDir,
    server: Option<String>,
    _database: std::marker::PhantomData<DB>,
}

/// What came of a stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) summary: Summary,
    /// How many reads went backwards as the documentation allows.
    pub(crate) excused: usize,
    /// How many entries somebody without the keys has written.
    pub(crate) attacks: u64,
    /// The violations, told.
    pub(crate) told: Vec<String>,
}

impl<DB: Site> Stage<DB>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    /// Makes the database and starts everything.
    pub(crate) async fn open(play: Play) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be created");
        let (server, address) = site::make::<DB>("larder_coherence", folder.path()).await;
        site::create_tables::<DB>(&address)
            .await
            .expect("a new database takes tables");
        let redis = if play.redis {
            Some(Redis::start().await)
        } else {
            None
        };
        let attacked = redis.as_ref().filter(|_| play.attack);
        let mut stage = Self {
            attacker: Attacker::start(attacked.map(Redis::url), play.seed),
            random: Random::seeded(play.seed),
            door: server.as_deref().map(|url| Proxy::start(listener(url))),
            address,
            redis,
            workers: Vec::new(),
            injected: Vec::new(),
            losses: Vec::new(),
            next_point: 0,
            started: 0,
            folder,
            server,
            play,
            _database: std::marker::PhantomData,
        };
        let workers = if stage.server.is_some() { WORKERS } else { 1 };
        for slot in 0..workers {
            let worker = stage.start_worker(slot).await;
            stage.workers.push(worker);
        }
        stage
    }

    /// What this stage is called in reports.
    pub(crate) fn name(&self) -> String {
        let store = if self.play.redis { "" } else { " in process" };
        format!("{}{store}", DB::KIND.name())
    }

    /// Starts a worker in place of the one that was there.
    pub(crate) async fn start_worker(&mut self, slot: usize) -> Process<Orders> {
        let number = self.started;
        self.started += 1;
        let name = format!("w{slot}.{number}");
        if DB::KIND == Database::Sqlite {
            site::announce_worker(&self.address, &name)
                .await
                .expect("the file can be written");
        }
        // The first worker goes straight to the database, so that it is not slow when the others are.
        let door = self.door.as_ref().filter(|_| slot > 0);
        let orders = Orders {
            log: self.folder.path().join(format!("{name}.log")),
            name,
            number,
            address: Address {
                port: door.map(|door| door.address().port()),
                ..self.address.clone()
            },
            redis: self.redis.as_ref().map(Redis::url),
            namespace: "coherence".to_owned(),
            seed: self.random.draw(),
            strategies: self.play.strategies.clone(),
            tags: self.play.tags,
            attack: self.play.attack,
            broken: self.play.broken,
            database: DB::KIND,
        };
        Process::start(orders).await
    }

    /// Lets everybody finish, and judges.
    ///
    /// # Errors
    ///
    /// Fails when a worker has failed or something cannot be read.
    pub(crate) async fn close(mut self) -> Result<Outcome, String> {
        let mut failures = Vec::new();
        let attacks = self.attacker.end();
        if self.play.attack && self.play.redis && attacks == 0 {
            failures.push("there was nothing to attack; this proves nothing".to_owned());
        }
        for worker in std::mem::take(&mut self.workers) {
            if let Err(failure) = worker.finish().await {
                failures.push(failure);
            }
        }
        let of_database = |error| format!("failed to read the record: {error}");
        site::left_alone::<DB>(&self.address)
            .await
            .map_err(of_database)?;
        let record = site::record::<DB>(&self.address)
            .await
            .map_err(of_database)?;
        if let Some(url) = &self.server {
            self.door = None;
            site::create_or_drop::<DB>(url, &self.address.name, false)
                .await
                .map_err(of_database)?;
        }
        let histories = self.histories()?;
        if let Some(folder) = &self.play.keep {
            let folder = folder.join(self.name().replace(' ', "-"));
            keep(&folder, self.folder.path(), &record, &self.injected)
                .map_err(|error| format!("failed to keep the logs: {error}"))?;
        }
        if failures.is_empty() {
            Ok(Outcome {
                attacks,
                ..self.judge(&histories, record)
            })
        } else {
            Err(failures.join("; "))
        }
    }

    fn histories(&self) -> Result<BTreeMap<Series, History>, String> {
        let mut histories = BTreeMap::new();
        let entries = fs::read_dir(self.folder.path()).map_err(|error| error.to_string())?;
        for entry in entries {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let worker = path.file_stem().unwrap_or_default().to_string_lossy();
                let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
                history::collect(&text, &Arc::from(worker), &mut histories)?;
            }
        }
        Ok(histories)
    }

    fn judge(
        &self,
        histories: &BTreeMap<Series, History>,
        record: Vec<(Series, Commit)>,
    ) -> Outcome {
        let (mut commits, cascades) = cascades::divide(record);
        // The children need to know the deletes of their parents.
        let mut ordered = BTreeMap::new();
        for (series, history) in histories.iter().filter(|(row, _)| is_parent(row)) {
            let of_row = commits.get(series).map_or(&[][..], Vec::as_slice);
            if let Ok(writes) = commits::order(&history.writes, of_row) {
                ordered.insert(series.clone(), writes);
            }
        }
        let mut outcome = Outcome::default();
        let summary = &mut outcome.summary;
        summary.histories = histories.len();
        summary.faults = self.injected.len();
        for (series, history) in histories {
            let several = |read: &&history::Read| read.origin == Origin::Several;
            let of_several = history.reads.iter().filter(several).count();
            summary.reads += history.reads.len() - of_several;
            summary.rows_of_several += of_several + history.lacks.len();
            summary.writes += history.writes.len();
            let cached = |read: &&history::Read| read.origin == Origin::Cache;
            summary.cached_reads += history.reads.iter().filter(cached).count();
            let row = format!("{}, {}, row {}", self.name(), series.0, series.1);
            let mut commits = commits.remove(series).unwrap_or_default();
            cascades.name(series, &mut commits, &ordered);
            let (violations, ordered) = match commits::order(&history.writes, &commits) {
                Ok(ordered) => {
                    let verdict = check(&history.reads, &ordered, &self.losses);
                    outcome.excused += verdict.excused;
                    let mut violations = verdict.violations;
                    violations.extend(check_lacks(&history.lacks, &ordered));
                    (violations, ordered)
                }
                Err(faults) => (
                    faults.into_iter().map(Violation::Write).collect(),
                    Vec::new(),
                ),
            };
            let told = violations
                .iter()
                .map(|violation| timeline::tell(&row, violation, &ordered, &self.injected));
            outcome.told.extend(told);
        }
        for (table, id) in commits.into_keys() {
            let told = format!("{}: row {id} of {table} was written by nobody", self.name());
            outcome.told.push(told);
        }
        summary.violations = outcome.told.len();
        outcome
    }

    /// Notes a fault that has been going on since a moment.
    pub(crate) fn note(&mut self, start: u64, what: String) {
        self.injected.push(Injected {
            start,
            end: now(),
            what,
        });
    }
}

/// Where the server of a URL listens.
fn listener(url: &str) -> SocketAddr {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    host.to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .unwrap_or_else(|| panic!("`{host}` in `{url}` has no address"))
}

/// Copies what the verdict was made from.
fn keep(
    folder: &Path,
    from: &Path,
    record: &[(Series, Commit)],
    injected: &[Injected],
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    let lines: Vec<String> = record
        .iter()
        .map(|((table, id), commit)| format!("{table} {id} {} {}", Shown(commit.value), commit.by))
        .collect();
    fs::write(folder.join("record"), lines.join("\n"))?;
    let lines: Vec<String> = injected
        .iter()
        .map(|fault| format!("{} {} {}", fault.start, fault.end, fault.what))
        .collect();
    fs::write(folder.join("faults"), lines.join("\n"))
}
