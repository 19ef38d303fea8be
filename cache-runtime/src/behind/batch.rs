//! What a flush takes from a queue: writes, and the step of the position that they are.
//!
//! Not here: how they are read (`flush`) and applied (`apply`).

use std::sync::Arc;

use crate::{
    behind::offsets::QueueIncarnation, database::entity::Entity, policy::Codec, protocol::key::Key,
};

/// One write taken from a queue.
#[derive(Clone)]
pub struct Queued<E: Entity> {
    /// Its place in the queue.
    pub number: u64,
    /// The key of the row.
    pub key: Key,
    /// What the row is to become.
    pub image: Image<E>,
}

/// What a queued write makes of its row.
#[derive(Clone)]
pub enum Image<E: Entity> {
    /// The whole row.
    Row(Arc<E>),
    /// No row.
    Deletion(E::Id),
    /// Something that this program cannot read, as another version has written it.
    Unreadable {
        /// Whether it is the id of a row to delete, and not a row.
        is_deletion: bool,
        /// The number of the codec that wrote it.
        codec: u8,
        /// The layout of the struct that it was written for.
        layout: u32,
        /// What the codec wrote.
        payload: Vec<u8>,
        /// Why it cannot be read.
        reason: String,
    },
}

impl<E: Entity> Queued<E> {
    /// The id of the row, unless the write cannot be read.
    pub(crate) fn id(&self) -> Option<E::Id> {
        match &self.image {
            Image::Row(row) => Some(row.id()),
            Image::Deletion(id) => Some(id.clone()),
            Image::Unreadable { .. } => None,
        }
    }
}

/// What a flush applies.
pub struct Batch<'a, E: Entity> {
    /// The incarnation of the queue.
    pub place: &'a QueueIncarnation,
    /// The position it is expected at.
    pub from: u64,
    /// The position it is moved to.
    pub to: u64,
    /// The writes in the order of the queue, numbered behind `from` up to `to`.
    pub writes: &'a [Queued<E>],
    /// How many numbers in between have no write: the store has lost them.
    pub lost: u64,
    /// Up to which number the loss of a closed incarnation has been counted. Its writes come too late, and all of them become
    /// dead letters.
    pub lost_counted_to: Option<u64>,
    /// Whether its rows are compared with what the database makes of them.
    pub compares: bool,
    /// The codec that dead letters are written with.
    pub codec: Codec,
    /// The layout of the rows, for whoever reads them.
    pub layout: u32,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
}
