//! Compares cached lists of ids, those of lookups, with the database.
//!
//! A key does not tell the values that it stands for: its writing is not reversed, and a long one is a hash. A row that has the
//! values does. So rows of the list are read, and the first whose values make this key is the *witness*: the database is asked for the
//! ids of the rows with its values.
//!
//! A row that has left the list need not have announced itself there, because readers compare each row with the values (`read::list`).
//! So a list may have ids that the database does not find. It is stale if a reader would miss a row, or see rows in another order:
//! 1. Of the cached ids, keep those that the database finds. 2. The ids of the database must begin with them. 3. If the cached list says that
//!    there are no more, the two must be equal.
//!
//! A list of which no row has the values any more is not compared.
//!
//! Not here: the steps of an audit (`read::audit`), and the statement (`database::lookup`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::Cached;
use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity, lookup::IdList},
    error::Error,
    observe::audit::{Audit, Difference},
    protocol::key::Key,
    read::{content::RowOf, lookup::LookupOf},
};

/// Of how many ids of a list the rows are read to find one that has the values.
const WITNESSES: usize = 4;

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Compares the lists at these keys.
    pub(super) async fn audit_lists(
        self: &Arc<Self>,
        keys: &[Key],
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let mut of_lookups: BTreeMap<usize, Vec<&Key>> = BTreeMap::new();
        for key in keys {
            let name = self.keys.lookup_name(key);
            let lookup = E::SPEC.lookups.iter().position(|lookup| {
                let own = lookup.name.as_bytes();
                name.is_some_and(|name| name == own)
            });
            if let Some(lookup) = lookup {
                of_lookups.entry(lookup).or_default().push(key);
            }
        }
        for (lookup, keys) in of_lookups {
            let fingerprint = self.lookup_fingerprint(lookup);
            let cached = self.served::<LookupOf>(keys, fingerprint).await?;
            let first = cached.iter().flat_map(|cached| {
                let ids = cached.value.ids.iter().take(WITNESSES);
                ids.filter_map(|id| Some((self.key(id).ok()?, RowOf::of(id.clone()))))
            });
            let rows = self.rows_to_audit(first.collect()).await?;
            for cached in cached {
                let first = cached.value.ids.iter().take(WITNESSES);
                let witness = first
                    .filter_map(|id| rows.get(&self.key(id).ok()?))
                    .find(|row| self.has_values(row, lookup, &cached.key));
                let Some(witness) = witness.cloned() else {
                    audit.not_comparable += 1;
                    continue;
                };
                self.audit_list(lookup, &cached, witness, audit).await?;
            }
        }
        Ok(())
    }

    async fn audit_list(
        self: &Arc<Self>,
        lookup: usize,
        cached: &Cached<IdList<E::Id>>,
        witness: E,
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let found = self.read_to_audit(move |context, connection| {
            Box::pin(async move {
                let database = &context.database;
                Ok(database.select_like(connection, lookup, &witness).await?)
            })
        });
        let found = found.await?;
        if found.has_more && E::SPEC.lookups[lookup].is_unique {
            // A reader gets the error that several rows have the values.
            audit.not_comparable += 1;
            return Ok(());
        }
        if self.is_right(&cached.value, &found)? {
            self.note_audited(audit);
            audit.lists += 1;
            return Ok(());
        }
        let stale = audit.stale;
        let fingerprint = self.lookup_fingerprint(lookup);
        self.note_difference::<LookupOf>(cached, fingerprint, Difference::Rows, audit)
            .await?;
        audit.lists += audit.stale - stale;
        Ok(())
    }

    /// Returns whether readers of a cached list get the rows that the database finds.
    fn is_right(&self, cached: &IdList<E::Id>, found: &IdList<E::Id>) -> Result<bool, Error> {
        let keys = |list: &IdList<E::Id>| {
            let keys = list.ids.iter().map(|id| self.key(id));
            keys.collect::<Result<Vec<_>, _>>()
        };
        let (cached_keys, found_keys) = (keys(cached)?, keys(found)?);
        let known: HashSet<_> = found_keys.iter().collect();
        let mut kept = cached_keys.iter().filter(|key| known.contains(key));
        let mut left = found_keys.iter();
        let begin_alike = kept.all(|key| left.next() == Some(key));
        Ok(begin_alike && (cached.has_more || (left.next().is_none() && !found.has_more)))
    }
}
