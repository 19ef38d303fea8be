//! How an entity is cached, as tools read it.
//!
//! Not here: what it means (`protocol::listing`), and when it is stored (`cache::listing`).

use crate::{
    clock::millis,
    context::Context,
    database::{backend::Backend, entity::Entity},
    policy::{Coherence, Durability, OnOutage, Strategy},
    protocol::{
        listing::{ListedEntity, ListedLookup, ListedQueue},
        tags::TagPattern,
    },
};

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns how the entity is cached.
    pub(crate) fn listed(&self) -> ListedEntity {
        let (spec, policy) = (E::SPEC, &self.policy);
        let columns = &self.database.columns;
        let lookups = spec.lookups.iter().zip(&self.lookup_fingerprints);
        let queue = self.queue.as_ref().map(|queue| ListedQueue {
            name: queue.name.to_string(),
            partitions: policy.queue.partitions,
            durability: match policy.queue.durability {
                Some(Durability::Fsync) => "fsync",
                Some(Durability::Memory) => "memory",
                None => "",
            }
            .to_owned(),
        });
        ListedEntity {
            entity: spec.name.to_owned(),
            namespace: self.bond.namespace.clone(),
            table: spec.table.to_owned(),
            database: DB::DIALECT.system_name().to_owned(),
            strategy: match policy.strategy {
                Strategy::Aside => "aside",
                Strategy::WriteThrough => "write_through",
                Strategy::WriteBehind => "write_behind",
            }
            .to_owned(),
            coherence: match policy.coherence {
                Coherence::Intent => "intent",
                Coherence::Lease => "lease",
                Coherence::Ttl => "ttl",
            }
            .to_owned(),
            codec: self.codec.number(),
            layout: self.fingerprint,
            prefix: String::from_utf8_lossy(self.keys.example()).into_owned(),
            id: columns
                .iter()
                .filter(|column| column.role.is_id())
                .map(|column| column.name.to_owned())
                .collect(),
            columns: columns
                .iter()
                .map(|column| (column.name.to_owned(), column.type_name().to_owned()))
                .collect(),
            lookups: lookups
                .map(|(lookup, layout)| ListedLookup {
                    name: lookup.name.to_owned(),
                    columns: lookup.columns.iter().map(|&name| name.to_owned()).collect(),
                    unique: lookup.is_unique,
                    layout: *layout,
                })
                .collect(),
            tags: spec.tags.iter().map(TagPattern::written).collect(),
            queue,
            ttl_ms: millis(policy.ttl),
            negative_ttl_ms: policy.negative_ttl.map(millis),
            intent_ttl_ms: millis(policy.intent_ttl),
            read_only: spec.read_only,
            on_outage: match policy.on_outage {
                OnOutage::Available => "available",
                OnOutage::Consistent => "consistent",
            }
            .to_owned(),
            larder: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
