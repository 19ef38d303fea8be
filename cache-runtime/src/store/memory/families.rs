//! The entities over each table, as the in-process store records them.
//!
//! All programs that use the store are this one, so it tells them when a family has changed: a repository compares a count with
//! the one of its last reading. So nobody has to wait, and no record is ever too old.
//! Not here: the rule of a record (`protocol/family`).

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::protocol::{
    claim::Claim,
    family::{Family, record},
};

/// The families of the tables of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Families {
    /// The records by namespace and table.
    records: Mutex<HashMap<(String, String), String>>,
    changes: AtomicU64,
}

impl Families {
    /// Returns how often a family has changed.
    #[inline]
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Records the entity of a claim, and returns the others over its table.
    pub(super) fn claim(&self, claim: &Claim<'_>) -> Family {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if claim.entity.is_empty() {
            records.retain(|(namespace, _), _| namespace != claim.namespace);
            self.changes.fetch_add(1, Ordering::Release);
            return Family::default();
        }
        let place = (claim.namespace.to_owned(), claim.table.to_owned());
        let held = records.get(&place).map_or("", String::as_str);
        let recorded = record(held, claim.shape, !claim.is_look(), 0);
        let mut family = recorded.family;
        if let Some(changed) = recorded.changed {
            records.insert(place, changed);
            self.changes.fetch_add(1, Ordering::Release);
        }
        family.changes = self.changes();
        family
    }
}
