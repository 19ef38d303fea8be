//! Finds the field of a row at which a codec failed, for the message about it. Most errors of codecs do not name it.
//!
//! It reads the row once more, with a deserializer that passes everything on and records the current field. A row that could
//! not be encoded is read from the bytes written so far, so the reading ends in the field that failed.
//!
//! Not here: any cost for a row that the codec can carry.

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor},
};

use crate::printed;

/// Returns the field in which reading a `T` fails, if it fails inside one.
pub(super) fn field<'de, T: Deserialize<'de>>(from: impl Deserializer<'de>) -> Option<String> {
    let at = RefCell::new(None);
    let read = T::deserialize(Watched { from, at: &at });
    let at = read.is_err().then(|| at.into_inner()).flatten();
    // The name of a field may be the key of a map, which is data.
    at.map(|name| printed::short(&name))
}

/// The field that is being read.
type At = RefCell<Option<String>>;

struct Watched<'a, D> {
    from: D,
    at: &'a At,
}

macro_rules! passed_on {
    ($($method:ident($($argument:ident: $type:ty),*)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.from.$method($($argument,)* visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Watched<'_, D> {
    type Error = D::Error;

    passed_on! {
        deserialize_any(), deserialize_bool(), deserialize_i8(), deserialize_i16(), deserialize_i32(), deserialize_i64(),
        deserialize_i128(), deserialize_u8(), deserialize_u16(), deserialize_u32(), deserialize_u64(), deserialize_u128(),
        deserialize_f32(), deserialize_f64(), deserialize_char(), deserialize_str(), deserialize_string(),
        deserialize_bytes(), deserialize_byte_buf(), deserialize_option(), deserialize_unit(), deserialize_seq(),
        deserialize_identifier(), deserialize_ignored_any(),
        deserialize_unit_struct(name: &'static str), deserialize_newtype_struct(name: &'static str),
        deserialize_tuple(length: usize), deserialize_tuple_struct(name: &'static str, length: usize),
        deserialize_enum(name: &'static str, variants: &'static [&'static str]),
    }

    fn is_human_readable(&self) -> bool {
        self.from.is_human_readable()
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let at = self.at;
        let fields = &[];
        self.from.deserialize_map(Row {
            visitor,
            fields,
            at,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let at = self.at;
        self.from.deserialize_struct(
            name,
            fields,
            Row {
                visitor,
                fields,
                at,
            },
        )
    }
}

/// Reads a row, by field names or by positions.
struct Row<'a, V> {
    visitor: V,
    fields: &'static [&'static str],
    at: &'a At,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Row<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Named { map, at: self.at })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Placed {
            sequence,
            fields: self.fields.iter(),
            at: self.at,
        })
    }
}

struct Named<'a, A> {
    map: A,
    at: &'a At,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Named<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let Some(name) = self.map.next_key::<String>()? else {
            return Ok(None);
        };
        let key = seed.deserialize(name.as_str().into_deserializer());
        *self.at.borrow_mut() = Some(name);
        key.map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let value = self.map.next_value_seed(seed)?;
        *self.at.borrow_mut() = None;
        Ok(value)
    }
}

struct Placed<'a, A> {
    sequence: A,
    fields: std::slice::Iter<'static, &'static str>,
    at: &'a At,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Placed<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        *self.at.borrow_mut() = self.fields.next().map(|field| (*field).to_owned());
        let element = self.sequence.next_element_seed(seed)?;
        *self.at.borrow_mut() = None;
        Ok(element)
    }
}
