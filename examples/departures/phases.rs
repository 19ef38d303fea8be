//! What does each phase prove? One function per phase: it looks airports up, and says what that took.
//!
//! An expectation that does not hold is remembered and printed at the end; the phases after it still run.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use larder::{Cache, CacheBuilder};
use sqlx::{Connection, Pool, pool::PoolOptions};
use tokio::{sync::Barrier, task::JoinSet, time::Instant};

use crate::{
    Fallible,
    airports::{self, Airport, Airports},
    audit::Auditor,
    chance::Zipf,
    desk::{Desk, Figures},
    dialect::{self, ConnectOptions, Dialect},
    options::Options,
    reports::{self, AIRCRAFT},
    rush::{self, READERS, Rush},
    with_causes,
};

/// How many of the busiest airports are read before the rush.
const BUSIEST: usize = 2_000;
/// How many ids without an airport the rush asks for.
const UNKNOWN: usize = 200;
const UNKNOWN_LOOK_UPS: u64 = 20;
const STAMPEDE: usize = 500;
const EDITS: usize = 100;

/// The phases of one run.
struct Phases<DB: Dialect> {
    desk: Arc<Desk<DB>>,
    /// How often the repository took a connection, by the pool's count.
    connections: Arc<AtomicU64>,
    /// Expectations that did not hold.
    failures: Vec<String>,
}

/// Plays all phases on a database. Whether all answers and counts were right.
pub(crate) async fn play<DB: Dialect>(
    server: ConnectOptions<DB>,
    options: &Options,
) -> Fallible<bool> {
    let airports = Airports::of_the_world();
    println!("departures: the airports of the world, looked up through larder");
    println!("data: airport-data by its authors, https://airportdata.dev, CC BY 4.0");
    println!(
        "database: {}; cache: {}; seed: {}",
        options.database, options.cache_name, options.seed
    );
    // A pool would wait for a server that is not there; a single connection says at once what is wrong.
    let first = DB::Connection::connect_with(&server).await;
    let first = first.map_err(|error| format!("the database cannot be reached: {error}"))?;
    first.close().await?;
    let setup = PoolOptions::<DB>::new()
        .max_connections(2)
        .connect_with(server.clone())
        .await?;
    let cache = connect(options.cache.clone()).await?;
    load(&setup, &cache, airports.all()).await?;

    let (pool, connections) = dialect::counting_pool::<DB>(server.clone());
    let repository = Airport::try_repository(&cache, pool.clone())?;
    // Without its cache the repository would read the database and say nothing; here that would prove nothing.
    let answers = repository.invalidate(airports::id(0)).await;
    answers.map_err(|error| format!("the cache cannot be reached: {}", with_causes(&error)))?;
    let past = options.breaks.then(|| setup.clone());
    let mut phases = Phases {
        desk: Arc::new(Desk::new(airports, UNKNOWN + 1, repository, past)),
        connections,
        failures: Vec::new(),
    };
    phases.first_reads().await?;
    let auditor = Auditor::start(&cache, &setup)?;
    phases.rush(options).await?;
    phases.unknown_id().await?;
    phases.stampede().await?;
    phases.edits().await?;
    phases.delete().await?;
    phases.audit(auditor, options).await?;
    phases.reports(&cache, server).await?;
    let passed = phases.summary();
    pool.close().await;
    DB::forget_queues(&setup).await?;
    DB::remove(&setup).await?;
    setup.close().await;
    Ok(passed)
}

#[cfg(feature = "redis")]
async fn connect(cache: CacheBuilder) -> Result<Cache, larder::Error> {
    cache.connect().await
}

#[cfg(not(feature = "redis"))]
async fn connect(cache: CacheBuilder) -> Result<Cache, larder::Error> {
    cache.build()
}

async fn load<DB: Dialect>(setup: &Pool<DB>, cache: &Cache, airports: &[Airport]) -> Fallible<()> {
    let start = Instant::now();
    DB::create(setup).await?;
    let statements = dialect::load(setup, airports).await?;
    let seconds = start.elapsed().as_secs_f64();
    // On a pool of its own, so that its statements are not among those of the look-ups.
    let report = Airport::try_repository(cache, setup.clone())?
        .check_schema()
        .await?;
    let fits = report.to_string();
    report.into_result()?;
    say(
        "load",
        &format!(
            "{} airports inserted by {statements} statements in {seconds:.2} s",
            airports.len()
        ),
        &fits,
    );
    Ok(())
}

impl<DB: Dialect> Phases<DB> {
    /// The busiest airports once, and once more.
    async fn first_reads(&mut self) -> Fallible<()> {
        let cold = self.read_each(0..BUSIEST).await?;
        say(
            "cold reads",
            &format!("{} reads, {} statements", cold.reads, cold.statements),
            "an airport that is not cached is asked of the database, once; reads that meet share a statement",
        );
        self.expect(
            cold.loads == cold.reads,
            "every cold read looks for its row once",
        );
        self.expect(
            cold.statements <= cold.loads,
            "no cold read takes more than one statement",
        );
        let warm = self.read_each(0..BUSIEST).await?;
        say(
            "warm reads",
            &format!("{} reads, {} statements", warm.reads, warm.statements),
            "the second time the database is not asked",
        );
        self.expect(
            warm.statements == 0 && warm.loads == 0,
            "no warm read takes a statement",
        );
        Ok(())
    }

    /// Many readers, an editor among them.
    async fn rush(&mut self, options: &Options) -> Fallible<()> {
        let airports = self.desk.airports.len();
        let start = Instant::now();
        let before = self.desk.figures();
        let rush = Rush {
            // All but the quietest airport, which the stampede needs cold.
            popularity: Zipf::new(airports - 1),
            unknown: airports..airports + UNKNOWN,
            reads: options.reads,
            seed: options.seed,
        };
        let airfields = rush::play(&self.desk, rush).await?;
        let done = self.desk.figures() - before;
        let per_second = done.reads as f64 / start.elapsed().as_secs_f64();
        say(
            "rush",
            &format!(
                "{} reads by {READERS} tasks, {per_second:.0} reads/s: {} hits, {} negative hits, {} statements",
                done.reads, done.hits, done.negative_hits, done.statements
            ),
            &format!(
                "{} edits and {airfields} inserts in between, {} reads after an edit of their row, {} stale",
                done.edits - airfields,
                done.reads_after_edits,
                done.stale
            ),
        );
        Ok(())
    }

    /// An id that nothing has, again and again; then an airport opens there.
    async fn unknown_id(&mut self) -> Fallible<()> {
        let slot = self.desk.airports.len() + UNKNOWN;
        let before = self.desk.figures();
        for _ in 0..UNKNOWN_LOOK_UPS {
            self.desk.look_up(slot).await?;
        }
        let absent = self.desk.figures() - before;
        self.desk.edit(slot).await?;
        let found = self.desk.look_up(slot).await?.is_some();
        say(
            "unknown id",
            &format!(
                "{} look-ups of an id that nothing has, {} statement(s); inserted, then {}",
                absent.reads,
                absent.statements,
                if found { "found" } else { "not found" }
            ),
            "that a row does not exist is cached too, until it does",
        );
        self.expect(
            absent.statements == 1 && absent.loads == 1,
            "an unknown id takes one statement",
        );
        Ok(())
    }

    /// Many tasks at once on an airport that nobody has asked for.
    async fn stampede(&mut self) -> Fallible<()> {
        let slot = self.desk.airports.len() - 1;
        let before = self.desk.figures();
        let together = Arc::new(Barrier::new(STAMPEDE));
        let mut tasks = JoinSet::new();
        for _ in 0..STAMPEDE {
            let (desk, together) = (Arc::clone(&self.desk), Arc::clone(&together));
            tasks.spawn(async move {
                together.wait().await;
                desk.look_up(slot).await.map(|airport| airport.is_some())
            });
        }
        let mut answered = 0;
        while let Some(found) = tasks.join_next().await {
            answered += usize::from(found??);
        }
        let done = self.desk.figures() - before;
        say(
            "stampede",
            &format!(
                "{STAMPEDE} tasks ask for one cold airport, {answered} get it, {} statement(s)",
                done.statements
            ),
            "who asks for a row that is being loaded shares the load",
        );
        self.expect(
            done.statements == 1 && done.loads == 1 && answered == STAMPEDE,
            "a stampede takes one statement",
        );
        Ok(())
    }

    /// Edits of cached airports, each looked at before and after.
    async fn edits(&mut self) -> Fallible<()> {
        let before = self.desk.figures();
        for slot in 0..EDITS {
            self.desk.look_up(slot).await?;
            self.desk.edit(slot).await?;
            self.desk.look_up(slot).await?;
        }
        let done = self.desk.figures() - before;
        say(
            "edits",
            &format!(
                "{} edits, each between two reads; {} of the reads stale",
                done.edits, done.stale
            ),
            "an edit is seen by the very next read",
        );
        Ok(())
    }

    /// A cached airport closes, and opens again.
    async fn delete(&mut self) -> Fallible<()> {
        let before = self.desk.figures();
        let mut found = Vec::new();
        found.push(self.desk.look_up(0).await?);
        self.desk.delete(0).await?;
        found.push(self.desk.look_up(0).await?);
        self.desk.edit(0).await?;
        found.push(self.desk.look_up(0).await?);
        let done = self.desk.figures() - before;
        let found: Vec<_> = found
            .iter()
            .map(|airport| if airport.is_some() { "found" } else { "absent" })
            .collect();
        say(
            "delete",
            &format!(
                "{}, deleted: {}, inserted again: {}; {} stale",
                found[0], found[1], found[2], done.stale
            ),
            "a deleted row does not come back, a new one in its place is seen",
        );
        Ok(())
    }

    /// What is cached, compared with the database.
    async fn audit(&mut self, auditor: Auditor<DB>, options: &Options) -> Fallible<()> {
        let audited = auditor.end(options.audit).await?;
        say(
            "audit",
            &format!(
                "{} cached rows compared with the database by {} audits since the rush began, {} stale, {} just being written",
                audited.checked, audited.audits, audited.stale, audited.changing
            ),
            &match audited.example {
                None => "what the cache has is what the database has".to_owned(),
                Some(example) => format!("the first stale row: {example}"),
            },
        );
        match options.breaks {
            false => self.expect(audited.stale == 0, "no cached row is stale"),
            true => self.expect(
                audited.stale > 0,
                "an audit notices edits that went past the cache",
            ),
        }
        Ok(())
    }

    /// Writes that do not wait for the database, and what it has of them in the end.
    async fn reports(&mut self, cache: &Cache, server: ConnectOptions<DB>) -> Fallible<()> {
        // Not among the connections that are compared with what the look-ups and edits have counted.
        let pool = PoolOptions::<DB>::new().connect_with(server).await?;
        let done = reports::play(cache, &pool).await?;
        pool.close().await;
        let writes = done.writes as f64;
        let per_second = writes / done.acknowledging.as_secs_f64();
        let statements = done.stats.flush_statements as f64 * 1_000.0 / writes;
        say(
            "reports",
            &format!(
                "{} writes behind the cache by {AIRCRAFT} aircraft, {per_second:.0} acknowledgements/s, {statements:.1} \
                 statements per 1000 writes",
                done.writes
            ),
            &format!(
                "drained in {:.2} s; {} rows not as acknowledged last, {} reports not seen at once",
                done.draining.as_secs_f64(),
                done.wrong,
                done.unseen
            ),
        );
        self.expect(
            done.wrong == 0,
            "the database has the last acknowledged report of each aircraft",
        );
        self.expect(done.unseen == 0, "a report is seen by the very next read");
        self.expect(
            done.stats.flushed_writes == done.writes
                && done.stats.dead_letters + done.stats.lost_writes == 0,
            "every acknowledged write was flushed once",
        );
        Ok(())
    }

    /// All counts against each other, and the last line.
    fn summary(&mut self) -> bool {
        let all = self.desk.figures();
        let stats = self.desk.stats();
        let connections = self.connections.load(Relaxed);
        let writes = stats.writes + stats.write_errors;
        let answered = stats.hits + stats.negative_hits + stats.misses;
        say(
            "counts",
            &format!(
                "{} reads = {} hits + {} negative hits + {} misses",
                all.reads, stats.hits, stats.negative_hits, stats.misses
            ),
            &format!(
                "{} misses = {} loads + {} shared + {} filled meanwhile; {connections} connections taken = {} statements of loads + \
                 {writes} writes",
                stats.misses,
                stats.loads,
                stats.coalesced,
                stats.hits_after_wait,
                stats.load_statements
            ),
        );
        say(
            "cache",
            &format!(
                "{} fills accepted, {} refused because a write came between",
                stats.fills_accepted, stats.fills_refused
            ),
            &format!(
                "{} loads past the cache, {} waits for another load, {} errors of the store",
                stats.uncached_loads, stats.lease_waits, stats.store_errors
            ),
        );
        self.expect(
            all.reads == answered,
            "every read is a hit, a negative hit or a miss",
        );
        self.expect(
            stats.misses == stats.loads + stats.coalesced + stats.hits_after_wait,
            "every miss is a load, a shared load or filled meanwhile",
        );
        // Once for each pool the database is asked who it is, and on a server in which schema the table is.
        let questions = connections.checked_sub(stats.load_statements + writes);
        let most = if DB::NAME == "SQLite" { 1 } else { 2 };
        self.expect(
            questions.is_some_and(|questions| (1..=most).contains(&questions)),
            "every connection was taken for a load or a write that was counted, or to ask the database who it is",
        );
        self.expect(all.stale == 0, "no answer is stale");
        for failure in &self.failures {
            eprintln!("departures: does not hold: {failure}");
        }
        println!(
            "departures: airports={} reads={} hits={} negative_hits={} database_reads={} stale={}",
            self.desk.airports.len(),
            all.reads,
            all.hits,
            all.negative_hits,
            all.statements,
            all.stale
        );
        self.failures.is_empty()
    }

    /// Reads every slot once, by many tasks.
    async fn read_each(&self, slots: Range<usize>) -> Fallible<Figures> {
        let before = self.desk.figures();
        let mut tasks = JoinSet::new();
        for first in slots.clone().take(READERS as usize) {
            let desk = Arc::clone(&self.desk);
            let share = (first..slots.end).step_by(READERS as usize);
            tasks.spawn(async move {
                for slot in share {
                    desk.look_up(slot).await?;
                }
                Fallible::Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(self.desk.figures() - before)
    }

    fn expect(&mut self, holds: bool, what: &str) {
        if !holds {
            self.failures.push(what.to_owned());
        }
    }
}

/// Prints what a phase did, and below it what that proves.
fn say(phase: &str, did: &str, proves: &str) {
    println!("{phase:<12}{did}\n{:12}{proves}", "");
}
