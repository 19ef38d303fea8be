//! Lookups: the columns that rows are found by, besides their ids.
//!
//! The derive describes each lookup of an entity once ([`LookupSpec`]), writes the values of a row for its keys
//! ([`LookupKeys`]), and binds the values that a caller gives ([`Source::bind_lookup`]). The runtime refers to a lookup by its
//! place in the list.
//!
//! A statement of a lookup returns ids and not rows: rows are read through their own cache.
//!
//! Not here: how a lookup is read (`read::lookup`), and the text of its statements (`statement::lookup`).
//!
//! [`Source::bind_lookup`]: crate::database::source::Source::bind_lookup

use std::any::Any;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::database::entity::Entity;
use crate::{
    database::{
        Database,
        backend::Backend,
        column::{BindResult, Binder, ColumnSpec, Role},
        entity::Entity as AnyEntity,
        statement::Text,
    },
    protocol::key::{Key, KeySpace, UnusableId},
};

/// The maximum number of values in one statement. A power of two: few sizes, so that few statements are prepared.
const VALUES_PER_STATEMENT: usize = 64;

/// A lookup of an entity.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LookupSpec {
    /// Its name in keys and messages: the names of its fields, with `+` between them.
    pub name: &'static str,
    /// The columns whose values are given.
    pub columns: &'static [&'static str],
    /// Whether at most one row has the values.
    pub is_unique: bool,
    /// Whether texts are compared in lower case.
    pub folds: bool,
    /// The columns that the rows are ordered by, each with whether it is descending. The id follows.
    pub order_by: &'static [(&'static str, bool)],
    /// The maximum number of ids that are cached.
    pub max: u32,
}

impl LookupSpec {
    /// Returns the maximum number of ids that are cached.
    pub(crate) fn most(&self) -> usize {
        usize::try_from(self.max).unwrap_or(usize::MAX)
    }

    /// Returns a lookup of one row. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn unique(name: &'static str, columns: &'static [&'static str]) -> Self {
        Self {
            name,
            columns,
            is_unique: true,
            folds: false,
            order_by: &[],
            // The second shows that the values are not unique.
            max: 1,
        }
    }

    /// Returns a lookup of any number of rows. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn index(
        name: &'static str,
        columns: &'static [&'static str],
        order_by: &'static [(&'static str, bool)],
        max: u32,
    ) -> Self {
        Self {
            is_unique: false,
            order_by,
            max,
            ..Self::unique(name, columns)
        }
    }

    /// Compares texts in lower case. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn folded(mut self) -> Self {
        self.folds = true;
        self
    }
}

/// What an update does to the place of a row in a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    /// Nothing: the values and the order are immutable. An update that would change them matches no row.
    Never,
    /// It moves the row if it changes a value or the order.
    WithItsColumns,
    /// It may move the row in any case: the order has a column that the database fills in.
    Always,
}

impl Moves {
    /// Returns what an update does in each of these lookups.
    pub(crate) fn in_lookups<DB: Backend>(
        lookups: &[LookupSpec],
        columns: &[ColumnSpec<DB>],
    ) -> Vec<Self> {
        let role = |name: &str| {
            let column = columns.iter().find(|column| column.name == name);
            column.map(|column| column.role)
        };
        let is_fixed =
            |name: &str| role(name).is_some_and(|role| role.is_id() || role == Role::Immutable);
        let is_filled_in = |name: &str| matches!(role(name), Some(Role::Generated | Role::Version));
        let of = |lookup: &LookupSpec| {
            let mut order = lookup.order_by.iter().map(|(name, _)| *name);
            let mut named = lookup.columns.iter().copied().chain(order.clone());
            if named.all(is_fixed) {
                Self::Never
            } else if order.any(is_filled_in) {
                Self::Always
            } else {
                Self::WithItsColumns
            }
        };
        lookups.iter().map(of).collect()
    }
}

/// The ids that a lookup found, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdList<Id> {
    /// The first ids.
    pub ids: Vec<Id>,
    /// Whether there are more.
    pub has_more: bool,
}

impl<Id> IdList<Id> {
    /// Returns at most so many of the ids. One more than that shows that there are more.
    fn cut(mut ids: Vec<Id>, most: usize) -> Self {
        let has_more = ids.len() > most;
        ids.truncate(most);
        Self { ids, has_more }
    }
}

/// What a delete by a lookup has deleted.
pub(crate) struct Deleted<Id> {
    /// The ids of the rows that had the values.
    pub(crate) ids: Vec<Id>,
    /// How many of them were deleted.
    pub(crate) rows: u64,
}

/// Writes the keys of the lookups that find a row.
#[derive(Debug)]
pub struct LookupKeys<'a> {
    space: &'a KeySpace,
    lookups: &'static [LookupSpec],
    /// The only lookup whose key is wanted.
    only: Option<usize>,
    keys: Vec<Key>,
    failed: Option<UnusableId>,
}

impl<'a> LookupKeys<'a> {
    /// Returns the keys of all lookups that find a row, or that of one lookup. A row with a `NULL` in the columns of a lookup
    /// is not found by it.
    pub(crate) fn of<E: AnyEntity>(
        space: &'a KeySpace,
        row: &E,
        only: Option<usize>,
    ) -> Result<Vec<Key>, UnusableId> {
        let mut keys = Self {
            space,
            lookups: E::SPEC.lookups,
            only,
            keys: Vec::new(),
            failed: None,
        };
        row.lookup_keys(&mut keys);
        keys.failed.map_or(Ok(keys.keys), Err)
    }

    /// Adds the key of a lookup. `values` returns the values of the row, or `None` if one of them is `NULL`. Called by
    /// generated code.
    #[doc(hidden)]
    pub fn add<V: Serialize>(&mut self, lookup: usize, values: impl FnOnce() -> Option<V>) {
        if self.only.is_some_and(|only| only != lookup) {
            return;
        }
        let Some(values) = values() else { return };
        match self.space.lookup_key(self.lookups[lookup].name, &values) {
            Ok(key) => self.keys.push(key),
            Err(error) => self.failed = Some(error),
        }
    }
}

/// Returns a text in lower case, for a lookup that compares texts so. Called by generated code.
#[doc(hidden)]
#[must_use]
pub fn folded(text: &str) -> String {
    text.to_lowercase()
}

/// The values that a lookup is called with: a tuple of the types of its fields.
pub(crate) type Values = dyn Any + Send + Sync;

impl<DB: Backend> Binder<'_, DB> {
    /// Offers the values of a lookup. Called by generated code.
    ///
    /// # Errors
    ///
    /// Fails when the values have another type, or when one of them cannot be encoded for the database.
    #[doc(hidden)]
    pub fn lookup<V: Any>(
        &mut self,
        values: &dyn Any,
        bind: impl FnOnce(&mut Self, &V) -> BindResult,
    ) -> BindResult {
        let values = values.downcast_ref();
        bind(
            self,
            values.ok_or("the values are not those of the lookup")?,
        )
    }
}

impl<E: AnyEntity, DB: Backend> Database<E, DB> {
    /// Reads the ids of the rows that have the values of a lookup. Returns one list for each of `values`, in their order.
    pub(crate) async fn select_lookup(
        &self,
        connection: &mut DB::Connection,
        lookup: usize,
        values: &[&Values],
    ) -> Result<Vec<IdList<E::Id>>, sqlx::Error> {
        let spec = &E::SPEC.lookups[lookup];
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut lists = Vec::with_capacity(values.len());
        for values in values.chunks(VALUES_PER_STATEMENT) {
            // The last values fill the places that are left.
            let size = values.len().next_power_of_two();
            let last = values.last().into_iter().cycle();
            let mut arguments = DB::Arguments::default();
            for values in values.iter().chain(last).take(size) {
                self.bind_lookup(&text, lookup, *values, &mut arguments)?;
            }
            let sql = text.select_lookup(spec, size);
            let mut found: Vec<_> = values.iter().map(|_| Vec::new()).collect();
            for row in DB::fetch_all(connection, sql, arguments).await? {
                let place = usize::try_from(DB::integer(&row, 0)?).unwrap_or(usize::MAX);
                if let Some(ids) = found.get_mut(place) {
                    ids.push((self.binding.read_id)(&row)?);
                }
            }
            lists.extend(found.into_iter().map(|ids| IdList::cut(ids, spec.most())));
        }
        Ok(lists)
    }

    /// Reads the ids of the rows that have the values of a lookup, as a row has them. None of these may be `NULL`.
    pub(crate) async fn select_like(
        &self,
        connection: &mut DB::Connection,
        lookup: usize,
        row: &E,
    ) -> Result<IdList<E::Id>, sqlx::Error> {
        let spec = &E::SPEC.lookups[lookup];
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut arguments = DB::Arguments::default();
        for column in text.compared_for_lookup(spec) {
            let mut binder = match spec.folds {
                true => Binder::nth_folded(&mut arguments, column),
                false => Binder::nth(&mut arguments, column),
            };
            (self.binding.bind)(row, &mut binder).map_err(sqlx::Error::Encode)?;
        }
        let mut ids = Vec::new();
        for row in DB::fetch_all(connection, text.select_lookup(spec, 1), arguments).await? {
            ids.push((self.binding.read_id)(&row)?);
        }
        Ok(IdList::cut(ids, spec.most()))
    }

    /// Reads the ids of at most this many rows that have the values of a lookup, in its order: the first, or those after a
    /// row. Returns whether there are more.
    pub(crate) async fn select_page(
        &self,
        connection: &mut DB::Connection,
        lookup: usize,
        values: &Values,
        after: Option<&E>,
        limit: usize,
    ) -> Result<IdList<E::Id>, sqlx::Error> {
        let spec = &E::SPEC.lookups[lookup];
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut arguments = DB::Arguments::default();
        self.bind_lookup(&text, lookup, values, &mut arguments)?;
        if let Some(after) = after {
            for column in text.compared_for_page(spec) {
                let mut binder = Binder::nth(&mut arguments, column);
                (self.binding.bind)(after, &mut binder).map_err(sqlx::Error::Encode)?;
            }
        }
        let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        DB::add_integer(&mut arguments, most).map_err(sqlx::Error::Encode)?;
        let sql = text.select_page(spec, after.is_some());
        let mut ids = Vec::new();
        for row in DB::fetch_all(connection, sql, arguments).await? {
            ids.push((self.binding.read_id)(&row)?);
        }
        Ok(IdList::cut(ids, limit))
    }

    /// Counts the rows that have the values of a lookup.
    pub(crate) async fn count_lookup(
        &self,
        connection: &mut DB::Connection,
        lookup: usize,
        values: &Values,
    ) -> Result<u64, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut arguments = DB::Arguments::default();
        self.bind_lookup(&text, lookup, values, &mut arguments)?;
        let sql = text.count_lookup(&E::SPEC.lookups[lookup]);
        let row = DB::fetch(connection, sql, arguments).await?;
        let count = DB::integer(&row.ok_or(sqlx::Error::RowNotFound)?, 0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Reads the rows that have the values of a lookup, with all columns, in the order of their ids, and locks them until the
    /// transaction ends. SQLite has no locks of rows.
    pub(crate) async fn select_found_locked(
        &self,
        connection: &mut DB::Connection,
        lookup: usize,
        values: &Values,
    ) -> Result<Vec<E>, sqlx::Error> {
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut arguments = DB::Arguments::default();
        self.bind_lookup(&text, lookup, values, &mut arguments)?;
        let sql = text.select_found_locked(E::SPEC.found_by(lookup));
        let found = DB::fetch_all(connection, sql, arguments).await?;
        found.iter().map(|row| self.complete_row(row)).collect()
    }

    /// Deletes the rows that have the values of a lookup. Returns their ids.
    pub(crate) async fn delete_found(
        &self,
        connection: &mut DB::Connection,
        lookup: usize,
        values: &Values,
    ) -> Result<Deleted<E::Id>, sqlx::Error> {
        let spec = E::SPEC.found_by(lookup);
        let text = Text::new(E::SPEC.table, &self.columns);
        let mut arguments = DB::Arguments::default();
        self.bind_lookup(&text, lookup, values, &mut arguments)?;
        let returns = DB::DIALECT.returns_rows();
        let sql = match returns {
            true => text.delete_found(spec),
            false => text.select_found_ids_locked(spec),
        };
        let found = DB::fetch_all(connection, sql, arguments).await?;
        let ids = found.iter().map(self.binding.read_id);
        let ids: Vec<_> = ids.collect::<Result<_, _>>()?;
        let rows = match returns {
            true => ids.len() as u64,
            false => self.delete_ids(connection, &ids).await?.rows,
        };
        Ok(Deleted { ids, rows })
    }

    /// Returns whether two rows have the same place in the order of a lookup.
    pub(crate) fn have_same_place(
        &self,
        lookup: usize,
        one: &E,
        other: &E,
    ) -> Result<bool, sqlx::Error> {
        let spec = &E::SPEC.lookups[lookup];
        if spec.order_by.is_empty() {
            return Ok(true);
        }
        let (one, other) = (self.values(one)?, self.values(other)?);
        let mut names = spec.order_by.iter().map(|(name, _)| name);
        Ok(names.all(|name| {
            let column = self.columns.iter().position(|column| column.name == *name);
            column.is_some_and(|column| one.get(column) == other.get(column))
        }))
    }

    /// Appends the values of a lookup as its condition needs them.
    fn bind_lookup(
        &self,
        text: &Text<'_, DB>,
        lookup: usize,
        values: &Values,
        arguments: &mut DB::Arguments,
    ) -> Result<(), sqlx::Error> {
        let bind = self.binding.bind_lookup;
        let mut binder = Binder::new(arguments, Role::is_id);
        bind(lookup, values, &mut binder).map_err(sqlx::Error::Encode)?;
        if text.repeats_texts(E::SPEC.found_by(lookup)) {
            let mut binder = Binder::text_only(arguments);
            bind(lookup, values, &mut binder).map_err(sqlx::Error::Encode)?;
        }
        Ok(())
    }
}
