//! The writes of a log as the database takes them: decoded, or as what cannot be read.

use std::sync::Arc;

use crate::{
    behind::{Image, Queued, letters::NOT_WRITTEN},
    context::Context,
    database::{backend::Backend, entity::Entity},
    policy::Codec,
    protocol::state::{Identity, Pending},
    store::{Payload, queue::Logged},
};

/// How much of what larder has not written a dead letter keeps, in bytes.
const KEPT: usize = 64 << 10;

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Decodes the row of a write that was prefetched. If it cannot be decoded, that is seen when the write is applied.
    pub(super) fn decode(&self, write: &mut Logged) {
        let Pending {
            is_deletion, meta, ..
        } = write.pending;
        if write.refused.is_none()
            && !is_deletion
            && let Payload::Bytes(..) = write.payload
        {
            let image = self.image(is_deletion, meta.lease.identity, &write.payload);
            if let Image::Row(row) = image
                && self.is_at(&write.key, &row.id())
            {
                let size = write.payload.size();
                write.payload = Payload::Shared(row, size);
            }
        }
    }

    /// A write of the log as the database takes it.
    pub(super) fn queued(&self, write: Logged) -> Queued<E> {
        let Logged {
            key,
            pending,
            payload,
            refused,
            ..
        } = write;
        let identity = pending.meta.lease.identity;
        let refused = match refused {
            Some(why) => Err(why),
            None => Ok(self.image(pending.is_deletion, identity, &payload)),
        };
        let own = refused.and_then(|image| {
            let is_own = match &image {
                Image::Row(row) => self.is_at(&key, &row.id()),
                Image::Deletion(id) => self.is_at(&key, id),
                Image::Unreadable { .. } => true,
            };
            match is_own {
                true => Ok(image),
                false => Err("its row has another key"),
            }
        });
        Queued {
            number: pending.position.number,
            image: own
                .unwrap_or_else(|why| not_written(pending.is_deletion, identity, &payload, why)),
            key,
        }
    }

    pub(crate) fn image(
        &self,
        is_deletion: bool,
        identity: Identity,
        payload: &Payload,
    ) -> Image<E> {
        let bytes = match payload {
            Payload::Shared(row, _) => match Arc::clone(row).downcast() {
                Ok(row) => return Image::Row(row),
                Err(_) => &[],
            },
            Payload::Bytes(bytes, header) => &bytes[*header..],
        };
        let read = match Codec::from_number(identity.codec) {
            None => Err("its codec is not compiled in".to_owned()),
            // A positional codec would read another layout as something else.
            Some(codec)
                if codec.is_positional()
                    && !is_deletion
                    && identity.fingerprint != self.fingerprint =>
            {
                Err("it was written in another layout of the struct".to_owned())
            }
            Some(codec) if is_deletion => {
                let id = codec.decode(bytes).map(Image::Deletion);
                id.map_err(|error| error.to_string())
            }
            Some(codec) => {
                let row = self.database.decode(codec, bytes).map(Arc::new);
                row.map(Image::Row).map_err(|error| error.to_string())
            }
        };
        read.unwrap_or_else(|reason| Image::Unreadable {
            is_deletion,
            codec: identity.codec,
            layout: identity.fingerprint,
            payload: bytes.to_vec(),
            reason,
        })
    }
}

/// Returns what becomes a dead letter because larder cannot have written it.
fn not_written<E: Entity>(
    is_deletion: bool,
    identity: Identity,
    payload: &Payload,
    why: &str,
) -> Image<E> {
    let bytes = match payload {
        Payload::Shared(..) => &[],
        Payload::Bytes(bytes, header) => &bytes[*header..],
    };
    Image::Unreadable {
        is_deletion,
        codec: identity.codec,
        layout: identity.fingerprint,
        payload: bytes[..bytes.len().min(KEPT)].to_vec(),
        reason: format!("{NOT_WRITTEN}: {why}"),
    }
}
