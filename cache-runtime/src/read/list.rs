//! Lists: the rows that have the values of an index, page by page.
//!
//! The key of a list holds the ids of its first rows (`max`), and whether there are more (`lookup`).
//!
//! 1. Read the ids, from the cache if possible.
//! 2. Read the rows of the page by their ids, from the cache as far as possible, in one batch.
//! 3. Leave out the rows that do not have the values any more. A row that has left needs not have announced itself here.
//! 4. If rows have left and the page is short, load the ids again.
//! 5. If the page lies beyond the cached ids, read its ids from the database, and its rows as in 2.
//!
//! Invariant: a list misses no row that had the values and its place during the whole call. It is not a snapshot: two changes of
//! one transaction may be visible in one row and not in another.
//! Not here: the statements (`database::lookup`), and how a statement runs that fills nothing (`once`).

use std::{
    fmt,
    future::{Future, IntoFuture},
    ops::Deref,
    pin::Pin,
    sync::Arc,
};

use crate::{
    context::Context,
    database::{self, WriteOutcome, backend::Backend, entity::Entity, lookup::IdList},
    error::Error,
    observe::{Operation, Tell, Told},
    protocol::key::Key,
    read::{
        Distinct,
        lookup::{LookupOf, Values},
        reader::Reader,
    },
};

/// How often a page beyond the cached ids is read again because rows have left it in between.
const MAX_TRIES: u32 = 4;

/// Rows of a list, in its order.
#[derive(Debug)]
#[non_exhaustive]
pub struct Page<E> {
    /// The rows.
    pub rows: Vec<Arc<E>>,
    /// Whether there are more rows after the last one.
    pub has_more: bool,
}

impl<E> Tell for Page<E> {
    fn told(&self) -> Told {
        self.rows.told()
    }
}

impl<E> Clone for Page<E> {
    fn clone(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            has_more: self.has_more,
        }
    }
}

impl<E> Deref for Page<E> {
    type Target = [Arc<E>];

    fn deref(&self) -> &[Arc<E>] {
        &self.rows
    }
}

impl<E> IntoIterator for Page<E> {
    type Item = Arc<E>;
    type IntoIter = std::vec::IntoIter<Arc<E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'a, E> IntoIterator for &'a Page<E> {
    type Item = &'a Arc<E>;
    type IntoIter = std::slice::Iter<'a, Arc<E>>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

/// The rows of a list that are wanted. Await it.
///
/// Without a limit, these are as many rows as the index caches (`max`).
///
/// # Cancel safety
///
/// The future may be dropped at any time. A load that other callers wait for continues.
#[must_use = "nothing is read before it is awaited"]
pub struct FindAll<'r, E: Entity, DB: Backend> {
    context: &'r Arc<Context<E, DB>>,
    key: Result<Key, Error>,
    content: LookupOf,
    limit: usize,
    after: Option<E>,
}

impl<E: Entity, DB: Backend> fmt::Debug for FindAll<'_, E, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FindAll")
            .field("entity", &E::SPEC.name)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<'r, E: Entity, DB: Backend> FindAll<'r, E, DB> {
    pub(crate) fn new<V: Values>(
        context: &'r Arc<Context<E, DB>>,
        lookup: usize,
        values: V,
    ) -> Self {
        Self {
            context,
            key: context.lookup_key(lookup, &values),
            content: LookupOf::new(lookup, values),
            limit: E::SPEC.lookups[lookup].most(),
            after: None,
        }
    }

    /// Returns at most this many rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }

    /// Begins after a row, which is usually the last one of the page before. The place is that of the values of `row`, also if
    /// the row was changed or deleted since.
    pub fn after(mut self, row: &E) -> Self {
        self.after = Some(row.clone());
        self
    }
}

impl<'r, E: Entity, DB: Backend> IntoFuture for FindAll<'r, E, DB> {
    type Output = Result<Page<E>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'r>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                context,
                key,
                content,
                limit,
                after,
            } = self;
            let found = context.find_all(key?, content, limit, after);
            let signals = &context.signals;
            signals.observe(Operation::FindAllBy, found).await
        })
    }
}

/// What the cached ids give for a page.
enum Cut<E> {
    Page(Page<E>),
    /// The page lies beyond them, at least in part. Whether rows have left them.
    Beyond {
        has_left: bool,
    },
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    pub(crate) async fn find_all(
        self: &Arc<Self>,
        key: Key,
        content: LookupOf,
        limit: usize,
        after: Option<E>,
    ) -> Result<Page<E>, Error> {
        let fingerprint = self.lookup_fingerprint(content.lookup);
        let mut ids = self
            .read_content(key.clone(), fingerprint, || content.clone())
            .await?;
        for is_reloaded in [false, true] {
            let list = ids.row.as_deref();
            let cut = self.cut(&key, content.lookup, list, limit, after.as_ref());
            match cut.await? {
                Cut::Page(page) => return Ok(page),
                Cut::Beyond { has_left: true } if !is_reloaded => {
                    self.counters.changed_lookups.add_one();
                    ids = self
                        .reload_content(key.clone(), content.clone(), None)
                        .await?;
                }
                Cut::Beyond { .. } => break,
            }
        }
        let mut reader = self;
        read_page(&mut reader, &key, &content, limit, after.as_ref()).await
    }

    /// Takes a page out of the cached ids.
    async fn cut(
        self: &Arc<Self>,
        key: &Key,
        lookup: usize,
        list: Option<&IdList<E::Id>>,
        limit: usize,
        after: Option<&E>,
    ) -> Result<Cut<E>, Error> {
        let Some(IdList { ids, has_more }) = list else {
            return Ok(Cut::Page(Page {
                rows: Vec::new(),
                has_more: false,
            }));
        };
        let mut next = 0;
        if let Some(after) = after {
            let Some(place) = self.place_of(lookup, ids, after).await? else {
                return Ok(Cut::Beyond { has_left: false });
            };
            next = place + 1;
        }
        // One more than wanted shows whether there are more.
        let wanted = limit.saturating_add(1);
        let mut rows = Vec::new();
        let mut has_left = false;
        while rows.len() < wanted && next < ids.len() {
            let end = ids.len().min(next.saturating_add(wanted - rows.len()));
            for row in self.find_many(&ids[next..end]).await? {
                match row.filter(|row| self.has_values(row, lookup, key)) {
                    Some(row) => rows.push(row),
                    None => has_left = true,
                }
            }
            next = end;
        }
        if rows.len() < wanted && *has_more {
            return Ok(Cut::Beyond { has_left });
        }
        Ok(Cut::Page(Page::of(rows, limit)))
    }

    /// Returns the place of a row among the ids, if it is there and its values are those of the list's order.
    async fn place_of(
        self: &Arc<Self>,
        lookup: usize,
        ids: &[E::Id],
        row: &E,
    ) -> Result<Option<usize>, Error> {
        let key = self.key(&row.id())?;
        let is_it = |id: &E::Id| self.key(id).is_ok_and(|other| other == key);
        let Some(place) = ids.iter().position(is_it) else {
            return Ok(None);
        };
        let current = self.read(std::borrow::Cow::Borrowed(&ids[place])).await?;
        let Some(current) = current.row else {
            return Ok(None);
        };
        let same = self.database.have_same_place(lookup, &current, row);
        let same = same.map_err(|error| {
            let described = self.describe_row(&key);
            database::describe(
                "load the rows after",
                &described,
                error,
                WriteOutcome::Nothing,
            )
        })?;
        Ok(same.then_some(place))
    }

    /// Reads the ids of a page from the database, for one caller.
    pub(crate) async fn load_page(
        self: &Arc<Self>,
        key: &Key,
        content: &LookupOf,
        limit: usize,
        after: Option<&E>,
    ) -> Result<IdList<E::Id>, Error> {
        let LookupOf { lookup, values } = content.clone();
        let after = after.cloned();
        self.load_once(self.describe_row(key), move |context, connection| {
            Box::pin(async move {
                let database = &context.database;
                database
                    .select_page(connection, lookup, &*values, after.as_ref(), limit)
                    .await
            })
        })
        .await
    }

    /// Counts the rows of a list.
    pub(crate) async fn count_by<V: Values>(
        self: &Arc<Self>,
        lookup: usize,
        values: V,
    ) -> Result<u64, Error> {
        let key = self.lookup_key(lookup, &values)?;
        let content = LookupOf::new(lookup, values);
        let fingerprint = self.lookup_fingerprint(lookup);
        let ids = self
            .read_content(key.clone(), fingerprint, || content.clone())
            .await?;
        let list = ids.row.as_deref();
        match self.cut(&key, lookup, list, usize::MAX, None).await? {
            Cut::Page(page) => Ok(page.rows.len() as u64),
            Cut::Beyond { .. } => {
                let values = content.values;
                self.load_once(self.describe_row(&key), move |context, connection| {
                    Box::pin(async move {
                        let database = &context.database;
                        database.count_lookup(connection, lookup, &*values).await
                    })
                })
                .await
            }
        }
    }
}

/// Reads a page of a list whose ids are not cached: its ids from the database, and then its rows.
pub(crate) async fn read_page<E: Entity, DB: Backend, R: Reader<E, DB>>(
    reader: &mut R,
    key: &Key,
    content: &LookupOf,
    limit: usize,
    after: Option<&E>,
) -> Result<Page<E>, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let IdList { ids, has_more } = reader.page(key, content, limit, after).await?;
        let rows = reader.rows(&ids).await?.into_iter().flatten();
        let rows: Vec<_> = rows
            .filter(|row| reader.context().has_values(row, content.lookup, key))
            .collect();
        // A page that is short because rows have left it is read again, and at last returned as it is.
        if rows.len() == ids.len() || !has_more || tries == MAX_TRIES {
            return Ok(Page { rows, has_more });
        }
    }
}

/// Finds the rows of many lists. Returns one page for each of `values`, in their order.
pub(crate) async fn find_all_many<E: Entity, DB: Backend, R: Reader<E, DB>, V: Values>(
    reader: &mut R,
    lookup: usize,
    values: Vec<V>,
) -> Result<Vec<Page<E>>, Error> {
    let Distinct { wanted, places } = reader.context().distinct_lookups(lookup, values)?;
    let lists = reader.ids(&wanted).await?;
    let listed = lists.iter().flatten().flat_map(|list| &list.ids);
    let ids: Vec<_> = listed.cloned().collect();
    let mut found = reader.rows(&ids).await?.into_iter();
    let mut pages = Vec::with_capacity(wanted.len());
    for ((key, content), list) in wanted.into_iter().zip(lists) {
        let (count, has_more) = list.map_or((0, false), |list| (list.ids.len(), list.has_more));
        let rows = found.by_ref().take(count).flatten();
        let rows: Vec<_> = rows
            .filter(|row| reader.context().has_values(row, lookup, &key))
            .collect();
        pages.push(match rows.len() < count && has_more {
            true => reader.first_page(key, content).await?,
            false => Page { rows, has_more },
        });
    }
    let pages = places.into_iter().map(|place| pages[place].clone());
    Ok(pages.collect())
}

impl<E> Page<E> {
    /// Returns the page of rows of which there may be one too many.
    fn of(mut rows: Vec<Arc<E>>, limit: usize) -> Self {
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self { rows, has_more }
    }
}
