//! The targets: one question each, with the variants that answer it and the bound of their ratio.

mod aside;
mod behind;
mod behind_ack;
mod behind_drain;
mod behind_million;
mod derive_cost;
mod frozen;
mod gather;
mod l2_hit;
mod l2_peer;
mod lookups;
mod memory_hit;
mod miss_burst;
mod observed;
mod orm_trace;
mod processes;
mod reads;
mod round_trip;
mod seals;
pub(crate) mod stampede;
mod tags;
mod tiers;
mod transaction;
mod write;

use std::pin::Pin;

use crate::{
    Failure,
    measure::{Effort, Spread},
};

/// A question that a run answers with figures.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) question: &'static str,
    pub(crate) run: Run,
    /// Measures variants whose ratio is known, and fails if it is not seen.
    pub(crate) control: Run,
}

type Run = fn(Effort) -> Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

macro_rules! targets {
    ($($name:literal, $question:literal => $run:expr, $control:expr;)*) => {
        /// All targets, in the order in which they run.
        pub(crate) const TARGETS: &[Target] = &[$(Target {
            name: $name,
            question: $question,
            run: |effort| Box::pin($run(effort)),
            control: |effort| Box::pin($control(effort)),
        }),*];
    };
}

targets! {
    "l2-hit-1", "what does a hit in Redis cost, beside a GET by hand?" => l2_hit::latency, l2_hit::latency_control;
    "l2-hit-64", "how many hits in Redis do 64 tasks get, beside GETs by hand?" => l2_hit::throughput, l2_hit::throughput_control;
    "l2-hit-256", "how many hits in Redis do 256 tasks get, beside GETs by hand?" => l2_hit::crowd, l2_hit::throughput_control;
    "aside-90", "how many reads do 64 tasks get if nine in ten are hits, beside cache-aside by hand?" => aside::run, l2_hit::throughput_control;
    "l2-peer", "how many hits in Redis do 64 tasks get, beside other caches?" => l2_peer::run, l2_hit::throughput_control;
    "tiers", "how many hits do 64 tasks get, beside programs that keep rows in memory and in Redis?" => tiers::run, l2_hit::throughput_control;
    "find-many", "what do a hundred rows cost, beside MGET and ANY by hand?" => lookups::find_many, lookups::control;
    "find-by", "what does a hit by another column cost, beside one by id?" => lookups::find_by, lookups::control;
    "list-50", "what does a cached list of fifty rows cost, beside one by hand?" => lookups::list, lookups::control;
    "update-indexed", "what do lookups cost an update?" => lookups::update, lookups::control;
    "tag-hit", "what does a hit with tags cost, beside one without?" => tags::hit, tags::hit_control;
    "query-hit", "what does a hit of a cached query cost, beside one of a row?" => tags::query, tags::query_control;
    "tag-invalidate", "what does an invalidation of a tag cost, beside a set of keys by hand?" => tags::invalidate, tags::invalidate_control;
    "seal-hit", "what does a hit cost whose entry is authenticated, encrypted or compressed, and what the check of its id?" => seals::hit, seals::control;
    "metrics-hit", "what do metrics and spans cost a hit, beside one that nothing observes?" => observed::run, observed::control;
    "miss-burst", "how many cold reads do 64 tasks get, beside a SELECT for each?" => miss_burst::run, miss_burst::control;
    "memory-hit", "what does a hit in this process cost, beside the map itself?" => memory_hit::run, memory_hit::control;
    "orm-trace", "how many reads of an application does the in-process store answer, beside an LRU and the map itself?" => orm_trace::run, orm_trace::control;
    "write-1", "how many updates does one task make, beside bare UPDATEs?" => write::alone, write::control;
    "write-16", "how many updates do 16 tasks make, beside bare UPDATEs?" => write::together, write::control;
    "write-64", "how many updates do 64 tasks make, beside bare UPDATEs?" => write::crowd, write::control;
    "gather-writes", "what do updates gain that are committed together, and what does a locked row cost them?" => gather::run, write::control;
    "round-trip", "what does it cost to see that a row comes back from the codec?" => round_trip::run, round_trip::control;
    "transaction", "how many transactions over three entities are made, beside bare ones?" => transaction::run, transaction::control;
    "behind-ack", "how many queued writes are acknowledged, beside bare UPDATEs?" => behind_ack::run, behind_ack::control;
    "behind-drain", "how many queued writes reach the database, beside batches by hand?" => behind_drain::run, behind_drain::control;
    "behind-million", "does a flood of writes with poison in it stay bounded and come out right?" => behind_million::run, behind_million::control;
    "frozen", "what does a read cost while Redis is frozen, beside a read past the cache?" => frozen::run, frozen::control;
    "stampede", "how many loads does a cold key cost eight processes, and how long do they wait?" => stampede::run, stampede::control;
    "processes", "what do many processes that are in use cost one Redis?" => processes::run, processes::control;
    "derive-cost", "how much longer does `cargo check` take for 50 entities than for their structs?" => derive_cost::run, derive_cost::control;
}

/// The widest interval of a ratio that still says something, as a share of it.
const WIDEST: f64 = 0.5;

/// Fails unless a ratio is seen to be what it is known to be.
fn expect_ratio(what: &str, seen: Spread, low: f64, high: f64) -> Result<(), Failure> {
    let Spread {
        low: from,
        median,
        high: to,
    } = seen;
    println!("control {what}: {median:.2} ({from:.2} to {to:.2}), known to be {low} to {high}");
    if to - from > WIDEST * median {
        return Err("the machine is too busy to measure anything; use more --rounds".into());
    }
    if from <= high && to >= low {
        Ok(())
    } else {
        Err(format!(
            "{what}: the ratio is known to be {low} to {high} but was seen as {from:.2} to {to:.2}"
        )
        .into())
    }
}
