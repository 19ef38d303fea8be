//! The description of one annotated struct, which the derive generates for the runtime.
//!
//! Only `#[derive(Cached)]` implements [`Entity`]. The macro checks its constants, so the runtime need not check
//! whether a time to live is zero or a table name is missing.
//!
//! Not here: the columns and how they are bound, which depend on the database (`column`, `source`).

use serde::{Serialize, de::DeserializeOwned};

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
use crate::database::source::Binding;
use crate::{
    database::{
        fields::Fields,
        lookup::{LookupKeys, LookupSpec},
    },
    policy::Policy,
    protocol::tags::{TagPattern, Tags},
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

/// The constants of an entity.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EntitySpec {
    /// The name of the entity in keys and error messages: the name of the struct, unless the attribute `name` is set.
    pub name: &'static str,
    /// The table, with its schema if one was given (`app.flights`).
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
    /// The tags of its rows.
    pub tags: &'static [TagPattern],
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
            tags: &[],
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

    /// Records the tags. Called by generated code.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_tags(mut self, tags: &'static [TagPattern]) -> Self {
        self.tags = tags;
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
