//! The description of one annotated struct, which the derive generates for the runtime.
//!
//! Only `#[derive(Cached)]` implements [`Entity`]. The macro checks its constants, so the runtime need not check
//! whether a time to live is zero or a table name is missing.
//!
//! Not here: the columns and how they are bound, which depend on the database (`column`, `source`).

use std::time::SystemTime;

use serde::{Serialize, de::DeserializeOwned};

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use crate::database::source::Binding;
use crate::{
    database::{
        fields::Fields,
        lookup::{LookupKeys, LookupSpec},
    },
    policy::{Policy, Strategy},
    protocol::tags::{TagPattern, Tags, is_same},
};

/// A struct whose rows can be cached. Implemented by `#[derive(Cached)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cached entity",
    label = "not a cached entity",
    note = "derive it: `#[derive(Cached)]` with `#[cached(table = \"..\")]` and an `#[cached(id)]` field"
)]
pub trait Entity: Fields + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The type of the field marked `#[cached(id)]`; a tuple in field order when several fields are marked.
    type Id: Clone + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Where writes go: [`ToDatabase`](super::writes::ToDatabase), [`ToQueue`](super::writes::ToQueue) or
    /// [`Nowhere`](super::writes::Nowhere).
    type Writes;

    /// What a delete needs: [`ById`](super::writes::ById) or [`ByVersion`](super::writes::ByVersion).
    type Deletes;

    /// The properties of the entity that do not depend on a row or on a database.
    const SPEC: EntitySpec;

    /// Returns the id of this row.
    fn id(&self) -> Self::Id;

    /// Writes the keys of the lookups that find this row.
    #[doc(hidden)]
    fn lookup_keys(&self, _keys: &mut LookupKeys<'_>) {}

    /// Collects the tags of this row.
    #[doc(hidden)]
    fn tags(&self, _tags: &mut Tags) {}

    /// Returns the id as it stands in the tags of the rows that are deleted with this one.
    #[doc(hidden)]
    fn id_in_tags(_id: &Self::Id) -> String {
        String::new()
    }

    /// Returns when this row ends by itself, if it does (`ttl_from`).
    #[doc(hidden)]
    fn ends_at(&self) -> Option<SystemTime> {
        None
    }

    /// How Postgres stores this entity, if all of its columns have a type Postgres knows.
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    const POSTGRES: Option<Binding<Self, sqlx::Postgres>>;

    /// How MySQL and MariaDB store this entity, if all of its columns have a type they know.
    #[cfg(feature = "mysql")]
    #[doc(hidden)]
    const MYSQL: Option<Binding<Self, sqlx::MySql>>;

    /// How SQLite stores this entity, if all of its columns have a type SQLite knows.
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    const SQLITE: Option<Binding<Self, sqlx::Sqlite>>;
}

/// An entity with columns that are not in the cache (`omit`). Implemented by `#[derive(Cached)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no field with `#[cached(omit)]`",
    label = "all rows of this entity are complete",
    note = "use `find`, or `bypass` to read the database"
)]
pub trait OmitsColumns: Entity {}

/// Rows of another entity that the database deletes or changes when it deletes a row (`on_delete`).
#[derive(Clone, Copy, Debug)]
pub struct Cascade {
    /// The other entity. A function, because two entities may name each other.
    pub entity: fn() -> EntitySpec,
    /// Its field with the id of the deleted row.
    pub field: &'static str,
}

impl Cascade {
    /// Returns the tag that the other entity has for the field.
    #[must_use]
    pub fn pattern(&self) -> Option<TagPattern> {
        let tags = (self.entity)().tags.iter();
        tags.copied().find(|tag| tag.is_of_field(self.field))
    }

    /// Returns the other entity, and the column of its field.
    pub(crate) fn column(&self) -> Option<(EntitySpec, &'static str)> {
        Some(((self.entity)(), self.pattern()?.column()?))
    }
}

/// Returns whether an entity has a tag that consists of one field and text, for `on_delete`. Called by generated code.
#[doc(hidden)]
#[must_use]
pub const fn has_tag_of(spec: &EntitySpec, field: &str) -> bool {
    let mut at = 0;
    while at < spec.tags.len() {
        if spec.tags[at].is_of_field(field) {
            return true;
        }
        at += 1;
    }
    false
}

/// Returns why a write of one entity cannot be announced to another one over the same table, if so. Called by generated code.
#[doc(hidden)]
#[must_use]
pub const fn cannot_share(own: &EntitySpec, other: &EntitySpec) -> Option<&'static str> {
    if !is_same(own.table.as_bytes(), other.table.as_bytes()) {
        return Some("`same_table` names an entity of another table");
    }
    if matches!(other.policy.strategy, Strategy::WriteBehind) {
        return Some(
            "`same_table` cannot name an entity with `strategy = \"write_behind\"`: its queued writes would be lost",
        );
    }
    if !other.lookups.is_empty() && other.tags.is_empty() {
        return Some(
            "`same_table` names an entity with `unique` or `index` and without `tags`: the values by which its rows are found are not \
             known here; give it a tag, such as `tags(\"rows\")`",
        );
    }
    None
}

/// The constants of an entity.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EntitySpec {
    /// The name of the entity in keys and error messages: the name of the struct, unless the attribute `name` is set.
    pub name: &'static str,
    /// The table, with its schema if one was given (`app.flights`), or the query that stands for it, in parentheses.
    pub table: &'static str,
    /// A hash over the names and types of the fields. An entry with another fingerprint counts as absent.
    pub fingerprint: u32,
    /// The part of the struct that a positional codec cannot encode, if any (for example `#[serde(flatten)]`).
    pub positional_hazard: Option<&'static str>,
    /// Whether one field is the version of the row, which updates compare and increment.
    pub versioned: bool,
    /// Whether the entity is only read.
    pub read_only: bool,
    /// The lookups by other columns than the id.
    pub lookups: &'static [LookupSpec],
    /// The columns of tags by which rows are found to be changed. They have the places after those of the lookups.
    pub finders: &'static [LookupSpec],
    /// The tags of its rows.
    pub tags: &'static [TagPattern],
    /// The rows of other entities that the database changes when it deletes a row.
    pub cascades: &'static [Cascade],
    /// The other entities over the same table.
    pub same_table: &'static [fn() -> EntitySpec],
    /// The entities whose tables that query reads.
    pub depends_on: &'static [fn() -> EntitySpec],
    /// Whether a query in parentheses stands for the table (`select`).
    pub is_query: bool,
    /// Whether cached queries may depend on its rows.
    pub queries: bool,
    /// Whether it has columns that are not in the cache (`omit`).
    pub omits: bool,
    /// How the entity is cached.
    pub policy: Policy,
}

impl EntitySpec {
    /// Returns a specification with the default policy. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, table: &'static str, fingerprint: u32) -> Self {
        Self {
            name,
            table,
            fingerprint,
            positional_hazard: None,
            versioned: false,
            read_only: false,
            lookups: &[],
            finders: &[],
            tags: &[],
            cascades: &[],
            same_table: &[],
            depends_on: &[],
            is_query: false,
            queries: false,
            omits: false,
            policy: Policy::DEFAULT,
        }
    }

    /// Records the part that a positional codec cannot encode. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_positional_hazard(mut self, hazard: &'static str) -> Self {
        self.positional_hazard = Some(hazard);
        self
    }

    /// Records that a field is the version of the row. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_version(mut self) -> Self {
        self.versioned = true;
        self
    }

    /// Records that the entity is only read. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Records the lookups. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_lookups(mut self, lookups: &'static [LookupSpec]) -> Self {
        self.lookups = lookups;
        self
    }

    /// Records the columns of tags by which rows are found. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_finders(mut self, finders: &'static [LookupSpec]) -> Self {
        self.finders = finders;
        self
    }

    /// Returns what rows are found by at a place: a lookup, or the columns of a tag.
    pub(crate) const fn found_by(&self, place: usize) -> &'static LookupSpec {
        match place.checked_sub(self.lookups.len()) {
            None => &self.lookups[place],
            Some(place) => &self.finders[place],
        }
    }

    /// Returns the tag that consists of one column and text, if there is one.
    pub(crate) fn tag_of_column(&self, column: &str) -> Option<TagPattern> {
        let mut tags = self.tags.iter().copied();
        tags.find(|tag| tag.is_of_column(column))
    }

    /// Records the tags. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_tags(mut self, tags: &'static [TagPattern]) -> Self {
        self.tags = tags;
        self
    }

    /// Records what the database changes when it deletes a row. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_cascades(mut self, cascades: &'static [Cascade]) -> Self {
        self.cascades = cascades;
        self
    }

    /// Records the other entities over the same table. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_same_table(mut self, others: &'static [fn() -> Self]) -> Self {
        self.same_table = others;
        self
    }

    /// Records that a query stands for the table, and which entities it reads. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_query(mut self, depends_on: &'static [fn() -> Self]) -> Self {
        self.is_query = true;
        self.depends_on = depends_on;
        self
    }

    /// Records that cached queries may depend on the rows. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_queries(mut self) -> Self {
        self.queries = true;
        self
    }

    /// Records that there are columns that are not in the cache. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_omitted(mut self) -> Self {
        self.omits = true;
        self
    }

    /// Replaces the policy. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
}
