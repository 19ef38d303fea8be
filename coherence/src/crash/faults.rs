//! What goes wrong, and how it is brought about.
//!
//! Each fault is over when its function returns: servers are back, processes that died have successors, frozen ones run again.
//! Evictions go on beside the other faults, as they do in life: rows that are still queued are deleted at their keys, while
//! their marks and the log stay.
//!
//! A flusher is frozen at a point and others are told to flush, so that it comes back to a position that has moved on. The
//! claims of the partitions are dropped for that, as they are after five seconds; now and then the five seconds are waited for.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_coherence::{
    harness::{
        process::Process,
        site::{self, Site},
    },
    options::Database,
    queue::options::Broken,
};
use sqlx::Connection;

use crate::{
    orders::{Orders, Role},
    stage::Stage,
};

/// How long a fault waits for the moment it needs, which under load may not come.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long nothing goes wrong before and after each fault, in milliseconds.
const CALM: std::ops::Range<u64> = 50..250;

/// How many faults a round has.
const FAULTS: usize = 3;

/// Longer than a flusher keeps a partition to itself without renewing its claim.
const LONGER_THAN_A_CLAIM: Duration = Duration::from_millis(5_500);

/// Is set where the servers serve nobody else, so that a database may crash.
const PRIVATE: &str = "LARDER_SERVERS_ARE_PRIVATE";

/// Deletes rows that are still queued, at their keys.
const EVICT: &str = "local count = 0 \
    for _, marks in ipairs(redis.call('KEYS', 'larder:q:*:pending')) do \
    for _, key in ipairs(redis.call('HKEYS', marks)) do count = count + redis.call('DEL', key) end end return count";
/// Lets the claims of all partitions end.
const DISCLAIM: &str = "for _, claim in ipairs(redis.call('KEYS', 'larder:q:*:flusher')) do redis.call('DEL', claim) end";

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A writer is killed at any time.
    KillWriter,
    /// A flusher is killed at any time.
    KillFlusher,
    /// A process is killed at a named point.
    KillAt,
    /// A flusher is frozen at a named point, and others flush meanwhile.
    FreezeAt,
    /// A flusher is frozen at any time.
    Freeze,
    /// A flusher is frozen until its claims have ended.
    FreezeLong,
    /// Redis is killed and restarted with what it has on disk.
    RedisRestart,
    /// The database crashes and recovers; if others use the server, it ends all connections of this run instead.
    Database,
}

impl Fault {
    /// What there is of each before it is dealt anew.
    const DECK: [Self; 12] = [
        Self::KillWriter,
        Self::KillFlusher,
        Self::KillAt,
        Self::KillAt,
        Self::KillAt,
        Self::FreezeAt,
        Self::FreezeAt,
        Self::Freeze,
        Self::RedisRestart,
        Self::RedisRestart,
        Self::Database,
        Self::FreezeLong,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::KillWriter => "kill-writer",
            Self::KillFlusher => "kill-flusher",
            Self::KillAt => "kill-at",
            Self::FreezeAt => "freeze-at",
            Self::Freeze => "freeze",
            Self::FreezeLong => "freeze-long",
            Self::RedisRestart => "redis-restart",
            Self::Database => "database",
        }
    }
}

/// The points at which a flusher is frozen.
const FREEZING_POINTS: [&str; 4] = [
    "before_flush",
    "in_flush_transaction",
    "after_flush_commit",
    "before_trim",
];

impl<DB: Site> Stage<DB>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    /// The faults of one round.
    pub(crate) async fn go_wrong(&mut self) {
        for _ in 0..FAULTS {
            let calm = self.random.millis(CALM);
            tokio::time::sleep(calm).await;
            let fault = self.next_fault();
            if let Some(fault) = fault {
                self.inject(fault).await;
                *self.met.entry(fault.name()).or_default() += 1;
            }
        }
        let calm = self.random.millis(CALM);
        tokio::time::sleep(calm).await;
    }

    fn next_fault(&mut self) -> Option<Fault> {
        match self.play.broken {
            // It shows when a flusher comes back to a position that has moved on.
            Some(Broken::OffsetCas) => return Some(Fault::FreezeAt),
            // They show when nothing else happens.
            Some(Broken::PendingIndex | Broken::Order | Broken::RoundTrip | Broken::Seal) => {
                return None;
            }
            None => {}
        }
        loop {
            if self.deck.is_empty() {
                self.deck = Fault::DECK.to_vec();
                self.random.shuffle(&mut self.deck);
            }
            let fault = self.deck.pop()?;
            if self.has(fault) {
                return Some(fault);
            }
        }
    }

    /// Whether a fault can happen here.
    fn has(&self, fault: Fault) -> bool {
        match fault {
            Fault::KillWriter | Fault::KillAt | Fault::Freeze => true,
            Fault::KillFlusher | Fault::FreezeAt | Fault::RedisRestart => self.redis.is_some(),
            Fault::FreezeLong => self.redis.is_some() && self.play.rounds >= 10,
            Fault::Database => DB::KIND != Database::Sqlite,
        }
    }

    /// Brings a fault about and waits until it is over.
    async fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::KillWriter => {
                let at = self.any(self.writers.len());
                self.writers[at].kill();
                self.replace_dead(self.writing()).await;
            }
            Fault::KillFlusher => {
                let at = self.any(self.flushers.len());
                self.flushers[at].kill();
                self.after_death().await;
                self.replace_dead(Role::Flusher).await;
            }
            Fault::KillAt => self.kill_at().await,
            Fault::FreezeAt => self.freeze_at().await,
            Fault::Freeze => {
                let duration = self.random.millis(50..700);
                self.freeze(duration).await;
            }
            Fault::FreezeLong => self.freeze(LONGER_THAN_A_CLAIM).await,
            Fault::RedisRestart => {
                let away = self.random.millis(0..200);
                let redis = self.redis.as_mut().expect("checked before");
                redis.kill().await;
                tokio::time::sleep(away).await;
                redis.restart().await;
            }
            Fault::Database => self.fail_database().await,
        }
    }

    async fn freeze(&mut self, duration: Duration) {
        let flushing = self.flushing();
        let count = self.all(flushing).len();
        let at = self.any(count);
        self.all(flushing)[at].stop();
        tokio::time::sleep(duration).await;
        self.all(flushing)[at].go_on();
    }

    async fn fail_database(&mut self) {
        let is_private = std::env::var_os(PRIVATE).is_some();
        let text = |error: sqlx::Error| error.to_string();
        let failed = match DB::KIND {
            Database::Postgres if is_private => {
                site::crash::<DB>(&self.address).await.map_err(text)
            }
            Database::Mysql if is_private => self.successor.crash::<DB>(&self.address).await,
            _ => {
                let ended = site::terminate::<DB>(&self.address).await;
                ended.map(drop).map_err(text)
            }
        };
        failed.unwrap_or_else(|error| panic!("the database cannot be made to fail: {error}"));
    }

    async fn kill_at(&mut self) {
        // Those that hold claims may be dead.
        self.run(DISCLAIM).await;
        let point = self.points.pop_front().expect("there are points");
        let role = match point {
            "after_put" => self.writing(),
            _ => self.flushing(),
        };
        for process in self.all(role) {
            process.tell(&format!("at {point} kill"));
        }
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut dead = false;
        while !dead && tokio::time::Instant::now() < until {
            for process in self.all(role) {
                dead |= process.died(Duration::from_millis(5)).await;
            }
        }
        for process in self.all(role) {
            process.tell("at nowhere");
        }
        if dead {
            *self.met.entry(point).or_default() += 1;
            self.points.push_back(point);
        } else {
            // It is tried again first.
            self.points.push_front(point);
        }
        if role == Role::Flusher {
            self.after_death().await;
        }
        self.replace_dead(role).await;
    }

    async fn freeze_at(&mut self) {
        let point = match self.play.broken {
            // Its batch has been read, and no lock holds the others up.
            Some(_) => FREEZING_POINTS[0],
            None => *self.random.pick(&FREEZING_POINTS),
        };
        for flusher in &mut self.flushers {
            flusher.tell(&format!("at {point} stop"));
        }
        let mut frozen = None;
        let until = tokio::time::Instant::now() + PATIENCE;
        while frozen.is_none() && tokio::time::Instant::now() < until {
            for (at, flusher) in self.flushers.iter().enumerate() {
                if flusher.stopped(Duration::from_millis(5)).await {
                    frozen = Some(at);
                }
            }
        }
        for flusher in &mut self.flushers {
            flusher.tell("at nowhere");
        }
        if frozen.is_some() {
            self.run(DISCLAIM).await;
            // One that stands at no point.
            let mut other = self.start(Role::Flusher).await;
            other.tell("flush");
            let duration = self.random.millis(100..600);
            tokio::time::sleep(duration).await;
            self.flushers.push(other);
        }
        for flusher in &mut self.flushers {
            // It may have stopped just before it heard.
            flusher.go_on();
        }
        if self.flushers.len() > 3 {
            self.flushers.remove(0).kill();
        }
    }

    /// A flusher that has died still has its claims, for a while.
    async fn after_death(&mut self) {
        if self.random.per_mille(500) {
            self.run(DISCLAIM).await;
        }
    }

    /// Starts successors.
    async fn replace_dead(&mut self, role: Role) {
        let count = self.all(role).len();
        for at in 0..count {
            if self.all(role)[at].died(Duration::from_millis(1)).await {
                let away = self.random.millis(0..100);
                tokio::time::sleep(away).await;
                let successor = self.start(role).await;
                self.all(role)[at] = successor;
            }
        }
    }

    fn writing(&self) -> Role {
        match self.redis {
            Some(_) => Role::Writer,
            None => Role::Alone,
        }
    }

    fn flushing(&self) -> Role {
        match self.redis {
            Some(_) => Role::Flusher,
            None => Role::Alone,
        }
    }

    fn all(&mut self, role: Role) -> &mut Vec<Process<Orders>> {
        match role {
            Role::Writer | Role::Alone => &mut self.writers,
            Role::Flusher | Role::Drainer => &mut self.flushers,
        }
    }

    fn any(&mut self, count: usize) -> usize {
        let at = self.random.below(count as u64);
        usize::try_from(at).expect("processes are few")
    }

    /// Runs a script in Redis, where there is one.
    async fn run(&self, script: &str) {
        if let Some(redis) = &self.redis {
            let run = redis.command(&["EVAL", script, "0"]).await;
            run.expect("a Redis that runs does what it is told");
        }
    }
}

/// Evictions that go on beside everything else.
pub(crate) struct Evictions {
    task: tokio::task::JoinHandle<()>,
    count: Arc<AtomicU64>,
}

impl Evictions {
    /// Begins them in the Redis at a URL, if there is one.
    pub(crate) fn start(url: Option<String>) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            let Some(url) = url else { return };
            let client = redis::Client::open(url).expect("the address is one of Redis");
            loop {
                tokio::time::sleep(Duration::from_millis(15)).await;
                // While it is away there is nothing to evict.
                let evicted: redis::RedisResult<u64> = async {
                    let mut connection = client.get_multiplexed_async_connection().await?;
                    let mut script = redis::cmd("EVAL");
                    script.arg(EVICT).arg(0).query_async(&mut connection).await
                }
                .await;
                counted.fetch_add(evicted.unwrap_or(0), Ordering::Relaxed);
            }
        });
        Self { task, count }
    }

    /// Ends them, and says how many there were.
    pub(crate) fn end(self) -> u64 {
        self.task.abort();
        self.count.load(Ordering::Relaxed)
    }
}
