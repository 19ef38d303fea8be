//! The payload of a row: how it is encoded for a store, and decoded again.
//!
//! A row of several dozen megabytes delays all later commands on the connection, and Redis closes a connection that
//! sends more than `proto-max-bulk-len` in one argument. So larder does not send rows that are too large.
//!
//! 1. A row is encoded, decoded again and compared with itself (`round_trip`). If its codec changes it, it is not
//!    stored.
//! 2. A read returns a row that is too large, but does not cache it, and counts it. A write of such a row to a queue
//!    fails before it is acknowledged.
//!
//! 3. A payload that is larger than any row that this repository stores is damage, and not decoded.
//!
//! Invariant: no store gets a row that is larger than [`Context::bound`], or that its codec does not reproduce.
//! Not here: how a row is compared (`round_trip`). The in-process store keeps rows and not their bytes, but accepts
//! only those that Redis would accept.

use std::sync::Arc;

use crate::{
    context::Context,
    database::{
        backend::Backend,
        entity::Entity,
        lookup::IdList,
        round_trip::{Carried, Mismatch},
    },
    error::{Error, ErrorKind},
    protocol::{
        key::Key,
        size::{Bound, TooLarge},
    },
    store::{Payload, Representation, Store, failpoint::Mechanism, queue::Body},
};

/// The origin of a row that is to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowSource {
    Database,
    Application,
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    /// Returns the row in a payload, if it can be decoded and is the row of this key.
    pub(crate) fn decode_row(&self, key: &Key, payload: Payload) -> Option<Arc<E>> {
        match payload {
            Payload::Bytes(bytes, header) => {
                let bytes = self.readable(&bytes[header..])?;
                let row = self.database.decode(self.codec, bytes).ok()?;
                let is_own = self.is_at(key, &row.id());
                let disables = self.cache.store.disables(Mechanism::OwnKey);
                (is_own || disables).then(|| Arc::new(row))
            }
            Payload::Shared(row, _) => row.downcast().ok(),
        }
    }

    /// Returns whether a key is that of an id.
    pub(crate) fn is_at(&self, key: &Key, id: &E::Id) -> bool {
        self.key(id).is_ok_and(|own| own == *key)
    }

    /// Returns the payload of a row of the database, if the codec reproduces it.
    pub(crate) fn encode_payload(&self, row: &Arc<E>) -> Option<Payload> {
        match self.carry(row, RowSource::Database) {
            Ok((payload, written)) => {
                let fits = self.fits(encoded(&payload, &written));
                fits.then_some(payload)
            }
            Err(mismatch) => {
                self.cache
                    .logged_mismatches
                    .log_once(E::SPEC.name, &mismatch);
                None
            }
        }
    }

    /// Returns the row as the store keeps it, and its encoded form if that is something else. Every stored row comes
    /// from here.
    pub(crate) fn carry(
        &self,
        row: &Arc<E>,
        source: RowSource,
    ) -> Result<(Payload, Vec<u8>), Mismatch> {
        if self.cache.store.disables(Mechanism::RoundTrip)
            && let Ok(bytes) = self.codec.encode(&**row)
        {
            return Ok(match self.cache.store.keeps() {
                Representation::Rows => (Payload::Shared(Arc::clone(row) as _, bytes.len()), bytes),
                Representation::Bytes => (Payload::Bytes(bytes, 0), Vec::new()),
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
            // Keep the decoded row, as Redis would return it: the original may contain more than the codec writes.
            Representation::Rows => (Payload::Shared(Arc::new(value) as _, bytes.len()), bytes),
            Representation::Bytes => (Payload::Bytes(bytes, 0), Vec::new()),
        })
    }

    /// Returns the payload of the ids that a lookup found, if the codec reproduces them.
    pub(crate) fn encode_ids(&self, key: &Key, ids: &Arc<IdList<E::Id>>) -> Option<Payload> {
        let carried = self.database.carry_ids(self.codec, ids);
        let Carried { bytes, value } = carried
            .inspect_err(|mismatch| {
                self.counters.codec_mismatches.add_one();
                self.cache
                    .logged_mismatches
                    .log_once(E::SPEC.name, mismatch);
            })
            .ok()?;
        self.fits(&bytes).then(|| match self.cache.store.keeps() {
            Representation::Rows => Payload::Shared(Arc::new(value) as _, bytes.len()),
            Representation::Bytes => Payload::Bytes(key.marked(&bytes), 0),
        })
    }

    /// Returns the ids in a payload, if they can be decoded and were stored at this key.
    pub(crate) fn decode_ids(&self, key: &Key, payload: Payload) -> Option<Arc<IdList<E::Id>>> {
        match payload {
            Payload::Bytes(bytes, header) => {
                let bytes = self.readable(key.unmarked(&bytes[header..])?)?;
                let ids = self.codec.decode(bytes);
                ids.ok().map(Arc::new)
            }
            Payload::Shared(ids, _) => ids.downcast().ok(),
        }
    }

    /// Returns the encoded id of a row, if the codec reproduces it.
    pub(crate) fn carry_id(&self, id: &E::Id) -> Result<Vec<u8>, Mismatch> {
        let carried = self.database.carry_id(self.codec, id);
        let carried = carried.inspect_err(|_| self.counters.codec_mismatches.add_one())?;
        Ok(carried.bytes)
    }

    /// Returns the current maximum size of an encoded row.
    fn bound(&self) -> Bound {
        let own = self.policy.max_row.unwrap_or(self.cache.max_row);
        let store = self.cache.store.most_bytes();
        if own <= store {
            Bound::MaxRow(own)
        } else {
            Bound::Store(store)
        }
    }

    /// Returns the bytes of a payload, unless they are more than this repository would store. Those of an entity with a queue may
    /// be a write that was acknowledged under another `max_row`, so only the store bounds them.
    pub(crate) fn readable<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        (bytes.len() as u64 <= self.most_readable()).then_some(bytes)
    }

    /// Returns the size of the largest payload that is read.
    pub(crate) fn most_readable(&self) -> u64 {
        match &self.queue {
            None => self.bound().bytes(),
            Some(_) => self.cache.store.most_bytes(),
        }
    }

    /// Fails if an encoded row, or id, is too large.
    pub(crate) fn check_size(&self, encoded: &[u8]) -> Result<(), TooLarge> {
        let (bytes, bound) = (encoded.len() as u64, self.bound());
        if bytes <= bound.bytes() {
            return Ok(());
        }
        self.counters.too_large.add_one();
        Err(TooLarge { bytes, bound })
    }

    /// Returns whether an encoded row may be cached. Logs the first one that may not.
    pub(crate) fn fits(&self, encoded: &[u8]) -> bool {
        let checked = self.check_size(encoded);
        if let Err(reason) = &checked
            && self.size_was_logged.set(()).is_ok()
        {
            tracing::warn!(
                entity = E::SPEC.name,
                %reason,
                "a row is too large to be cached; rows of this size are read from the database each time; raise `max_row` or \
                 make the rows smaller"
            );
        }
        checked.is_ok()
    }

    /// Fails if the row of a write is too large for the queue.
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
            let described = self.describe_row(key);
            let message = format!(
                "failed to {verb} {described}: the row is too large to be queued: {reason}"
            );
            Error::new(ErrorKind::TooLarge, message)
        })
    }
}

/// Returns the encoded form of a row. For a store that keeps rows, these are the bytes that the codec has written.
fn encoded<'a>(payload: &'a Payload, written: &'a [u8]) -> &'a [u8] {
    match payload {
        Payload::Bytes(bytes, header) => &bytes[*header..],
        Payload::Shared(..) => written,
    }
}
