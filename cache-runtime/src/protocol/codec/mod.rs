//! Payload codecs: a row to bytes and back, for stores outside this process.
//!
//! The default is MessagePack with field names. It can carry everything that serde can describe, and a field that was added,
//! removed or moved cannot be read as another one. postcard is smaller and faster, but positional. It cannot carry
//! self-describing types (`serde_json::Value`, `#[serde(flatten)]`, untagged enums). `probe` finds such types when a
//! repository is made, before the first row fails. JSON is for entries that people or other programs read.
//!
//! A value that is nested too deep is neither written nor read (`depth`).
//!
//! Not here: the header before a payload. It names the codec and the layout of the payload, and a reader never decodes a
//! payload of another codec or layout.

pub(crate) mod depth;
mod probe;
mod stopped_at;

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use self::depth::{Bounded, Limits};
pub use crate::policy::Codec;
use crate::printed;
pub(crate) use probe::{requires_self_describing, shape};

/// The highest codec number.
const LAST: u8 = 3;

/// Why a payload could not be encoded or decoded.
#[derive(Debug)]
pub struct CodecError(String);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

impl CodecError {
    fn new(error: impl fmt::Display) -> Self {
        Self(printed::short(&error))
    }
}

impl Codec {
    /// Returns the number of the codec in an entry's header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            #[cfg(feature = "msgpack")]
            Self::MessagePack => 1,
            #[cfg(feature = "postcard")]
            Self::Postcard => 2,
            #[cfg(feature = "json")]
            Self::Json => 3,
        }
    }

    /// Returns the codec with this number, if this program was built with it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            #[cfg(feature = "msgpack")]
            1 => Some(Self::MessagePack),
            #[cfg(feature = "postcard")]
            2 => Some(Self::Postcard),
            #[cfg(feature = "json")]
            3 => Some(Self::Json),
            _ => None,
        }
    }

    /// Returns all codecs that this program was built with.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (1..=LAST).filter_map(Self::from_number)
    }

    /// Returns whether the codec finds fields by their position, and so cannot carry a self-describing type.
    #[must_use]
    pub const fn is_positional(self) -> bool {
        match self {
            #[cfg(feature = "msgpack")]
            Self::MessagePack => false,
            #[cfg(feature = "postcard")]
            Self::Postcard => true,
            #[cfg(feature = "json")]
            Self::Json => false,
        }
    }

    /// Encodes a row.
    ///
    /// # Errors
    ///
    /// Fails if the codec cannot carry a value of the row, or if the row is nested more than 127 levels deep.
    pub fn encode<E: Serialize>(self, row: &E) -> Result<Vec<u8>, CodecError> {
        let row = &Bounded::new(row);
        match self {
            #[cfg(feature = "msgpack")]
            Self::MessagePack => rmp_serde::to_vec_named(row).map_err(CodecError::new),
            #[cfg(feature = "postcard")]
            Self::Postcard => postcard::to_stdvec(row).map_err(CodecError::new),
            #[cfg(feature = "json")]
            Self::Json => serde_json::to_vec(row).map_err(CodecError::new),
        }
    }

    /// Decodes a row. Bytes after its end are an error.
    ///
    /// # Errors
    ///
    /// Fails if the bytes are not a row of this type in this codec, or if they are nested more than 127 levels deep.
    pub fn decode<E: DeserializeOwned>(self, bytes: &[u8]) -> Result<E, CodecError> {
        let limits = Limits::of(bytes.len());
        match self {
            #[cfg(feature = "msgpack")]
            Self::MessagePack => {
                // It borrows texts from the bytes, but does not tell how many bytes it has left.
                let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
                let row = E::deserialize(limits.guard(&mut from)).map_err(CodecError::new)?;
                match <() as serde::Deserialize>::deserialize(&mut from) {
                    Err(rmp_serde::decode::Error::InvalidMarkerRead(end))
                        if end.kind() == std::io::ErrorKind::UnexpectedEof =>
                    {
                        Ok(row)
                    }
                    _ => Err(too_long()),
                }
            }
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                let mut from = postcard::Deserializer::from_bytes(bytes);
                let row = E::deserialize(limits.guard(&mut from)).map_err(CodecError::new)?;
                match from.finalize().map_err(CodecError::new)? {
                    [] => Ok(row),
                    _ => Err(too_long()),
                }
            }
            #[cfg(feature = "json")]
            Self::Json => {
                let mut from = serde_json::Deserializer::from_slice(bytes);
                let row = E::deserialize(limits.guard(&mut from)).map_err(CodecError::new)?;
                from.end().map_err(CodecError::new)?;
                Ok(row)
            }
        }
    }
}

impl Codec {
    /// Returns the field of a row at which [`Codec::encode`] failed, if it can be found.
    pub(crate) fn field_not_written<E: Serialize + DeserializeOwned>(
        self,
        row: &E,
    ) -> Option<String> {
        let mut written = Vec::new();
        let row = &Bounded::new(row);
        match self {
            #[cfg(feature = "msgpack")]
            Self::MessagePack => rmp_serde::encode::write_named(&mut written, row).is_ok(),
            #[cfg(feature = "postcard")]
            Self::Postcard => postcard::to_io(row, &mut written).is_ok(),
            #[cfg(feature = "json")]
            Self::Json => serde_json::to_writer(&mut written, row).is_ok(),
        };
        self.field_not_read::<E>(&written)
    }

    /// Returns the field of a row at which [`Codec::decode`] fails, if it can be found.
    pub(crate) fn field_not_read<E: DeserializeOwned>(self, bytes: &[u8]) -> Option<String> {
        let limits = &Limits::of(bytes.len());
        match self {
            #[cfg(feature = "msgpack")]
            Self::MessagePack => {
                stopped_at::field::<E>(limits.guard(&mut rmp_serde::Deserializer::new(bytes)))
            }
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                let mut from = postcard::Deserializer::from_bytes(bytes);
                stopped_at::field::<E>(limits.guard(&mut from))
            }
            #[cfg(feature = "json")]
            Self::Json => {
                let mut from = serde_json::Deserializer::from_slice(bytes);
                stopped_at::field::<E>(limits.guard(&mut from))
            }
        }
    }
}

#[cfg(any(feature = "msgpack", feature = "postcard"))]
#[cold]
fn too_long() -> CodecError {
    CodecError::new("there are bytes after the row in the payload")
}
