//! Which faults happen when: one at a time, in an order drawn from the seed, in rounds that keep apart what must not meet.
//!
//! Two faults that are harmless alone may together be a hole that the documentation names: an announcement that Redis has lost, and
//! the death of its writer before it could say so again. A run shows what is promised, so such pairs are kept apart:
//!
//! 1. First the faults of the store, some of which lose announcements; nobody dies.
//! 2. When the writes that were under way have ended: faults of workers and of the database. Nothing is lost meanwhile.
//! 3. When the announcements of the dead have expired: waits for locks beyond the life of an announcement.

use std::{str::FromStr, time::Duration};

use larder_coherence::{
    harness::site::Site,
    options::{Broken, Fault},
};
use larder_testing::clock::{Moment, now};
use sqlx::Connection;

use crate::{stage::Stage, worker::INTENT_TTL};

/// The rounds, each with the time to wait after it.
const ROUNDS: [(&[Fault], Duration); 3] = [
    (
        &[
            Fault::RedisRestart,
            Fault::RedisOldData,
            Fault::RedisFreeze,
            Fault::RedisFlush,
            Fault::RedisFailover,
            Fault::RedisCut,
            Fault::ScriptFlush,
            Fault::Stall,
        ],
        Duration::from_millis(700),
    ),
    (
        &[
            Fault::Kill,
            Fault::KillAt,
            Fault::KillAt,
            Fault::KillAt,
            Fault::Pause,
            Fault::PauseAt,
            Fault::PauseAt,
            Fault::DatabaseCrash,
            Fault::DatabaseTerminate,
            Fault::DatabaseCut,
            Fault::DatabaseSlow,
        ],
        INTENT_TTL,
    ),
    (&[Fault::LockWait], Duration::ZERO),
];

/// The faults that show soonest that a mechanism is missing.
pub(crate) fn revealing(broken: Broken) -> Vec<Fault> {
    match broken {
        Broken::FillCompare | Broken::Contended | Broken::Intent => vec![Fault::Stall],
        Broken::LookupCheck | Broken::PointerIntent | Broken::ListIntent => vec![Fault::Stall],
        Broken::TagClock | Broken::TagFloor | Broken::TagIntent => vec![Fault::Stall],
        // They need no fault to show.
        Broken::DroppedBegin
        | Broken::RoundTrip
        | Broken::GroupIntent
        | Broken::Cascade
        | Broken::Seal => {
            vec![Fault::Stall]
        }
        Broken::AcceptedFill => vec![Fault::DatabaseSlow],
        Broken::History => vec![Fault::RedisOldData],
        Broken::End => vec![Fault::RedisFlush],
    }
}

impl<DB: Site> Stage<DB>
where
    <DB::Connection as Connection>::Options: FromStr<Err = sqlx::Error>,
{
    /// Injects faults until a moment.
    pub(crate) async fn play(&mut self, faults: &[Fault], until: Moment) {
        // Something to go wrong with.
        pause(Duration::from_millis(300), until).await;
        // Short runs begin with different rounds.
        let mut next = usize::from(self.random.per_mille(500));
        while now() < until {
            let before = self.injected.len();
            for _ in ROUNDS {
                let (round, then) = ROUNDS[next % ROUNDS.len()];
                next += 1;
                let mut round: Vec<Fault> = round
                    .iter()
                    .copied()
                    .filter(|fault| faults.contains(fault) && self.has(*fault))
                    .collect();
                self.random.shuffle(&mut round);
                if round.is_empty() {
                    continue;
                }
                for fault in round {
                    let calm = self.random.millis(50..250);
                    pause(calm, until).await;
                    if now() >= until {
                        return;
                    }
                    self.inject(fault).await;
                }
                if faults.len() > 1 {
                    pause(then, until).await;
                }
            }
            if self.injected.len() == before {
                pause(Duration::from_secs(1), until).await;
            }
        }
    }
}

/// Waits so long, but not beyond a moment.
async fn pause(duration: Duration, until: Moment) {
    let left = Duration::from_nanos(until.saturating_sub(now()));
    tokio::time::sleep(duration.min(left)).await;
}
