//! Invalidation on request: of one row, of the rows with a tag, or of all rows of an entity.
//!
//! Not here: the invalidation of a write (`announce`), and invalidations that the store did not receive (`repair`).

use std::sync::Arc;

use futures_util::future::join_all;

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind, StoreError},
    protocol::{
        key::Key,
        tags::{Changed, Tag},
    },
    repair::Repair,
    store::{Representation, Store, tags::TagStore},
    write::target::{Dependents, WriteTarget},
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Drops the entry of a key.
    pub(crate) async fn invalidate(&self, key: &Key) -> Result<(), Error> {
        self.counters.invalidations.add_one();
        self.cache.repairs.note_write(key);
        self.cache.store.invalidate(key).await.map_err(|error| {
            self.counters.store_errors.add_one();
            self.cache.repairs.remember(key, Repair::Drop);
            Error::with_source(
                ErrorKind::CacheUnavailable,
                format!(
                    "failed to invalidate key {key}: the store cannot be reached or rejected the command; this process \
                     reads the key from the database until it can be dropped"
                ),
                error,
            )
        })
    }

    /// Drops the entry of a row that was changed or deleted by others, and what depends on it.
    pub(crate) async fn invalidate_row(&self, id: &E::Id) -> Result<(), Error> {
        let key = self.key(id)?;
        self.bind_now().await?;
        let (dropped, beside) =
            tokio::join!(self.invalidate(&key), self.invalidate_beside(Some(id)));
        dropped.and(beside)
    }

    /// Drops the entries of all rows of the entity, and what depends on them.
    pub(crate) async fn invalidate_all(&self) -> Result<(), Error> {
        let (dropped, beside) = tokio::join!(self.drop_all(), self.invalidate_beside(None));
        dropped.and(beside)
    }

    async fn drop_all(&self) -> Result<(), Error> {
        self.counters.invalidations.add_one();
        let (store, repairs) = (&self.cache.store, &self.cache.repairs);
        let all = match E::SPEC.is_query {
            // Others use the clock too.
            true => Changed::Tags(vec![Tag::of_entity(E::SPEC.name)]),
            false => Changed::All,
        };
        let advanced = match &self.groups.clock {
            Some(clock) => {
                repairs.note_write_of_all();
                store.advance_clock(clock, &all).await
            }
            None => Ok(()),
        };
        // A clock frees no memory. In this process that costs no round trip.
        let dropped = match (&self.groups.clock, store.keeps()) {
            (Some(_), Representation::Bytes) => advanced,
            _ => match advanced {
                Ok(()) => repairs.drop_all(WriteTarget::prefixes(self)).await,
                failed => failed,
            },
        };
        dropped.map_err(|error| self.not_invalidated("all rows", self.groups.clock.as_ref(), error))
    }

    /// Invalidates what depends on rows that were changed or deleted by others. `None`: any rows.
    async fn invalidate_beside(&self, id: Option<&E::Id>) -> Result<(), Error> {
        let mut beside = self.cascades(id);
        let mut keys = Vec::new();
        match id {
            Some(id) => {
                for (target, key, changed) in self.groups.twins(id) {
                    keys.push(key);
                    beside.extend(changed.map(|changed| (target, changed)));
                }
            }
            None => beside.extend(self.groups.all_of_twins()),
        }
        let targets: Vec<_> = beside
            .iter()
            .map(|(target, _)| Arc::clone(target))
            .collect();
        for target in targets
            .iter()
            .map(|target| &**target)
            .chain([self as &dyn WriteTarget])
        {
            if let Some(Dependents { queries, tag }) = target.dependents() {
                beside.push((Arc::clone(queries), Changed::Tags(vec![*tag])));
            }
        }
        let dropped = join_all(keys.iter().map(|key| self.invalidate(key))).await;
        let dropped = dropped.into_iter().collect();
        if beside.is_empty() {
            return dropped;
        }
        let repairs = &self.cache.repairs;
        repairs.note_write_of_all();
        let advanced = beside.iter().map(async |(target, changed)| {
            let clock = target.tag_clock();
            let advanced = match clock {
                Some(clock) => self.cache.store.advance_clock(clock, changed).await,
                None => repairs.drop_all(target.prefixes()).await,
            };
            advanced.map_err(|error| self.not_invalidated("what depends on rows", clock, error))
        });
        let advanced: Result<(), _> = join_all(advanced).await.into_iter().collect();
        dropped.and(advanced)
    }

    /// Invalidates the entries of the rows with one of these tags.
    pub(crate) async fn invalidate_tags(&self, texts: &[String]) -> Result<(), Error> {
        let tags = self.known_tags("invalidate", texts)?;
        let Some(clock) = self.groups.clock.as_ref().filter(|_| !tags.is_empty()) else {
            return Ok(());
        };
        self.counters.invalidations.add_one();
        self.cache.repairs.note_write_of_all();
        let changed = Changed::Tags(tags);
        let (advanced, beside) = tokio::join!(
            self.cache.store.advance_clock(clock, &changed),
            self.invalidate_beside(None)
        );
        advanced.map_err(|error| {
            let what = format!("the rows with the tag `{}`", texts.join("` or `"));
            self.not_invalidated(&what, Some(clock), error)
        })?;
        beside
    }

    /// Returns the error of an invalidation that the store has not received, and records its repair. `clock`: that of the
    /// entity whose rows were to be invalidated.
    fn not_invalidated(&self, what: &str, clock: Option<&Key>, error: StoreError) -> Error {
        self.counters.store_errors.add_one();
        match clock {
            Some(clock) => self.cache.repairs.remember(clock, Repair::Advance),
            None => self.cache.repairs.remember_all(None),
        }
        let message = format!(
            "failed to invalidate {what} of {}: the store cannot be reached or rejected the command; this process reads \
             them from the database until that was delivered",
            E::SPEC.name
        );
        Error::with_source(ErrorKind::CacheUnavailable, message, error)
    }

    /// Returns the tags with these texts. Fails if no row can have one of them.
    pub(crate) fn known_tags(&self, verb: &str, texts: &[String]) -> Result<Vec<Tag>, Error> {
        let known = |text: &String| E::SPEC.tags.iter().any(|pattern| pattern.matches(text));
        match texts.iter().find(|text| !known(text)) {
            Some(unknown) => Err(no_such_tag::<E>(verb, unknown)),
            None => Ok(texts.iter().map(|text| Tag::new(text)).collect()),
        }
    }
}

fn no_such_tag<E: Entity>(verb: &str, text: &str) -> Error {
    let name = E::SPEC.name;
    let known = E::SPEC.tags.iter().map(|tag| format!("`{tag}`"));
    let known: Vec<_> = known.collect();
    let way_out = match known.is_empty() {
        true => "it has none; declare them with `#[cached(tags(\"..\"))]`".to_owned(),
        false => format!("its tags are {}", known.join(", ")),
    };
    Error::new(
        ErrorKind::Configuration,
        format!("failed to {verb} `{text}`: no row of {name} has this tag; {way_out}"),
    )
}
