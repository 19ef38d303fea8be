//! Finds out how a type is deserialized, before there is a row: it deserializes the type from made-up data and records each
//! call.
//!
//! It finds two things.
//!
//! - Whether the type needs a self-describing format. `serde_json::Value`, `#[serde(flatten)]` and untagged enums ask the
//!   format for the next type (`deserialize_any`). A positional codec cannot answer, and fails only when it reads a row
//!   back.
//! - The shape of the type: the names and kinds of all fields and variants, nested ones included. The derive sees only the
//!   name of a nested type.
//!
//! 1. Every struct gets its own fields, every sequence one element, every enum one of its variants.
//! 2. A type may reject made-up data (`"1"` is not a date), which ends a run early. So there are many runs, and each begins
//!    with another field and another variant.
//!
//! Not here: a proof that a type is not self-describing. A type that rejects the data early in every run is not found. The
//! codec then fails when a row is written or read, and a payload that cannot be read is a miss.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, Visitor, value::StrDeserializer},
};

use crate::protocol::fingerprint::Fingerprint;

const RUNS: usize = 64;
const DEEPEST: usize = 24;

/// Returns whether deserializing a `T` asks the format for the next type.
pub(crate) fn requires_self_describing<T: for<'de> Deserialize<'de>>() -> bool {
    listen::<T>().asked.get()
}

/// Returns a hash over the names and kinds of the fields and variants that deserializing a `T` visits.
pub(crate) fn shape<T: for<'de> Deserialize<'de>>() -> u32 {
    listen::<T>().shape.get().finish()
}

/// What the runs have recorded.
#[derive(Default)]
struct Notes {
    asked: Cell<bool>,
    shape: Cell<Fingerprint>,
}

impl Notes {
    fn note(&self, item: &str) {
        let mut shape = self.shape.get();
        shape.write(item.as_bytes());
        self.shape.set(shape);
    }
}

fn listen<T: for<'de> Deserialize<'de>>() -> Notes {
    let notes = Notes::default();
    for run in 0..RUNS {
        let _ended_early = T::deserialize(Inventor {
            notes: &notes,
            run,
            depth: 0,
        });
    }
    notes
}

#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the invented data was refused")
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
struct Inventor<'a> {
    notes: &'a Notes,
    run: usize,
    depth: usize,
}

impl Inventor<'_> {
    fn deeper(self) -> Result<Self, Refused> {
        if self.depth == DEEPEST {
            return Err(Refused);
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

macro_rules! invented {
    ($($method:ident => $visit:ident($($value:expr)?)),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.notes.note(stringify!($method));
            visitor.$visit($($value)?)
        })*
    };
}

impl<'de> de::Deserializer<'de> for Inventor<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        self.notes.asked.set(true);
        self.notes.note("any");
        Err(Refused)
    }

    invented! {
        deserialize_bool => visit_bool(false),
        deserialize_i8 => visit_i8(1), deserialize_i16 => visit_i16(1), deserialize_i32 => visit_i32(1),
        deserialize_i64 => visit_i64(1), deserialize_i128 => visit_i128(1),
        deserialize_u8 => visit_u8(1), deserialize_u16 => visit_u16(1), deserialize_u32 => visit_u32(1),
        deserialize_u64 => visit_u64(1), deserialize_u128 => visit_u128(1),
        deserialize_f32 => visit_f32(1.0), deserialize_f64 => visit_f64(1.0),
        deserialize_char => visit_char('1'), deserialize_str => visit_str("1"), deserialize_string => visit_str("1"),
        deserialize_bytes => visit_bytes(&[1; 16]), deserialize_byte_buf => visit_bytes(&[1; 16]),
        deserialize_unit => visit_unit(), deserialize_ignored_any => visit_unit(),
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.notes.note("option");
        visitor.visit_some(self.deeper()?)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self.deeper()?)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_tuple(1, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.notes.note("sequence");
        visitor.visit_seq(Elements {
            inventor: self.deeper()?,
            left: length,
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.notes.note("map");
        visitor.visit_map(Fields {
            inventor: self.deeper()?,
            fields: &[],
            at: 0,
            left: 1,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        fields.iter().for_each(|field| self.notes.note(field));
        visitor.visit_map(Fields {
            inventor: self.deeper()?,
            fields,
            at: self.run,
            left: fields.len(),
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        variants.iter().for_each(|variant| self.notes.note(variant));
        // Without `run / 8`, a struct of 8 fields would begin each field with the same one of 2, 4 or 8 variants.
        let at = (self.run / 8 + self.run) % variants.len().max(1);
        visitor.visit_enum(Variant {
            inventor: self.deeper()?,
            name: variants.get(at).ok_or(Refused)?,
        })
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_str("1")
    }
}

struct Elements<'a> {
    inventor: Inventor<'a>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.inventor).map(Some)
    }
}

struct Fields<'a> {
    inventor: Inventor<'a>,
    /// The names of a struct's fields. A map has none, and gets one made-up key.
    fields: &'static [&'static str],
    at: usize,
    left: usize,
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if self.fields.is_empty() {
            return seed.deserialize(self.inventor).map(Some);
        }
        let name = self.fields[self.at % self.fields.len()];
        self.at += 1;
        seed.deserialize(StrDeserializer::<Refused>::new(name))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        seed.deserialize(self.inventor)
    }
}

struct Variant<'a> {
    inventor: Inventor<'a>,
    name: &'static str,
}

impl<'de> de::EnumAccess<'de> for Variant<'_> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refused> {
        let name = seed.deserialize(StrDeserializer::<Refused>::new(self.name))?;
        Ok((name, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        seed.deserialize(self.inventor)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        de::Deserializer::deserialize_tuple(self.inventor, length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        de::Deserializer::deserialize_struct(self.inventor, "", fields, visitor)
    }
}
