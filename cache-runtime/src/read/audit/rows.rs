//! Compares cached rows with those of the database.
//!
//! Where writes are queued, a cached row may be one that the database does not have yet. So of a row that differs the queued write is looked
//! for, and the row is read again once there is none: from then on the database has it.
//!
//! Not here: the steps of an audit (`read::audit`).

use std::{collections::HashMap, sync::Arc};

use super::{Cached, not_audited};
use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    observe::audit::{Audit, Difference},
    protocol::key::Key,
    read::content::{Content, RowOf},
    store::{Store, failpoint::Mechanism, queue::QueueStore},
};

/// What the comparison of a cached row with the database says.
enum Compared {
    Equal,
    Different(Difference),
    NotComparable,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Compares the rows at these keys.
    pub(super) async fn audit_rows(
        self: &Arc<Self>,
        keys: &[Key],
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let fingerprint = self.fingerprint;
        let cached = self.served::<RowOf<E>>(keys.iter().collect(), fingerprint);
        let cached = cached.await?;
        let wanted = cached.iter().map(Self::wanted_row).collect();
        let mut rows = self.rows_to_audit(wanted).await?;
        for cached in cached {
            let compared = self.compare_row(&cached, rows.remove(&cached.key));
            let compared = match compared {
                Compared::Different(_) if self.queue.is_some() => {
                    if self.is_queued(&cached.key).await? {
                        audit.changing += 1;
                        continue;
                    }
                    let again = self.rows_to_audit(vec![Self::wanted_row(&cached)]).await?;
                    self.compare_row(&cached, again.into_values().next())
                }
                compared => compared,
            };
            match compared {
                Compared::Equal => self.note_audited(audit),
                Compared::NotComparable => audit.not_comparable += 1,
                Compared::Different(difference) => {
                    self.note_difference::<RowOf<E>>(&cached, fingerprint, difference, audit)
                        .await?;
                }
            }
        }
        Ok(())
    }

    fn wanted_row(cached: &Cached<E>) -> (Key, RowOf<E>) {
        (cached.key.clone(), RowOf::of(cached.value.id()))
    }

    fn compare_row(&self, cached: &Cached<E>, row: Option<E>) -> Compared {
        let Some(row) = row else {
            return Compared::Different(Difference::NoRow);
        };
        match self.database.different_columns(&cached.value, &row) {
            Ok(columns) if columns.is_empty() => Compared::Equal,
            Ok(columns) => Compared::Different(Difference::Columns(columns)),
            Err(_) => Compared::NotComparable,
        }
    }

    /// Returns whether the key has a queued write.
    async fn is_queued(&self, key: &Key) -> Result<bool, Error> {
        if self.cache.store.disables(Mechanism::SecondLook) {
            return Ok(false);
        }
        let queued = self.cache.store.queued(key).await;
        Ok(queued.map_err(not_audited::<E>)?.is_some())
    }

    /// Reads rows from the database.
    pub(super) async fn rows_to_audit(
        self: &Arc<Self>,
        wanted: Vec<(Key, RowOf<E>)>,
    ) -> Result<HashMap<Key, E>, Error> {
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        self.read_to_audit(move |context, connection| {
            Box::pin(async move {
                let wanted: Vec<_> = wanted.iter().map(|(key, row)| (key, row)).collect();
                RowOf::select(context, connection, &wanted).await
            })
        })
        .await
    }
}
