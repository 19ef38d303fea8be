//! Lookups by other columns than the id, step by step.
//!
//! The key of a lookup holds the ids of the rows that have its values. It is an entry like that of a row: the same states, the
//! same lease, the same intents.
//!
//! 1. Read the ids, from the cache if possible, as a row is read (`read`).
//! 2. Read the rows by their ids, from the cache if possible.
//! 3. Compare: a row that does not have the values any more has been changed since the ids were cached. Then the ids are
//!    loaded again.
//!
//! A write announces itself at the keys of the row's *new* values, beside the key of the row. So an absence is never served
//! after a row with the values was committed. It need not know the old values, because of step 3.
//!
//! Invariant: a row is returned only if it had the values at some moment of the call.
//! Not here: the keys that a write announces (`write`), and the statements (`database::lookup`).

use std::{collections::HashMap, sync::Arc};

use serde::Serialize;

use crate::{
    context::Context,
    database::{
        backend::Backend,
        entity::Entity,
        lookup::{IdList, LookupKeys, LookupSpec, Values as AnyValues},
    },
    error::{Error, ErrorKind},
    protocol::{key::Key, state::Identity},
    read::{
        Distinct, LookedUp, Next,
        content::{Content, SelectError},
        flight::Flights,
        reader::Reader,
    },
    store::{Payload, Store, failpoint::Mechanism},
};

/// How often the ids are loaded again because a row has changed in between, before the lookup fails.
const MAX_TRIES: u32 = 100;

/// The values of a lookup: a tuple of the types of its fields.
pub trait Values: Serialize + Send + Sync + 'static {}

impl<V: Serialize + Send + Sync + 'static> Values for V {}

/// The ids of the rows that have the values of a lookup.
#[derive(Clone)]
pub(crate) struct LookupOf {
    /// The place of the lookup in the list of the entity.
    pub(crate) lookup: usize,
    pub(crate) values: Arc<AnyValues>,
}

impl LookupOf {
    pub(crate) fn new<V: Values>(lookup: usize, values: V) -> Self {
        Self {
            lookup,
            values: Arc::new(values),
        }
    }
}

impl<E: Entity, DB: Backend> Content<E, DB> for LookupOf {
    type Value = IdList<E::Id>;
    const PLURAL: &'static str = "lookups";

    fn flights(context: &Context<E, DB>) -> &Flights<Self::Value> {
        &context.lookup_flights
    }

    fn identity(&self, context: &Context<E, DB>) -> Identity {
        Identity {
            fingerprint: context.lookup_fingerprint(self.lookup),
            ..context.identity()
        }
    }

    fn decode(context: &Context<E, DB>, key: &Key, payload: Payload) -> Option<Arc<Self::Value>> {
        context.decode_ids(key, payload)
    }

    fn encode(context: &Context<E, DB>, key: &Key, ids: &Arc<Self::Value>) -> Option<Payload> {
        context.encode_ids(key, ids)
    }

    async fn settle(_context: &Context<E, DB>, _key: &Key) -> Result<LookedUp<Self::Value>, Error> {
        // An entity with lookups has no queue. Another program has written this entry.
        Ok(LookedUp::Unserved(Next::Bypass))
    }

    fn describe(&self, _context: &Context<E, DB>, key: &Key) -> String {
        format!("{} with key {key}", E::SPEC.name)
    }

    async fn select(
        context: &Context<E, DB>,
        connection: &mut DB::Connection,
        wanted: &[(&Key, &Self)],
    ) -> Result<HashMap<Key, Self::Value>, SelectError> {
        let mut found = HashMap::with_capacity(wanted.len());
        // All of one call are of one lookup.
        let Some(lookup) = wanted.first().map(|(_, first)| first.lookup) else {
            return Ok(found);
        };
        let values: Vec<&AnyValues> = wanted.iter().map(|(_, wanted)| &*wanted.values).collect();
        let database = &context.database;
        let lists = database.select_lookup(connection, lookup, &values).await?;
        for ((key, _), ids) in wanted.iter().zip(lists) {
            if ids.has_more && E::SPEC.lookups[lookup].is_unique {
                return Err(SelectError::Refused(several_rows::<E>(lookup, key)));
            }
            if !ids.ids.is_empty() {
                found.insert((*key).clone(), ids);
            }
        }
        Ok(found)
    }
}

/// Returns the error of a unique lookup that found two rows.
fn several_rows<E: Entity>(lookup: usize, key: &Key) -> Error {
    let LookupSpec { columns, .. } = E::SPEC.lookups[lookup];
    let (name, table) = (E::SPEC.name, E::SPEC.table);
    Error::new(
        ErrorKind::Duplicate,
        format!(
            "failed to find {name} with key {key}: several rows of `{table}` have the same values of `{}`, which is declared \
             `unique`; give the table a unique index, or declare an `index` instead",
            columns.join("`, `")
        ),
    )
}

impl<E: Entity, DB: Backend> Context<E, DB> {
    pub(crate) fn lookup_key<V: Serialize>(&self, lookup: usize, values: &V) -> Result<Key, Error> {
        let name = E::SPEC.lookups[lookup].name;
        self.keys.lookup_key(name, values).map_err(|error| {
            let message = format!(
                "failed to write the values of `{name}` of {} as a key: {error}",
                E::SPEC.name
            );
            Error::with_source(ErrorKind::Conversion, message, error)
        })
    }

    /// Returns the key of the list of a lookup. What is found by the columns of a tag is in no list.
    pub(crate) fn key_of_list<V: Serialize>(
        &self,
        lookup: usize,
        values: &V,
    ) -> Result<Option<Key>, Error> {
        match lookup < E::SPEC.lookups.len() {
            true => self.lookup_key(lookup, values).map(Some),
            false => Ok(None),
        }
    }

    /// Returns the keys of all lookups that find a row.
    pub(crate) fn lookup_keys(&self, row: &E) -> Result<Vec<Key>, Error> {
        if E::SPEC.lookups.is_empty() {
            return Ok(Vec::new());
        }
        self.keys_of_lookups(row, None)
    }

    /// Returns the key of one lookup, unless the row has a `NULL` in its columns.
    pub(crate) fn keys_of_lookup(&self, row: &E, lookup: usize) -> Result<Vec<Key>, Error> {
        self.keys_of_lookups(row, Some(lookup))
    }

    fn keys_of_lookups(&self, row: &E, only: Option<usize>) -> Result<Vec<Key>, Error> {
        LookupKeys::of(&self.keys, row, only).map_err(|error| {
            let message = format!(
                "failed to write the values of the lookups of {} as keys: {error}",
                E::SPEC.name
            );
            Error::with_source(ErrorKind::Conversion, message, error)
        })
    }

    /// Returns whether a row has the values that a key of a lookup was made of.
    pub(crate) fn has_values(&self, row: &E, lookup: usize, key: &Key) -> bool {
        if self.cache.store.disables(Mechanism::LookupCheck) {
            return true;
        }
        LookupKeys::of(&self.keys, row, Some(lookup)).is_ok_and(|keys| keys.contains(key))
    }

    /// Finds the row with the values of a unique lookup.
    pub(crate) async fn find_by<V: Values>(
        self: &Arc<Self>,
        lookup: usize,
        values: V,
    ) -> Result<Option<Arc<E>>, Error> {
        let key = self.lookup_key(lookup, &values)?;
        let content = LookupOf::new(lookup, values);
        let fingerprint = self.lookup_fingerprint(lookup);
        let ids = self
            .read_content(key.clone(), fingerprint, || content.clone())
            .await?;
        let Some(id) = ids.row.as_ref().and_then(|ids| ids.ids.first()) else {
            return Ok(None);
        };
        let row = self.read(std::borrow::Cow::Borrowed(id)).await?.row;
        match row.filter(|row| self.has_values(row, lookup, &key)) {
            Some(row) => Ok(Some(row)),
            None => {
                let mut reader = self;
                Box::pin(find_again(&mut reader, &key, &content)).await
            }
        }
    }

    /// Returns the error of a lookup whose rows were changed again and again.
    fn unsettled(&self, lookup: usize, key: &Key) -> Error {
        let spec = &E::SPEC.lookups[lookup];
        let hint = match spec.folds {
            true => {
                "; or the database and Rust write a character of the value differently in lower case"
            }
            false => "",
        };
        Error::new(
            ErrorKind::Overloaded,
            format!(
                "failed to find {} with key {key}: the row was changed {MAX_TRIES} times while it was being read; try again{hint}",
                E::SPEC.name
            ),
        )
    }

    /// Returns the keys of values of a lookup.
    pub(crate) fn distinct_lookups<V: Values>(
        &self,
        lookup: usize,
        values: Vec<V>,
    ) -> Result<Distinct<LookupOf>, Error> {
        let keys = values.iter().map(|values| self.lookup_key(lookup, values));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let contents = values.into_iter().map(|one| LookupOf::new(lookup, one));
        let contents: Vec<_> = contents.collect();
        Ok(Distinct::new(keys, |at| contents[at].clone()))
    }

    /// Drops the ids of a lookup from the cache.
    pub(crate) async fn invalidate_by<V: Serialize>(
        &self,
        lookup: usize,
        values: &V,
    ) -> Result<(), Error> {
        let key = self.lookup_key(lookup, values)?;
        self.bind_now().await?;
        self.invalidate(&key).await
    }
}

/// Finds the rows with many values of a unique lookup. Returns one for each, in their order.
pub(crate) async fn find_many_by<E: Entity, DB: Backend, R: Reader<E, DB>, V: Values>(
    reader: &mut R,
    lookup: usize,
    values: Vec<V>,
) -> Result<Vec<Option<Arc<E>>>, Error> {
    let Distinct { wanted, places } = reader.context().distinct_lookups(lookup, values)?;
    let lists = reader.ids(&wanted).await?;
    let ids = lists.iter().map(|list| list.as_ref()?.ids.first());
    let ids: Vec<_> = ids.collect();
    let found: Vec<_> = ids.iter().copied().flatten().cloned().collect();
    let mut found = reader.rows(&found).await?.into_iter();
    let mut rows = Vec::with_capacity(wanted.len());
    for ((key, content), id) in wanted.iter().zip(ids) {
        rows.push(match id.and_then(|_| found.next()) {
            // No row has the values.
            None => None,
            Some(Some(row)) if reader.context().has_values(&row, lookup, key) => Some(row),
            Some(_) => Box::pin(find_again(reader, key, content)).await?,
        });
    }
    Ok(places
        .into_iter()
        .map(|place| rows[place].clone())
        .collect())
}

/// Reads the ids of a unique lookup again until their row has the values.
async fn find_again<E: Entity, DB: Backend, R: Reader<E, DB>>(
    reader: &mut R,
    key: &Key,
    content: &LookupOf,
) -> Result<Option<Arc<E>>, Error> {
    for _ in 0..MAX_TRIES {
        let list = reader.ids_again(key, content).await?;
        let Some(id) = list.as_ref().and_then(|list| list.ids.first()) else {
            return Ok(None);
        };
        let mut rows = reader.rows(std::slice::from_ref(id)).await?;
        let row = rows.pop().flatten();
        let row = row.filter(|row| reader.context().has_values(row, content.lookup, key));
        if row.is_some() {
            return Ok(row);
        }
    }
    Err(reader.context().unsettled(content.lookup, key))
}
