//! The metrics of a cache, for the `metrics` facade (feature `metrics`).
//!
//! 1. Operations count and measure into memory of larder's own, which costs them one addition.
//! 2. A task of the cache publishes what has changed since, every second ([`PUBLISHED_EVERY`]). So a hit never calls the recorder,
//!    and the recorder may be installed after the cache was built.
//! 3. What has to be asked for, such as the depth of a queue, is asked every ten seconds ([`SURVEYED_EVERY`]).
//!
//! Repositories of the same entity are summed up, whatever their namespace. A counter that went down would be taken for a restart,
//! so what a dropped repository has counted is kept.
//!
//! Invariant: a recorder that is slow or panics delays or ends this task, and no operation.
//! Not here: what the metrics are called (`names`), and where they are measured (`observe`, `stats`).

mod names;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use self::names::{ENTITY_COUNTERS, Metric};
use super::{Cache, Inner};
#[cfg(feature = "redis")]
use crate::observe::survey::LinkUsage;
use crate::{
    clock::Deadline,
    health::{Health, ProblemKind, StoreStatus},
    observe::{
        Measured, Operation, RESULTS,
        survey::{MemoryUsage, PartitionSurvey, StoreUsage, TagSurvey},
        timing::{self, Timing},
    },
    stats::{Counter, Stats},
    store::Store,
};

/// How often what was counted is published.
const PUBLISHED_EVERY: Duration = Duration::from_secs(1);
/// How often the store and the database are asked.
const SURVEYED_EVERY: u32 = 10;

/// What was published last, so that only differences are.
#[derive(Debug, Default)]
pub(crate) struct Published {
    is_described: bool,
    stats: HashMap<&'static str, Stats>,
    /// By entity, in the order of the operations and their results.
    writes: HashMap<&'static str, Vec<u64>>,
    /// By metric, and by entity or cache.
    timings: HashMap<(&'static str, Box<str>), Vec<u64>>,
    connections: u64,
    evictions: u64,
}

impl Cache {
    /// Publishes the metrics of this cache now, those included that the store and the database have to be asked for. A task does
    /// so by itself: every second, or every ten seconds what has to be asked for. Call it before a process ends, or before a scrape
    /// that has to be exact.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, some metrics are published the next time.
    pub async fn publish_metrics(&self) {
        self.inner().publish();
        self.inner().publish_survey().await;
    }
}

impl Inner {
    /// Starts the task that publishes, unless it runs, or there is no runtime to run it.
    pub(crate) fn publish_in_background(self: &Arc<Self>) {
        let has_runtime = tokio::runtime::Handle::try_current().is_ok();
        if !has_runtime || self.is_published.swap(true, Ordering::AcqRel) {
            return;
        }
        let cache = Arc::downgrade(self);
        let publishing = Publishing(Arc::downgrade(self));
        // Not in the span of whoever has created the first repository: it would never end.
        tokio::spawn(async move {
            // If the runtime ends, another one can begin to publish.
            let _publishing = publishing;
            for tick in 0_u32.. {
                let Some(cache) = cache.upgrade() else {
                    return;
                };
                cache.publish();
                // A test that controls the store counts its commands, and holds some up.
                #[cfg(feature = "internal-faults")]
                let is_controlled = cache.store.has_faults();
                #[cfg(not(feature = "internal-faults"))]
                let is_controlled = false;
                if tick % SURVEYED_EVERY == SURVEYED_EVERY - 1 && !is_controlled {
                    cache.publish_survey().await;
                }
                drop(cache);
                Deadline::after(PUBLISHED_EVERY).passed().await;
            }
        });
    }

    /// Publishes what was counted and measured.
    fn publish(&self) {
        let mut published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !published.is_described {
            names::describe();
            published.is_described = true;
        }
        for (entity, stats) in self.stats_by_entity() {
            let before = published.stats.entry(entity).or_default();
            for counter in ENTITY_COUNTERS {
                let value = counter.value;
                let added = value(&stats).saturating_sub(value(before));
                let metric = match counter.label {
                    None => metrics::counter!(counter.metric.name, "entity" => entity),
                    Some((label, word)) => {
                        metrics::counter!(counter.metric.name, "entity" => entity, label => word)
                    }
                };
                // Also if there are none, so that the metric is there from the beginning.
                metric.increment(added);
            }
            *before = stats;
        }
        for (entity, measured) in self.measured.all() {
            publish_writes(&mut published, entity, &measured);
            for (metric, timing) in [
                (&names::READ_SECONDS, &measured.read),
                (&names::LOAD_SECONDS, &measured.load),
                (&names::WRITE_SECONDS, &measured.write),
                (&names::FLUSH_SECONDS, &measured.flush),
            ] {
                publish_timing(&mut published, metric, ("entity", entity), timing);
            }
        }
        let of_cache = ("cache", &*self.name);
        let (metric, timing) = (&names::ANNOUNCEMENT_SECONDS, &self.announcements);
        publish_timing(&mut published, metric, of_cache, timing);
        match self.store.usage() {
            StoreUsage::Memory(usage) => self.publish_memory(&mut published, usage),
            #[cfg(feature = "redis")]
            StoreUsage::Link(LinkUsage {
                connections,
                round_trips,
            }) => {
                let metric = &names::ROUND_TRIP_SECONDS;
                publish_timing(&mut published, metric, of_cache, &round_trips);
                let added = connections.saturating_sub(published.connections);
                published.connections = connections;
                metrics::counter!(names::CONNECTIONS.name, "cache" => self.name.to_string())
                    .increment(added);
            }
        }
        drop(published);
        self.publish_health(&self.health());
    }

    fn publish_memory(&self, published: &mut Published, usage: MemoryUsage) {
        let MemoryUsage {
            entries,
            weight,
            capacity,
            evictions,
        } = usage;
        for (metric, value) in [
            (&names::MEMORY_ENTRIES, entries),
            (&names::MEMORY_USED, weight),
            (&names::MEMORY_CAPACITY, capacity),
        ] {
            metrics::gauge!(metric.name, "cache" => self.name.to_string()).set(float(value));
        }
        let added = evictions.saturating_sub(published.evictions);
        published.evictions = evictions;
        metrics::counter!(names::EVICTIONS.name, "cache" => self.name.to_string()).increment(added);
    }

    fn publish_health(&self, health: &Health) {
        let gauge =
            |metric: &Metric| metrics::gauge!(metric.name, "cache" => self.name.to_string());
        let is_usable = matches!(health.store, StoreStatus::InProcess | StoreStatus::Usable);
        let is_trusted = health.store != StoreStatus::NotTrusted;
        gauge(&names::USABLE).set(flag(is_usable));
        gauge(&names::TRUSTED).set(flag(is_trusted));
        let pending = self.repairs.stats().pending as u64;
        gauge(&names::PENDING_INVALIDATIONS).set(float(pending));
        for kind in ProblemKind::ALL {
            let is_there = health.problems.iter().any(|problem| problem.kind == kind);
            let name = names::PROBLEM.name;
            metrics::gauge!(name, "cache" => self.name.to_string(), "kind" => kind.name())
                .set(flag(is_there));
        }
    }

    /// Asks the store and the database about queues and tags, and publishes the answers. Those of an entity in several namespaces are
    /// summed up.
    async fn publish_survey(&self) {
        let mut partitions = BTreeMap::<_, PartitionSurvey>::new();
        let mut dead_letters = BTreeMap::<_, u64>::new();
        let mut tags = BTreeMap::<_, TagSurvey>::new();
        let mut surveyed = HashSet::new();
        for member in self.ledger.members() {
            // Several repositories may have the same queue and the same tags.
            let (entity, place) = (member.spec().name, member.prefix());
            if !surveyed.insert(place) {
                continue;
            }
            let survey = member.survey().await;
            for partition in survey.partitions {
                let sum = partitions.entry((entity, partition.number)).or_default();
                sum.depth += partition.depth;
                sum.lost += partition.lost;
                sum.oldest = sum.oldest.max(partition.oldest);
            }
            if let Some(letters) = survey.dead_letters {
                *dead_letters.entry(entity).or_default() += letters;
            }
            if let Some(own) = survey.tags {
                let sum = tags.entry(entity).or_default();
                sum.marks += own.marks;
                sum.floor = sum.floor.max(own.floor);
            }
        }
        for ((entity, number), partition) in partitions {
            let gauge = |metric: &Metric| metrics::gauge!(metric.name, "entity" => entity, "partition" => number.to_string());
            gauge(&names::QUEUE_DEPTH).set(float(partition.depth));
            gauge(&names::QUEUE_LOST).set(float(partition.lost));
            let oldest = partition.oldest.unwrap_or_default();
            gauge(&names::QUEUE_OLDEST).set(oldest.as_secs_f64());
        }
        let gauge = |metric: &Metric, entity| metrics::gauge!(metric.name, "entity" => entity);
        for (entity, letters) in dead_letters {
            gauge(&names::DEAD_LETTERS, entity).set(float(letters));
        }
        for (entity, tags) in tags {
            gauge(&names::TAG_MARKS, entity).set(float(tags.marks));
            gauge(&names::TAG_FLOOR, entity).set(float(tags.floor));
        }
    }
}

/// Publishes how the writes of an entity ended.
fn publish_writes(published: &mut Published, entity: &'static str, measured: &Measured) {
    let before = published.writes.entry(entity).or_default();
    before.resize(Operation::ALL.len() * RESULTS.len(), 0);
    let counts = measured.writes.iter().flatten().map(Counter::get);
    for (place, (count, before)) in counts.zip(before).enumerate() {
        let added = count.saturating_sub(*before);
        *before = count;
        if added > 0 {
            let operation = Operation::ALL[place / RESULTS.len()].name();
            let result = RESULTS[place % RESULTS.len()];
            let name = names::WRITES.name;
            metrics::counter!(name, "entity" => entity, "operation" => operation, "result" => result)
                .increment(added);
        }
    }
}

/// Publishes how long something took. `label`: what it is about.
fn publish_timing(
    published: &mut Published,
    metric: &Metric,
    (label, value): (&'static str, &str),
    timing: &Timing,
) {
    let key = (metric.name, Box::from(value));
    let before = published.timings.entry(key).or_default();
    let counts = timing.counts();
    before.resize(counts.len(), 0);
    let histogram = metrics::histogram!(metric.name, label => value.to_owned());
    for (bucket, (count, before)) in counts.into_iter().zip(before).enumerate() {
        let added = count.saturating_sub(*before);
        *before = count;
        if added > 0 {
            let times = usize::try_from(added).unwrap_or(usize::MAX);
            histogram.record_many(timing::seconds(bucket), times);
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge need not be exact above 2^53"
)]
fn float(value: u64) -> f64 {
    value as f64
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

/// Lets another task publish when this one has ended.
struct Publishing(Weak<Inner>);

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(cache) = self.0.upgrade() {
            cache.is_published.store(false, Ordering::Release);
        }
    }
}
