//! Invalidation on request: of one row, of the rows with a tag, or of all rows of an entity.
//!
//! Not here: the invalidation of a write (`announce`), and invalidations that the store did not receive (`repair`).

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
    write::announce::WriteTarget,
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

    /// Drops the entries of all rows of the entity.
    pub(crate) async fn invalidate_all(&self) -> Result<(), Error> {
        self.counters.invalidations.add_one();
        let (store, repairs) = (&self.cache.store, &self.cache.repairs);
        let advanced = match &self.tag_clock {
            Some(clock) => {
                repairs.note_write_of_all();
                store.advance_clock(clock, &Changed::All).await
            }
            None => Ok(()),
        };
        // A clock frees no memory. In this process that costs no round trip.
        let dropped = match (&self.tag_clock, store.keeps()) {
            (Some(_), Representation::Bytes) => advanced,
            _ => match advanced {
                Ok(()) => repairs.drop_all(WriteTarget::prefixes(self)).await,
                failed => failed,
            },
        };
        dropped.map_err(|error| self.not_invalidated("all rows", error))
    }

    /// Invalidates the entries of the rows with one of these tags.
    pub(crate) async fn invalidate_tags(&self, texts: &[String]) -> Result<(), Error> {
        let tags = self.known_tags("invalidate", texts)?;
        let Some(clock) = self.tag_clock.as_ref().filter(|_| !tags.is_empty()) else {
            return Ok(());
        };
        self.counters.invalidations.add_one();
        self.cache.repairs.note_write_of_all();
        let changed = Changed::Tags(tags);
        let advanced = self.cache.store.advance_clock(clock, &changed).await;
        advanced.map_err(|error| {
            let what = format!("the rows with the tag `{}`", texts.join("` or `"));
            self.not_invalidated(&what, error)
        })
    }

    fn not_invalidated(&self, what: &str, error: StoreError) -> Error {
        self.counters.store_errors.add_one();
        self.cache.repairs.remember_all(None);
        let message = format!(
            "failed to invalidate {what} of {}: the store cannot be reached or rejected the command; this process bypasses the \
             cache until they are dropped",
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
