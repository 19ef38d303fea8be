//! The rows that are read and written: one table per strategy, of the same layout, and the repositories behind one face. A run
//! with tags has entities of its own over the same tables, because tags cost hits: each invalidation makes absences and lists be
//! loaded again. It also has parents and children, in tables of their own: the database deletes the children of a parent with it.
//!
//! Some values do not survive the codec, and each strategy has a namespace of its own.
//!
//! Short leases and short waits keep the workers busy; the times to live are longer than any run, so that nothing stale heals
//! by itself.

use std::sync::Arc;

use larder::{Backend, Cache, Cached, Entity as _, Error, Transaction};
use larder_coherence::{
    history::{Origin, Value, Verb, parent, shelf},
    options::{Kin, Strategy},
};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Pool, SqlSafeStr as _, SqlStr};

/// Entities over the same columns with the same options, and the columns and options that are given. A further column follows
/// from the id.
macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident [$($column:ident = $of_id:path)?] { $($option:tt)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Serialize, Deserialize, sqlx::FromRow, Cached)]
            #[cached(
                ttl = "1h",
                negative_ttl = "1h",
                on_outage = "consistent",
                gather_writes = true,
                lease(ttl = "2s", wait = "20ms"),
                $($option)*
            )]
            pub(crate) struct $name {
                #[cached(id)]
                id: i64,
                #[cached(unique)]
                #[serde(with = "unfaithful")]
                value: i64,
                /// Follows from the value ([`shelf`]).
                #[cached(index(max = 8))]
                shelf: i64,
                $($column: i64,)?
            }

            impl $name {
                fn new(id: i64, value: i64) -> Self {
                    Self { id, value, shelf: shelf(value), $($column: $of_id(id))? }
                }
            }
        )*
    };
}

rows! {
    /// A row whose writes drop the entry.
    AsideRow [] { table = "aside" }
    /// A row whose writes store it.
    ThroughRow [] { table = "write_through", strategy = "write_through" }
    /// A row whose writes drop the entry, and which is changed by its tags as well.
    TaggedAsideRow [] { table = "aside", tags("row:{id}", "shelf:{shelf}") }
    /// A row whose writes store it, and which is changed by its tags as well.
    TaggedThroughRow [] {
        table = "write_through",
        strategy = "write_through",
        tags("row:{id}", "shelf:{shelf}")
    }
    /// A row that the database deletes with its parent.
    AsideChild [parent = parent] {
        table = "aside_child",
        tags("row:{id}", "shelf:{shelf}", "parent:{parent}")
    }
    /// A row whose writes store it, and which the database deletes with its parent.
    ThroughChild [parent = parent] {
        table = "write_through_child",
        strategy = "write_through",
        tags("row:{id}", "shelf:{shelf}", "parent:{parent}")
    }
    /// A row with which others are deleted.
    AsideParent [] {
        table = "aside_parent",
        tags("row:{id}", "shelf:{shelf}"),
        on_delete(AsideChild::parent)
    }
    /// A row whose writes store it, and with which others are deleted.
    ThroughParent [] {
        table = "write_through_parent",
        strategy = "write_through",
        tags("row:{id}", "shelf:{shelf}"),
        on_delete(ThroughChild::parent)
    }
}

/// How serde writes a value: some of them as another one. Rows that have one must not come from the cache.
mod unfaithful {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        let is_changed = value % 16 == 11;
        serializer.serialize_i64(value - i64::from(is_changed))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        i64::deserialize(deserializer)
    }
}

/// The repository of one table.
pub(crate) enum Rows<DB: Backend> {
    Aside(AsideRowRepository<DB>),
    Through(ThroughRowRepository<DB>),
    TaggedAside(TaggedAsideRowRepository<DB>),
    TaggedThrough(TaggedThroughRowRepository<DB>),
    AsideChildren(AsideChildRepository<DB>),
    ThroughChildren(ThroughChildRepository<DB>),
    AsideParents(AsideParentRepository<DB>),
    ThroughParents(ThroughParentRepository<DB>),
}

/// Does the same with any of these repositories.
macro_rules! any_of {
    ($self:ident, $Row:ident, $rows:ident => $call:expr; $($variant:ident = $type:ident),*; $($rest:tt)*) => {
        match $self {
            $(Rows::$variant($rows) => {
                type $Row = $type;
                $call
            })*
            $($rest)*
        }
    };
}

/// Does the same with any repository.
macro_rules! either {
    ($self:ident, $Row:ident, $rows:ident => $call:expr) => {
        any_of!(
            $self, $Row, $rows => $call;
            Aside = AsideRow, Through = ThroughRow,
            TaggedAside = TaggedAsideRow, TaggedThrough = TaggedThroughRow,
            AsideChildren = AsideChild, ThroughChildren = ThroughChild,
            AsideParents = AsideParent, ThroughParents = ThroughParent;
        )
    };
}

/// Does the same with any repository of rows with tags.
macro_rules! either_tagged {
    ($self:ident, $Row:ident, $rows:ident => $call:expr) => {
        any_of!(
            $self, $Row, $rows => $call;
            TaggedAside = TaggedAsideRow, TaggedThrough = TaggedThroughRow,
            AsideChildren = AsideChild, ThroughChildren = ThroughChild,
            AsideParents = AsideParent, ThroughParents = ThroughParent;
            Rows::Aside(_) | Rows::Through(_) => {
                unreachable!("the mix has changes by tags for rows with tags only")
            }
        )
    };
}

impl<DB: Backend> Rows<DB> {
    /// The rows of one of the tables of a strategy, with or without tags.
    pub(crate) fn new(
        (strategy, kin): (Strategy, Kin),
        tags: bool,
        cache: &Cache,
        pool: &Pool<DB>,
    ) -> Self {
        // Each strategy has a namespace of its own, over one connection.
        let namespace = format!("coherence-{}", strategy.name());
        let cache = cache.with_namespace(&namespace);
        let cache = &cache.expect("the name of a strategy can stand in a namespace");
        let pool = pool.clone();
        match (strategy, kin, tags) {
            (Strategy::Aside, Kin::None, false) => Self::Aside(AsideRow::repository(cache, pool)),
            (Strategy::Aside, Kin::None, true) => {
                Self::TaggedAside(TaggedAsideRow::repository(cache, pool))
            }
            (Strategy::Aside, Kin::Child, _) => {
                Self::AsideChildren(AsideChild::repository(cache, pool))
            }
            (Strategy::Aside, Kin::Parent, _) => {
                Self::AsideParents(AsideParent::repository(cache, pool))
            }
            (Strategy::WriteThrough, Kin::None, false) => {
                Self::Through(ThroughRow::repository(cache, pool))
            }
            (Strategy::WriteThrough, Kin::None, true) => {
                Self::TaggedThrough(TaggedThroughRow::repository(cache, pool))
            }
            (Strategy::WriteThrough, Kin::Child, _) => {
                Self::ThroughChildren(ThroughChild::repository(cache, pool))
            }
            (Strategy::WriteThrough, Kin::Parent, _) => {
                Self::ThroughParents(ThroughParent::repository(cache, pool))
            }
        }
    }

    /// A read by id, through the cache.
    pub(crate) async fn read(&self, id: i64) -> Result<(Value, Origin), Error> {
        either!(self, Row, rows => {
            let outcome = rows.find_outcome(id).await?;
            let value = outcome.row.map(|row: Arc<Row>| row.value);
            Ok((value, origin(outcome.origin)))
        })
    }

    /// A read of several rows, through the cache.
    pub(crate) async fn read_many(&self, ids: &[i64]) -> Result<Vec<Value>, Error> {
        either!(self, Row, rows => {
            let found: Vec<Option<Arc<Row>>> = rows.find_many(ids).await?;
            Ok(found.into_iter().map(|row| row.map(|row| row.value)).collect())
        })
    }

    /// A read of the row with this value. Returns its id and the value that it has.
    pub(crate) async fn find_by_value(&self, value: i64) -> Result<Option<(i64, i64)>, Error> {
        either!(self, Row, rows => {
            let found: Option<Arc<Row>> = rows.find_by_value(value).await?;
            Ok(found.map(|row| (row.id, row.value)))
        })
    }

    /// A read of all rows of a shelf. Returns their ids and values.
    pub(crate) async fn find_all(
        &self,
        shelf: i64,
        limit: usize,
    ) -> Result<Vec<(i64, i64)>, Error> {
        either!(self, Row, rows => {
            let page = rows.find_all_by_shelf(shelf).limit(limit).await?;
            Ok(page.iter().map(|row: &Arc<Row>| (row.id, row.value)).collect())
        })
    }

    /// A read by id, past the cache.
    pub(crate) async fn read_uncached(&self, id: i64) -> Result<Value, Error> {
        either!(self, Row, rows => {
            let row: Option<Arc<Row>> = rows.find_uncached(id).await?;
            Ok(row.map(|row| row.value))
        })
    }

    /// A write that commits by itself. A delete has no value.
    pub(crate) async fn write(&self, verb: Verb, id: i64, value: Value) -> Result<(), Error> {
        either!(self, Row, rows => {
            let row = Row::new(id, value.unwrap_or_default());
            match verb {
                Verb::Insert => rows.insert(&row).await.map(drop),
                Verb::Update => rows.update(&row).await.map(drop),
                Verb::Save => rows.save(&row).await.map(drop),
                Verb::Delete => rows.delete(id).await,
            }
        })
    }
}

impl<DB: Backend> Rows<DB> {
    /// A write of several rows at once, all or none.
    pub(crate) async fn update_many(&self, values: &[(i64, i64)]) -> Result<(), Error> {
        either!(self, Row, rows => {
            let row = |&(id, value): &(i64, i64)| Row::new(id, value);
            let changed: Vec<Row> = values.iter().map(row).collect();
            rows.update_many(&changed).await.map(drop)
        })
    }

    /// A change of several rows by their tags and by statements of the caller, all or none. Returns which of the rows there were.
    pub(crate) async fn write_tagged(&self, values: &[(i64, i64)]) -> Result<Vec<bool>, Error> {
        either_tagged!(self, Row, rows => {
            let tags: Vec<String> = values.iter().map(|(id, _)| format!("row:{id}")).collect();
            let statements: Vec<SqlStr> = values
                .iter()
                .map(|&(id, value)| {
                    let (table, shelf) = (Row::SPEC.table, shelf(value));
                    let sql = format!("UPDATE {table} SET value = {value}, shelf = {shelf} WHERE id = {id}");
                    AssertSqlSafe(sql).into_sql_str()
                })
                .collect();
            let write = rows.write_tagged(tags, move |connection| {
                Box::pin(async move {
                    let mut found = Vec::new();
                    for sql in statements {
                        let done = DB::execute(connection, sql, DB::Arguments::default()).await?;
                        found.push(done.rows > 0);
                    }
                    Ok(found)
                })
            });
            write.await
        })
    }

    /// Invalidates the rows of shelves, which were not changed.
    pub(crate) async fn invalidate_shelves(
        &self,
        shelves: impl Iterator<Item = i64> + Send,
    ) -> Result<(), Error> {
        let tags = shelves.map(|shelf| format!("shelf:{shelf}"));
        match self {
            Self::TaggedAside(rows) => rows.invalidate_tags(tags).await,
            Self::TaggedThrough(rows) => rows.invalidate_tags(tags).await,
            Self::AsideChildren(rows) => rows.invalidate_tags(tags).await,
            Self::ThroughChildren(rows) => rows.invalidate_tags(tags).await,
            Self::AsideParents(rows) => rows.invalidate_tags(tags).await,
            Self::ThroughParents(rows) => rows.invalidate_tags(tags).await,
            Self::Aside(_) | Self::Through(_) => Ok(()),
        }
    }

    /// A write inside a transaction, and what the transaction then sees.
    pub(crate) async fn write_within(
        &self,
        transaction: &mut Transaction<'_, DB>,
        verb: Verb,
        id: i64,
        value: Value,
    ) -> Result<Value, Error> {
        either!(self, Row, rows => {
            let row = Row::new(id, value.unwrap_or_default());
            let mut within = rows.within(transaction);
            match verb {
                Verb::Insert => within.insert(&row).await.map(drop)?,
                Verb::Update => within.update(&row).await.map(drop)?,
                Verb::Save => within.save(&row).await.map(drop)?,
                Verb::Delete => within.delete(id).await?,
            }
            let found: Option<Arc<Row>> = within.find(id).await?;
            Ok(found.map(|row| row.value))
        })
    }
}

fn origin(origin: larder::Origin) -> Origin {
    match origin {
        larder::Origin::Cache => Origin::Cache,
        larder::Origin::Shared => Origin::Shared,
        _ => Origin::Database,
    }
}
