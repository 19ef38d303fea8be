//! The items that generated code calls. Only the expansions of `#[derive(Cached)]` and `#[derive(Columns)]` use them.
//! They change without notice, so the derive and the runtime must have the same version.

use std::sync::Arc;

pub use sqlx::{Database, Decode, Error as SqlxError, FromRow, Pool, error::BoxDynError};

pub use crate::{
    behind::{DeadLetters, Flusher, Pending},
    cache::Cache,
    database::{
        backend::Backend,
        column::{BindResult, Binder, Column, ColumnList, Columns, Nullable, Role},
        entity::{Cascade, Entity, EntitySpec, OmitsColumns, cannot_share, has_tag_of},
        expiry::ends_at,
        fields::{Field, Fields, check, fits_somewhere, is_row_or_has_misfit},
        lookup::{LookupKeys, LookupSpec, folded},
        schema::SchemaReport,
        source::{
            Likeness, LikenessFallback, NO_LOOKUP, Probe, ProbeFallback, ProbeTypeFallback, Source,
            told_apart,
        },
        writes::{ById, ByVersion, Nowhere, ToDatabase, ToQueue},
    },
    error::Error,
    observe::audit::{Audit, AuditOptions},
    policy::{Codec, Coherence, Durability, OnFull, OnOutage, Policy, Strategy},
    protocol::{
        key::AsId,
        tags::{TagPattern, Tags},
    },
    read::{
        list::{FindAll, Page},
        outcome::Outcome,
        query::Answers,
    },
    repository::{
        QueryFuture, Repository,
        find::Find,
        queries::{Dependency, DependsOn, Query},
        tags::WriteFuture,
        within::Within,
        within_lookups::FindAllWithin,
    },
    stats::Stats,
    write::{
        modify::{ChangeResult, Modified},
        transaction::Transaction,
    },
};

/// An entity: a struct whose derive has generated a repository.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no entity",
    label = "has no repository",
    note = "a relation names a struct with `#[derive(Cached)]`"
)]
pub trait HasRepository: Sized {
    /// Its id.
    type Id;

    /// The repository that the derive has generated.
    type Repository<DB: Backend>;

    /// Returns the rows that others refer to by their ids, in the order of `ids`.
    fn find_each<DB: Backend>(
        repository: &Self::Repository<DB>,
        ids: Vec<Option<Self::Id>>,
    ) -> impl Future<Output = Result<Vec<Option<Arc<Self>>>, Error>> + Send;

    /// Returns the id that a column of another entity has.
    fn id_of(column: &Self::Id) -> Self::Id;
}

/// A function with a name that is free to be shadowed. Generated code imports it under the names of its parameters: a
/// parameter cannot have the name of a unit struct, a constant or a static in scope, but that of a function it can.
pub const fn shadow() {}

// The database features are features of this crate, so generated code cannot test them with `cfg`. Instead it calls
// these macros, whose definitions depend on the features.

macro_rules! per_database {
    ($dollar:tt $feature:literal, $binding:ident, $fits:ident, $constant:ident, $database:ident) => {
        /// Defines the entity's binding to one database.
        #[cfg(feature = $feature)]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $binding {
            ($dollar entity:ty) => {
                const $constant: ::core::option::Option<
                    $dollar crate::database::source::Binding<$dollar entity, $dollar crate::sqlx::$database>,
                > = $dollar crate::private::Probe::<$dollar entity, $dollar crate::sqlx::$database>::BINDING;
            };
        }

        /// Defines nothing: the database's feature is off.
        #[cfg(not(feature = $feature))]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $binding {
            ($dollar entity:ty) => {};
        }

        /// Returns whether a type has a property in one database.
        #[cfg(feature = $feature)]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $fits {
            ($dollar property:ident, $dollar type:ty) => {
                $dollar crate::private::Probe::<$dollar type, $dollar crate::sqlx::$database>::$dollar property
            };
        }

        /// Never: the database's feature is off.
        #[cfg(not(feature = $feature))]
        #[doc(hidden)]
        #[macro_export]
        macro_rules! $fits {
            ($dollar property:ident, $dollar type:ty) => { false };
        }
    };
}

per_database!($ "postgres", __binding_postgres, __fits_postgres, POSTGRES, Postgres);
per_database!($ "mysql", __binding_mysql, __fits_mysql, MYSQL, MySql);
per_database!($ "sqlite", __binding_sqlite, __fits_sqlite, SQLITE, Sqlite);

/// Defines the entity's bindings to all enabled databases, inside its `impl Entity`.
#[doc(hidden)]
#[macro_export]
macro_rules! __bindings {
    ($entity:ty) => {
        $crate::__binding_postgres!($entity);
        $crate::__binding_mysql!($entity);
        $crate::__binding_sqlite!($entity);
    };
}

/// Returns for each database whether a type has a property (`IS_COLUMN`, `IS_READ`) in it.
#[doc(hidden)]
#[macro_export]
macro_rules! __fits_each {
    ($property:ident, $type:ty) => {
        [
            $crate::__fits_postgres!($property, $type),
            $crate::__fits_mysql!($property, $type),
            $crate::__fits_sqlite!($property, $type),
        ]
    };
}

/// Returns whether a type has a property (`IS_COLUMN`, `IS_READ`, `IS_ROW`) in at least one enabled database.
#[doc(hidden)]
#[macro_export]
macro_rules! __fits_any {
    ($property:ident, $type:ty) => {
        $crate::__fits_postgres!($property, $type)
            || $crate::__fits_mysql!($property, $type)
            || $crate::__fits_sqlite!($property, $type)
    };
}

pub use crate::{__bindings as bindings, __fits_any as fits_any, __fits_each as fits_each};
