//! Cached queries: the answers of statements of the user, for what is no row.
//!
//! 1. [`Cache::queries`] returns the queries of a namespace in one database. A query has a name and values ([`Query::key`]);
//!    together they are its key.
//! 2. It says what it reads: repositories ([`Query::depends_on`]), and tags of its own ([`Query::tags`]).
//! 3. [`Query::fetch`] returns the answer, from the cache if possible.
//!
//! A write of an entity with `queries` is announced to the queries from before its commit until after it, as it is at its own row.
//!
//! Not here: how an answer is stored (`read/query`), and the announcement (`write/announce`).

use std::{fmt, marker::PhantomData, pin::Pin, sync::Arc, time::Duration};

use serde::Serialize;
use sqlx::Pool;

use crate::{
    cache::Cache,
    context::{Context, groups, open_queries},
    database::{backend::Backend, entity::Entity, queries::NoRow},
    error::{Error, ErrorKind},
    observe::Operation,
    protocol::{
        key::Key,
        tags::{Tag, Tags},
    },
    read::{
        options::Options,
        query::{Answers, QueryOf},
    },
    repository::Repository,
    stats::Stats,
};

/// The statements of a [`Query::fetch`].
pub type FetchFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

/// The cached queries of one namespace in one database.
///
/// Cloning is cheap. Clones share their loads and their counters.
pub struct Queries<DB: Backend>(Arc<Context<NoRow, DB>>);

impl<DB: Backend> Clone for Queries<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<DB: Backend> fmt::Debug for Queries<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries")
            .field("namespace", &self.0.bond.namespace)
            .field("database", &DB::NAME)
            .finish_non_exhaustive()
    }
}

/// What cached queries can depend on: a repository whose entity has `queries`.
#[diagnostic::on_unimplemented(
    message = "cached queries cannot depend on `{Self}`",
    label = "its writes are not announced to queries",
    note = "add `queries` to the attribute of its entity: `#[cached(table = \"..\", queries)]`"
)]
pub trait DependsOn {
    /// Returns the entity.
    #[doc(hidden)]
    fn dependency(&self) -> Dependency;
}

/// An entity that queries depend on.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Dependency {
    namespace: String,
    entity: &'static str,
}

impl Cache {
    /// Returns the cached queries of this cache's namespace, whose statements run on connections of `pool`. The namespace belongs
    /// to one database, so it is that of the repositories of the namespace.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use larder_runtime::{Cache, DependsOn, Error, sqlx::{self, SqlitePool}};
    /// # async fn example(cache: Cache, pool: SqlitePool, orders: impl DependsOn) -> Result<(), Error> {
    /// let queries = cache.queries(pool);
    /// let sales = queries
    ///     .query::<Vec<(String, i64)>>("sales-by-month")
    ///     .key(&2026)
    ///     .ttl(Duration::from_secs(600))
    ///     .depends_on(&orders)
    ///     .fetch(|connection| {
    ///         let select = "SELECT month, SUM(price) FROM orders WHERE year = 2026 GROUP BY month";
    ///         Box::pin(sqlx::query_as(select).fetch_all(connection))
    ///     })
    ///     .await?;
    /// println!("{} months", sales.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the namespace is known to belong to another database.
    #[must_use]
    #[track_caller]
    pub fn queries<DB: Backend>(&self, pool: Pool<DB>) -> Queries<DB> {
        match open_queries(self.inner(), self.namespace(), pool) {
            Ok(context) => Queries(context),
            Err(error) => panic!("{error}"),
        }
    }
}

impl<DB: Backend> Queries<DB> {
    /// Returns the query with this name, whose answer is a `T`. Use a name for one query and one type only.
    ///
    /// The answer is cached for 5 minutes (less up to a tenth), unless [`Query::ttl`] says otherwise, and until something that it
    /// depends on is written.
    pub fn query<T: Answers>(&self, name: &str) -> Query<T, DB> {
        Query::new(Ok(Arc::clone(&self.0)), name.to_owned())
    }

    /// Invalidates the answers of the queries with this tag, in one round trip, however many they are. When it returns, no process
    /// serves them any more, and loads that had begun before are not served either.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CacheUnavailable`] if the store cannot be reached. This process then runs the statements of all queries until
    /// the invalidation was delivered. Until then other processes may serve old answers, at most until their time to live ends.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, the answers may or may not be invalidated. Call it again.
    pub async fn invalidate_tag(&self, tag: impl Into<String>) -> Result<(), Error> {
        let tag = [tag.into()];
        self.0.bind_now().await?;
        self.0.invalidate_tags(&tag).await
    }

    /// Invalidates the answers of all queries of the namespace.
    ///
    /// # Errors
    ///
    /// As [`Queries::invalidate_tag`].
    ///
    /// # Cancel safety
    ///
    /// As [`Queries::invalidate_tag`].
    pub async fn invalidate_all(&self) -> Result<(), Error> {
        self.0.bind_now().await?;
        self.0.invalidate_all().await
    }

    /// Returns the counters of these queries and their clones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.snapshot()
    }
}

impl<E: Entity, DB: Backend> Repository<E, DB> {
    /// Returns this entity as something that queries depend on. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub fn dependency(&self) -> Dependency {
        Dependency {
            namespace: self.0.bond.namespace.clone(),
            entity: E::SPEC.name,
        }
    }

    /// Returns the cached queries of the repository's namespace, in its database.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the namespace is known to belong to another database.
    pub fn queries(&self) -> Result<Queries<DB>, Error> {
        self.0.queries().map(Queries)
    }

    /// Returns a cached query that depends on the rows of this repository. It is one of the queries of the namespace
    /// ([`Cache::queries`]), and its name there begins with that of the entity and a slash.
    pub fn query<T: Answers>(&self, name: &str) -> Query<T, DB> {
        let name = format!("{}/{name}", E::SPEC.name);
        let mut query = Query::new(self.0.queries(), name);
        query.depend_on(&self.dependency());
        query
    }
}

/// A cached query: its key, what it depends on, and how long its answer is cached.
#[must_use = "a query does nothing until `fetch` is awaited"]
pub struct Query<T, DB: Backend> {
    name: String,
    context: Result<Arc<Context<NoRow, DB>>, Error>,
    key: Result<Key, Error>,
    tags: Vec<Tag>,
    options: Options,
    answer: PhantomData<fn() -> T>,
}

impl<T, DB: Backend> fmt::Debug for Query<T, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<T: Answers, DB: Backend> Query<T, DB> {
    fn new(context: Result<Arc<Context<NoRow, DB>>, Error>, name: String) -> Self {
        let mut query = Self {
            key: Err(Error::new(ErrorKind::Conversion, "the query has no key")),
            name,
            context,
            tags: Vec::new(),
            options: Options::default(),
            answer: PhantomData,
        };
        query.set_key(&());
        query
    }

    /// Sets the values that the answer depends on: numbers, texts, and tuples or structs of such. Each has an answer of its own.
    pub fn key<K: Serialize + ?Sized>(mut self, values: &K) -> Self {
        self.set_key(values);
        self
    }

    fn set_key<K: Serialize + ?Sized>(&mut self, values: &K) {
        let name = &self.name;
        self.key = match &self.context {
            Ok(context) => context.keys.key(&(name, values)).map_err(|error| {
                let message =
                    format!("failed to write the values of the query `{name}` as a key: {error}");
                Error::with_source(ErrorKind::Conversion, message, error)
            }),
            Err(error) => Err(error.clone()),
        };
    }

    /// Sets for how long the answer is cached, less a random share of up to a tenth, as
    /// [`Find::ttl`](super::find::Find::ttl) does for a row.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options = self.options.with_ttl(ttl);
        self
    }

    /// Adds tags of the answer, for [`Queries::invalidate_tag`].
    pub fn tags(mut self, tags: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let tags = tags.into_iter().map(|tag| Tag::new(tag.as_ref()));
        self.tags.extend(tags);
        self
    }

    /// Says that the answer depends on the rows of a repository: any write of one of them, from any process, invalidates it. The
    /// entity has `queries` in its attribute.
    pub fn depends_on(mut self, repository: &impl DependsOn) -> Self {
        self.depend_on(&repository.dependency());
        self
    }

    fn depend_on(&mut self, read: &Dependency) {
        self.tags.push(Tag::of_entity(read.entity));
        if let Ok(context) = &self.context
            && context.bond.namespace != read.namespace
        {
            let (what, own) = (
                format!("the query `{}`", self.name),
                &context.bond.namespace,
            );
            let error = groups::other_namespace(&what, own, read.entity, &read.namespace);
            self.key = Err(error);
        }
    }

    /// Returns the answer, from the cache if possible. Otherwise runs the statements on a connection of the pool, and caches what
    /// they return. Callers of this process and of others that ask at the same time share one run.
    ///
    /// The statements may run more than once, and go on for the others if this caller leaves, so they own what they use. They
    /// should only read.
    ///
    /// # Errors
    ///
    /// - The error of the statements, as its source. Nothing is cached.
    /// - [`ErrorKind::Conversion`] if the values of the key cannot be written as one, such as floating point numbers.
    /// - [`ErrorKind::Configuration`] if the query depends on an entity of another namespace, or if the name is used with another
    ///   type at the same time.
    ///
    /// An unreachable cache is not an error.
    ///
    /// # Cancel safety
    ///
    /// As [`Repository::find`].
    pub async fn fetch(
        self,
        statements: impl for<'c> Fn(&'c mut DB::Connection) -> FetchFuture<'c, T>
        + Send
        + Sync
        + 'static,
    ) -> Result<Arc<T>, Error> {
        let (context, key) = (self.context?, self.key?);
        let version = context.cache.namespace_version();
        let mut tags = Tags::default();
        for tag in self.tags {
            tags.push(tag);
        }
        let fingerprint = context.answers.fingerprint::<T>(version, &tags);
        let query = QueryOf {
            tags,
            fingerprint,
            statements: Arc::new(statements),
        };
        let read = context.read_content_with(key, fingerprint, || query, self.options);
        let outcome = context.signals.observe(Operation::Query, read).await?;
        let answer = outcome.row.expect("a query has an answer");
        Arc::clone(&answer.value).downcast().map_err(|_| {
            Error::new(
                ErrorKind::Configuration,
                format!(
                    "failed to fetch the query `{}`: it is used with two types of answers; give each a name of its own",
                    self.name
                ),
            )
        })
    }

    /// Drops the answer from the cache.
    ///
    /// # Errors
    ///
    /// As [`Repository::invalidate`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it ends, the answer may or may not be dropped. Call it again.
    pub async fn invalidate(self) -> Result<(), Error> {
        let (context, key) = (self.context?, self.key?);
        let invalidated = async {
            context.bind_now().await?;
            context.invalidate(&key).await
        };
        let signals = &context.signals;
        signals.observe(Operation::Invalidate, invalidated).await
    }
}
