//! How the health of a cache is put together.
//!
//! Not here: what the problems are (`health`), and those of Redis (`store::redis::condition`).

use super::{Cache, Inner};
use crate::{
    health::{Health, Problem, ProblemKind, StoreHealth},
    store::Store,
};

impl Cache {
    /// Returns whether the store is used, and what does not work as it should, of all namespaces of the cache. The call asks
    /// nobody: it costs a few locks.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner().health()
    }
}

impl Inner {
    pub(crate) fn health(&self) -> Health {
        let StoreHealth {
            status,
            mut problems,
        } = self.store.health();
        let repairs = self.repairs.stats();
        if repairs.all_keys {
            let message = "too many invalidations could not be delivered, so nothing is cached until all keys were dropped";
            problems.push(Problem::new(
                ProblemKind::InvalidationsPending,
                None,
                message.to_owned(),
            ));
        } else if repairs.pending > 0 {
            let message = format!(
                "{} invalidations wait until they can be delivered; this process reads their rows from the database",
                repairs.pending
            );
            problems.push(Problem::new(
                ProblemKind::InvalidationsPending,
                None,
                message,
            ));
        }
        let paused = |what: &str, reads, fills| {
            let message = match (reads, fills) {
                (true, _) => format!("reads of {what} are paused"),
                (false, true) => format!("fills of {what} are paused"),
                (false, false) => return None,
            };
            Some(Problem::new(ProblemKind::Paused, None, message))
        };
        let pauses = &self.pauses;
        problems.extend(paused("this cache", pauses.reads(), pauses.fills()));
        for member in self.ledger.members() {
            let entity = member.spec().name;
            if let Some(why) = member.refusal() {
                problems.push(Problem::new(ProblemKind::NamespaceRefused, None, why));
            }
            if member.is_held() {
                let message = format!(
                    "{entity} is not cached, because another program may write to its table without announcing it"
                );
                problems.push(Problem::new(ProblemKind::EntityNotCached, None, message));
            }
            let pauses = member.pauses();
            problems.extend(paused(entity, pauses.reads(), pauses.fills()));
        }
        problems.dedup();
        Health {
            store: status,
            problems,
        }
    }
}
