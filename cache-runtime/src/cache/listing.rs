//! Lists this process and its entities in Redis, so that tools see them, and reads what is paused from outside.
//!
//! 1. A task begins with the first repository over Redis. Every five seconds ([`LISTED_EVERY`]) it sends two small requests.
//! 2. Entities are listed when they are new, and again every hour.
//! 3. A server that refuses the commands, because the user lacks the rights, is not asked again. One line is logged.
//!
//! Invariant: nothing waits for this task, and nothing that is served depends on it.
//! Not here: what is listed (`protocol::listing`).

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::Inner;
use crate::{
    binding::Member,
    clock::{Deadline, Stopwatch, millis},
    detached,
    error::Error,
    observe::audit::{Audit, AuditOptions},
    protocol::{
        listing::{
            ALL, AuditRequest, ListedAudit, ListedCounts, ListedEntity, ListedProcess,
            ListedReplay, ListedStaleEntry, ReplayRequest, Switches,
        },
        token::ProcessId,
    },
    stats::Stats,
    store::{
        Store,
        redis::{
            RedisStore,
            listing::{NotListed, Wishes},
        },
    },
};

/// How often a process says that it is there.
const LISTED_EVERY: Duration = Duration::from_secs(5);
/// How often entities are listed again.
const ENTITIES_EVERY: Duration = Duration::from_secs(3_600);
/// How many entries an audit compares at most that was asked for from outside, and how many in a second.
const MOST_ROWS: u64 = 10_000_000;
const MOST_PER_SECOND: u32 = 10_000;
/// The maximum length of the id of a request, in bytes. It becomes a part of a key.
const MOST_ID: usize = 64;
/// How many requests are remembered, so that each is answered once. A later one is answered once by its key in Redis.
const REMEMBERED: usize = 1_000;
/// How many repositories that cannot use their namespace a process tells of.
const MOST_REFUSED: usize = 10;
/// How many entities a process lists. A program with a namespace for each tenant has many.
const MOST: usize = 1_000;

impl Inner {
    /// Starts the task, unless it runs, or there is no runtime to run it.
    pub(crate) fn list_in_background(self: &Arc<Self>) {
        let has_runtime = tokio::runtime::Handle::try_current().is_ok();
        let is_off = !self.is_listed.load(Ordering::Acquire) || self.store.redis().is_none();
        if is_off || !has_runtime || self.lists.swap(true, Ordering::AcqRel) {
            return;
        }
        let cache = Arc::downgrade(self);
        let listing = Listing(cache.clone());
        // Not in the span of whoever has created the first repository: it would never end.
        tokio::spawn(async move {
            // If the runtime ends, another one can begin to list.
            let _listing = listing;
            let mut lister = Lister::default();
            while let Some(cache) = cache.upgrade() {
                let Some(store) = cache.store.redis() else {
                    return;
                };
                let beat = lister.beat(&cache, store).await;
                // A store that is away is told elsewhere.
                if let Err(NotListed::Refused(error)) = beat {
                    tracing::info!(
                        error,
                        "this process is not listed for the command `larder`, because Redis refuses it; grant the rights in \
                         docs/operations.md, or set `CacheBuilder::listed(false)`"
                    );
                    cache.lists_no_more();
                    return;
                }
                drop(cache);
                Deadline::after(LISTED_EVERY).passed().await;
            }
        });
    }
}

impl Inner {
    /// Records that the server refuses it.
    fn lists_no_more(&self) {
        self.is_listed.store(false, Ordering::Release);
    }
}

/// What the task knows from one beat to the next.
struct Lister {
    began: Stopwatch,
    /// The entities that were listed on this connection.
    listed: Vec<ListedEntity>,
    connection: u64,
    relist: Option<Deadline>,
    /// The requests that were answered, or left to another process.
    answered: Vec<String>,
    /// Whether one is being answered.
    is_answering: Arc<AtomicBool>,
}

/// Says that an answer has ended, however it did.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Default for Lister {
    fn default() -> Self {
        Self {
            began: Stopwatch::start(),
            listed: Vec::new(),
            connection: 0,
            relist: None,
            answered: Vec::new(),
            is_answering: Arc::default(),
        }
    }
}

impl Lister {
    async fn beat(&mut self, cache: &Arc<Inner>, store: &RedisStore) -> Result<(), NotListed> {
        let name = &*cache.name;
        let (now_ms, wishes) = store.read_wishes(name).await?;
        let Wishes {
            switches,
            audits,
            replays,
        } = wishes;
        let members = cache.ledger.members();
        for member in &members {
            let of_all = switches.get(ALL).copied().unwrap_or_default();
            let own = switches.get(member.spec().name).copied();
            let Switches { reads, fills } = of_all.or(own.unwrap_or_default());
            member.pauses().set_from_outside(reads, fills);
        }
        for (entity, request) in audits {
            self.audit(cache, &members, entity, request);
        }
        for (queue, request) in replays {
            self.replay(cache, &members, &queue, request);
        }
        let connection = cache.store.connection_number();
        let is_due = self.relist.is_none_or(Deadline::has_passed) || connection != self.connection;
        let mut entities: Vec<_> = members.iter().map(|member| member.listed()).collect();
        entities.sort_by(|one, other| one.prefix.cmp(&other.prefix));
        entities.dedup();
        entities.truncate(MOST);
        if !entities.is_empty() && (is_due || entities != self.listed) {
            store.list_entities(name, &entities).await?;
            self.listed = entities;
            self.connection = connection;
            self.relist = Some(Deadline::after(ENTITIES_EVERY));
        }
        let process = ListedProcess {
            host: host(),
            pid: std::process::id(),
            larder: env!("CARGO_PKG_VERSION").to_owned(),
            seen_ms: now_ms,
            up_ms: millis(self.began.elapsed()),
            health: cache.health().to_string(),
            entities: cache
                .stats_by_entity()
                .into_iter()
                .map(|(entity, stats)| counts(cache, entity, &stats))
                .collect(),
            refused: members
                .iter()
                .filter_map(|member| member.refusal())
                .take(MOST_REFUSED)
                .collect(),
        };
        let id = format!("{:?}", ProcessId::current());
        store.list_process(name, &id, &process).await
    }
}

impl Lister {
    /// Makes an audit that is asked for.
    fn audit(
        &mut self,
        cache: &Arc<Inner>,
        members: &[Arc<dyn Member>],
        entity: String,
        request: AuditRequest,
    ) {
        let mut members = members.iter();
        let Some(member) = members.find(|member| member.spec().name == entity) else {
            return;
        };
        // A request is a claim of whoever can write to Redis, so it is bounded.
        let rate = match request.per_second {
            0 => MOST_PER_SECOND,
            rate => rate.min(MOST_PER_SECOND),
        };
        let options = AuditOptions::default()
            .rows(request.rows.min(MOST_ROWS))
            .per_second(rate);
        let audited = Arc::clone(member).audit(options);
        self.answer(cache, request.id, async move {
            listed_audit(entity, audited.await)
        });
    }

    /// Replays a dead letter. A request is a claim of whoever can write to Redis. So nothing is replayed over a later write, and
    /// nothing that larder has not written.
    fn replay(
        &mut self,
        cache: &Arc<Inner>,
        members: &[Arc<dyn Member>],
        queue: &str,
        request: ReplayRequest,
    ) {
        let mut members = members.iter();
        let Some(member) = members.find(|member| member.queue().as_deref() == Some(queue)) else {
            return;
        };
        let place = (request.partition, request.epoch, request.number);
        let replayed = Arc::clone(member).replay(place);
        self.answer(cache, request.id, async move {
            ListedReplay {
                process: format!("{:?}", ProcessId::current()),
                error: replayed.await.err().map(|error| error.to_string()),
            }
        });
    }

    /// Does what is asked for in a task of its own, unless another process does, and leaves the result. One request is answered at a
    /// time; the others are still there at the next beat.
    fn answer<R: serde::Serialize + Send + Sync>(
        &mut self,
        cache: &Arc<Inner>,
        id: String,
        work: impl Future<Output = R> + Send + 'static,
    ) {
        let is_refused = !is_request_id(&id) || self.answered.contains(&id);
        if is_refused || self.is_answering.swap(true, Ordering::AcqRel) {
            return;
        }
        self.answered.push(id.clone());
        if self.answered.len() > REMEMBERED {
            self.answered.remove(0);
        }
        let ends = Arc::clone(&self.is_answering);
        let cache = Arc::clone(cache);
        detached::spawn(async move {
            let _ends = Ending(ends);
            let Some(store) = cache.store.redis() else {
                return;
            };
            if !matches!(store.claim_request(&cache.name, &id).await, Ok(true)) {
                return;
            }
            // Without it, whoever has asked waits in vain, and asks again.
            let _left = store.leave_result(&cache.name, &id, &work.await).await;
        });
    }
}

/// Returns whether a request may have this id. Whoever can write to Redis chooses it.
fn is_request_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MOST_ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn listed_audit(entity: String, audited: Result<Audit, Error>) -> ListedAudit {
    let process = format!("{:?}", ProcessId::current());
    let (audit, error) = match audited {
        Ok(audit) => (audit, None),
        Err(error) => (Audit::default(), Some(error.to_string())),
    };
    ListedAudit {
        entity,
        process,
        error,
        checked: audit.checked,
        lists: audit.lists,
        stale: audit.stale,
        changing: audit.changing,
        not_comparable: audit.not_comparable,
        is_complete: audit.is_complete,
        examples: audit
            .examples
            .into_iter()
            .map(|entry| ListedStaleEntry {
                key: entry.key,
                age_ms: millis(entry.age),
                token: entry.token,
                difference: entry.difference.to_string(),
            })
            .collect(),
    }
}

fn counts(cache: &Inner, entity: &'static str, stats: &Stats) -> ListedCounts {
    #[cfg(feature = "metrics")]
    let read_us = cache.measured.percentiles_of_reads(entity);
    #[cfg(not(feature = "metrics"))]
    let read_us = {
        let _ = cache;
        None
    };
    ListedCounts {
        entity: entity.to_owned(),
        reads: stats.hits + stats.negative_hits + stats.misses,
        served: stats.hits + stats.negative_hits + stats.hits_after_wait,
        loads: stats.loads,
        writes: stats.writes,
        errors: stats.load_errors + stats.write_errors + stats.store_errors,
        lost: stats.lost_writes,
        read_us,
    }
}

/// Returns the name of this machine, as far as the environment tells.
fn host() -> String {
    let file = std::fs::read_to_string("/etc/hostname");
    let name = std::env::var("HOSTNAME").or(file).unwrap_or_default();
    name.trim().to_owned()
}

/// Lets another task list when this one has ended.
struct Listing(Weak<Inner>);

impl Drop for Listing {
    fn drop(&mut self) {
        if let Some(cache) = self.0.upgrade() {
            cache.lists.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::token::Token;

    #[test]
    fn an_id_of_a_request_is_short_and_has_no_separators() {
        assert!(is_request_id(&format!("{:?}", Token::draw())));
        for id in [
            "",
            "a:result",
            "a b",
            "a\r\n",
            "\u{202e}",
            &"a".repeat(MOST_ID + 1),
        ] {
            assert!(!is_request_id(id), "{id:?}");
        }
    }
}
