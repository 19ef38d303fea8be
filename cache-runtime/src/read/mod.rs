//! One read, step by step: of a row by its id, of what a lookup found, or of many of them.
//!
//! A hit by id in the memory of this process ends before the first step, and needs no future ([`Context::hit_now`]).
//!
//! 1. Get the entry with one plain command. A row or an absence of this layout and history is a hit, and is returned.
//! 2. Otherwise the caller joins the flight of the key (`flight`). The leader's task does the rest for all callers.
//! 3. The key is empty: take the fill lease. If it is granted, read the database, answer the leader, and fill the key
//!    under the lease.
//! 4. Another loader has the lease: wait to be woken, at most for the entity's wait budget. Then take the lease, or
//!    bypass the cache.
//! 5. A write is under way, the store does not answer, or the key has a pending repair (`repair`): read the database,
//!    and do not fill the key.
//!
//! `load` describes steps 3 to 5. For an entity with tags, each step that returns an entry or takes a lease also reads the clock
//! of its tags, at the same time (`tagged`).
//!
//! Invariant: a row is filled only under the lease it was loaded under, and only from a fresh read outside any
//! transaction. An error is never stored, and never becomes "does not exist".
//! Invariant: nothing is served from a store that is not known to contain rows of this database (`binding`).
//! Invariant: errors of the store end here. The caller sees only those of the database.
//! Not here: what a load does (`load`), statements that fill nothing (`once`), writes (`write`), the rules of a key (`state`),
//! who may share a load (`flight`).

pub(crate) mod audit;
pub(crate) mod content;
pub(crate) mod flight;
pub(crate) mod list;
mod load;
pub(crate) mod lookup;
mod once;
pub(crate) mod options;
pub(crate) mod outcome;
pub(crate) mod query;
pub(crate) mod reader;
pub(crate) mod tagged;
mod together;
pub(crate) mod turn;

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    detached,
    error::{Error, StoreError},
    protocol::{key::Key, state::Meta, token::Token},
    read::{
        content::{Content, RowOf},
        flight::{Flight, Follower, Joined, LoadResult},
        load::{Answer, Item, load_stopped},
        options::Options,
        outcome::{Origin, Outcome},
        tagged::Clock,
    },
    store::{Found, Hit, Over, Payload, Representation, Store, failpoint::Mechanism},
};

/// How often a caller joins another flight because it may not share the result of one, before it reads by itself.
const MAX_SHARED_LOADS: u32 = 4;

/// How often the store looks for damage at a key that says that a write is in progress, or whose entry should have expired.
const SUSPECT_EVERY: Duration = Duration::from_millis(100);
/// By how much the clocks of two machines may differ before one takes entries of the other one for overdue.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// The next step for a key that could not be served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Take the fill lease, and replace this entry.
    Lease { over: Over },
    /// Drop an entry that is unreadable, too old, or whose row has ended. Then take the lease.
    Repair,
    /// Drop the forged entry with this token. Then take the lease.
    Drop(Token),
    /// Wait for another process's load.
    Wait,
    /// Ask the database whether it already has a queued write.
    Settle,
    /// Bypass the cache.
    Bypass,
}

/// The result of a look into the store.
pub(crate) enum LookedUp<V> {
    Served(Outcome<V>),
    Unserved(Next),
}

/// A key that is not served from the cache, and the next step for it.
struct Missed<C> {
    /// Its place in the answers.
    at: usize,
    key: Key,
    content: C,
    next: Next,
    /// The time to live of the entry that is filled, if it is not that of the policy.
    ttl: Option<Duration>,
}

/// Keys, each once.
pub(crate) struct Distinct<C> {
    pub(crate) wanted: Vec<(Key, C)>,
    /// The place among them of each key that was asked for.
    pub(crate) places: Vec<usize>,
}

impl<C> Distinct<C> {
    /// Sorts out the keys that occur twice. `content` returns what is at the key with this index.
    pub(crate) fn new(keys: Vec<Key>, content: impl Fn(usize) -> C) -> Self {
        let mut known = HashMap::with_capacity(keys.len());
        let mut wanted = Vec::with_capacity(keys.len());
        let mut places = Vec::with_capacity(keys.len());
        for (at, key) in keys.into_iter().enumerate() {
            let place = known.get(&key).copied().unwrap_or_else(|| {
                known.insert(key.clone(), wanted.len());
                wanted.push((key, content(at)));
                wanted.len() - 1
            });
            places.push(place);
        }
        Self { wanted, places }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Drops the entry of a row and loads it.
    pub(crate) async fn reload(self: &Arc<Self>, id: Cow<'_, E::Id>) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        self.bind_now().await?;
        self.reload_content(key, RowOf::of(id.into_owned()), None)
            .await
    }

    /// Drops the entry of a key and loads it. `ttl`: the time to live of the new entry, if it is not that of the policy.
    pub(crate) async fn reload_content<C: Content<E, DB>>(
        self: &Arc<Self>,
        key: Key,
        content: C,
        ttl: Option<Duration>,
    ) -> Result<Outcome<C::Value>, Error> {
        let dropped = self.invalidate(&key).await;
        // A flight that is under way may have read the database before this call.
        C::flights(self).close_current(&key);
        self.miss(key, content, dropped.is_ok(), ttl).await
    }

    /// Reads a row, from the cache if possible.
    pub(crate) async fn read(self: &Arc<Self>, id: Cow<'_, E::Id>) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        let fingerprint = self.fingerprint;
        let content = || RowOf::of(id.into_owned());
        self.read_content(key, fingerprint, content).await
    }

    /// Returns a row if the memory of this process has it and nothing stands in the way: then no future is needed. The steps are those
    /// of [`Context::read`], which is called otherwise.
    #[inline]
    pub(crate) fn hit_now(&self, id: &E::Id) -> Option<Outcome<E>> {
        if self.cache.store.keeps() != Representation::Rows || self.signals.traces() {
            return None;
        }
        self.signals.measure_hit(|| self.unobserved_hit(id))
    }

    /// As [`Context::hit_now`], without measuring it.
    #[inline]
    pub(crate) fn unobserved_hit(&self, id: &E::Id) -> Option<Outcome<E>> {
        // Where writes are queued or entries have tags, more has to be looked at.
        let is_plain = self.groups.clock.is_none() && self.queue.is_none();
        if !is_plain || !self.is_servable() || self.pauses_reads() {
            return None;
        }
        if self.cache.repairs.may_block() {
            return None;
        }
        let key = self.keys.key(id).ok()?;
        let Hit { loaded_at_ms, row } = self.cache.store.get_now(&key, self.identity())?;
        let row = match row {
            Some(row) => Some(self.servable::<RowOf<E>>(&key, row).ok()?),
            None => None,
        };
        let outcome = Outcome {
            row,
            origin: Origin::Cache,
            age: self.cache.clock.coarse_age(loaded_at_ms),
            store_was_skipped: false,
        };
        self.count_hit(&outcome);
        Some(outcome)
    }

    /// Reads a row from the database for one caller, and fills nothing.
    pub(crate) async fn read_uncached(
        self: &Arc<Self>,
        row: RowOf<E>,
    ) -> Result<Outcome<E>, Error> {
        let key = self.key(&row.id)?;
        let mut loaded = self.load_alone(vec![(key, row)]).await;
        loaded.pop().expect("there is an answer for each key")
    }

    /// Reads rows, from the cache as far as possible. Returns one for each id, in their order.
    pub(crate) async fn find_many(
        self: &Arc<Self>,
        ids: &[E::Id],
    ) -> Result<Vec<Option<Arc<E>>>, Error> {
        let Distinct { wanted, places } = self.distinct_ids(ids)?;
        let rows = self.read_many(wanted, self.fingerprint).await?;
        let rows = places.into_iter().map(|place| rows[place].row.clone());
        Ok(rows.collect())
    }

    /// Returns the keys of ids.
    pub(crate) fn distinct_ids(&self, ids: &[E::Id]) -> Result<Distinct<RowOf<E>>, Error> {
        let keys = ids.iter().map(|id| self.key(id));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        Ok(Distinct::new(keys, |at| RowOf::of(ids[at].clone())))
    }

    /// Reads what is at a key, from the cache if possible.
    pub(crate) fn read_content<C: Content<E, DB>>(
        self: &Arc<Self>,
        key: Key,
        fingerprint: u32,
        content: impl FnOnce() -> C,
    ) -> impl Future<Output = Result<Outcome<C::Value>, Error>> {
        self.read_content_with(key, fingerprint, content, Options::default())
    }

    /// Reads what is at a key, from the cache if the options allow it.
    pub(crate) async fn read_content_with<C: Content<E, DB>>(
        self: &Arc<Self>,
        key: Key,
        fingerprint: u32,
        content: impl FnOnce() -> C,
        options: Options,
    ) -> Result<Outcome<C::Value>, Error> {
        self.bind_for_read().await?;
        if self.skips_store(&key) {
            return Box::pin(self.miss_with(key, content(), Next::Bypass, options)).await;
        }
        let (found, clock) = self.look(&key, fingerprint).await;
        let next = match self.interpret_bound::<C>(&key, found, &clock).await? {
            LookedUp::Served(outcome)
                if self.accepts(options, &outcome) && !self.drops_for_pause() =>
            {
                self.note_hit(&key, &outcome, options.ttl);
                return Ok(outcome);
            }
            // The load drops the entry, so that callers who ask for the same share one load.
            LookedUp::Served(_) => Next::Repair,
            LookedUp::Unserved(next) => next,
        };
        // Boxed, to keep the future of a hit small.
        Box::pin(self.miss_with(key, content(), next, options)).await
    }

    /// Reads what is at several keys, each of which is given once, from the cache as far as possible. Returns the answers in
    /// the order of the keys.
    pub(crate) async fn read_many<C: Content<E, DB>>(
        self: &Arc<Self>,
        wanted: Vec<(Key, C)>,
        fingerprint: u32,
    ) -> Result<Vec<Outcome<C::Value>>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.bind_for_read().await?;
        let keys: Vec<_> = wanted.iter().map(|(key, _)| key).collect();
        let looked_up = self.look_up_many::<C>(&keys, fingerprint).await?;
        let mut answers = Vec::with_capacity(wanted.len());
        let mut missed = Vec::new();
        for (at, ((key, content), looked_up)) in wanted.into_iter().zip(looked_up).enumerate() {
            let next = match looked_up {
                LookedUp::Served(outcome) => {
                    self.note_hit(&key, &outcome, None);
                    answers.push(Some(outcome));
                    continue;
                }
                LookedUp::Unserved(next) => next,
            };
            answers.push(None);
            missed.push(Missed {
                at,
                key,
                content,
                next,
                ttl: None,
            });
        }
        if !missed.is_empty() {
            for (at, answer) in Box::pin(self.miss_many(missed)).await {
                answers[at] = Some(answer?);
            }
        }
        let answers = answers.into_iter().collect::<Option<_>>();
        Ok(answers.expect("each key is served or missed"))
    }

    /// Looks at several keys in the store. Returns what that means for each, in their order.
    async fn look_up_many<C: Content<E, DB>>(
        &self,
        keys: &[&Key],
        fingerprint: u32,
    ) -> Result<Vec<LookedUp<C::Value>>, Error> {
        let (found, clock) = self.look_at_many(keys, fingerprint).await;
        let mut looked_up = Vec::with_capacity(keys.len());
        for (key, found) in keys.iter().zip(found) {
            looked_up.push(match self.skips_store(key) {
                true => LookedUp::Unserved(Next::Bypass),
                false => match self.interpret_bound::<C>(key, found, &clock).await? {
                    LookedUp::Served(_) if self.drops_for_pause() => {
                        LookedUp::Unserved(Next::Repair)
                    }
                    looked_up => looked_up,
                },
            });
        }
        Ok(looked_up)
    }

    /// Reads what is at a key that is known not to be cached. `store_answers` says whether to ask the store at all.
    pub(crate) async fn miss<C: Content<E, DB>>(
        self: &Arc<Self>,
        key: Key,
        content: C,
        store_answers: bool,
        ttl: Option<Duration>,
    ) -> Result<Outcome<C::Value>, Error> {
        let next = if store_answers {
            Next::Lease {
                over: Over::Nothing,
            }
        } else {
            Next::Bypass
        };
        Box::pin(self.miss_from(key, content, next, ttl)).await
    }

    /// Reads what is at a key that could not be served to a caller with these options.
    async fn miss_with<C: Content<E, DB>>(
        self: &Arc<Self>,
        key: Key,
        content: C,
        next: Next,
        options: Options,
    ) -> Result<Outcome<C::Value>, Error> {
        if options.max_age.is_none() {
            return self.miss_from(key, content, next, options.ttl).await;
        }
        let again = (key.clone(), content.clone());
        let outcome = self.miss_from(key, content, next, options.ttl).await?;
        if self.accepts(options, &outcome) {
            return Ok(outcome);
        }
        // The load of another caller has found an entry that is too old for this one, or a write is still queued. A queued
        // write is returned whatever its age: the database does not have it yet.
        let (key, content) = again;
        self.reload_content(key, content, options.ttl).await
    }

    async fn miss_from<C: Content<E, DB>>(
        self: &Arc<Self>,
        key: Key,
        content: C,
        next: Next,
        ttl: Option<Duration>,
    ) -> Result<Outcome<C::Value>, Error> {
        let missed = Missed {
            at: 0,
            key,
            content,
            next,
            ttl,
        };
        let mut answers = self.miss_many(vec![missed]).await;
        let (_, answer) = answers.pop().expect("there is an answer for each key");
        answer
    }

    /// Joins the flights of keys, and leads those that nobody leads. Returns the place of each key and its answer.
    async fn miss_many<C: Content<E, DB>>(
        self: &Arc<Self>,
        missed: Vec<Missed<C>>,
    ) -> Vec<(usize, Result<Outcome<C::Value>, Error>)> {
        for _ in &missed {
            self.counters.misses.add_one();
        }
        let mut answers = Vec::with_capacity(missed.len());
        let mut open: Vec<_> = missed.into_iter().map(|missed| (missed, None)).collect();
        for _ in 0..MAX_SHARED_LOADS {
            let mut led = Vec::new();
            let mut followed = Vec::new();
            let mut leading = Vec::new();
            for (missed, _) in std::mem::take(&mut open) {
                match C::flights(self).join(&missed.key) {
                    Joined::Leader(flight, before) => {
                        let Missed {
                            at,
                            key,
                            content,
                            next,
                            ttl,
                        } = missed;
                        let (item, answer) =
                            Item::new(Arc::clone(self), key.clone(), content, flight, ttl);
                        led.push((at, key, answer));
                        match before {
                            None => leading.push((item, next)),
                            Some(before) => {
                                detached::spawn(load::run_after(item, next, before));
                            }
                        }
                    }
                    Joined::Follower(follower) => followed.push((missed, follower)),
                }
            }
            if !leading.is_empty() {
                detached::spawn(load::run(Arc::clone(self), leading));
            }
            for (at, key, answer) in led {
                answers.push((at, self.led(&key, answer).await));
            }
            let mut late = Vec::new();
            for (missed, follower) in followed {
                match self.follow(follower).await {
                    Some(Ok(outcome)) => answers.push((missed.at, Ok(outcome))),
                    Some(Err(error)) => open.push((missed, Some(error))),
                    None => late.push(missed),
                }
            }
            for (missed, answer) in self.look_again(late).await {
                match answer {
                    Some(answer) => answers.push((missed.at, answer)),
                    None => open.push((missed, None)),
                }
            }
            if open.is_empty() {
                return answers;
            }
        }
        // If the last leader failed, fail too. If writes kept interfering, read alone.
        let mut alone = Vec::new();
        for (missed, failed) in open {
            match failed {
                Some(error) => answers.push((missed.at, Err(error))),
                None => {
                    self.counters.uncached_loads.add_one();
                    alone.push(missed);
                }
            }
        }
        let places: Vec<_> = alone.iter().map(|missed| missed.at).collect();
        let keys = alone.into_iter().map(|missed| (missed.key, missed.content));
        let loaded = self.load_alone(keys.collect()).await;
        answers.extend(places.into_iter().zip(loaded));
        answers
    }

    /// Looks at the keys of loads that this caller joined too late to share. Often the entry is there now. Otherwise, callers
    /// that were late together would lead one load each, and most of them would be late for the next one too.
    async fn look_again<C: Content<E, DB>>(
        &self,
        late: Vec<Missed<C>>,
    ) -> Vec<(Missed<C>, Option<Result<Outcome<C::Value>, Error>>)> {
        let Some(first) = late.first() else {
            return Vec::new();
        };
        // All keys of a call hold the same kind of content.
        let fingerprint = first.content.identity(self).fingerprint;
        let keys: Vec<_> = late.iter().map(|missed| &missed.key).collect();
        let looked_up = match self.look_up_many::<C>(&keys, fingerprint).await {
            Ok(looked_up) => looked_up,
            Err(error) => {
                let failed = late.into_iter();
                return failed
                    .map(|missed| (missed, Some(Err(error.clone()))))
                    .collect();
            }
        };
        let looked_up = late.into_iter().zip(looked_up);
        let looked_up = looked_up.map(|(missed, looked_up)| match looked_up {
            LookedUp::Served(outcome) => {
                self.counters.hits_after_wait.add_one();
                (missed, Some(Ok(outcome)))
            }
            LookedUp::Unserved(next) => (Missed { next, ..missed }, None),
        });
        looked_up.collect()
    }

    /// Reads keys from the database for one caller, and fills nothing.
    pub(crate) async fn load_alone<C: Content<E, DB>>(
        self: &Arc<Self>,
        keys: Vec<(Key, C)>,
    ) -> Vec<Result<Outcome<C::Value>, Error>> {
        let mut items = Vec::with_capacity(keys.len());
        let mut awaited = Vec::with_capacity(keys.len());
        for (key, content) in keys {
            let flight = Arc::new(Flight::default());
            let (item, answer) = Item::new(Arc::clone(self), key.clone(), content, flight, None);
            items.push(item);
            awaited.push((key, answer));
        }
        if items.is_empty() {
            return Vec::new();
        }
        detached::spawn(load::bypass(Arc::clone(self), items));
        let mut answers = Vec::with_capacity(awaited.len());
        for (key, answer) in awaited {
            answers.push(self.led(&key, answer).await);
        }
        answers
    }

    /// Waits for the answer of a load.
    async fn led<V>(&self, key: &Key, answer: Answer<V>) -> Result<Outcome<V>, Error> {
        let answer = answer.await;
        answer.unwrap_or_else(|_| Err(load_stopped(&self.describe_row(key))))
    }

    /// Waits for a flight that another caller leads. Returns `None` if this caller may not share its result.
    async fn follow<V>(&self, follower: Follower<V>) -> Option<Result<Outcome<V>, Error>> {
        let joined_at = follower.joined_at();
        match follower.result().await? {
            LoadResult::Failed(error) => Some(Err(error)),
            LoadResult::Shared { outcome, below }
                if joined_at < below || self.cache.store.disables(Mechanism::AcceptedFill) =>
            {
                self.counters.coalesced.add_one();
                let origin = match outcome.origin {
                    Origin::Cache => Origin::Cache,
                    Origin::Database | Origin::Shared => Origin::Shared,
                };
                Some(Ok(Outcome { origin, ..outcome }))
            }
            LoadResult::Shared { .. } => None,
        }
    }

    #[inline]
    fn count_hit<V>(&self, outcome: &Outcome<V>) {
        if outcome.row.is_some() {
            self.counters.hits.add_one();
        } else {
            self.counters.negative_hits.add_one();
        }
    }

    /// Records that an entry was served. `ttl`: the time to live of such entries, if it is not that of the policy.
    fn note_hit<V>(&self, key: &Key, outcome: &Outcome<V>, ttl: Option<Duration>) {
        self.count_hit(outcome);
        // A read does not ask for the time to live. Another program may have taken it away.
        let longest = self.policy.ttl.max(ttl.unwrap_or_default());
        let is_overdue = outcome.age > longest.saturating_add(CLOCKS_DIFFER);
        if is_overdue && !self.cache.store.disables(Mechanism::Overdue) {
            self.suspect(key);
        }
    }

    /// Returns whether a key must be neither served nor filled, because an invalidation of it is not delivered yet.
    #[inline]
    pub(crate) fn blocks(&self, key: &Key) -> bool {
        let repairs = &self.cache.repairs;
        let clock = self.groups.clock.as_ref();
        let denied = repairs.blocks(key) || clock.is_some_and(|clock| repairs.blocks(clock));
        if denied {
            self.counters.blocked_reads.add_one();
        }
        denied
    }

    /// Returns whether a read goes to the database without asking the store.
    #[inline]
    fn skips_store(&self, key: &Key) -> bool {
        // Where writes are queued, the store has rows that the database does not have yet.
        let is_paused = self.pauses_reads() && self.queue.is_none();
        if is_paused {
            self.counters.paused_reads.add_one();
        }
        is_paused || self.blocks(key)
    }

    /// Returns whether an entry is dropped because reads are paused. One with a queued write stays, and is returned by the load
    /// that drops.
    #[inline]
    fn drops_for_pause(&self) -> bool {
        let is_paused = self.pauses_reads();
        if is_paused {
            self.counters.paused_reads.add_one();
        }
        is_paused
    }

    /// As [`Context::interpret`], but binds the repository first if the reply contains a row, and compares it with the clock of
    /// its tags. Fails if the namespace belongs to another database.
    #[inline]
    pub(crate) async fn interpret_bound<C: Content<E, DB>>(
        &self,
        key: &Key,
        answer: Result<Found, StoreError>,
        clock: &Clock,
    ) -> Result<LookedUp<C::Value>, Error> {
        let tells_of_a_row = matches!(
            answer,
            Ok(Found::Value(..) | Found::Negative(_) | Found::StalePending)
        );
        if tells_of_a_row && !self.is_servable() {
            self.bind_now().await?;
        }
        let answer = match clock.settles(&answer) {
            true => answer,
            // Boxed, to keep the future of a hit small.
            false => Box::pin(self.check_tags::<C>(key, answer, clock)).await,
        };
        Ok(self.interpret::<C>(key, answer))
    }

    /// Decides what a reply of the store means for a read. Failures of the store are counted here. They are logged once
    /// when they begin and once when they end, not for each read.
    pub(crate) fn interpret<C: Content<E, DB>>(
        &self,
        key: &Key,
        answer: Result<Found, StoreError>,
    ) -> LookedUp<C::Value> {
        let Ok(found) = answer else {
            self.counters.store_errors.add_one();
            self.counters.reads_without_store.add_one();
            return LookedUp::Unserved(Next::Bypass);
        };
        // Nothing would be filled under a lease.
        if self.is_held() {
            self.counters.held_reads.add_one();
            return LookedUp::Unserved(Next::Bypass);
        }
        match found {
            // The key was marked for repair while the reply was on its way, or the repository is not bound on this
            // connection.
            Found::Value(..) | Found::Negative(_) if !self.is_servable() || self.blocks(key) => {
                LookedUp::Unserved(Next::Bypass)
            }
            Found::Value(meta, payload) => match self.servable::<C>(key, payload) {
                Ok(row) => LookedUp::Served(self.cached(Some(row), meta)),
                Err(next) => LookedUp::Unserved(next),
            },
            Found::Negative(meta) => LookedUp::Served(self.cached(None, meta)),
            // A lease would make others wait for what is not stored then.
            Found::Absent | Found::Outdated(_) | Found::Foreign { .. } if self.pauses_fills() => {
                LookedUp::Unserved(Next::Bypass)
            }
            Found::Absent => LookedUp::Unserved(Next::Lease {
                over: Over::Nothing,
            }),
            Found::Outdated(token) => LookedUp::Unserved(Next::Lease {
                over: Over::Outdated(token),
            }),
            Found::Foreign { damaged } => {
                if damaged {
                    self.counters.corrupt_entries.add_one();
                } else {
                    self.counters.incompatible_entries.add_one();
                }
                LookedUp::Unserved(Next::Lease {
                    over: Over::Foreign,
                })
            }
            Found::NotAuthentic(token) => {
                self.counters.corrupt_entries.add_one();
                LookedUp::Unserved(Next::Drop(token))
            }
            Found::Loading => LookedUp::Unserved(Next::Wait),
            Found::Writing => {
                self.counters.reads_during_writes.add_one();
                self.suspect(key);
                LookedUp::Unserved(Next::Bypass)
            }
            Found::StalePending => LookedUp::Unserved(Next::Settle),
        }
    }

    /// Returns the value in a payload, or the next step if it must not be served.
    #[inline]
    fn servable<C: Content<E, DB>>(
        &self,
        key: &Key,
        payload: Payload,
    ) -> Result<Arc<C::Value>, Next> {
        match C::decode(self, key, payload) {
            Some(row) if self.has_ended(C::ends_at(&row)) => Err(Next::Repair),
            Some(row) => Ok(row),
            None => {
                self.counters.corrupt_entries.add_one();
                Err(Next::Repair)
            }
        }
    }

    /// What is at a key may never end, which larder has not written then. The store looks, once in a while, and drops it.
    fn suspect(&self, key: &Key) {
        if !self.suspicions.is_due(SUSPECT_EVERY) {
            return;
        }
        let (cache, key) = (Arc::clone(&self.cache), key.clone());
        detached::spawn(async move {
            // Without it, a later reader asks again.
            let _done = cache.store.drop_damaged(&key, None).await;
        });
    }

    pub(crate) fn cached<V>(&self, row: Option<Arc<V>>, meta: Meta) -> Outcome<V> {
        Outcome {
            row,
            origin: Origin::Cache,
            // Exact, because `max_age` compares it.
            age: self.cache.clock.age(meta.loaded_at_ms),
            store_was_skipped: false,
        }
    }
}
