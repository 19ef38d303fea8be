//! What a key of the cache holds: a row, or the ids that a lookup found.
//!
//! A read of either goes through the same steps (`read`, `load`): the same lease, the same fill, the same flights. This is
//! what differs: the statement, the payload, and which value belongs to which key.
//!
//! Not here: the value of a lookup (`lookup`), and when a payload may be stored (`load`).

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use crate::{
    context::Context,
    database::{backend::Backend, entity::Entity},
    error::Error,
    protocol::{key::Key, state::Identity, tags::Tags},
    read::{LookedUp, flight::Flights},
    store::Payload,
};

/// What is read at a key.
pub(crate) trait Content<E: Entity, DB: Backend>: Clone + Send + Sync + 'static {
    /// The value, if there is one.
    type Value: Send + Sync + 'static;
    /// What several of them are called in messages.
    const PLURAL: &'static str;

    /// Returns the loads of values of this kind.
    fn flights(context: &Context<E, DB>) -> &Flights<Self::Value>;

    /// Returns what an entry must have to be read now.
    fn identity(&self, context: &Context<E, DB>) -> Identity;

    /// Returns the value in a payload, if it can be decoded and belongs to this key.
    fn decode(context: &Context<E, DB>, key: &Key, payload: Payload) -> Option<Arc<Self::Value>>;

    /// Returns the payload of a value, if it may be stored at this key.
    fn encode(context: &Context<E, DB>, key: &Key, value: &Arc<Self::Value>) -> Option<Payload>;

    /// Returns whether it may be read by one statement with values that other callers want.
    fn is_gathered(&self) -> bool {
        false
    }

    /// Returns the tags of a value, if they are known from it.
    fn tags(_value: &Self::Value) -> Option<Tags> {
        None
    }

    /// Returns when a value ends by itself, if it does.
    fn ends_at(_value: &Self::Value) -> Option<SystemTime> {
        None
    }

    /// Decides what to do with a queued write of an earlier history of the store at a key.
    fn settle(
        context: &Context<E, DB>,
        key: &Key,
    ) -> impl Future<Output = Result<LookedUp<Self::Value>, Error>> + Send;

    /// Describes the value, for messages.
    fn describe(&self, context: &Context<E, DB>, key: &Key) -> String;

    /// Reads the values of several keys from the database. A key without a value is absent from the result.
    fn select(
        context: &Context<E, DB>,
        connection: &mut DB::Connection,
        wanted: &[(&Key, &Self)],
    ) -> impl Future<Output = Result<HashMap<Key, Self::Value>, SelectError>> + Send;
}

/// Describes what is read, for messages.
pub(crate) fn describe<E: Entity, DB: Backend, C: Content<E, DB>>(
    context: &Context<E, DB>,
    wanted: &[(&Key, &C)],
) -> String {
    match wanted {
        [(key, content)] => content.describe(context, key),
        several => format!("{} {} of {}", several.len(), C::PLURAL, E::SPEC.name),
    }
}

/// Why values could not be read.
pub(crate) enum SelectError {
    /// The database failed.
    Database(sqlx::Error),
    /// What it returned contradicts the entity.
    Refused(Error),
}

impl From<sqlx::Error> for SelectError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// The row with an id.
pub(crate) struct RowOf<E: Entity> {
    pub(crate) id: E::Id,
    /// Whether it is read with the columns that are `omit`. Such a row is neither shared nor cached.
    is_complete: bool,
}

impl<E: Entity> RowOf<E> {
    pub(crate) fn of(id: E::Id) -> Self {
        Self {
            id,
            is_complete: false,
        }
    }

    pub(crate) fn complete(id: E::Id) -> Self {
        Self {
            id,
            is_complete: true,
        }
    }
}

impl<E: Entity> Clone for RowOf<E> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            ..*self
        }
    }
}

impl<E: Entity, DB: Backend> Content<E, DB> for RowOf<E> {
    type Value = E;
    const PLURAL: &'static str = "rows";

    fn flights(context: &Context<E, DB>) -> &Flights<E> {
        &context.flights
    }

    fn identity(&self, context: &Context<E, DB>) -> Identity {
        context.identity()
    }

    fn decode(context: &Context<E, DB>, key: &Key, payload: Payload) -> Option<Arc<E>> {
        context.decode_row(key, payload)
    }

    fn encode(context: &Context<E, DB>, key: &Key, row: &Arc<E>) -> Option<Payload> {
        // The database may treat two spellings of an id as equal. Under this key, only this spelling would be invalidated.
        if context.key(&row.id()).ok()? != *key {
            return None;
        }
        context.encode_payload(row)
    }

    fn is_gathered(&self) -> bool {
        !self.is_complete
    }

    fn tags(row: &E) -> Option<Tags> {
        let mut tags = Tags::default();
        row.tags(&mut tags);
        Some(tags)
    }

    fn ends_at(row: &E) -> Option<SystemTime> {
        row.ends_at()
    }

    fn describe(&self, context: &Context<E, DB>, key: &Key) -> String {
        context.describe_row(key)
    }

    async fn settle(context: &Context<E, DB>, key: &Key) -> Result<LookedUp<E>, Error> {
        context.resolve_stale_pending(key).await
    }

    async fn select(
        context: &Context<E, DB>,
        connection: &mut DB::Connection,
        wanted: &[(&Key, &Self)],
    ) -> Result<HashMap<Key, E>, SelectError> {
        let database = &context.database;
        let mut found = HashMap::with_capacity(wanted.len());
        if let [(key, RowOf { id, is_complete })] = wanted {
            let row = match is_complete {
                true => database.select_complete(connection, id).await?,
                false => database.select(connection, id).await?,
            };
            found.extend(row.map(|row| ((*key).clone(), row)));
            return Ok(found);
        }
        let ids: Vec<_> = wanted.iter().map(|(_, row)| &row.id).collect();
        for row in database.select_many(connection, &ids).await? {
            // A row whose id is equal for the database in another spelling has another key, and nobody asked for it.
            if let Ok(key) = context.key(&row.id()) {
                found.insert(key, row);
            }
        }
        Ok(found)
    }
}
