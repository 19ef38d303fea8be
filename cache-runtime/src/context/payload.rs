//! The payload of a row: what goes to a store, and what comes back from it.
//!
//! A row of some dozens of megabytes holds up everybody whose commands come behind it on the connection, and Redis breaks a
//! connection on which it is sent more at once than its `proto-max-bulk-len`. So what is too large is not sent.
//!
//! 1. A row is encoded, decoded again and compared with itself (`round_trip`): what its codec changes is not stored.
//! 2. A row that is too large goes to its caller, is not cached, and is counted. A write to a queue is refused before it is
//!    acknowledged.
//!
//! Invariant: no store is given a row that is larger than [`Context::bound`], or that does not come back as it was.
//! Not here: how a row is compared (`round_trip`). The in-process store keeps rows and not their bytes, but takes none that
//! Redis would not take.

use std::sync::Arc;

#[cfg(feature = "test-util")]
use crate::store::faulty::Mechanism;
use crate::{
    context::Context,
    database::{
        backend::Backend,
        entity::Entity,
        round_trip::{Carried, Mismatch},
    },
    error::{Error, ErrorKind},
    protocol::{
        key::Key,
        size::{Bound, TooLarge},
    },
    store::{Keeps, Payload, Store, queue::Body},
};

/// Who has given a row that is to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowSource {
    Database,
    Application,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// The row in a payload, if it can be read.
    pub(crate) fn decode_payload(&self, payload: Payload) -> Option<Arc<E>> {
        match payload {
            Payload::Bytes(bytes, header) => {
                let row = self.database.decode(self.codec, &bytes[header..]);
                row.ok().map(Arc::new)
            }
            Payload::Shared(row) => row.downcast().ok(),
        }
    }

    /// A row of the database as the store keeps it, if the codec gives it back.
    pub(crate) fn encode_payload(&self, row: &Arc<E>) -> Option<Payload> {
        match self.carry(row, RowSource::Database) {
            Ok((payload, written)) => {
                let fits = self.fits(encoded(&payload, &written));
                fits.then_some(payload)
            }
            Err(mismatch) => {
                self.cache.told.tell(E::SPEC.name, &mismatch);
                None
            }
        }
    }

    /// The row as the store keeps it, and as the codec writes it where that is another thing. All that is stored comes from
    /// here.
    pub(crate) fn carry(
        &self,
        row: &Arc<E>,
        source: RowSource,
    ) -> Result<(Payload, Vec<u8>), Mismatch> {
        #[cfg(feature = "test-util")]
        if self.cache.store.is_left_out(Mechanism::RoundTrip)
            && let Ok(bytes) = self.codec.encode(&**row)
        {
            return Ok(match self.cache.store.keeps() {
                Keeps::Rows => (Payload::Shared(Arc::clone(row) as _), bytes),
                Keeps::Bytes => (Payload::Bytes(bytes, 0), Vec::new()),
            });
        }
        let carried = match source {
            RowSource::Database => self.database.carry_loaded(self.codec, row),
            RowSource::Application => self.database.carry(self.codec, row),
        };
        let Carried { bytes, value } = carried.inspect_err(|_| {
            self.counters.codec_mismatches.add_one();
        })?;
        Ok(match self.cache.store.keeps() {
            // What Redis would give back, and not the row itself: it may know more than can be written down.
            Keeps::Rows => (Payload::Shared(Arc::new(value) as _), bytes),
            Keeps::Bytes => (Payload::Bytes(bytes, 0), Vec::new()),
        })
    }

    /// The id of a row as the codec writes it, if the codec gives it back.
    pub(crate) fn carry_id(&self, id: &E::Id) -> Result<Vec<u8>, Mismatch> {
        let carried = self.database.carry_id(self.codec, id);
        let carried = carried.inspect_err(|_| self.counters.codec_mismatches.add_one())?;
        Ok(carried.bytes)
    }

    /// How many bytes an encoded row may have now.
    fn bound(&self) -> Bound {
        let own = self.policy.max_row.unwrap_or(self.cache.max_row);
        let store = self.cache.store.most_bytes();
        if own <= store {
            Bound::MaxRow(own)
        } else {
            Bound::Store(store)
        }
    }

    /// Judges an encoded row, or id, by its size.
    pub(crate) fn check_size(&self, encoded: &[u8]) -> Result<(), TooLarge> {
        let (bytes, bound) = (encoded.len() as u64, self.bound());
        if bytes <= bound.bytes() {
            return Ok(());
        }
        self.counters.too_large.add_one();
        Err(TooLarge { bytes, bound })
    }

    /// Whether an encoded row may be cached. Says once that one may not.
    pub(crate) fn fits(&self, encoded: &[u8]) -> bool {
        let checked = self.check_size(encoded);
        if let Err(reason) = &checked
            && self.told_of_size.set(()).is_ok()
        {
            tracing::warn!(
                entity = E::SPEC.name,
                %reason,
                "a row is too large to be cached; it is read from the database each time, as all others of its size"
            );
        }
        checked.is_ok()
    }

    /// Refuses a write whose row is too large for the queue.
    pub(crate) fn check_put(
        &self,
        verb: &str,
        key: &Key,
        body: &Body,
        written: &[u8],
    ) -> Result<(), Error> {
        let encoded = match body {
            Body::Row(payload) => encoded(payload, written),
            Body::Deletion(id) => id,
        };
        self.check_size(encoded).map_err(|reason| {
            let what = self.what(key);
            let message =
                format!("failed to {verb} {what}: its row is too large to be queued: {reason}");
            Error::new(ErrorKind::TooLarge, message)
        })
    }
}

/// The bytes of a row, of which a store that keeps rows has been given none: those that the codec has written.
fn encoded<'a>(payload: &'a Payload, written: &'a [u8]) -> &'a [u8] {
    match payload {
        Payload::Bytes(bytes, header) => &bytes[*header..],
        Payload::Shared(_) => written,
    }
}
