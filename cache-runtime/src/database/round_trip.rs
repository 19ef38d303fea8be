//! The checked round trip: a row is cached or queued only if the codec reproduces it.
//!
//! serde does not always read what it wrote: a field is renamed in one direction only, a `null` is read as `None`, or
//! JSON cannot express a number. Such a row would be served changed, and the next `update` would write the change to
//! the database.
//!
//! 1. The row is encoded, and decoded again.
//! 2. The columns of both rows are bound as for a statement, and compared byte for byte. JSON columns are compared as
//!    JSON, because maps and sets may come back in another order. In a row from the database they are also compared as
//!    the application sees them (`PartialEq`, or else `Debug`), because both JSON texts lack what serde does not write.
//! 3. The in-process store keeps the decoded row, so that it serves the same rows as Redis.
//!
//! Invariant: every row that reaches a store, a journal or the table of dead letters was checked here.
//! Invariant: a lookup costs nothing. Only storing a row has this cost.
//! Not here: fields that are not columns. The database has no value for them, so the cache has none either: they get
//! the value that `sqlx::FromRow` gives them.

use std::{collections::HashSet, fmt, sync::Mutex, sync::PoisonError};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    database::{
        Database,
        backend::Backend,
        column::{BindResult, Binder, ColumnSpec, Values},
        entity::Entity,
        lookup::IdList,
    },
    policy::Codec,
    protocol::codec::CodecError,
};

/// An encoded row or id, and the value that the codec decoded from it.
pub(crate) struct Carried<T> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) value: T,
}

/// How a codec changes a row.
#[derive(Debug)]
pub(crate) struct Mismatch {
    codec: Codec,
    /// The name of the column, or of the field.
    pub(crate) field: Option<String>,
    what: What,
}

#[derive(Debug)]
enum What {
    Unwritten(CodecError),
    Unread(CodecError),
    Unbound(sqlx::error::BoxDynError),
    Null,
    NoNull,
    Other,
}

impl<E: Entity, DB: Backend> Database<E, DB> {
    /// Encodes a row of the application, if the codec reproduces the values that the database would get.
    pub(crate) fn carry(&self, codec: Codec, row: &E) -> Result<Carried<E>, Mismatch> {
        let bind = |row: &E, values: &mut Binder<'_, DB>| (self.binding.bind)(row, values);
        let mut carried = self.carry_value(codec, row, &bind, |_| true)?;
        (self.binding.clear_skipped)(&mut carried.value);
        Ok(carried)
    }

    /// Encodes a row of the database, if the codec reproduces it.
    pub(crate) fn carry_loaded(&self, codec: Codec, row: &E) -> Result<Carried<E>, Mismatch> {
        let carried = self.carry(codec, row)?;
        match (self.binding.told_apart)(row, &carried.value) {
            None => Ok(carried),
            Some(column) => Err(Mismatch {
                codec,
                field: Some(column.to_owned()),
                what: What::Other,
            }),
        }
    }

    /// Decodes a row to serve. Fields that are not columns get the same values as in a row from the database, and those that
    /// are `omit` are empty, whatever the entry has.
    pub(crate) fn decode(&self, codec: Codec, bytes: &[u8]) -> Result<E, CodecError> {
        let mut row = codec.decode(bytes)?;
        (self.binding.clear_skipped)(&mut row);
        (self.binding.clear_omitted)(&mut row);
        Ok(row)
    }

    /// Encodes an id, if the codec reproduces it.
    pub(crate) fn carry_id(&self, codec: Codec, id: &E::Id) -> Result<Carried<E::Id>, Mismatch> {
        let bind = |id: &E::Id, values: &mut Binder<'_, DB>| (self.binding.bind_id)(id, values);
        self.carry_value(codec, id, &bind, |column| column.role.is_id())
    }

    /// Encodes the ids that a lookup found, if the codec reproduces them.
    pub(crate) fn carry_ids(
        &self,
        codec: Codec,
        ids: &IdList<E::Id>,
    ) -> Result<Carried<IdList<E::Id>>, Mismatch> {
        let bind = |list: &IdList<E::Id>, values: &mut Binder<'_, DB>| {
            let mut ids = list.ids.iter();
            ids.try_for_each(|id| (self.binding.bind_id)(id, values))
        };
        self.carry_value(codec, ids, &bind, |column| column.role.is_id())
    }

    fn carry_value<T: Serialize + DeserializeOwned>(
        &self,
        codec: Codec,
        value: &T,
        bind: &dyn Fn(&T, &mut Binder<'_, DB>) -> BindResult,
        is_bound: fn(&ColumnSpec<DB>) -> bool,
    ) -> Result<Carried<T>, Mismatch> {
        let mismatch = |field, what| Mismatch { codec, field, what };
        let bytes = codec
            .encode(value)
            .map_err(|error| mismatch(codec.field_not_written(value), What::Unwritten(error)))?;
        let decoded: T = codec
            .decode(&bytes)
            .map_err(|error| mismatch(codec.field_not_read::<T>(&bytes), What::Unread(error)))?;
        let mut values = Values::with_capacity(2 * self.columns.len(), 3 * bytes.len());
        let column = |index: usize| {
            self.columns
                .iter()
                .filter(|column| is_bound(column))
                .nth(index)
        };
        let name = |index| column(index).map(|column| column.name.to_owned());
        let mut bound = 0;
        for value in [value, &decoded] {
            bind(value, &mut Binder::values(&mut values, |_| true))
                .map_err(|error| mismatch(name(values.len() - bound), What::Unbound(error)))?;
            bound = values.len() - bound;
        }
        for index in 0..bound {
            let what = match (values.get(index), values.get(bound + index)) {
                (given, back) if given == back => continue,
                (Some(given), Some(back)) => {
                    if column(index).is_some_and(|column| is_same_json::<DB>(column, given, back)) {
                        continue;
                    }
                    What::Other
                }
                (Some(_), None) => What::Null,
                (None, _) => What::NoNull,
            };
            return Err(mismatch(name(index), what));
        }
        Ok(Carried {
            bytes,
            value: decoded,
        })
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "`{field}` ")?,
            None => f.write_str("the row ")?,
        }
        let codec = self.codec;
        match &self.what {
            What::Unwritten(error) => write!(f, "cannot be encoded as {codec:?}: {error}"),
            What::Unread(error) => write!(f, "cannot be decoded from {codec:?} again: {error}"),
            What::Unbound(error) => write!(f, "cannot be sent to the database: {error}"),
            What::Null => write!(f, "comes back from {codec:?} as NULL"),
            What::NoNull => write!(f, "is NULL, and comes back from {codec:?} as a value"),
            What::Other => write!(f, "comes back from {codec:?} as another value"),
        }
    }
}

impl std::error::Error for Mismatch {}

/// The fields that were logged: each once per cache.
#[derive(Debug, Default)]
pub(crate) struct LoggedMismatches(Mutex<HashSet<(&'static str, String)>>);

/// The maximum number of fields to log. A flattened map has an unlimited number of names.
const MAX_LOGGED: usize = 1_000;

impl LoggedMismatches {
    /// Returns whether this field of this entity was not logged yet, and records it as logged.
    pub(crate) fn is_new(&self, entity: &'static str, field: Option<&str>) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.len() < MAX_LOGGED && logged.insert((entity, field.unwrap_or_default().to_owned()))
    }

    /// Logs that rows stay uncached because of a field, unless that was logged.
    pub(crate) fn log_once(&self, entity: &'static str, mismatch: &Mismatch) {
        if self.is_new(entity, mismatch.field.as_deref()) {
            tracing::warn!(
                entity,
                field = mismatch.field.as_deref().unwrap_or("unknown"),
                codec = ?mismatch.codec,
                "a row stays uncached, because the codec does not reproduce the row of the database: {mismatch}; make serde write \
                 the field as it reads it, nest it less, or choose another `codec`"
            );
        }
    }
}

/// Returns whether both values are the same JSON, ignoring the order of the keys of objects and of the elements of arrays:
/// maps and sets have no order, and sets are written as arrays.
fn is_same_json<DB: Backend>(column: &ColumnSpec<DB>, given: &[u8], back: &[u8]) -> bool {
    let sorted = |value| {
        let texts = DB::json_texts(&column.type_info, value)?;
        let texts = texts
            .into_iter()
            .map(|text| sorted(std::str::from_utf8(text).ok()?, 0));
        texts.collect::<Option<Vec<String>>>()
    };
    let given = sorted(given);
    given.is_some() && given == sorted(back)
}

/// The maximum nesting of JSON that is compared in this way.
const DEEPEST: usize = 128;

/// Returns an object or an array with its keys, and the elements of its arrays, sorted by their text. Numbers stay as they
/// are written, with all their digits.
fn sorted(json: &str, depth: usize) -> Option<String> {
    let deeper = |value: &RawValue| {
        if depth == DEEPEST {
            return None;
        }
        sorted(value.get(), depth + 1)
    };
    match json.as_bytes().first() {
        Some(b'{') => {
            let Entries(entries) = serde_json::from_str(json).ok()?;
            let mut entries = entries
                .into_iter()
                .map(|(key, value)| Some((key, deeper(value)?)))
                .collect::<Option<Vec<_>>>()?;
            // The sort is stable: a key that occurs twice keeps its order.
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            let entries = entries
                .iter()
                .map(|(key, value)| format!("{key:?}:{value}"));
            Some(format!("{{{}}}", entries.collect::<Vec<_>>().join(",")))
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
            let elements = elements.into_iter().map(deeper);
            let mut elements = elements.collect::<Option<Vec<_>>>()?;
            elements.sort();
            Some(format!("[{}]", elements.join(",")))
        }
        // A text that is not an object or an array has no order.
        Some(_) if depth > 0 => Some(json.to_owned()),
        _ => None,
    }
}

/// The entries of a JSON object as they are written, with repeated keys.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Entries<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> serde::de::Visitor<'de> for InOrder {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_in_another_order_and_no_other() {
        let same = |one: &str, other: &str| {
            let one = sorted(one, 0);
            one.is_some() && one == sorted(other, 0)
        };
        assert!(same(r#"{"a":1,"b":[1,2]}"#, r#"{"b":[2,1],"a":1}"#));
        assert!(same(r#"[{"a":1},{"b":2}]"#, r#"[{"b":2},{"a":1}]"#));
        assert!(!same(r#"[1,1,2]"#, r#"[1,2,2]"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":1.0}"#));
        assert!(!same(r#"{"a":1}"#, r#"{"a":1,"b":null}"#));
        assert!(!same(r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#));
        assert!(!same(r#"{"a,b":1}"#, r#"{"a":1,"b":1}"#));
        assert!(!same("gate 7", "gate 7 "), "not JSON");
        assert!(!same("[gate 7]", "[gate 7 ]"), "an array that is not JSON");
        let (one, other) = (format!("[{}]", i128::MAX), format!("[{}]", i128::MAX - 1));
        assert!(!same(&one, &other), "digits beyond those of a double count");
    }

    #[test]
    fn deeply_nested_json_is_not_compared() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(sorted(&deep, 0), None);
    }

    #[test]
    fn field_is_logged_once_and_the_number_of_fields_is_limited() {
        let logged = LoggedMismatches::default();
        assert!(logged.is_new("Flight", Some("gate")));
        assert!(!logged.is_new("Flight", Some("gate")));
        assert!(logged.is_new("Flight", None));
        assert!(logged.is_new("Airport", Some("gate")));
        for number in 0..2 * MAX_LOGGED {
            logged.is_new("Flight", Some(&number.to_string()));
        }
        assert!(!logged.is_new("Flight", Some("status")));
    }
}
