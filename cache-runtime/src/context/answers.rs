//! What the state of a repository keeps for the answers of cached queries.
//!
//! Not here: how an answer is read and stored (`read/query`).

use std::{
    any::TypeId,
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use serde::de::DeserializeOwned;

use crate::{
    context::versioned,
    database::queries::Answer,
    protocol::{
        codec,
        fingerprint::Fingerprint,
        tags::{Tag, Tags},
    },
    read::flight::Flights,
};

/// The answers of cached queries, as far as this process knows them.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) flights: Flights<Answer>,
    /// The hash of the layout of each type that was asked for, so that each is computed once.
    layouts: RwLock<HashMap<TypeId, u32>>,
}

impl Answers {
    /// Returns the fingerprint of an answer: of its type, its tags, and the version of the namespace. A program in which the query
    /// has other tags must not use it.
    pub(crate) fn fingerprint<T: DeserializeOwned + 'static>(
        &self,
        version: Option<&str>,
        tags: &Tags,
    ) -> u32 {
        let mut hash = Fingerprint::default();
        hash.write(&self.layout::<T>(version).to_le_bytes());
        let mut tags = tags.as_slice().to_vec();
        tags.sort_unstable();
        tags.dedup();
        for Tag(tag) in tags {
            hash.write(&tag.to_le_bytes());
        }
        hash.finish()
    }

    /// Returns the hash of the layout of a type, and of the version of the namespace.
    fn layout<T: DeserializeOwned + 'static>(&self, version: Option<&str>) -> u32 {
        let id = TypeId::of::<T>();
        let known = self.layouts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = known.get(&id) {
            return *layout;
        }
        drop(known);
        let mut hash = versioned(version);
        hash.write(b"marked");
        hash.write(&codec::shape::<T>().to_le_bytes());
        let mut layouts = self.layouts.write().unwrap_or_else(PoisonError::into_inner);
        *layouts.entry(id).or_insert_with(|| hash.finish())
    }
}
