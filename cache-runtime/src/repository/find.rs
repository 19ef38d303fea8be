//! What `find` returns: the future of the read, whose methods are the options of the call.
//!
//! A call without options must cost what it costs without this file. So [`Find`] is the future of the plain read, not boxed,
//! and the id is passed on to it at the first poll. Until then an option can take the id, and a future of its own is boxed.
//! A row that the memory of this process has is returned at the first poll, before there is a future.
//!
//! Not here: what the options do (`read::options`).

use std::{
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;

use crate::{
    database::{
        backend::Backend,
        entity::{Entity, OmitsColumns},
    },
    error::Error,
    observe::Operation,
    protocol::key::AsId,
    read::{content::RowOf, options::Options, outcome::ReadResult},
    repository::Repository,
};

/// The future of a read.
type Reading<'r, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'r>>;

pin_project! {
    /// A row that is wanted, by its id. Await it, or say before how it is to be read.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. A load that other callers wait for continues.
    #[must_use = "nothing is read before it is awaited"]
    pub struct Find<'r, E, DB, Id, F>
    where
        E: Entity,
        DB: Backend,
        F: Future,
    {
        repository: &'r Repository<E, DB>,
        id: Option<Id>,
        now: fn(&Repository<E, DB>, &Id) -> Option<F::Output>,
        begin: fn(&'r Repository<E, DB>, Id) -> F,
        #[pin]
        reading: Option<F>,
    }
}

impl<'r, E: Entity, DB: Backend, Id, F, T> Find<'r, E, DB, Id, F>
where
    Id: AsId<E::Id>,
    F: Future<Output = Result<T, Error>>,
    T: ReadResult<E>,
{
    /// Returns a read that begins when it is polled.
    pub(crate) fn new(
        repository: &'r Repository<E, DB>,
        id: Id,
        begin: fn(&'r Repository<E, DB>, Id) -> F,
    ) -> Self {
        let now = |repository: &Repository<E, DB>, id: &Id| {
            let hit = repository.0.hit_now(&id.as_id())?;
            Some(Ok(T::of(hit)))
        };
        Self::with_now(repository, id, now, begin)
    }

    /// As [`Find::new`]. `now` returns what needs no future.
    pub(crate) fn with_now(
        repository: &'r Repository<E, DB>,
        id: Id,
        now: fn(&Repository<E, DB>, &Id) -> Option<F::Output>,
        begin: fn(&'r Repository<E, DB>, Id) -> F,
    ) -> Self {
        Self {
            repository,
            id: Some(id),
            now,
            begin,
            reading: None,
        }
    }
}

impl<E: Entity, DB: Backend, Id, F: Future> Future for Find<'_, E, DB, Id, F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        if let Some(id) = this.id.take() {
            if let Some(hit) = (this.now)(this.repository, &id) {
                return Poll::Ready(hit);
            }
            this.reading.set(Some((this.begin)(this.repository, id)));
        }
        let reading = this.reading.as_pin_mut();
        reading
            .expect("a read has its id until it begins")
            .poll(context)
    }
}

impl<'r, E, DB, Id, F, T> Find<'r, E, DB, Id, F>
where
    E: Entity,
    DB: Backend,
    Id: AsId<E::Id>,
    F: Future<Output = Result<T, Error>>,
{
    /// Keeps the row in the cache for this long, instead of the `ttl` of the entity. The entity's `jitter` is subtracted as
    /// always, the longest is 100 years, and an absence is kept no longer than the entity's `negative_ttl`.
    ///
    /// It is for the entry that this call fills: an entry that is found keeps its own time to live, and so does a row that is
    /// just being loaded for another caller, whose result this call shares. A longer time to live also prolongs whatever ends
    /// with it, such as the old row after a write that did not go through larder. With `coherence = "ttl"`, where nothing else
    /// ends an old row, it cannot be longer than that of the entity.
    pub fn ttl(self, ttl: Duration) -> FindWith<'r, E, DB, T> {
        self.with().ttl(ttl)
    }

    /// Uses an entry of the cache only if it was loaded at most this long ago. Otherwise drops it, loads the row, and caches it.
    /// Callers that find the same entry too old share one load.
    ///
    /// The age is that of [`Outcome::age`](crate::Outcome::age): by the clocks of the machine that loaded the row and of this
    /// one. A row that is loaded for this call, or is just being loaded for another, is young enough. So is a write that is
    /// still queued (write-behind), which the database does not have yet.
    pub fn max_age(self, age: Duration) -> FindWith<'r, E, DB, T> {
        self.with().max_age(age)
    }

    /// Drops the row from the cache, loads it and caches it, as [`Repository::refresh`].
    pub fn refresh(self) -> FindWith<'r, E, DB, T> {
        self.with().refresh()
    }

    /// Fails with the kind [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) if the read takes longer than this, counted
    /// from the first poll. It is as if the future were dropped then: a load that other callers wait for, or whose statement was
    /// sent, continues and fills the cache.
    pub fn timeout(self, timeout: Duration) -> FindWith<'r, E, DB, T> {
        self.with().timeout(timeout)
    }

    /// Reads the database. The cache is neither read nor filled, as with [`Repository::find_uncached`]: writes that are still
    /// queued (write-behind) are not visible.
    ///
    /// So options that are about the cache cannot be combined with it.
    pub fn bypass(self) -> FindUncached<'r, E, DB, T> {
        let (repository, id) = self.parts();
        FindUncached {
            repository,
            row: RowOf::of(id),
            timeout: None,
            result: PhantomData,
        }
    }

    /// Reads the row with the columns that are `omit`, from the database, as [`bypass`](Self::bypass) does. No other read returns
    /// them.
    pub fn complete(self) -> FindUncached<'r, E, DB, T>
    where
        E: OmitsColumns,
    {
        let (repository, id) = self.parts();
        FindUncached {
            repository,
            row: RowOf::complete(id),
            timeout: None,
            result: PhantomData,
        }
    }

    fn with(self) -> FindWith<'r, E, DB, T> {
        let (repository, id) = self.parts();
        FindWith {
            repository,
            id,
            options: Options::default(),
            timeout: None,
            result: PhantomData,
        }
    }

    fn parts(self) -> (&'r Repository<E, DB>, E::Id) {
        let id = self.id.expect("a future that was polled is pinned");
        (self.repository, id.as_id().into_owned())
    }
}

/// A row that is wanted, with options. Await it.
///
/// The options can be combined. [`refresh`](Self::refresh) makes [`max_age`](Self::max_age) needless.
/// [`bypass`](Find::bypass) is not here, because it leaves the cache out.
///
/// # Cancel safety
///
/// As that of [`Find`].
#[must_use = "nothing is read before it is awaited"]
pub struct FindWith<'r, E: Entity, DB: Backend, T> {
    repository: &'r Repository<E, DB>,
    id: E::Id,
    options: Options,
    timeout: Option<Duration>,
    result: PhantomData<fn() -> T>,
}

impl<E: Entity, DB: Backend, T> FindWith<'_, E, DB, T> {
    /// As [`Find::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options = self.options.with_ttl(ttl);
        self
    }

    /// As [`Find::max_age`].
    pub fn max_age(mut self, age: Duration) -> Self {
        self.options.max_age = Some(age);
        self
    }

    /// As [`Find::refresh`].
    pub fn refresh(mut self) -> Self {
        self.options.refresh = true;
        self
    }

    /// As [`Find::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'r, E: Entity, DB: Backend, T: ReadResult<E> + 'r> IntoFuture for FindWith<'r, E, DB, T> {
    type Output = Result<T, Error>;
    type IntoFuture = Reading<'r, T>;

    fn into_future(self) -> Reading<'r, T> {
        Box::pin(async move {
            let context = &self.repository.0;
            let reading = context.read_with(self.id.clone(), self.options);
            let reading = context.signals.observe(Operation::Find, reading);
            let read = context.in_time(&self.id, self.timeout, reading).await;
            read.map(T::of)
        })
    }
}

/// A row that is wanted from the database. Await it.
///
/// # Cancel safety
///
/// As that of [`Find`].
#[must_use = "nothing is read before it is awaited"]
pub struct FindUncached<'r, E: Entity, DB: Backend, T> {
    repository: &'r Repository<E, DB>,
    row: RowOf<E>,
    timeout: Option<Duration>,
    result: PhantomData<fn() -> T>,
}

impl<E: Entity, DB: Backend, T> FindUncached<'_, E, DB, T> {
    /// As [`Find::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<'r, E: Entity, DB: Backend, T: ReadResult<E> + 'r> IntoFuture for FindUncached<'r, E, DB, T> {
    type Output = Result<T, Error>;
    type IntoFuture = Reading<'r, T>;

    fn into_future(self) -> Reading<'r, T> {
        Box::pin(async move {
            let context = &self.repository.0;
            let reading = context.read_uncached(self.row.clone());
            let reading = context.signals.observe(Operation::FindUncached, reading);
            let read = context.in_time(&self.row.id, self.timeout, reading).await;
            read.map(T::of)
        })
    }
}

/// Writes what is wanted of which entity, and not the id, which may be a secret.
macro_rules! debug {
    ($($name:ident<$($parameter:ident $(: $bound:ident)?),*>;)*) => {
        $(impl<E: Entity, DB: Backend, $($parameter $(: $bound)?),*> fmt::Debug for $name<'_, E, DB, $($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("entity", &E::SPEC.name)
                    .finish_non_exhaustive()
            }
        })*
    };
}

debug! {
    Find<Id, F: Future>;
    FindWith<T>;
    FindUncached<T>;
}
