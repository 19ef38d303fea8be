//! Keys: `namespace:Entity:id`, written so that no two ids share one.
//!
//! An id is written through its `Serialize` implementation, so a newtype or an enum only needs the derive that it has
//! anyway. Separators, braces and control characters inside text are escaped. The empty text, an absent part and raw bytes
//! have escape sequences of their own.
//!
//! 1. The prefix is computed once per repository. A key is the prefix followed by the id. Short keys need no allocation.
//! 2. The parts of a composite id are joined with `:`.
//! 3. An id longer than [`MAX_ID`] bytes is cut and ends in its SHA-256, so the length of a key is bounded.
//! 4. The values of a lookup are written like a composite id, after `namespace:Entity#lookup:`.
//!
//! Invariant: two ids of one entity have the same key only if they serialize alike.
//! Invariant: an id adds no braces to its key, so it cannot change the Redis Cluster slot that the namespace selects.

use std::{borrow::Borrow, borrow::Cow, fmt, hash::Hash, hash::Hasher};

use serde::{Serialize, ser};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::{
    policy::{Policy, Strategy},
    printed::Printed,
    protocol::{codec::depth::Bounded, fingerprint::Fingerprint},
};

/// The longest id, in bytes of its written form, that is not hashed.
pub const MAX_ID: usize = 160;
/// How much of a hashed id precedes the hash, for people who look into the store.
const KEPT_OF_HASHED: usize = 40;

/// The distance of the partition's two digits from the end of a write-behind entity's prefix, which ends in `0a}:`.
const DIGITS_FROM_END: usize = 4;

/// Returns the name of the queue of a write-behind entity.
pub(crate) fn queue_name(namespace: &str, entity: &str, policy: &Policy) -> String {
    let namespace = policy.namespace.unwrap_or(namespace);
    format!("{namespace}:{entity}/{}", policy.queue.partitions)
}

/// The key of one row.
#[derive(Clone)]
pub struct Key(SmallVec<[u8; 64]>);

impl Key {
    /// Returns the bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether it is the key of a row whose writes are queued: then it begins with the name of its partition.
    #[must_use]
    pub fn has_queue(&self) -> bool {
        let Some(tag) = self.0.strip_prefix(b"{") else {
            return false;
        };
        // Neither a namespace nor an id has a brace.
        let end = tag.iter().position(|byte| *byte == b'}');
        let number = end.and_then(|end| tag[..end].last_chunk::<4>());
        matches!(number, Some([b':', b'p', high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
    }

    /// Returns bytes with a hash of this key before them. What does not say itself where it belongs is stored so: the ids that a
    /// lookup has found, and answers.
    pub(crate) fn marked(&self, bytes: &[u8]) -> Vec<u8> {
        [&self.mark(), bytes].concat()
    }

    /// Returns the bytes behind the hash of this key, if they have it.
    pub(crate) fn unmarked<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        bytes.strip_prefix(&self.mark())
    }

    fn mark(&self) -> [u8; 4] {
        let mut hash = Fingerprint::default();
        hash.write(self.as_bytes());
        hash.finish().to_le_bytes()
    }

    /// Makes a key of given bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Printed::new(self.as_bytes()), f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the keys of one entity have in common.
#[derive(Clone, Debug)]
pub struct KeySpace {
    prefix: Vec<u8>,
    /// The length of the part of the prefix that all keys share.
    shared: usize,
    /// The number of partitions, for a write-behind entity.
    partitions: Option<u16>,
}

impl KeySpace {
    /// Makes the key space of an entity, under its own namespace or else the cache's.
    #[must_use]
    pub fn new(namespace: &str, entity: &str, policy: &Policy) -> Self {
        let namespace = policy.namespace.unwrap_or(namespace);
        if policy.strategy == Strategy::WriteBehind {
            let queue = queue_name(namespace, entity, policy);
            let prefix = format!("{}:", partition_tag(&queue, 0));
            return Self {
                shared: prefix.len() - DIGITS_FROM_END,
                prefix: prefix.into_bytes(),
                partitions: Some(policy.queue.partitions),
            };
        }
        let prefix = if policy.hash_tag {
            format!("{{{namespace}:{entity}}}:")
        } else {
            format!("{namespace}:{entity}:")
        };
        Self {
            shared: prefix.len(),
            prefix: prefix.into_bytes(),
            partitions: None,
        }
    }

    /// Returns the key space of an entity that is not compiled into this program, and has no partitions. `prefix`: what the keys
    /// of its rows begin with.
    pub(crate) fn of_prefix(prefix: &str) -> Self {
        Self {
            prefix: prefix.as_bytes().to_vec(),
            shared: prefix.len(),
            partitions: None,
        }
    }

    /// Returns the key space of an entity that is listed in the store. `prefix`: what the keys of its rows begin with.
    #[cfg(feature = "tools")]
    pub(crate) fn listed(prefix: &str, partitions: Option<u16>) -> Self {
        let shared = match partitions {
            Some(_) => prefix.len().saturating_sub(DIGITS_FROM_END),
            None => prefix.len(),
        };
        Self {
            prefix: prefix.as_bytes().to_vec(),
            shared,
            partitions,
        }
    }

    /// Returns the key that the row with a key of another entity has here. Both have one id, and no partitions.
    pub(crate) fn key_of_same_id(&self, key: &Key, other_prefix: &[u8]) -> Option<Key> {
        let id = key.as_bytes().strip_prefix(other_prefix)?;
        (!id.is_empty()).then(|| Key::from_bytes(&[&self.prefix, id].concat()))
    }

    /// Returns the bytes before the id in the key of a row. The number of a partition is `00` in them.
    #[cfg(feature = "redis")]
    pub(crate) fn example(&self) -> &[u8] {
        &self.prefix
    }

    /// Returns the bytes that the keys of all rows begin with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix[..self.shared]
    }

    /// Returns what the keys of all rows begin with, and those of all lookups if there are any.
    pub(crate) fn prefixes(&self, has_lookups: bool) -> Vec<Vec<u8>> {
        let mut prefixes = vec![self.prefix().to_vec()];
        if has_lookups {
            prefixes.push([self.before_lookup(), b"#"].concat());
        }
        prefixes
    }

    /// Returns the key of the clock of the tags.
    pub(crate) fn clock_key(&self) -> Key {
        Key::from_bytes(&[self.before_lookup(), b"@tags"].concat())
    }

    /// Returns the prefix without its last colon.
    fn before_lookup(&self) -> &[u8] {
        &self.prefix[..self.prefix.len() - 1]
    }

    /// Returns the key of a lookup for some values.
    ///
    /// # Errors
    ///
    /// As [`KeySpace::key`].
    pub(crate) fn lookup_key<V: Serialize + ?Sized>(
        &self,
        lookup: &str,
        values: &V,
    ) -> Result<Key, UnusableId> {
        let mut out: SmallVec<[u8; 64]> = SmallVec::from_slice(self.before_lookup());
        out.push(b'#');
        out.extend_from_slice(lookup.as_bytes());
        out.push(b':');
        let start = out.len();
        write_id(values, &mut out)?;
        shorten(&mut out, start);
        Ok(Key(out))
    }

    /// Returns the name of the lookup that a key is of, if it is a key of a lookup.
    pub(crate) fn lookup_name<'k>(&self, key: &'k Key) -> Option<&'k [u8]> {
        let rest = key.as_bytes().strip_prefix(self.before_lookup())?;
        rest.strip_prefix(b"#")?.split(|byte| *byte == b':').next()
    }

    /// Returns the number of the partition that a key is in.
    pub(crate) fn partition(&self, key: &Key) -> usize {
        let digits = &key.as_bytes()[self.shared..self.shared + 2];
        let digit = |byte: u8| {
            usize::from(if byte > b'9' {
                byte - b'a' + 10
            } else {
                byte - b'0'
            })
        };
        digit(digits[0]) * 16 + digit(digits[1])
    }

    /// Returns the key of an id.
    ///
    /// # Errors
    ///
    /// Fails for an id with several spellings of one value: a floating point number, or a map.
    pub fn key<I: Serialize + ?Sized>(&self, id: &I) -> Result<Key, UnusableId> {
        let mut out: SmallVec<[u8; 64]> = SmallVec::from_slice(&self.prefix);
        write_id(id, &mut out)?;
        let start = self.prefix.len();
        if let Some(partitions) = self.partitions {
            let mut hash = Fingerprint::default();
            hash.write(&out[start..]);
            let partition = u8::try_from(hash.finish() % u32::from(partitions));
            let digits = &mut out[self.shared..self.shared + 2];
            write_hex(digits, partition.expect("there are 256 partitions at most"));
        }
        shorten(&mut out, start);
        Ok(Key(out))
    }
}

fn write_id<I: Serialize + ?Sized>(id: &I, out: &mut SmallVec<[u8; 64]>) -> Result<(), UnusableId> {
    Bounded::new(id).serialize(&mut IdWriter {
        out,
        depth: 0,
        options: 0,
    })
}

/// Cuts a written id that is too long, and appends its hash.
fn shorten(out: &mut SmallVec<[u8; 64]>, start: usize) {
    if out.len() - start > MAX_ID {
        let hash = Sha256::digest(&out[start..]);
        out.truncate(start + KEPT_OF_HASHED);
        out.extend_from_slice(b"%#");
        for byte in hash {
            push_hex(out, byte);
        }
    }
}

/// A type that can be passed as an id: the id itself, a reference to it, or a `&str` if the id is a `String`. In a composite id
/// of two or three parts, each text can be a `&str`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be used as an id of type `{Id}`",
    label = "not an id of this entity",
    note = "pass the id itself or a reference to it; a composite id is a tuple in the order of the `#[cached(id)]` fields"
)]
pub trait AsId<Id: Clone> {
    /// The future `F` of an operation that takes this id. It is always `F` itself.
    ///
    /// Without it, rustc would report an id of a wrong type at the call, at its future, and at its `.await`. A type that
    /// it must look up here is unknown after the first report, and an unknown type is not reported again.
    type Operation<F: Future>: Future<Output = F::Output> + From<F>;

    /// Returns the id.
    fn as_id(&self) -> Cow<'_, Id>;
}

impl<Id: Clone> AsId<Id> for Id {
    type Operation<F: Future> = F;

    fn as_id(&self) -> Cow<'_, Id> {
        Cow::Borrowed(self)
    }
}

impl<Id: Clone> AsId<Id> for &Id {
    type Operation<F: Future> = F;

    fn as_id(&self) -> Cow<'_, Id> {
        Cow::Borrowed(self)
    }
}

impl AsId<String> for &str {
    type Operation<F: Future> = F;

    fn as_id(&self) -> Cow<'_, String> {
        Cow::Owned((*self).to_owned())
    }
}

/// A composite id whose texts are borrowed: `(1, "x")` for an id `(i64, String)`.
macro_rules! borrowed_tuples {
    ($(($($generic:ident)*) ($($id:ty),*) ($($given:ty),*) ($($part:ident $owned:expr),*);)*) => {
        $(#[diagnostic::do_not_recommend]
        impl<$($generic: Clone),*> AsId<($($id,)*)> for ($($given,)*) {
            type Operation<F: Future> = F;

            fn as_id(&self) -> Cow<'_, ($($id,)*)> {
                let ($($part,)*) = self;
                Cow::Owned(($($owned,)*))
            }
        })*
    };
}

borrowed_tuples! {
    (A) (A, String) (A, &str) (a a.clone(), b (*b).to_owned());
    (B) (String, B) (&str, B) (a (*a).to_owned(), b b.clone());
    () (String, String) (&str, &str) (a (*a).to_owned(), b (*b).to_owned());
    (A B) (A, B, String) (A, B, &str) (a a.clone(), b b.clone(), c (*c).to_owned());
    (A C) (A, String, C) (A, &str, C) (a a.clone(), b (*b).to_owned(), c c.clone());
    (B C) (String, B, C) (&str, B, C) (a (*a).to_owned(), b b.clone(), c c.clone());
    (A) (A, String, String) (A, &str, &str) (a a.clone(), b (*b).to_owned(), c (*c).to_owned());
    (B) (String, B, String) (&str, B, &str) (a (*a).to_owned(), b b.clone(), c (*c).to_owned());
    (C) (String, String, C) (&str, &str, C) (a (*a).to_owned(), b (*b).to_owned(), c c.clone());
    () (String, String, String) (&str, &str, &str) (a (*a).to_owned(), b (*b).to_owned(), c (*c).to_owned());
}

/// Why an id cannot be a key.
#[derive(Debug)]
pub struct UnusableId(String);

impl fmt::Display for UnusableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnusableId {}

impl ser::Error for UnusableId {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

fn write_hex(out: &mut [u8], byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out[0] = DIGITS[usize::from(byte >> 4)];
    out[1] = DIGITS[usize::from(byte & 15)];
}

fn push_hex(out: &mut SmallVec<[u8; 64]>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

/// Returns whether a byte of text is written as it is. The other bytes have a meaning in the key, or are unreadable.
fn is_plain(byte: u8) -> bool {
    !byte.is_ascii_control() && !b"%:{}(),= ".contains(&byte)
}

/// Writes an id in its key form. Every escape sequence starts with `%` and a character other than an upper-case hexadecimal
/// digit, so escaped text cannot be mistaken for one.
struct IdWriter<'a> {
    out: &'a mut SmallVec<[u8; 64]>,
    /// How many sequences contain this part. The outermost one joins its parts with `:`.
    depth: u32,
    /// How many options contain this part directly.
    options: u32,
}

impl IdWriter<'_> {
    fn text(&mut self, text: &str) {
        if text.is_empty() {
            self.out.extend_from_slice(b"%-");
        }
        for &byte in text.as_bytes() {
            if is_plain(byte) {
                self.out.push(byte);
            } else {
                self.out.push(b'%');
                push_hex(self.out, byte);
            }
        }
    }

    fn integer(&mut self, integer: impl itoa::Integer) {
        self.out
            .extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
    }

    fn parts<'b>(&'b mut self) -> Parts<'b> {
        if self.depth > 0 {
            self.out.push(b'(');
        }
        Parts {
            out: self.out,
            depth: self.depth + 1,
            first: true,
        }
    }
}

/// The parts of a composite id or of a sequence inside one.
struct Parts<'a> {
    out: &'a mut SmallVec<[u8; 64]>,
    depth: u32,
    first: bool,
}

impl Parts<'_> {
    fn part<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), UnusableId> {
        if !std::mem::take(&mut self.first) {
            self.out.push(if self.depth > 1 { b',' } else { b':' });
        }
        part.serialize(&mut IdWriter {
            out: self.out,
            depth: self.depth,
            options: 0,
        })
    }

    fn finish(self) {
        if self.first {
            self.out.extend_from_slice(b"%.");
        }
        if self.depth > 1 {
            self.out.push(b')');
        }
    }
}

macro_rules! integers {
    ($($method:ident: $integer:ty),* $(,)?) => {
        $(fn $method(self, integer: $integer) -> Result<(), UnusableId> {
            self.integer(integer);
            Ok(())
        })*
    };
}

impl<'a, 'w> ser::Serializer for &'a mut IdWriter<'w> {
    type Ok = ();
    type Error = UnusableId;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = ser::Impossible<(), UnusableId>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
    }

    fn serialize_bool(self, value: bool) -> Result<(), UnusableId> {
        self.text(if value { "true" } else { "false" });
        Ok(())
    }

    fn serialize_f32(self, _: f32) -> Result<(), UnusableId> {
        Err(several_spellings("a floating point number"))
    }

    fn serialize_f64(self, _: f64) -> Result<(), UnusableId> {
        Err(several_spellings("a floating point number"))
    }

    fn serialize_char(self, character: char) -> Result<(), UnusableId> {
        self.text(character.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), UnusableId> {
        self.text(text);
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), UnusableId> {
        self.out.extend_from_slice(b"%x");
        for &byte in bytes {
            push_hex(self.out, byte);
        }
        Ok(())
    }

    fn serialize_none(self) -> Result<(), UnusableId> {
        for _ in 0..self.options {
            self.out.extend_from_slice(b"%?");
        }
        self.out.extend_from_slice(b"%~");
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), UnusableId> {
        self.options += 1;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), UnusableId> {
        self.out.extend_from_slice(b"%.");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), UnusableId> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), UnusableId> {
        self.text(variant);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), UnusableId> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), UnusableId> {
        self.text(variant);
        self.out.push(b'=');
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, UnusableId> {
        Ok(self.parts())
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, UnusableId> {
        Ok(self.parts())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, UnusableId> {
        Ok(self.parts())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, UnusableId> {
        self.text(variant);
        self.out.push(b'=');
        Ok(self.parts())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, UnusableId> {
        Err(several_spellings("a map"))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, UnusableId> {
        Ok(self.parts())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, UnusableId> {
        self.text(variant);
        self.out.push(b'=');
        Ok(self.parts())
    }
}

fn several_spellings(what: &str) -> UnusableId {
    UnusableId(format!(
        "{what} cannot be part of a cached id, because one value has several spellings; use an integer, text, bytes or a uuid"
    ))
}

macro_rules! sequences {
    ($($compound:ident::$method:ident),* $(,)?) => {
        $(impl ser::$compound for Parts<'_> {
            type Ok = ();
            type Error = UnusableId;

            fn $method<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), UnusableId> {
                self.part(part)
            }

            fn end(self) -> Result<(), UnusableId> {
                self.finish();
                Ok(())
            }
        })*
    };
}

sequences! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

macro_rules! structs {
    ($($compound:ident),* $(,)?) => {
        $(impl ser::$compound for Parts<'_> {
            type Ok = ();
            type Error = UnusableId;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, part: &T) -> Result<(), UnusableId> {
                self.part(part)
            }

            fn end(self) -> Result<(), UnusableId> {
                self.finish();
                Ok(())
            }
        })*
    };
}

structs!(SerializeStruct, SerializeStructVariant);

/// Returns the hash tag of a partition.
pub(crate) fn partition_tag(queue: &str, number: u16) -> String {
    format!("{{{queue}:p{number:02x}}}")
}
