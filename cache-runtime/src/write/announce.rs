//! The announcement of a write: its intent on every key it touches, from before its commit until after it.
//!
//! Every write is announced here, whether it is one statement, a batch or a transaction over several entities. Without it
//! a reader could store a row it read before the commit, and serve it for as long as a row lives.
//!
//! 1. [`Announcement::begin`] puts the intent on all keys, in one round trip per store.
//! 2. [`Announcement::confirm`] does it again, just before what may commit, where the first announcement is old or was made
//!    to an earlier run of the store, which may have lost it.
//! 3. [`Announcement::during`] runs the statement or the commit and renews the intent as long as that takes.
//! 4. [`Announcement::end`] takes the intent back and leaves behind what the write publishes.
//!
//! Invariant: with coherence `intent`, every commit lies between an acknowledged `begin` and its `end`, or, where the store
//! was away and the entity is `available`, the key is remembered for repair before the write returns.
//! Invariant: a write whose outcome is unknown keeps its intent, which then expires by itself: the statement may still
//! commit after the connection broke.
//! Not here: what is written (`write`, `transaction`), and what becomes of keys that could not be reached (`repair`).

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;

use crate::{
    cache,
    clock::{Deadline, Stopwatch, millis},
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    policy::{Coherence, OnOutage, Policy},
    protocol::{key::Key, token::Token},
    repair::Repair,
    stats::Counters,
    store::{Filling, Point, Publication, Store, Touched},
};

/// How soon an announcement that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What an announcement has to know of a repository, whatever its entity and its database.
pub(crate) trait Site: Send + Sync {
    fn cache(&self) -> &Arc<cache::Inner>;
    /// What all keys begin with.
    fn prefix(&self) -> &[u8];
    fn policy(&self) -> &Policy;
    fn counters(&self) -> &Counters;
    fn entity(&self) -> &'static str;
}

impl<E: Entity, DB: Backend> Site for Context<E, DB> {
    fn cache(&self) -> &Arc<cache::Inner> {
        &self.cache
    }

    fn prefix(&self) -> &[u8] {
        self.keys.prefix()
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn entity(&self) -> &'static str {
        E::SPEC.name
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was committed.
    Committed,
    /// It certainly changed nothing.
    Undone,
    /// It may have been committed, or may yet be.
    Unknown,
}

/// The keys that a write touches, gathered as they become known.
#[derive(Default)]
pub(crate) struct Staging {
    sites: Vec<Staged>,
    /// Whether rows have been deleted.
    has_deleted: bool,
}

struct Staged {
    site: Arc<dyn Site>,
    touched: HashMap<Key, Option<Publication>>,
    /// Whether any row may have changed.
    all: bool,
}

impl Staging {
    /// Notes a key of a repository, and what is to be published there. The last note about a key counts.
    pub(crate) fn touch(
        &mut self,
        site: Arc<dyn Site>,
        key: Key,
        publication: Option<Publication>,
    ) {
        self.of(site).touched.insert(key, publication);
    }

    /// Notes that any row of a repository may be changed.
    pub(crate) fn touch_all(&mut self, site: Arc<dyn Site>) {
        // No row has this key: its intent shows whether the store can be told, and makes the commit one with a deadline.
        let nobody = Key::from_bytes(site.prefix());
        let staged = self.of(site);
        staged.touched.insert(nobody, None);
        staged.all = true;
    }

    fn of(&mut self, site: Arc<dyn Site>) -> &mut Staged {
        // Two repositories of one entity have the same keys, and one key must have one note.
        let known = self.sites.iter().position(|staged| {
            Arc::ptr_eq(staged.site.cache(), site.cache()) && staged.site.prefix() == site.prefix()
        });
        let at = known.unwrap_or_else(|| {
            self.sites.push(Staged {
                site,
                touched: HashMap::new(),
                all: false,
            });
            self.sites.len() - 1
        });
        &mut self.sites[at]
    }

    /// Publishes nothing of what has been noted so far: the rows may have been changed since by other means.
    pub(crate) fn unpublish(&mut self) {
        for staged in &mut self.sites {
            for publication in staged.touched.values_mut() {
                *publication = None;
            }
        }
    }

    /// Publishes no row that has been noted so far: a delete may have changed it by a foreign key. Absences stay.
    pub(crate) fn unpublish_rows(&mut self) {
        self.has_deleted = true;
        for staged in &mut self.sites {
            for publication in staged.touched.values_mut() {
                let absence =
                    |publication: &Publication| matches!(publication.filling, Filling::Negative(_));
                *publication = publication.take().filter(absence);
            }
        }
    }

    /// Takes over what another staging has noted, later than this one.
    pub(crate) fn absorb(&mut self, later: Self) {
        if later.has_deleted {
            self.unpublish_rows();
        }
        for staged in later.sites {
            for (key, publication) in staged.touched {
                self.touch(Arc::clone(&staged.site), key, publication);
            }
            self.of(staged.site).all |= staged.all;
        }
    }

    /// The shortest life of an intent on any of the keys, if there are any.
    pub(crate) fn intent_ttl(&self) -> Option<Duration> {
        self.sites
            .iter()
            .map(|staged| staged.site.policy().intent_ttl)
            .min()
    }
}

/// The announcement of one write.
pub(crate) struct Announcement {
    intent: Token,
    parts: Vec<Part>,
    /// Since the intent was first placed.
    begun: Stopwatch,
    /// When it has to be placed again.
    renewal: Deadline,
}

/// The keys of one repository.
struct Part {
    site: Arc<dyn Site>,
    touched: Vec<Touched>,
    /// Whether any row may have changed.
    all: bool,
    /// The run of the store that has acknowledged the intent.
    stands_in: Option<u64>,
    /// The history of the store in which the intent was placed for the first time.
    history: Option<u64>,
    /// Whether the intent was placed at the first attempt and never since. One that was placed again may have been lost in
    /// between, and another writer may have come and gone.
    undisturbed: bool,
}

impl Announcement {
    /// The announcement of everything that was staged. Nothing has been sent yet.
    pub(crate) fn new(intent: Token, staging: Staging) -> Self {
        let parts = staging.sites.into_iter().map(|staged| Part {
            site: staged.site,
            touched: staged
                .touched
                .into_iter()
                .map(|(key, publication)| Touched { key, publication })
                .collect(),
            all: staged.all,
            stands_in: None,
            history: None,
            undisturbed: false,
        });
        Self {
            intent,
            parts: parts.collect(),
            begun: Stopwatch::start(),
            renewal: Deadline::after(Duration::ZERO),
        }
    }

    /// The announcement of a write of one row.
    pub(crate) fn of_one(intent: Token, site: Arc<dyn Site>, key: Key) -> Self {
        let mut announcement = Self::new(intent, Staging::default());
        announcement.parts.push(Part {
            site,
            touched: vec![Touched {
                key,
                publication: None,
            }],
            all: false,
            stands_in: None,
            history: None,
            undisturbed: false,
        });
        announcement
    }

    /// Says what the write of one row publishes, once that is known.
    pub(crate) fn publish(&mut self, publication: Option<Publication>) {
        if let [Part { touched, .. }] = &mut self.parts[..]
            && let [one] = &mut touched[..]
        {
            one.publication = publication;
        }
    }

    /// Puts the intent on the keys, or prolongs it. A store that fails stops the write only where its entity says so
    /// (see [`Announcement::refusal`]).
    pub(crate) async fn begin(&mut self) {
        self.reach(Point::BeforeBegin);
        let lives = self.parts.iter().map(|part| part.site.policy().intent_ttl);
        let Some(shortest) = lives.min() else { return };
        // Counted from before the commands are sent, so from earlier than the store counts.
        self.renewal = Deadline::after(shortest / 3);
        let intent = self.intent;
        let placed = match &mut self.parts[..] {
            [only] => only.begin(intent).await,
            parts => {
                let placed = join_all(parts.iter_mut().map(|part| part.begin(intent))).await;
                placed.into_iter().all(|placed| placed)
            }
        };
        if !placed {
            self.renewal = Deadline::after(RETRY);
        }
        self.reach(Point::AfterBegin);
    }

    /// Announces again, just before what may commit, if the announcement is old, if its store was replaced, or if the write
    /// would be refused.
    pub(crate) async fn confirm(&mut self) {
        let again = |part: &Part| part.is_lost() || part.refuses();
        if self.renewal.has_passed() || self.parts.iter().any(again) {
            self.begin().await;
        }
        self.reach(Point::BeforeCommit);
    }

    /// The error of a write that must not be made, because an entity that is `consistent` could not announce it.
    pub(crate) fn refusal(&self, verb: &str) -> Result<(), Error> {
        let unannounced = self.parts.iter().find(|part| part.refuses());
        let Some(part) = unannounced else {
            return Ok(());
        };
        let what = match &part.touched[..] {
            [one] => format!("{} with key {}", part.site.entity(), one.key),
            several => format!("{} rows of {}", several.len(), part.site.entity()),
        };
        Err(Error::new(
            ErrorKind::Store,
            format!(
                "failed to {verb} {what}: the cache cannot be told, and `on_outage = \"consistent\"` refuses such a write; \
                 nothing was changed"
            ),
        ))
    }

    /// Runs a step of the write, renewing the intent as long as it takes. The step goes on meanwhile.
    pub(crate) async fn during<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = std::pin::pin!(step);
        loop {
            let renewal = self.renewal;
            let announced = self.parts.iter().any(Part::is_announced);
            tokio::select! {
                biased;
                done = step.as_mut() => return done,
                // A renewal that is dropped half-way was sent before the end of the write, on the same connection.
                () = async { renewal.passed().await; self.begin().await; }, if announced => {}
            }
        }
    }

    /// Takes the intent back, and leaves behind what is published if the write was committed.
    pub(crate) async fn end(mut self, ending: Ending) {
        if ending == Ending::Committed {
            self.reach(Point::AfterCommit);
        }
        let (intent, age_ms) = (self.intent, millis(self.begun.elapsed()));
        for part in &mut self.parts {
            part.settle(ending, age_ms);
        }
        self.reach(Point::BeforeEnd);
        match &self.parts[..] {
            [only] => only.end(intent, ending).await,
            parts => {
                join_all(parts.iter().map(|part| part.end(intent, ending))).await;
            }
        }
        self.reach(Point::AfterEnd);
    }

    fn reach(&self, point: Point) {
        for part in &self.parts {
            part.site.cache().store.reach(point);
        }
    }
}

impl Part {
    /// Whether the writes of this entity are announced at all.
    fn is_announced(&self) -> bool {
        self.site.policy().coherence == Coherence::Intent
    }

    /// Whether the store that acknowledged the intent has been replaced, or the connection to it made anew.
    fn is_lost(&self) -> bool {
        self.stands_in
            .is_some_and(|run| run != self.site.cache().store.run())
    }

    /// Whether the intent has to stand for the write to be made, and does not.
    fn refuses(&self) -> bool {
        self.is_announced()
            && self.site.policy().on_outage == OnOutage::Consistent
            && (self.stands_in.is_none() || self.is_lost() || !self.site.cache().store.is_trusted())
    }

    async fn begin(&mut self, intent: Token) -> bool {
        if !self.is_announced() {
            return true;
        }
        let store = &self.site.cache().store;
        self.note();
        let (run, first) = (store.run(), self.history.is_none());
        // What is published is believed in this history only.
        self.history.get_or_insert_with(|| store.stamp());
        self.undisturbed = false;
        let ttl_ms = millis(self.site.policy().intent_ttl);
        match store.begin(&self.touched, intent, ttl_ms).await {
            Ok(()) => {
                self.stands_in = Some(run);
                self.undisturbed = first;
                true
            }
            Err(error) => {
                self.stands_in = None;
                self.site.counters().store_errors.add_one();
                tracing::debug!(entity = self.site.entity(), %error, "a write could not be announced");
                false
            }
        }
    }

    /// Notes with the repairs that the store is about to be told about the keys.
    fn note(&self) {
        for touched in &self.touched {
            self.site.cache().repairs.announced(&touched.key);
        }
    }

    /// Remembers the keys for repair.
    fn remember(&self, how: Repair) {
        for touched in &self.touched {
            self.site.cache().repairs.remember(&touched.key, how);
        }
    }

    /// Decides what is published: nothing by a write that may not have been made, whose intent may not have stood all the
    /// while, that took longer than a row lives, or at a key to which an earlier write may yet do something.
    fn settle(&mut self, ending: Ending, age_ms: u64) {
        let repairs = &self.site.cache().repairs;
        for touched in &mut self.touched {
            let publishes =
                ending == Ending::Committed && self.undisturbed && !repairs.denies(&touched.key);
            touched.publication = touched.publication.take().filter(|publication| {
                let stamp = publication.filling.meta().lease.identity.stamp;
                publishes && self.history == Some(stamp)
            });
            if let Some(publication) = &mut touched.publication {
                publication.ttl_ms = publication.ttl_ms.saturating_sub(age_ms);
                if publication.ttl_ms == 0 {
                    touched.publication = None;
                }
            }
        }
    }

    /// Ends the write at the keys of one repository.
    async fn end(&self, intent: Token, ending: Ending) {
        if ending == Ending::Unknown && self.is_announced() {
            return self.leave(intent);
        }
        let store = &self.site.cache().store;
        self.note();
        let result = match self.site.policy().coherence {
            Coherence::Ttl => return,
            Coherence::Lease if ending == Ending::Undone => return,
            Coherence::Lease => self.invalidate().await,
            Coherence::Intent => store.end(&self.touched, intent).await,
        };
        if let Err(error) = result {
            self.site.counters().store_errors.add_one();
            tracing::debug!(entity = self.site.entity(), %error, "the end of a write could not be told");
            self.remember(Repair::Drop);
        }
        if self.all && ending == Ending::Committed {
            self.drop_all().await;
        }
    }

    /// Drops every row of the repository. Those that cannot be dropped are repaired later.
    async fn drop_all(&self) {
        let cache = self.site.cache();
        let prefix = self.site.prefix().to_vec();
        if let Err(error) = cache.repairs.drop_all([prefix]).await {
            self.site.counters().store_errors.add_one();
            tracing::debug!(entity = self.site.entity(), %error, "the rows of an entity could not be dropped");
            cache.repairs.remember_everything(None);
        }
    }

    /// Leaves the intent to expire: the statement may still commit.
    fn leave(&self, intent: Token) {
        tracing::warn!(
            entity = self.site.entity(),
            keys = self.touched.len(),
            "the outcome of a write is unknown; its keys stay uncached for a while"
        );
        if self.all {
            let ended = Deadline::after(self.site.policy().intent_ttl);
            self.site.cache().repairs.remember_everything(Some(ended));
        }
        let stands = self.stands_in.is_some() && !self.is_lost();
        if !stands || !self.site.cache().store.is_trusted() {
            self.remember(Repair::Announce {
                intent,
                intent_ttl_ms: millis(self.site.policy().intent_ttl),
            });
        }
    }

    async fn invalidate(&self) -> Result<(), StoreError> {
        let store = &self.site.cache().store;
        let dropped = self
            .touched
            .iter()
            .map(|touched| store.invalidate(&touched.key));
        join_all(dropped).await.into_iter().collect()
    }
}
