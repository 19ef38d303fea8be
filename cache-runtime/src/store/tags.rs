//! The clocks of tags in a store.
//!
//! A clock is at a key of its own. A store MAY lose it at any time, and MUST NOT continue a lost one: the next clock has
//! another incarnation.

use crate::{
    error::StoreError,
    protocol::{
        key::Key,
        tags::{Changed, Reading, Stamp, Tag},
        token::Token,
    },
    store::{Found, RealStore},
};

/// A clock, and when some tags were last invalidated.
pub type Marks = Option<(Reading, Vec<u64>)>;

/// The answer to a reading of a clock: the reading, if there is a clock.
pub type ClockAnswer = Result<Option<Reading>, StoreError>;

/// The operations on clocks.
pub trait TagStore {
    /// Reads keys and a clock, in the round trips that the keys need. Returns an answer for each key, and that of the clock.
    fn get_many_tagged(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
        clock: &Key,
    ) -> impl Future<Output = (Vec<Result<Found, StoreError>>, ClockAnswer)> + Send;

    /// Reads a clock, if there is one.
    fn read_clock(&self, clock: &Key) -> impl Future<Output = ClockAnswer> + Send;

    /// Returns how many tags a clock remembers.
    #[cfg(feature = "metrics")]
    fn count_marks(&self, clock: &Key) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Reads a clock and when each of these tags was last invalidated, in one step.
    fn read_marks(
        &self,
        clock: &Key,
        tags: &[Tag],
    ) -> impl Future<Output = Result<Marks, StoreError>> + Send;

    /// Reads a clock. Starts it if there is none.
    fn start_clock(&self, clock: &Key) -> impl Future<Output = Result<Reading, StoreError>> + Send;

    /// Invalidates entries: advances a clock, and records what was changed.
    fn advance_clock(
        &self,
        clock: &Key,
        changed: &Changed,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Announces a write of many rows, or prolongs it, for this many milliseconds.
    fn begin_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
        ttl_ms: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends a write of many rows.
    fn end_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Forgets the writes of many rows whose time is over.
    fn expire_tagged(&self, clock: &Key) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives the entry with this token a later stamp. Returns whether it has it now.
    fn restamp(
        &self,
        key: &Key,
        token: Token,
        stamp: Stamp,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

impl TagStore for RealStore {
    async fn get_many_tagged(
        &self,
        keys: &[&Key],
        fingerprint: u32,
        codec: u8,
        clock: &Key,
    ) -> (Vec<Result<Found, StoreError>>, ClockAnswer) {
        dispatch!(self, store => store.get_many_tagged(keys, fingerprint, codec, clock).await)
    }

    async fn read_clock(&self, clock: &Key) -> ClockAnswer {
        match self {
            Self::Memory(store) => store.read_clock(clock).await,
            // Boxed, to keep the future of a hit in process small.
            #[cfg(feature = "redis")]
            Self::Redis(store) => Box::pin(store.read_clock(clock)).await,
        }
    }

    #[cfg(feature = "metrics")]
    async fn count_marks(&self, clock: &Key) -> Result<u64, StoreError> {
        dispatch!(self, store => store.count_marks(clock).await)
    }

    async fn read_marks(&self, clock: &Key, tags: &[Tag]) -> Result<Marks, StoreError> {
        dispatch!(self, store => store.read_marks(clock, tags).await)
    }

    async fn start_clock(&self, clock: &Key) -> Result<Reading, StoreError> {
        dispatch!(self, store => store.start_clock(clock).await)
    }

    async fn advance_clock(&self, clock: &Key, changed: &Changed) -> Result<(), StoreError> {
        dispatch!(self, store => store.advance_clock(clock, changed).await)
    }

    async fn begin_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
        ttl_ms: u64,
    ) -> Result<(), StoreError> {
        dispatch!(self, store => store.begin_tagged(clock, write, changed, ttl_ms).await)
    }

    async fn end_tagged(
        &self,
        clock: &Key,
        write: Token,
        changed: &Changed,
    ) -> Result<(), StoreError> {
        dispatch!(self, store => store.end_tagged(clock, write, changed).await)
    }

    async fn expire_tagged(&self, clock: &Key) -> Result<(), StoreError> {
        dispatch!(self, store => store.expire_tagged(clock).await)
    }

    async fn restamp(&self, key: &Key, token: Token, stamp: Stamp) -> Result<bool, StoreError> {
        dispatch!(self, store => store.restamp(key, token, stamp).await)
    }
}
