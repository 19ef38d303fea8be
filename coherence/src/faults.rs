//! What goes wrong, and how it is brought about.
//!
//! Each fault is over when its function returns: servers are back, workers that died have successors. What it may do to the
//! announcements of writes is noted as a loss, see `checker::Loss`.
//!
//! Not here: which faults go together; see `schedule`.

use std::{str::FromStr, time::Duration};

use larder_coherence::{
    checker::Loss,
    harness::{
        points::POINTS,
        site::{self, Site},
    },
    options::{Broken, Database, Fault, kins, table},
};
use larder_testing::{
    clock::now,
    proxy::{Direction, Point},
};
use sqlx::Connection;

use crate::{redis::Redis, stage::Stage, worker::INTENT_TTL};

/// How long a fault waits for the moment it needs, which under load may not come.
const PATIENCE: Duration = Duration::from_millis(800);

/// Is set where the servers serve nobody else, so that a database may crash.
const PRIVATE: &str = "LARDER_SERVERS_ARE_PRIVATE";

impl<DB: Site> Stage<DB>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    /// Whether a fault can happen here.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        match fault {
            Fault::RedisRestart
            | Fault::RedisOldData
            | Fault::RedisFreeze
            | Fault::RedisFlush
            | Fault::RedisFailover
            | Fault::RedisCut
            | Fault::ScriptFlush => self.redis.is_some(),
            Fault::DatabaseTerminate | Fault::DatabaseCut | Fault::DatabaseSlow => {
                self.door.is_some()
            }
            Fault::DatabaseCrash => {
                DB::KIND == Database::Postgres && std::env::var_os(PRIVATE).is_some()
            }
            Fault::Kill
            | Fault::KillAt
            | Fault::Pause
            | Fault::PauseAt
            | Fault::Stall
            | Fault::LockWait => true,
        }
    }

    /// Brings a fault about and waits until it is over.
    pub(crate) async fn inject(&mut self, fault: Fault) {
        let start = now();
        let what = match fault {
            Fault::RedisRestart => {
                let away = self.random.millis(0..200);
                self.redis_server().restart(away).await;
                String::new()
            }
            Fault::RedisOldData => {
                let age = self.random.millis(100..400);
                let past = self.redis_server().remember();
                tokio::time::sleep(age).await;
                self.redis_server().restart_in(past).await;
                format!(" of {} ms ago", age.as_millis())
            }
            Fault::RedisFreeze => {
                let duration = self.random.millis(100..700);
                self.redis_server().freeze(duration).await;
                String::new()
            }
            Fault::RedisFlush => self.flush().await,
            Fault::RedisFailover => {
                let lag = self.random.millis(50..300);
                self.redis_server().fail_over(lag).await;
                format!(" to a replica that lags {} ms behind", lag.as_millis())
            }
            Fault::RedisCut => {
                let name = *self.random.pick(&["EVALSHA", "GETRANGE"]);
                let mut cuts = 0;
                for _ in 0..3 {
                    cuts += u32::from(self.redis_server().cut(name, PATIENCE).await);
                }
                format!(" of {cuts} connections after {name}")
            }
            Fault::ScriptFlush => {
                self.redis_server().flush_scripts().await;
                String::new()
            }
            Fault::Kill => self.kill().await,
            Fault::KillAt => self.kill_at().await,
            Fault::Pause => self.pause().await,
            Fault::PauseAt => self.pause_at().await,
            Fault::Stall => self.stall().await,
            Fault::LockWait => self.lock(INTENT_TTL + Duration::from_secs(1)).await,
            Fault::DatabaseCrash => {
                let crashed = site::crash::<DB>(&self.address).await;
                crashed.unwrap_or_else(|error| panic!("failed to crash the database: {error}"));
                String::new()
            }
            Fault::DatabaseTerminate => match site::terminate::<DB>(&self.address).await {
                Ok(count) => format!(" of {count} connections"),
                Err(error) => panic!("failed to end connections: {error}"),
            },
            Fault::DatabaseCut => self.cut_database().await,
            Fault::DatabaseSlow => {
                let delay = self.random.millis(10..60);
                let duration = self.random.millis(300..800);
                let door = self.door.as_ref().expect("checked before");
                door.delay(Direction::ToClient, delay);
                tokio::time::sleep(duration).await;
                door.heal();
                format!(" by {} ms", delay.as_millis())
            }
        };
        if matches!(
            fault,
            Fault::RedisOldData | Fault::RedisFlush | Fault::RedisFailover
        ) {
            self.losses.push(Loss { start, end: now() });
        }
        self.note(start, format!("{}{what}", fault.name()));
    }

    fn redis_server(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("checked before")
    }

    /// Empties Redis while a write that was announced there is under way: its worker stands still, or it waits for a lock.
    async fn flush(&mut self) -> String {
        let several = self.workers.len() > 1;
        if several && (self.play.broken.is_some() || self.random.per_mille(500)) {
            let slot = self.any_worker();
            let duration = self.random.millis(30..200);
            let worker = &mut self.workers[slot];
            worker.tell("at after_begin stop");
            let stopped = worker.stopped(PATIENCE).await;
            self.redis_server().flush().await;
            return self.resume(slot, stopped, duration).await;
        }
        let row = self.any_row();
        let held = self.random.millis(50..250);
        let until = self.random.millis(10..50);
        let redis = self.redis.as_ref().expect("checked before");
        let flush = async {
            tokio::time::sleep(until).await;
            redis.flush().await;
        };
        let lock = site::hold_lock::<DB>(&self.address, (row.0, row.1), held);
        let (locked, ()) = tokio::join!(lock, flush);
        locked.unwrap_or_else(|error| panic!("failed to lock a row: {error}"));
        format!(" while row {} of {} is locked", row.1, row.0)
    }

    /// Lets a worker that was to stop at a point go on after a while, and says where it was.
    async fn resume(&mut self, slot: usize, stopped: bool, after: Duration) -> String {
        let worker = &mut self.workers[slot];
        if stopped {
            tokio::time::sleep(after).await;
        } else {
            worker.tell("at nowhere");
            // It may have stopped just before it heard.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        worker.go_on();
        let stood = if stopped { "stands" } else { "did not stand" };
        format!(" while {} {stood} still", worker.orders.name)
    }

    async fn lock(&mut self, held: Duration) -> String {
        let row = self.any_row();
        let locked = site::hold_lock::<DB>(&self.address, (row.0, row.1), held).await;
        locked.unwrap_or_else(|error| panic!("failed to lock a row: {error}"));
        format!(" for row {} of {}", row.1, row.0)
    }

    fn any_row(&mut self) -> (&'static str, i64) {
        let strategy = *self.random.pick(&self.play.strategies);
        let kin = *self.random.pick(kins(self.play.tags));
        let table = table(strategy, kin);
        // Not the hottest: then everybody would wait.
        let id = i64::try_from(2 + self.random.below(2)).expect("ids are small");
        (table, id)
    }

    /// The points in turn, so that a run of some length has met each of them.
    fn next_point(&mut self) -> &'static str {
        let (point, _) = POINTS[self.next_point % POINTS.len()];
        self.next_point += 1;
        point
    }

    fn any_worker(&mut self) -> usize {
        let slot = self.random.below(self.workers.len() as u64);
        usize::try_from(slot).expect("workers are few")
    }

    async fn kill(&mut self) -> String {
        let slot = self.any_worker();
        self.workers[slot].kill();
        self.replace(slot).await
    }

    async fn kill_at(&mut self) -> String {
        let slot = self.any_worker();
        let point = self.next_point();
        let worker = &mut self.workers[slot];
        worker.tell(&format!("at {point} kill"));
        let reached = worker.died(PATIENCE).await;
        if !reached {
            worker.kill();
        }
        let not = if reached { "" } else { "not " };
        format!(" {not}{point}{}", self.replace(slot).await)
    }

    /// Starts a successor, and says whose.
    async fn replace(&mut self, slot: usize) -> String {
        let away = self.random.millis(0..100);
        tokio::time::sleep(away).await;
        let successor = self.start_worker(slot).await;
        let dead = std::mem::replace(&mut self.workers[slot], successor);
        format!(" of {}", dead.orders.name)
    }

    async fn pause(&mut self) -> String {
        let slot = self.any_worker();
        let duration = self.random.millis(50..700);
        self.workers[slot].stop();
        tokio::time::sleep(duration).await;
        self.workers[slot].go_on();
        format!(" of {}", self.workers[slot].orders.name)
    }

    async fn pause_at(&mut self) -> String {
        let slot = self.any_worker();
        let point = self.next_point();
        let duration = self.random.millis(50..700);
        let worker = &mut self.workers[slot];
        worker.tell(&format!("at {point} stop"));
        let stopped = worker.stopped(PATIENCE).await;
        format!(" {point}{}", self.resume(slot, stopped, duration).await)
    }

    async fn stall(&mut self) -> String {
        let operation = match self.play.broken {
            Some(Broken::FillCompare) => "fill",
            Some(Broken::Contended | Broken::Intent) => "end",
            Some(Broken::TagClock | Broken::TagFloor | Broken::TagIntent) => "end-tagged",
            _ if self.play.tags => *self.random.pick(&["fill", "end", "end-tagged"]),
            _ => *self.random.pick(&["fill", "end"]),
        };
        for worker in &mut self.workers {
            worker.tell(&format!("stall {operation} 20 15"));
        }
        tokio::time::sleep(Duration::from_millis(350)).await;
        format!(" of {operation}")
    }

    async fn cut_database(&mut self) -> String {
        let mut cuts = 0;
        for _ in 0..4 {
            let request = *self.random.pick(&["COMMIT", ""]);
            let door = self.door.as_ref().expect("checked before");
            let trap = door.cut(Point::BeforeReply, request);
            cuts += u32::from(tokio::time::timeout(PATIENCE, trap.sprung()).await.is_ok());
        }
        format!(" of {cuts} connections")
    }
}
