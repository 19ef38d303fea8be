//! Collects the changes of a write while it runs: the keys of one or more repositories, and the cache update of each.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    policy::OnOutage,
    protocol::{
        key::Key,
        tags::{Changed, Tag},
    },
    store::{CacheUpdate, Fill, Store, failpoint::Mechanism},
    write::target::{Dependents, WriteTarget},
};

/// The keys of a write, and their cache updates.
#[derive(Default)]
pub(crate) struct PendingWrites {
    pub(super) targets: Vec<Staged>,
    /// Whether rows were deleted.
    has_deleted: bool,
}

pub(super) struct Staged {
    pub(super) target: Arc<dyn WriteTarget>,
    pub(super) keys: HashMap<Key, Option<CacheUpdate>>,
    /// Whether any row may have changed.
    pub(super) all: bool,
    /// What may have changed by its tags, for an entity with tags.
    pub(super) tagged: Option<Changed>,
}

impl Staged {
    fn add_tagged(&mut self, changed: Changed) {
        match &mut self.tagged {
            Some(own) => own.add(changed),
            None => self.tagged = Some(changed),
        }
    }
}

impl PendingWrites {
    /// Records a key of a repository and its cache update. The last record of a key counts.
    pub(crate) fn mark_changed(
        &mut self,
        target: Arc<dyn WriteTarget>,
        key: Key,
        update: Option<CacheUpdate>,
    ) {
        self.of(target).keys.insert(key, update);
    }

    /// Records that any row of a repository may be changed.
    pub(crate) fn mark_all_changed(&mut self, target: Arc<dyn WriteTarget>) {
        // No row has this key. Its intent shows whether the store can be reached, and gives the commit a deadline.
        let nobody = Key::from_bytes(target.prefix());
        let has_clock = target.tag_clock().is_some();
        let staged = self.of(target);
        staged.keys.insert(nobody, None);
        match has_clock {
            true => staged.add_tagged(Changed::All),
            false => staged.all = true,
        }
    }

    /// Records that the rows with some tags of a repository may be changed.
    pub(crate) fn mark_tags_changed(&mut self, target: Arc<dyn WriteTarget>, tags: Vec<Tag>) {
        let nobody = Key::from_bytes(target.prefix());
        let staged = self.of(target);
        staged.keys.insert(nobody, None);
        staged.add_tagged(Changed::Tags(tags));
    }

    /// Records that rows of another entity may be changed, by the database or by the user.
    pub(crate) fn mark_beside(&mut self, target: Arc<dyn WriteTarget>, changed: Changed) {
        match (changed, target.tag_clock()) {
            (Changed::All, None) => self.mark_all_changed(target),
            (changed, _) => self.of(target).add_tagged(changed),
        }
    }

    /// Records a row as another entity over the same table has it.
    pub(crate) fn mark_twin(
        &mut self,
        target: Arc<dyn WriteTarget>,
        key: Key,
        changed: Option<Changed>,
    ) {
        let staged = self.of(target);
        staged.keys.insert(key, None);
        if let Some(changed) = changed {
            staged.add_tagged(changed);
        }
    }

    /// Records that what depends on the rows of a repository is changed.
    pub(crate) fn mark_dependents(&mut self, target: &dyn WriteTarget) {
        let store = &target.cache().store;
        if let Some(Dependents { queries, tag }) = target.dependents()
            && !store.disables(Mechanism::Dependents)
        {
            let changed = Changed::Tags(vec![*tag]);
            self.of(Arc::clone(queries)).add_tagged(changed);
        }
    }

    fn of(&mut self, target: Arc<dyn WriteTarget>) -> &mut Staged {
        let (on_outage, strict) = (target.policy().on_outage, Arc::clone(&target));
        // Two repositories of one entity have the same keys, and each key must be recorded once.
        let known = self.targets.iter().position(|staged| {
            Arc::ptr_eq(staged.target.cache(), target.cache())
                && staged.target.prefix() == target.prefix()
        });
        let at = known.unwrap_or_else(|| {
            self.mark_dependents(&*target);
            self.targets.push(Staged {
                target,
                keys: HashMap::new(),
                all: false,
                tagged: None,
            });
            self.targets.len() - 1
        });
        let staged = &mut self.targets[at];
        // Several entities of one write can change a third one. If one of them is `consistent`, so is all of the write.
        if on_outage == OnOutage::Consistent && staged.target.policy().on_outage != on_outage {
            staged.target = strict;
        }
        staged
    }

    /// Cancels the cache updates recorded so far: other statements may have changed the rows since.
    pub(crate) fn cancel_updates(&mut self) {
        for staged in &mut self.targets {
            for update in staged.keys.values_mut() {
                *update = None;
            }
        }
    }

    /// Cancels the recorded cache updates with a row: a delete may have changed these rows through a foreign key. Absences
    /// stay.
    pub(crate) fn cancel_row_updates(&mut self) {
        self.has_deleted = true;
        for staged in &mut self.targets {
            for update in staged.keys.values_mut() {
                let absence = |update: &CacheUpdate| matches!(update.fill, Fill::Negative(_));
                *update = update.take().filter(absence);
            }
        }
    }

    /// Adds what was recorded later than this.
    pub(crate) fn absorb(&mut self, later: Self) {
        if later.has_deleted {
            self.cancel_row_updates();
        }
        for staged in later.targets {
            for (key, update) in staged.keys {
                self.mark_changed(Arc::clone(&staged.target), key, update);
            }
            let own = self.of(staged.target);
            own.all |= staged.all;
            if let Some(tagged) = staged.tagged {
                own.add_tagged(tagged);
            }
        }
    }

    /// Returns the shortest intent TTL of the keys, if there are any.
    pub(crate) fn intent_ttl(&self) -> Option<Duration> {
        self.targets
            .iter()
            .map(|staged| staged.target.policy().intent_ttl)
            .min()
    }
}
