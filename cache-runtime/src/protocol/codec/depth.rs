//! Bounds how deep a value is nested, and how many elements it has, while serde reads or writes it.
//!
//! serde calls itself for each value inside another. Without a bound, a few thousand bytes that nest a type in itself use up the
//! stack, and the process is aborted: no caller can catch that. And postcard needs no bytes for an element without content, so
//! that five bytes can ask for 2^31 of them.
//!
//! 1. [`Limits::guard`] wraps the deserializer of a codec. Each value inside another one (a field, an element, a key, the
//!    content of an `Option`, of a newtype or of a variant) is one level below it, and gets a wrapped deserializer again.
//! 2. [`Bounded`] wraps a value that is written, and counts in the same way. So what was written can be read.
//! 3. Below the last level, both fail with an error of the codec.
//! 4. Each element of a list or map takes one from a budget, which is the number of bytes and a little more.
//! 5. A size hint is what the bytes claim. It is cut, so that no collection allocates more than it has been given.
//!
//! Invariant: nothing is read by a codec, and nothing is written, but through here. Both wrappers allocate nothing.
//! Not here: values that a type of the application builds without its deserializer, and types that read themselves again from
//! the same value (an untagged enum that has itself in an `Option`).

use std::{cell::Cell, fmt};

use serde::{
    Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor},
    ser,
};

/// The most levels of a value: those that `serde_json` reads, whose own limit cannot be raised.
pub(crate) const DEEPEST: u8 = 127;

/// How many elements without a byte of their own a value can have.
const FREE_ELEMENTS: usize = 1 << 16;

/// The largest size hint that is passed on.
const LARGEST_HINT: usize = 1 << 10;

/// What is written or read is nested too deep. A message, for the errors of all codecs.
struct TooDeep;

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is nested more than {DEEPEST} levels deep")
    }
}

#[cold]
fn too_deep<E: de::Error>() -> E {
    E::custom(TooDeep)
}

#[cold]
fn too_many<E: de::Error>() -> E {
    E::custom("it has more elements than bytes")
}

/// What one payload may have.
pub(super) struct Limits {
    elements: Cell<usize>,
}

impl Limits {
    /// Returns the limits of a payload with this many bytes.
    pub(super) fn of(bytes: usize) -> Self {
        Self {
            elements: Cell::new(bytes.saturating_add(FREE_ELEMENTS)),
        }
    }

    /// Returns a deserializer that fails beyond the limits.
    #[inline]
    pub(super) fn guard<D>(&self, inner: D) -> Guarded<'_, D> {
        Guarded {
            inner,
            level: Level {
                limits: self,
                below: DEEPEST,
                is_counted: true,
            },
        }
    }
}

/// A place in a value that is read.
#[derive(Clone, Copy)]
struct Level<'l> {
    limits: &'l Limits,
    /// How many levels there may be below it.
    below: u8,
    /// Whether the elements of the value are as many as the bytes say. Otherwise the type says how many there are.
    is_counted: bool,
}

impl Level<'_> {
    #[inline]
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.below.checked_sub(1) {
            Some(below) => Ok(Self { below, ..self }),
            None => Err(too_deep()),
        }
    }

    /// Notes an element that was read.
    #[inline]
    fn element<E: de::Error>(self) -> Result<(), E> {
        if self.is_counted {
            let left = &self.limits.elements;
            left.set(left.get().checked_sub(1).ok_or_else(too_many)?);
        }
        Ok(())
    }
}

/// A deserializer, visitor, seed or access of a value that is read, with its level.
pub(super) struct Guarded<'l, T> {
    inner: T,
    level: Level<'l>,
}

impl<'l, T> Guarded<'l, T> {
    #[inline]
    fn with<U>(&self, inner: U) -> Guarded<'l, U> {
        let level = self.level;
        Guarded { inner, level }
    }

    #[inline]
    fn visited_by<V>(&self, inner: V, is_counted: bool) -> Guarded<'l, V> {
        let level = Level {
            is_counted,
            ..self.level
        };
        Guarded { inner, level }
    }
}

macro_rules! deserialized {
    ($is_counted:literal: $($method:ident($($argument:ident: $type:ty),*)),* $(,)?) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.visited_by(visitor, $is_counted);
            self.inner.$method($($argument,)* visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guarded<'_, D> {
    type Error = D::Error;

    deserialized! { true:
        deserialize_any(), deserialize_bool(), deserialize_i8(), deserialize_i16(), deserialize_i32(), deserialize_i64(),
        deserialize_i128(), deserialize_u8(), deserialize_u16(), deserialize_u32(), deserialize_u64(), deserialize_u128(),
        deserialize_f32(), deserialize_f64(), deserialize_char(), deserialize_str(), deserialize_string(),
        deserialize_bytes(), deserialize_byte_buf(), deserialize_option(), deserialize_unit(), deserialize_seq(),
        deserialize_map(), deserialize_identifier(), deserialize_ignored_any(),
    }

    deserialized! { false:
        deserialize_unit_struct(name: &'static str), deserialize_newtype_struct(name: &'static str),
        deserialize_tuple(length: usize), deserialize_tuple_struct(name: &'static str, length: usize),
        deserialize_struct(name: &'static str, fields: &'static [&'static str]),
        deserialize_enum(name: &'static str, variants: &'static [&'static str]),
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visited {
    ($($method:ident($type:ty)),* $(,)?) => {
        $(#[inline]
        fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Guarded<'_, V> {
    type Value = V::Value;

    visited! {
        visit_bool(bool), visit_i8(i8), visit_i16(i16), visit_i32(i32), visit_i64(i64), visit_i128(i128), visit_u8(u8),
        visit_u16(u16), visit_u32(u32), visit_u64(u64), visit_u128(u128), visit_f32(f32), visit_f64(f64), visit_char(char),
        visit_str(&str), visit_borrowed_str(&'de str), visit_string(String), visit_bytes(&[u8]),
        visit_borrowed_bytes(&'de [u8]), visit_byte_buf(Vec<u8>),
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    #[inline]
    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let level = self.level.deeper()?;
        self.inner.visit_some(Guarded { inner, level })
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let level = self.level.deeper()?;
        self.inner.visit_newtype_struct(Guarded { inner, level })
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let level = self.level.deeper()?;
        self.inner.visit_seq(Guarded { inner, level })
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let level = self.level.deeper()?;
        self.inner.visit_map(Guarded { inner, level })
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let access = self.with(inner);
        self.inner.visit_enum(access)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Guarded<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        let from = self.with(from);
        self.inner.deserialize(from)
    }
}

/// The size hint that is passed on.
#[inline]
fn cut(hint: Option<usize>) -> Option<usize> {
    hint.map(|hint| hint.min(LARGEST_HINT))
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let seed = self.with(seed);
        let element = self.inner.next_element_seed(seed)?;
        if element.is_some() {
            self.level.element()?;
        }
        Ok(element)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        cut(self.inner.size_hint())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let seed = self.with(seed);
        let key = self.inner.next_key_seed(seed)?;
        if key.is_some() {
            self.level.element()?;
        }
        Ok(key)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let seed = self.with(seed);
        self.inner.next_value_seed(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        cut(self.inner.size_hint())
    }
}

impl<'de, 'l, A: EnumAccess<'de>> EnumAccess<'de> for Guarded<'l, A> {
    type Error = A::Error;
    type Variant = Guarded<'l, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (seed, level) = (self.with(seed), self.level);
        let (value, inner) = self.inner.variant_seed(seed)?;
        Ok((value, Guarded { inner, level }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let (inner, level) = (seed, self.level.deeper()?);
        self.inner.newtype_variant_seed(Guarded { inner, level })
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.visited_by(visitor, false);
        self.inner.tuple_variant(length, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.visited_by(visitor, false);
        self.inner.struct_variant(fields, visitor)
    }
}

/// A value that cannot be written if it is nested too deep.
pub(crate) struct Bounded<'v, T: ?Sized> {
    value: &'v T,
    below: u8,
}

impl<'v, T: ?Sized> Bounded<'v, T> {
    /// Returns a value, to be written with all levels.
    #[inline]
    pub(crate) fn new(value: &'v T) -> Self {
        let below = DEEPEST;
        Self { value, below }
    }
}

impl<T: Serialize + ?Sized> Serialize for Bounded<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        let below = self.below;
        self.value.serialize(Counting { inner, below })
    }
}

/// A serializer, or what writes the parts of a value, that hands out bounded values.
struct Counting<S> {
    inner: S,
    below: u8,
}

impl<S> Counting<S> {
    /// Returns a value that is written at this level.
    #[inline]
    fn bound<'v, T: ?Sized>(&self, value: &'v T) -> Bounded<'v, T> {
        let below = self.below;
        Bounded { value, below }
    }

    /// Goes one level deeper.
    #[inline]
    fn deeper<E: ser::Error>(self) -> Result<Self, E> {
        match self.below.checked_sub(1) {
            Some(below) => Ok(Self { below, ..self }),
            None => Err(too_deep_to_write()),
        }
    }

    #[inline]
    fn map<U, E>(self, to: impl FnOnce(S) -> Result<U, E>) -> Result<Counting<U>, E> {
        let below = self.below;
        to(self.inner).map(|inner| Counting { inner, below })
    }
}

#[cold]
fn too_deep_to_write<E: ser::Error>() -> E {
    E::custom(TooDeep)
}

macro_rules! serialized {
    ($($method:ident($($argument:ident: $type:ty),*)),* $(,)?) => {
        $(#[inline]
        fn $method(self, $($argument: $type),*) -> Result<S::Ok, S::Error> {
            self.inner.$method($($argument),*)
        })*
    };
}

macro_rules! serialized_content {
    ($($method:ident($($argument:ident: $type:ty),*)),* $(,)?) => {
        $(#[inline]
        fn $method<T: Serialize + ?Sized>(self, $($argument: $type,)* value: &T) -> Result<S::Ok, S::Error> {
            let this = self.deeper()?;
            let value = this.bound(value);
            this.inner.$method($($argument,)* &value)
        })*
    };
}

macro_rules! serialized_parts {
    ($($method:ident($($argument:ident: $type:ty),*) -> $compound:ident),* $(,)?) => {
        $(#[inline]
        fn $method(self, $($argument: $type),*) -> Result<Counting<S::$compound>, S::Error> {
            self.deeper()?.map(|inner| inner.$method($($argument),*))
        })*
    };
}

impl<S: Serializer> Serializer for Counting<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Counting<S::SerializeSeq>;
    type SerializeTuple = Counting<S::SerializeTuple>;
    type SerializeTupleStruct = Counting<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Counting<S::SerializeTupleVariant>;
    type SerializeMap = Counting<S::SerializeMap>;
    type SerializeStruct = Counting<S::SerializeStruct>;
    type SerializeStructVariant = Counting<S::SerializeStructVariant>;

    serialized! {
        serialize_bool(value: bool), serialize_i8(value: i8), serialize_i16(value: i16), serialize_i32(value: i32),
        serialize_i64(value: i64), serialize_i128(value: i128), serialize_u8(value: u8), serialize_u16(value: u16),
        serialize_u32(value: u32), serialize_u64(value: u64), serialize_u128(value: u128), serialize_f32(value: f32),
        serialize_f64(value: f64), serialize_char(value: char), serialize_str(value: &str), serialize_bytes(value: &[u8]),
        serialize_none(), serialize_unit(), serialize_unit_struct(name: &'static str),
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str),
    }

    serialized_content! {
        serialize_some(),
        serialize_newtype_struct(name: &'static str),
        serialize_newtype_variant(name: &'static str, index: u32, variant: &'static str),
    }

    serialized_parts! {
        serialize_seq(length: Option<usize>) -> SerializeSeq,
        serialize_tuple(length: usize) -> SerializeTuple,
        serialize_tuple_struct(name: &'static str, length: usize) -> SerializeTupleStruct,
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, length: usize) -> SerializeTupleVariant,
        serialize_map(length: Option<usize>) -> SerializeMap,
        serialize_struct(name: &'static str, length: usize) -> SerializeStruct,
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, length: usize) -> SerializeStructVariant,
    }

    #[inline]
    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! parts {
    ($($compound:ident::$method:ident),* $(,)?) => {
        $(impl<C: ser::$compound> ser::$compound for Counting<C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                let value = self.bound(value);
                self.inner.$method(&value)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })*
    };
}

parts! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

macro_rules! named_parts {
    ($($compound:ident),* $(,)?) => {
        $(impl<C: ser::$compound> ser::$compound for Counting<C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                let value = self.bound(value);
                self.inner.serialize_field(name, &value)
            }

            #[inline]
            fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
                self.inner.skip_field(name)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })*
    };
}

named_parts!(SerializeStruct, SerializeStructVariant);

impl<C: ser::SerializeMap> ser::SerializeMap for Counting<C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        let key = self.bound(key);
        self.inner.serialize_key(&key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let value = self.bound(value);
        self.inner.serialize_value(&value)
    }

    #[inline]
    fn serialize_entry<K: Serialize + ?Sized, T: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &T,
    ) -> Result<(), C::Error> {
        let (key, value) = (self.bound(key), self.bound(value));
        self.inner.serialize_entry(&key, &value)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

#[cfg(test)]
mod tests;
