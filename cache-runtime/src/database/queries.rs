//! The cached queries of a namespace, as an entity without a table and without rows.
//!
//! So the answer of a query takes the same way as a row: the same states, the same leases, the same clock of tags.
//!
//! Not here: the answers (`read/query`).

use std::{any::Any, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    database::{
        backend::Backend,
        entity::{Entity, EntitySpec},
        fields::{Field, Fields},
        source::Binding,
        writes::{ById, Nowhere},
    },
    protocol::tags::{TagPattern, Tags},
};

/// The answer of a query, and its tags.
pub(crate) struct Answer {
    pub(crate) tags: Tags,
    /// Of the type of the query.
    pub(crate) value: Arc<dyn Any + Send + Sync>,
}

/// The entity of cached queries. It has no rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NoRow;

impl Fields for NoRow {
    const FIELDS: &'static [Field] = &[];
}

impl Entity for NoRow {
    type Id = ();
    type Writes = Nowhere;
    type Deletes = ById;

    // No entity has this name, and no table: a name of Rust has no `@`, and a table of this name has no schema `larder`.
    const SPEC: EntitySpec = EntitySpec::new("@queries", "larder.queries", 1)
        .with_read_only()
        // Users choose the tags.
        .with_tags(&[TagPattern::new(&["", ""], &[("tag", "tag")])]);

    fn id(&self) {}

    #[cfg(feature = "postgres")]
    const POSTGRES: Option<Binding<Self, sqlx::Postgres>> = None;
    #[cfg(feature = "mysql")]
    const MYSQL: Option<Binding<Self, sqlx::MySql>> = None;
    #[cfg(feature = "sqlite")]
    const SQLITE: Option<Binding<Self, sqlx::Sqlite>> = None;
}

/// Returns the binding of an entity without columns.
pub(crate) fn binding<DB: Backend>() -> Binding<NoRow, DB> {
    Binding {
        describe: |_| {},
        bind: |_, _| Ok(()),
        bind_id: |(), _| Ok(()),
        bind_lookup: |_, _, _| Ok(()),
        read_id: |_| Ok(()),
        clear_skipped: |_| {},
        clear_omitted: |_| {},
        told_apart: |_, _| None,
        from_row: |_| Ok(NoRow),
    }
}
