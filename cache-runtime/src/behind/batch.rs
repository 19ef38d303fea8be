//! The writes that a flush takes from a queue, and how far they advance the position.
//!
//! Not here: how they are read (`flush`) and applied (`apply`).

use std::sync::Arc;

use crate::{
    behind::{letter_seal::LetterSeals, offsets::QueueIncarnation},
    database::entity::Entity,
    policy::Codec,
    protocol::key::Key,
};

/// One write taken from a queue.
#[derive(Clone)]
pub struct Queued<E: Entity> {
    /// Its number in the incarnation.
    pub number: u64,
    /// The key of the row.
    pub key: Key,
    /// What the write does to its row.
    pub image: Image<E>,
}

/// What a queued write does to its row.
#[derive(Clone)]
pub enum Image<E: Entity> {
    /// Stores this row.
    Row(Arc<E>),
    /// Deletes the row with this id.
    Deletion(E::Id),
    /// A write that this program cannot decode, because another version has written it.
    Unreadable {
        /// Whether the payload is the id of a row to delete, and not a row.
        is_deletion: bool,
        /// The number of the codec that wrote it.
        codec: u8,
        /// The layout of the struct that was encoded.
        layout: u32,
        /// The encoded row or id.
        payload: Vec<u8>,
        /// Why it cannot be decoded.
        reason: String,
    },
}

impl<E: Entity> Queued<E> {
    /// Returns the id of the row, or `None` if the write cannot be decoded.
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
    /// The position before the flush.
    pub from: u64,
    /// The position after the flush.
    pub to: u64,
    /// The writes with numbers after `from` and up to `to`, in the order of the queue.
    pub writes: &'a [Queued<E>],
    /// How many of these numbers have no write, because the store has lost it.
    pub lost: u64,
    /// For a closed incarnation, the number up to which its loss was counted. Its writes came too late: all become dead
    /// letters.
    pub lost_counted_to: Option<u64>,
    /// Whether larder compares the rows with what the database stored.
    pub compares: bool,
    /// The codec that encodes dead letters.
    pub codec: Codec,
    /// The layout of the rows, which is stored in dead letters.
    pub layout: u32,
    /// What seals dead letters.
    pub seals: LetterSeals<'a>,
    /// The current time, in milliseconds since 1970.
    pub now_ms: u64,
}
