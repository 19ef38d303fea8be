//! Asks for what waits in a queue, and for what has become of its writes.
//!
//! Invariant: a survey changes nothing. It does not bind the repository either, which would tell other programs that it is used.
//! Not here: the counters of this process (`stats`).

use std::collections::HashMap;

use futures_util::FutureExt;

use crate::{
    behind::{Pending, letters, offsets},
    context::Context,
    database::{backend::Backend, entity::Entity},
    observe::survey::{PartitionSurvey, Survey, TagSurvey},
    store::{Store, tags::TagStore},
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Asks the store and the database about the queue and the tags of the entity, if the repository was used since the store was
    /// connected to. What fails is left out.
    pub(crate) async fn survey(&self) -> Survey {
        if !self.bond.holds(self.cache.store.connection_number()) {
            return Survey::default();
        }
        let (partitions, dead_letters) = match Self::QUEUES {
            true => self.survey_queue().boxed().await,
            false => Default::default(),
        };
        Survey {
            partitions,
            dead_letters,
            tags: self.survey_tags().await,
        }
    }

    async fn survey_queue(&self) -> (Vec<PartitionSurvey>, Option<u64>) {
        let partitions = self.survey_partitions().await;
        (partitions, self.count_dead_letters().await)
    }

    async fn survey_partitions(&self) -> Vec<PartitionSurvey> {
        let Some(queue) = &self.queue else {
            return Vec::new();
        };
        let Ok(pending) = self.pending_by_partition().await else {
            return Vec::new();
        };
        let lost = offsets::lost_of_queue(&self.database.pool, &queue.name).await;
        let lost = lost.unwrap_or_default();
        let mut pending: HashMap<u16, Pending> = pending.into_iter().collect();
        let numbers = self
            .partitions()
            .map(|partition| partition.state.keys.number);
        let surveyed = numbers.map(|number| {
            let Pending { count, oldest } = pending.remove(&number).unwrap_or_default();
            PartitionSurvey {
                number,
                depth: count,
                oldest,
                lost: lost.get(&number).copied().unwrap_or_default(),
            }
        });
        surveyed.collect()
    }

    async fn count_dead_letters(&self) -> Option<u64> {
        let queue = self.queue.as_ref()?;
        let counted = letters::count(&self.database.pool, &queue.name);
        counted.await.ok()
    }

    async fn survey_tags(&self) -> Option<TagSurvey> {
        let clock = self.groups.clock.as_ref()?;
        let store = &self.cache.store;
        let reading = store.read_clock(clock).await.ok()??;
        let marks = store.count_marks(clock).await.ok()?;
        Some(TagSurvey {
            marks,
            floor: reading.floor,
        })
    }
}
