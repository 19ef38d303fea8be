//! The seal of a dead letter, where the cache has keys (`CacheBuilder::authenticate`).
//!
//! A letter becomes a write again when it is replayed. So it is sealed: for its place in the table, for its key, and for what it does.
//! Whoever can change the table can then neither change a letter nor put it elsewhere unnoticed.
//!
//! The sealed payload is an entry (`docs/format.md`), and the number of the codec in the table is 256 higher. What somebody else
//! has written into the queue gets no seal.
//!
//! Not here: the seal itself (`protocol::seal`). A store in the process has no keys.

use std::{fmt, marker::PhantomData};

use crate::store::AnyStore;
#[cfg(feature = "redis")]
use crate::{
    protocol::{
        key::Key,
        seal::{Refusal, Seals},
        state::Identity,
    },
    store::{Store, failpoint::Mechanism, redis::RedisStore},
};

/// What is added to the number of the codec of a letter whose payload is sealed.
const SEALED: u64 = 256;

/// Where a letter belongs, and what it does.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(feature = "redis"),
    expect(dead_code, reason = "nothing is sealed")
)]
pub(crate) struct SealedPlace<'l> {
    pub(crate) queue: &'l str,
    pub(crate) partition: u16,
    pub(crate) epoch: u64,
    pub(crate) number: u64,
    /// The value of the `operation` column.
    pub(crate) operation: &'l str,
    /// The key of the row, as the table has it.
    pub(crate) key: &'l str,
}

/// A payload with the number of its codec in the table.
pub(crate) struct Coded {
    pub(crate) codec: u64,
    pub(crate) payload: Vec<u8>,
}

/// Seals letters and opens them.
#[derive(Clone, Copy, Default)]
pub struct LetterSeals<'s> {
    #[cfg(feature = "redis")]
    store: Option<&'s RedisStore>,
    /// Whether a wrong seal is believed, in a negative control.
    #[cfg(feature = "redis")]
    believes: bool,
    lifetime: PhantomData<&'s ()>,
}

impl fmt::Debug for LetterSeals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LetterSeals").finish_non_exhaustive()
    }
}

#[cfg(feature = "redis")]
impl<'s> LetterSeals<'s> {
    /// Returns those of a store.
    pub(crate) fn of(store: &'s AnyStore) -> Self {
        Self {
            store: store.redis(),
            believes: store.disables(Mechanism::Seal),
            lifetime: PhantomData,
        }
    }

    /// Seals the payload of a letter, if there is a key.
    pub(crate) fn close(
        self,
        place: SealedPlace<'_>,
        layout: u32,
        codec: u8,
        payload: &[u8],
    ) -> Option<Coded> {
        let identity = Identity {
            history: 0,
            fingerprint: layout,
            codec,
        };
        let seals = self.store?.seals();
        let payload = seals.close_letter(&place.name(), identity, payload)?;
        Some(Coded {
            codec: SEALED + u64::from(codec),
            payload,
        })
    }

    /// Returns a payload without its seal. Fails, with the reason, if nobody with a key has stored it there.
    pub(crate) fn open(self, place: SealedPlace<'_>, coded: Coded) -> Result<Coded, &'static str> {
        let none = Seals::default();
        let seals = self.store.map_or(&none, RedisStore::seals);
        let opened = match coded.codec.checked_sub(SEALED) {
            Some(codec) => {
                let opened = seals.open_letter(&place.name(), &coded.payload, self.believes);
                opened.map(|payload| Coded { codec, payload })
            }
            None if seals.are_required() && !self.believes => Err(Refusal::Forged(
                "it has no tag, and this program believes only letters with a tag (`CacheBuilder::authenticate`)",
            )),
            None => Ok(coded),
        };
        opened.map_err(Refusal::reason)
    }
}

#[cfg(feature = "redis")]
impl SealedPlace<'_> {
    /// Returns a name that no other place has, for the tag.
    fn name(&self) -> Key {
        let Self {
            queue,
            partition,
            epoch,
            number,
            operation,
            key,
        } = self;
        // The length, so that no queue and key are another queue and key.
        let length = queue.len();
        let name = format!(
            "larder_dead_letters {partition}/{epoch}/{number} {operation} {length} {queue} {key}"
        );
        Key::from_bytes(name.as_bytes())
    }
}

#[cfg(not(feature = "redis"))]
impl<'s> LetterSeals<'s> {
    /// Returns those of a store, which has no keys.
    pub(crate) fn of(_: &'s AnyStore) -> Self {
        Self::default()
    }

    /// Seals nothing: there is no key.
    #[expect(clippy::unused_self, reason = "nothing is sealed")]
    pub(crate) fn close(self, _: SealedPlace<'_>, _: u32, _: u8, _: &[u8]) -> Option<Coded> {
        None
    }

    /// Fails, with the reason, if the payload is sealed.
    #[expect(clippy::unused_self, reason = "nothing is sealed")]
    pub(crate) fn open(self, _: SealedPlace<'_>, coded: Coded) -> Result<Coded, &'static str> {
        match coded.codec < SEALED {
            true => Ok(coded),
            false => {
                Err("it is sealed, and this program was built without larder's feature `redis`")
            }
        }
    }
}
