//! What a caller asks of one read of a row, beside the policy of its entity.
//!
//! 1. `max_age`: an entry that is older is dropped and loaded anew, by one load for all who ask for it.
//! 2. `ttl`: the leader of a load passes it on to its fill. A hit does not change the entry, and a caller that joins the load
//!    of another gets the row of an entry with that caller's time to live.
//! 3. `refresh`: the entry is dropped and loaded anew, whatever its age.
//! 4. `timeout`: the caller leaves when it has passed, as if its future had been dropped.
//!
//! Invariant: an option decides whether an entry is used and how long a new one lives, never whether it may be stored.
//! Not here: the types that callers see (`repository::find`), and how an entry is dropped and loaded (`read`, `load`).

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Deadline,
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::{Error, ErrorKind},
    read::{
        content::RowOf,
        outcome::{Origin, Outcome},
    },
    store::{Store, failpoint::Mechanism},
};

/// The longest time to live of an entry, that of the attribute `ttl`.
const MAX_TTL: Duration = Duration::from_hours(24 * 365 * 100);

/// The options of one read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// How old an entry may be that is served.
    pub(crate) max_age: Option<Duration>,
    /// The time to live of an entry that the read fills.
    pub(crate) ttl: Option<Duration>,
    /// Whether the entry is dropped first.
    pub(crate) refresh: bool,
}

impl Options {
    /// Sets the time to live of an entry that the read fills.
    pub(crate) fn with_ttl(self, ttl: Duration) -> Self {
        Self {
            ttl: Some(ttl.min(MAX_TTL)),
            ..self
        }
    }
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Reads a row as the options say.
    pub(crate) async fn read_with(
        self: &Arc<Self>,
        id: E::Id,
        options: Options,
    ) -> Result<Outcome<E>, Error> {
        let key = self.key(&id)?;
        if options.refresh {
            self.bind_now().await?;
            return self.reload_content(key, RowOf::of(id), options.ttl).await;
        }
        self.read_content_with(key, self.fingerprint, || RowOf::of(id), options)
            .await
    }

    /// Returns whether an answer is young enough for a caller with these options.
    #[inline]
    pub(crate) fn accepts<V>(&self, options: Options, outcome: &Outcome<V>) -> bool {
        match options.max_age {
            None => true,
            Some(max_age) => {
                outcome.origin != Origin::Cache
                    || outcome.age <= max_age
                    || self.cache.store.disables(Mechanism::MaxAge)
            }
        }
    }

    /// Waits for the read of a row, at most for this long.
    pub(crate) async fn in_time<T>(
        &self,
        id: &E::Id,
        timeout: Option<Duration>,
        read: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let is_kept = |_: &Duration| !self.cache.store.disables(Mechanism::CallTimeout);
        let Some(timeout) = timeout.filter(is_kept) else {
            return read.await;
        };
        match Deadline::after(timeout).bound(read).await {
            Some(read) => read,
            None => Err(Error::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "failed to load {}: it took longer than the `timeout` of the call, {timeout:?}; raise it, or try again: a \
                     load that has begun may have filled the cache by then",
                    self.describe_row(&self.key(id)?)
                ),
            )),
        }
    }
}
