//! A worker: a process that writes, or flushes, or brings what is left to the database.
//! It is a process because only a process can be killed.
//! 1. It connects, and says so. 2. It works until its input says `stop`. 3. Lines of the input make it stop or die at a named
//!    point of a write or of a flush, or flush at once.
//!
//! Invariant: it ends with its parent, whose end closes the input.
//! Not here: what a writer writes, see `writing`.

use std::{io::BufRead as _, sync::Arc, time::Duration};

use larder::{
    Cache, Flusher, Repository,
    store::{Mechanism, faulty::Faults},
};
use larder_coherence::{
    harness::{
        attacker,
        leaving::leaving,
        points::Points,
        site::{Site, pool},
    },
    queue::options::Broken,
    random::Random,
};
use rustix::process::Signal;
use sqlx::Pool;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    letters,
    orders::{Orders, Role},
    rows::{Flushed, Journaled, Row},
    writing::{Shared, WRITERS},
};

/// How long Redis may take to answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How many connections to the database a worker has at most.
const CONNECTIONS: u32 = 6;
/// How long what is left may take to come to the database, on a machine that does much else.
const DEADLINE: Duration = Duration::from_secs(100);
/// Of a thousand flushes that were asked for, how many are given up, after any number of polls.
const LEAVING_FLUSHES: u64 = 300;
/// The pause before a flush is tried again that has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs a worker to its end.
pub(crate) async fn run<DB: Site>(orders: Orders) {
    match orders.redis {
        Some(_) => work::<Flushed, DB>(orders).await,
        None => work::<Journaled, DB>(orders).await,
    }
}

async fn work<E: Row, DB: Site>(orders: Orders) {
    let faults = Faults::new();
    if let Some(broken) = orders.broken {
        faults.leave_out(match broken {
            Broken::OffsetCas => Mechanism::OffsetCompare,
            Broken::PendingIndex => Mechanism::PendingIndex,
            Broken::Order => Mechanism::QueueOrder,
            Broken::RoundTrip => Mechanism::RoundTrip,
            Broken::Seal => Mechanism::Seal,
        });
    }
    let pool: Pool<DB> = pool(&orders.address, &orders.name, CONNECTIONS)
        .await
        .expect("the database accepts connections");
    let rows = E::rows(&cache(&orders, &faults).await, pool.clone());
    let points = Points::watch(&faults);
    let (told, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let input = tokio::task::spawn_blocking(move || obey(&points, &told));
    match orders.role {
        Role::Writer | Role::Alone => {
            let flusher = match orders.role {
                Role::Alone => Some(start_flushing(&rows).await),
                _ => None,
            };
            let elsewhere = match orders.redis {
                Some(_) => E::rows(&cache(&orders, &faults).await, pool),
                None => rows.clone(),
            };
            let shared = Arc::new(Shared::new(orders, rows, elsewhere));
            println!("ready");
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..WRITERS {
                let shared = Arc::clone(&shared);
                tasks.spawn(async move { shared.write(task).await });
            }
            let reader = Arc::clone(&shared);
            tasks.spawn(async move { reader.read().await });
            while let Some(line) = lines.recv().await {
                if line == "stop" {
                    break;
                }
            }
            shared.stop();
            while let Some(ended) = tasks.join_next().await {
                ended.expect("a task of a worker does not panic");
            }
            drop(flusher);
        }
        Role::Flusher => {
            let mut flusher = Some(start_flushing(&rows).await);
            println!("ready");
            let mut random = Random::seeded(orders.seed);
            loop {
                let pause = random.millis(20..400);
                match tokio::time::timeout(pause, lines.recv()).await {
                    Ok(None) => break,
                    Ok(Some(line)) if line == "stop" => break,
                    Ok(Some(_)) => {
                        let rows = rows.clone();
                        let leaving = leaving(&mut random, LEAVING_FLUSHES);
                        // If it fails, or leaves, the tasks of the flusher go on where it stopped.
                        tokio::spawn(async move { drop(leaving.run(rows.flush()).await) });
                    }
                    Err(_) => {
                        // Stopped in the middle of whatever it does, and begun again.
                        drop(flusher.take());
                        let started = leaving(&mut random, LEAVING_FLUSHES);
                        let started = started.run(rows.start_flushing()).await;
                        flusher = started.and_then(Result::ok);
                    }
                }
            }
            drop(flusher);
        }
        Role::Drainer => {
            println!("ready");
            let drained = tokio::time::timeout(DEADLINE, drain(&rows)).await;
            let drained = drained.unwrap_or_else(|_| Err("the deadline has passed".to_owned()));
            if let Err(failure) = drained {
                eprintln!("{}: the queue is not empty: {failure}", orders.name);
                std::process::exit(4);
            }
            letters::note(&rows, &orders.log, orders.attack).await;
            // Its input need not say `stop`.
            std::process::exit(0);
        }
    }
    // Whatever its last line was, the input has said `stop`.
    drop(input);
}

async fn cache(orders: &Orders, faults: &Faults) -> Cache {
    let builder = Cache::builder()
        .namespace("crash")
        .faults(faults)
        .journal_dir(&orders.journal_dir)
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

async fn start_flushing<E: Row, DB: Site>(rows: &Repository<E, DB>) -> Flusher {
    let flusher = rows.start_flushing().await;
    flusher.expect("the servers are there and configured")
}

/// Flushes until nothing is left.
async fn drain<E: Row, DB: Site>(rows: &Repository<E, DB>) -> Result<(), String> {
    let mut last = None;
    loop {
        match rows.flush().await {
            Ok(()) => {
                let pending = rows.pending().await.map_err(|error| error.to_string())?;
                return match pending.count {
                    0 => Ok(()),
                    count => Err(format!("{count} writes are pending after a flush")),
                };
            }
            Err(error) => {
                let told = format!("{error}: {:?}", std::error::Error::source(&error));
                if last.as_ref() != Some(&told) {
                    eprintln!("drainer: {told}");
                    last = Some(told);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Does what the lines of the input say, or passes it on, until they end or say `stop`.
fn obey(points: &Points, told: &UnboundedSender<String>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["at", "nowhere"] => points.disarm(),
            ["at", point, "kill"] => points.arm(point, Signal::KILL),
            ["at", point, "stop"] => points.arm(point, Signal::STOP),
            _ => {
                // The worker may have ended by itself.
                let _ended = told.send(line.clone());
                if line == "stop" {
                    return;
                }
            }
        }
    }
    // The parent is gone.
    std::process::exit(3);
}
