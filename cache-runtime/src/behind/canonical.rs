//! Writes a value as bytes that are the same for equal values, to compare a row with what the database has stored.
//!
//! A codec cannot be used for that. It writes the entries of a `HashMap` in the order of this one copy of the map, so two
//! copies of a row would differ. And the codecs depend on the features of the build.
//!
//! 1. A value is written as serde describes it ([`of`]). Each part begins with a byte for its kind, and no part can be read
//!    as two.
//! 2. The entries of a map are sorted. Numbers keep all their bits, so `-0.0` is not `0.0`.
//! 3. Where the bytes have to be stored, a digest is stored instead ([`digest`]).
//!
//! Invariant: equal bytes mean equal values, as far as serde sees them. Different bytes may still mean equal values: for
//! serde a `HashSet` is a list.
//! Not here: which values are compared (`apply`, `replay`).

use std::fmt;

use serde::{Serialize, Serializer, ser};
use sha2::{Digest, Sha256};

use crate::protocol::codec::depth::Bounded;

/// Returns a value as bytes.
///
/// # Errors
///
/// Fails if the value cannot be serialized, or is nested too deep.
pub(crate) fn of<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Unwritable> {
    let mut out = Vec::with_capacity(256);
    Bounded::new(value).serialize(&mut Writer(&mut out))?;
    Ok(out)
}

/// Returns a value as 64 characters.
///
/// # Errors
///
/// As [`of`].
pub(crate) fn digest<T: Serialize + ?Sized>(value: &T) -> Result<String, Unwritable> {
    use fmt::Write as _;
    let hash = Sha256::digest(of(value)?);
    let mut text = String::with_capacity(64);
    for byte in hash {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    Ok(text)
}

/// Why a value cannot be serialized.
#[derive(Debug)]
pub(crate) struct Unwritable(String);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unwritable {}

impl ser::Error for Unwritable {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn fixed<const N: usize>(&mut self, sign: u8, bytes: [u8; N]) {
        self.0.push(sign);
        self.0.extend_from_slice(&bytes);
    }

    fn measured(&mut self, sign: u8, bytes: &[u8]) {
        self.fixed(sign, (bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }
}

/// Numbers of all widths have one form, so that a field may become wider.
macro_rules! numbers {
    ($($method:ident: $type:ty => $wide:ty, $sign:literal;)*) => {
        $(fn $method(self, value: $type) -> Result<(), Unwritable> {
            self.fixed($sign, <$wide>::from(value).to_le_bytes());
            Ok(())
        })*
    };
}

impl<'w> Serializer for &'w mut Writer<'_> {
    type Ok = ();
    type Error = Unwritable;
    type SerializeSeq = Parts<'w>;
    type SerializeTuple = Parts<'w>;
    type SerializeTupleStruct = Parts<'w>;
    type SerializeTupleVariant = Parts<'w>;
    type SerializeMap = Entries<'w>;
    type SerializeStruct = Parts<'w>;
    type SerializeStructVariant = Parts<'w>;

    numbers! {
        serialize_bool: bool => u8, b'?';
        serialize_i8: i8 => i128, b'i';
        serialize_i16: i16 => i128, b'i';
        serialize_i32: i32 => i128, b'i';
        serialize_i64: i64 => i128, b'i';
        serialize_i128: i128 => i128, b'i';
        serialize_u8: u8 => i128, b'i';
        serialize_u16: u16 => i128, b'i';
        serialize_u32: u32 => i128, b'i';
        serialize_u64: u64 => i128, b'i';
        serialize_u128: u128 => u128, b'w';
        serialize_f32: f32 => f64, b'f';
        serialize_f64: f64 => f64, b'f';
        serialize_char: char => u32, b'c';
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_str(self, value: &str) -> Result<(), Unwritable> {
        self.measured(b's', value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Unwritable> {
        self.measured(b'b', value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Unwritable> {
        self.0.push(b'-');
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unwritable> {
        self.0.push(b'+');
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unwritable> {
        self.0.push(b'u');
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Unwritable> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Unwritable> {
        self.measured(b'v', variant.as_bytes());
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Unwritable> {
        self.measured(b'V', variant.as_bytes());
        value.serialize(self)
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Parts<'w>, Unwritable> {
        self.0.push(b'[');
        Ok(Parts(self.0))
    }

    fn serialize_tuple(self, length: usize) -> Result<Parts<'w>, Unwritable> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        length: usize,
    ) -> Result<Parts<'w>, Unwritable> {
        self.serialize_seq(Some(length))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Parts<'w>, Unwritable> {
        self.measured(b'V', variant.as_bytes());
        self.serialize_seq(Some(length))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Entries<'w>, Unwritable> {
        Ok(Entries {
            out: self.0,
            entries: Vec::new(),
        })
    }

    fn serialize_struct(self, _name: &'static str, length: usize) -> Result<Parts<'w>, Unwritable> {
        self.serialize_seq(Some(length))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Parts<'w>, Unwritable> {
        self.measured(b'V', variant.as_bytes());
        self.serialize_seq(Some(length))
    }
}

/// Writes the parts of a value in their order.
struct Parts<'o>(&'o mut Vec<u8>);

impl Parts<'_> {
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        value.serialize(&mut Writer(self.0))
    }

    fn named<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Unwritable> {
        Writer(self.0).measured(b'n', name.as_bytes());
        self.part(value)
    }

    fn ended(self) {
        self.0.push(b']');
    }
}

macro_rules! parts {
    ($($trait:ident::$method:ident($($name:ident)?);)*) => {
        $(impl ser::$trait for Parts<'_> {
            type Ok = ();
            type Error = Unwritable;

            parts!(@method $method $($name)?);

            fn end(self) -> Result<(), Unwritable> {
                self.ended();
                Ok(())
            }
        })*
    };
    (@method $method:ident) => {
        fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
            self.part(value)
        }
    };
    (@method $method:ident $name:ident) => {
        fn $method<T: Serialize + ?Sized>(
            &mut self,
            $name: &'static str,
            value: &T,
        ) -> Result<(), Unwritable> {
            self.named($name, value)
        }
    };
}

parts! {
    SerializeSeq::serialize_element();
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(name);
    SerializeStructVariant::serialize_field(name);
}

/// Collects the entries of a map, and sorts them at the end.
struct Entries<'o> {
    out: &'o mut Vec<u8>,
    /// For each entry, the length of its key and the bytes of key and value.
    entries: Vec<(usize, Vec<u8>)>,
}

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Unwritable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritable> {
        let mut entry = Vec::new();
        key.serialize(&mut Writer(&mut entry))?;
        self.entries.push((entry.len(), entry));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritable> {
        let (_, entry) = self
            .entries
            .last_mut()
            .expect("a key comes before its value");
        value.serialize(&mut Writer(entry))
    }

    fn end(mut self) -> Result<(), Unwritable> {
        // The sort is stable: entries with equal keys keep their order.
        self.entries
            .sort_by(|(one, left), (other, right)| left[..*one].cmp(&right[..*other]));
        self.out.push(b'{');
        for (_, entry) in &self.entries {
            self.out.extend_from_slice(entry);
        }
        self.out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    fn same<A: Serialize, B: Serialize>(one: &A, other: &B) -> bool {
        of(one).unwrap() == of(other).unwrap()
    }

    #[test]
    fn a_map_is_the_same_in_any_order() {
        let keys = 0..200_u32;
        let one: HashMap<u32, String> = keys.clone().map(|key| (key, key.to_string())).collect();
        let other: HashMap<u32, String> = keys.rev().map(|key| (key, key.to_string())).collect();
        assert!(same(&one, &other));
        assert!(same(&one, &one.iter().collect::<BTreeMap<_, _>>()));
        let mut changed = one.clone();
        changed.insert(7, "8".to_owned());
        assert!(!same(&one, &changed));
    }

    #[test]
    fn what_refuses_to_be_serialized_says_why() {
        struct Refusing;
        impl Serialize for Refusing {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(ser::Error::custom("it refuses"))
            }
        }
        assert_eq!(of(&Refusing).unwrap_err().to_string(), "it refuses");
    }

    #[test]
    fn values_that_look_alike_differ() {
        assert!(!same(&-0.0_f64, &0.0_f64));
        assert!(same(&f64::NAN, &f64::NAN));
        assert!(!same(&Some(Some(1)), &Some(1)));
        assert!(!same(&Some(None::<i32>), &None::<Option<i32>>));
        assert!(!same(&["ab", "c"], &["a", "bc"]));
        assert!(!same(&(vec![1], vec![2, 3]), &(vec![1, 2], vec![3])));
        assert!(!same(&"1", &1));
        assert!(!same(&"x ", &"x"));
        assert!(!same(&i64::MAX, &(i64::MAX - 1)));
    }

    #[test]
    fn a_number_is_the_same_in_any_width() {
        assert!(same(&7_i16, &7_u64));
        assert!(same(&0.5_f32, &0.5_f64));
        assert!(!same(&0.1_f32, &0.1_f64));
    }

    #[test]
    fn a_digest_is_of_the_whole_value() {
        let long = "x".repeat(10_000);
        assert_eq!(digest(&long).unwrap().len(), 64);
        assert_ne!(
            digest(&long).unwrap(),
            digest(&(long.clone() + "y")).unwrap()
        );
    }
}
