//! A worker: a process that reads and writes a few rows as fast as it can, and logs what it did.
//! It is a process because a cache that is right between threads may be wrong between processes, and because only a process can be
//! killed.
//! 1. It connects, and says so. 2. Its tasks read and write until its input says `stop`. 3. Lines of the input make it stop or die
//!    at a named point, or hold up its fills.
//!
//! Invariant: it ends with its parent, whose end closes the input.
//! Not here: what its tasks do, see `tasks`.

use std::{io::BufRead as _, sync::Arc, time::Duration};

use larder::{
    Cache,
    store::{
        Mechanism,
        faulty::{Faults, Operation},
    },
};
use larder_coherence::{
    harness::{
        attacker,
        points::Points,
        site::{Site, pool},
    },
    options::Broken,
    random::Random,
};
use rustix::process::Signal;
use sqlx::Pool;

use crate::{
    orders::Orders,
    tasks::{Shared, work},
    workload::Mix,
};

/// How long an announcement lives: short, so that the keys of a worker that was killed are soon cached again.
pub(crate) const INTENT_TTL: Duration = Duration::from_secs(2);

/// How long Redis may take to answer a worker.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_millis(200);

/// How many connections a worker has at most.
const MAX_CONNECTIONS: u64 = 12;

/// Runs a worker to its end.
pub(crate) async fn run<DB: Site>(orders: Orders) {
    let faults = Faults::new();
    if let Some(mechanism) = orders.broken.and_then(mechanism) {
        faults.leave_out(mechanism);
    }
    // Half of the workers let no write go alone, so that they meet more often.
    if orders.seed.is_multiple_of(2) {
        faults.leave_out(Mechanism::LoneWrite);
    }
    let mix = Mix::of(orders.broken, orders.tags, orders.role());
    let connections = u32::try_from(mix.tasks.min(MAX_CONNECTIONS)).expect("they are few");
    let pool: Pool<DB> = pool(&orders.address, &orders.name, connections)
        .await
        .expect("the database accepts connections");
    let (cache, seed) = (cache(&orders, &faults).await, orders.seed);
    let points = Points::watch(&faults);
    let shared = Arc::new(Shared::new(orders, mix, pool, &cache));
    let input = tokio::task::spawn_blocking({
        let shared = Arc::clone(&shared);
        let runtime = tokio::runtime::Handle::current();
        move || obey(&shared, &points, &faults, &runtime)
    });
    let pausing = tokio::spawn(pause_now_and_then(cache, seed));
    println!("ready");
    let tasks: Vec<_> = (0..mix.tasks)
        .map(|task| tokio::spawn(work(Arc::clone(&shared), task)))
        .collect();
    for task in tasks {
        task.await.expect("a task of a worker does not panic");
    }
    pausing.abort();
    // Whatever its last line was, the input has said `stop`.
    drop(input);
}

/// Pauses reads or fills for a moment, now and then: what was written meanwhile must be seen afterwards.
async fn pause_now_and_then(cache: Cache, seed: u64) {
    let mut random = Random::seeded(seed.wrapping_add(1));
    for round in 0_u64.. {
        tokio::time::sleep(random.millis(1_000..3_000)).await;
        match round % 2 {
            0 => cache.pause_reads(),
            _ => cache.pause_fills(),
        }
        tokio::time::sleep(random.millis(20..150)).await;
        cache.resume_reads();
        cache.resume_fills();
    }
}

async fn cache(orders: &Orders, faults: &Faults) -> Cache {
    let builder = Cache::builder()
        .namespace(&orders.namespace)
        .faults(faults)
        .intent_ttl(INTENT_TTL)
        .connect_timeout(RESPONSE_TIMEOUT)
        .response_timeout(RESPONSE_TIMEOUT);
    let builder = match orders.attack {
        true => attacker::sealed(builder, orders.broken != Some(Broken::Seal)),
        false => builder,
    };
    match &orders.redis {
        None => builder.build().expect("the options are valid"),
        Some(url) => builder
            .redis(url)
            .connect()
            .await
            .expect("the options are valid"),
    }
}

fn mechanism(broken: Broken) -> Option<Mechanism> {
    Some(match broken {
        Broken::FillCompare => Mechanism::FillCompare,
        Broken::Intent => Mechanism::Intent,
        Broken::AcceptedFill => Mechanism::AcceptedFill,
        Broken::History => Mechanism::History,
        Broken::Contended => Mechanism::Contended,
        Broken::End => Mechanism::End,
        Broken::RoundTrip => Mechanism::RoundTrip,
        Broken::LookupCheck => Mechanism::LookupCheck,
        Broken::PointerIntent => Mechanism::PointerIntent,
        Broken::ListIntent => Mechanism::ListIntent,
        Broken::GroupIntent => Mechanism::GroupIntent,
        Broken::TagClock => Mechanism::TagClock,
        Broken::TagFloor => Mechanism::TagFloor,
        Broken::TagIntent => Mechanism::TagIntent,
        Broken::Cascade => Mechanism::Cascade,
        Broken::Seal => Mechanism::Seal,
        // No mechanism of the store: the tasks begin as plain sqlx does.
        Broken::DroppedBegin => return None,
    })
}

/// Does what the lines of the input say, until they end or say `stop`.
fn obey<DB: Site>(
    shared: &Shared<DB>,
    points: &Points,
    faults: &Faults,
    runtime: &tokio::runtime::Handle,
) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["stop"] => {
                shared.stop();
                return;
            }
            ["stall", operation, times, millis] => {
                let operation = match operation {
                    "fill" => Operation::Fill,
                    "end-tagged" => Operation::EndTagged,
                    _ => Operation::End,
                };
                let times = times.parse().expect("the harness writes numbers");
                let millis = millis.parse().expect("the harness writes numbers");
                let stall = Duration::from_millis(millis);
                runtime.spawn(hold_up(faults.clone(), operation, times, stall));
            }
            ["at", "nowhere"] => points.disarm(),
            ["at", point, "kill"] => points.arm(point, Signal::KILL),
            ["at", point, "stop"] => points.arm(point, Signal::STOP),
            _ => panic!("the harness does not say {line:?}"),
        }
    }
    // The parent is gone.
    std::process::exit(3);
}

/// Holds up so many calls of an operation, one after the other.
async fn hold_up(faults: Faults, operation: Operation, times: u32, stall: Duration) {
    for _ in 0..times {
        let pause = faults.pause(operation);
        pause.reached().await;
        tokio::time::sleep(stall).await;
        pause.resume();
    }
}
