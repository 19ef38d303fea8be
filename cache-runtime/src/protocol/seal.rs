//! The seal of an entry: a tag that only the holder of a secret key can make, and what its payload went through before it was
//! stored (compression, encryption).
//!
//! Redis keeps what is sealed here. The in-process store keeps rows and not bytes, so nothing is sealed for it.
//!
//! 1. `close` compresses a payload that is large enough, encrypts it if that is asked for, and computes the tag.
//!    [`Seals::open`] does the reverse, and tells why an entry is not believed.
//! 2. The tag covers the name of the key, the payload, and the header: the layout, the history, the codec, the token and the time
//!    of the load. It covers whether there is a row, and whether it was queued. It does not cover what the store rewrites: the
//!    flags, the stamp and the queue position. A queued write that is flushed stays sealed as it was.
//! 3. The tag is HMAC-SHA-256 (RFC 2104), cut to 16 bytes. With encryption it is that of AES-256-GCM-SIV (RFC 8452), whose nonce is
//!    the token of the entry. A nonce that is used twice then tells only whether two entries are the same.
//!
//! Invariant: with keys, and unless plain entries are accepted, every row, absence and queued write that is believed was sealed with
//! one of the keys, for this key of the store.
//! Not here: where an entry is opened (`store/redis`). What a seal does not prevent is in `SECURITY.md`.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;
use smallvec::SmallVec;

use crate::protocol::{
    entry::{self, HEADER_LENGTH, SEAL_LENGTH, SEALED, flag, kind},
    key::Key,
    state::{Identity, Lease, Meta, Pending, State},
    token::Token,
};

/// Where the header says what the payload went through, whether the entry was queued, and which key has sealed it.
const LAYERS: usize = 25;
const QUEUED: usize = 26;
const KEY_ID: usize = 27;

/// The entry has a tag.
const AUTHENTICATED: u8 = 1;
/// Its payload is encrypted.
const ENCRYPTED: u8 = 2;
/// Its payload was compressed with LZ4, before it was encrypted.
const COMPRESSED: u8 = 4;

/// How many times smaller a compressed payload may be. What would be smaller still is stored as it is, so that a batch of queued
/// writes, which is bounded by its stored bytes, does not become as much as somebody likes in this process.
#[cfg(feature = "compress")]
const MOST_TIMES: usize = 32;
/// The length of a compressed payload before its compression, before the payload.
#[cfg(feature = "compress")]
const SIZE_LENGTH: usize = 4;

/// A secret key of 32 bytes, for [`CacheBuilder::authenticate`](crate::CacheBuilder::authenticate) and
/// [`CacheBuilder::encrypt`](crate::CacheBuilder::encrypt). `Debug` does not print it.
///
/// Draw it at random, for example with `openssl rand -hex 32`, and keep it where the passwords of the program are.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Returns the key with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a key of 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Fails if the text is anything else. The error does not contain the text.
    pub fn from_hex(text: &str) -> Result<Self, InvalidKey> {
        let (digits, []) = text.trim().as_bytes().as_chunks::<2>() else {
            return Err(InvalidKey);
        };
        let byte = |pair: &[u8; 2]| {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            u8::try_from(high? * 16 + low?).ok()
        };
        let bytes: Option<Vec<u8>> = digits.iter().map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(InvalidKey)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// A text is not a [`SecretKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidKey;

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret key has 64 hexadecimal digits (32 bytes)")
    }
}

impl std::error::Error for InvalidKey {}

/// What a program with keys does with entries that have no tag, while keys are introduced or given up
/// ([`CacheBuilder::plain_entries`](crate::CacheBuilder::plain_entries)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlainEntries {
    /// It does not believe them: a row is loaded again, and a queued write becomes a dead letter.
    #[default]
    Refuse,
    /// It believes them, and stores entries with a tag itself.
    Accept,
    /// It believes them, and stores entries without a tag itself, which programs without keys can read.
    Store,
}

/// What is done to the entries of a cache before they are stored, and what is asked of those that are found.
#[derive(Clone, Debug, Default)]
pub struct Seals {
    /// The first one seals, and all of them open.
    keys: Vec<Keys>,
    encrypts: bool,
    plain: PlainEntries,
    #[cfg_attr(
        not(feature = "compress"),
        expect(dead_code, reason = "nothing is compressed")
    )]
    compress_above: Option<usize>,
}

/// The keys that are derived from one secret.
#[derive(Clone)]
struct Keys {
    id: u8,
    /// Keyed once, because that is half of the work for a small row.
    tag: Hmac<Sha256>,
    #[cfg(feature = "encrypt")]
    cipher: Box<aes_gcm_siv::Aes256GcmSiv>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// Why an entry is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody with a key has stored it here.
    Forged(&'static str),
    /// This program cannot know: it lacks the key, or the feature.
    Unknown(&'static str),
}

impl Refusal {
    /// Returns the reason, as a part of a sentence.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Forged(reason) | Self::Unknown(reason) => reason,
        }
    }
}

const NO_TAG: Refusal = Refusal::Forged(
    "it has no tag, and this program believes only entries with a tag (`CacheBuilder::authenticate`)",
);
const WRONG_TAG: Refusal =
    Refusal::Forged("its tag was not made for this entry with a key of this program");
const NOT_QUEUED: Refusal =
    Refusal::Forged("it was sealed as a cached row, and not as a queued write");
#[cfg(feature = "compress")]
const UNREADABLE: Refusal = Refusal::Forged("its payload cannot be decompressed");
const ENCRYPTED_FOR_OTHERS: Refusal =
    Refusal::Unknown("it is encrypted, and this program has no keys (`CacheBuilder::encrypt`)");
#[cfg(not(feature = "encrypt"))]
const NO_CIPHER: Refusal = Refusal::Unknown(
    "it is encrypted, and this program was built without larder's feature `encrypt`",
);
#[cfg(not(feature = "compress"))]
const NO_COMPRESSION: Refusal = Refusal::Unknown(
    "it is compressed, and this program was built without larder's feature `compress`",
);
const LATER: Refusal = Refusal::Unknown(
    "it was stored by a later version of larder, in a way that this one does not know",
);

impl Keys {
    fn of(secret: &SecretKey) -> Self {
        let derive = |purpose: &str| {
            let mut mac = keyed(&secret.0);
            mac.update(purpose.as_bytes());
            mac.finalize().into_bytes()
        };
        Self {
            id: derive("larder: the number of the key")[0],
            tag: keyed(&derive("larder: tags")),
            #[cfg(feature = "encrypt")]
            cipher: {
                use aes_gcm_siv::{Aes256GcmSiv, KeyInit as _};
                let key: [u8; 32] = derive("larder: encryption").into();
                Box::new(Aes256GcmSiv::new(&key.into()))
            },
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl Seals {
    /// Seals with the first of these keys, and opens with all of them. Without a key, nothing is sealed.
    #[must_use]
    pub fn new(keys: &[SecretKey], encrypts: bool, plain: PlainEntries) -> Self {
        Self {
            keys: keys.iter().map(Keys::of).collect(),
            encrypts,
            plain,
            compress_above: None,
        }
    }

    /// Compresses payloads of more bytes than this.
    #[must_use]
    pub fn compress_above(self, bytes: Option<usize>) -> Self {
        Self {
            compress_above: bytes,
            ..self
        }
    }

    /// Returns the key that seals, if entries get a tag.
    fn sealing(&self) -> Option<&Keys> {
        self.keys
            .first()
            .filter(|_| self.plain != PlainEntries::Store)
    }

    /// Returns whether only entries with a tag are believed.
    #[must_use]
    pub fn are_required(&self) -> bool {
        !self.believes_plain()
    }

    fn believes_plain(&self) -> bool {
        self.keys.is_empty() || self.plain != PlainEntries::Refuse
    }

    /// Encodes a state for a key, with its seal if it gets one.
    #[must_use]
    pub fn encode(&self, key: &Key, state: &State<&[u8]>) -> Vec<u8> {
        let payload = match state {
            State::Value(_, payload) | State::Pending(_, payload) => payload,
            _ => &[][..],
        };
        let plain = entry::encode(state);
        let Some(Sealed {
            header,
            payload: sealed,
        }) = self.close(key, &plain, payload)
        else {
            return plain;
        };
        // What precedes the payload: a stamp, or a queue position.
        let before = &plain[HEADER_LENGTH..plain.len() - payload.len()];
        let payload = sealed.as_deref().unwrap_or(payload);
        [&header, before, payload].concat()
    }

    /// Returns the header of a queued write with its seal, and its payload if that is another one then.
    #[must_use]
    pub fn encode_queued(
        &self,
        key: &Key,
        pending: Pending,
        payload: &[u8],
    ) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut plain = entry::encode(&State::Pending(pending, &[]));
        plain.truncate(HEADER_LENGTH);
        match self.close(key, &plain, payload) {
            None => (plain, None),
            Some(Sealed { header, payload }) => (header, payload),
        }
    }

    /// Returns the payload of a dead letter with its seal, or `None` if there is no key to seal it with. `place` names where it belongs.
    pub(crate) fn close_letter(
        &self,
        place: &Key,
        identity: Identity,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        self.sealing()?;
        let meta = Meta {
            lease: Lease {
                token: Token::draw(),
                identity,
            },
            loaded_at_ms: 0,
            stamp: None,
        };
        Some(self.encode(place, &State::Value(meta, payload)))
    }

    /// Returns the payload of a dead letter without its seal. `believes`: also if the seal is wrong.
    ///
    /// # Errors
    ///
    /// As [`Seals::open`].
    pub(crate) fn open_letter(
        &self,
        place: &Key,
        bytes: &[u8],
        believes: bool,
    ) -> Result<Vec<u8>, Refusal> {
        let State::Value(_, payload) = entry::decode(bytes) else {
            return Err(WRONG_TAG);
        };
        match self.open(place, bytes, payload, u64::from(u32::MAX)) {
            Err(refusal) if !believes => Err(refusal),
            opened => Ok(opened.ok().flatten().unwrap_or_else(|| payload.to_vec())),
        }
    }

    /// Seals an entry, of which this is the beginning without a seal. `None`: it stays as it is.
    fn close(&self, key: &Key, plain: &[u8], payload: &[u8]) -> Option<Sealed> {
        let number = plain[2];
        if !matches!(number, kind::VALUE | kind::NEGATIVE | kind::PENDING) {
            return None;
        }
        // The payload of a deletion is the id, which the key contains already.
        let payload = match is_absent(plain) {
            true => &[],
            false => payload,
        };
        let sealing = self.sealing();
        let mut changed = self.compressed(payload);
        let mut layers = if changed.is_some() { COMPRESSED } else { 0 };
        if sealing.is_none() && layers == 0 {
            return None;
        }
        let mut header = plain[..HEADER_LENGTH].to_vec();
        header[1] = SEALED;
        header[QUEUED] = u8::from(number == kind::PENDING);
        let mut tag = [0; SEAL_LENGTH];
        if let Some(keys) = sealing {
            layers |= AUTHENTICATED;
            if self.encrypts {
                layers |= ENCRYPTED;
            }
            header[LAYERS] = layers;
            header[KEY_ID] = keys.id;
            let context = context(key, &header);
            tag = match self.encrypts {
                true => {
                    let encrypted = changed.get_or_insert_with(|| payload.to_vec());
                    encrypt(keys, &header, &context, encrypted)
                }
                false => authenticate(keys, &context, changed.as_deref().unwrap_or(payload)),
            };
            if payload.is_empty() {
                changed = None;
            }
        }
        header[LAYERS] = layers;
        header.extend_from_slice(&tag);
        Some(Sealed {
            header,
            payload: changed,
        })
    }

    /// Opens an entry: a row, an absence or a queued write, which `entry::decode` has found to have this payload. Returns the
    /// payload as the codec wrote it if it is not the one that is stored, but none of more than `most` bytes.
    ///
    /// # Errors
    ///
    /// Fails if the entry is not to be believed, or cannot be read.
    pub fn open(
        &self,
        key: &Key,
        bytes: &[u8],
        payload: &[u8],
        most: u64,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let sealed = bytes.get(1) == Some(&SEALED);
        let layers = match bytes.get(LAYERS) {
            Some(layers) if sealed => *layers,
            _ => 0,
        };
        if layers & AUTHENTICATED == 0 && !self.believes_plain() {
            return Err(NO_TAG);
        }
        if layers == 0 {
            return Ok(None);
        }
        if layers & !(AUTHENTICATED | ENCRYPTED | COMPRESSED) != 0 {
            return Err(LATER);
        }
        // What is encrypted has a tag. Without it, nobody could tell what comes of the decryption.
        if layers & ENCRYPTED != 0 && layers & AUTHENTICATED == 0 {
            return Err(WRONG_TAG);
        }
        let (header, rest) = bytes.split_at_checked(HEADER_LENGTH).ok_or(LATER)?;
        let tag: &[u8; SEAL_LENGTH] = rest.first_chunk().ok_or(LATER)?;
        let payload = match is_absent(header) {
            true => &[],
            false => payload,
        };
        let mut opened = None;
        if layers & AUTHENTICATED != 0 {
            if self.keys.is_empty() && layers & ENCRYPTED != 0 {
                return Err(ENCRYPTED_FOR_OTHERS);
            }
            // Without keys, nothing can be verified, and the payload is readable.
            if !self.keys.is_empty() {
                opened = self.verified(key, header, layers, payload, tag)?;
                if header[2] == kind::PENDING && header[QUEUED] == 0 {
                    return Err(NOT_QUEUED);
                }
            }
        }
        if layers & COMPRESSED != 0 && !is_absent(header) {
            let compressed = opened.as_deref().unwrap_or(payload);
            opened = Some(decompress(compressed, most)?);
        }
        Ok(opened)
    }

    /// Compares a tag with those that the keys make. Returns the payload if it was encrypted.
    fn verified(
        &self,
        key: &Key,
        header: &[u8],
        layers: u8,
        payload: &[u8],
        tag: &[u8; SEAL_LENGTH],
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let context = context(key, header);
        let own = self.keys.iter().filter(|keys| keys.id == header[KEY_ID]);
        for keys in own {
            if layers & ENCRYPTED != 0 {
                let mut opened = payload.to_vec();
                if decrypt(keys, header, &context, &mut opened, tag)? {
                    return Ok((!payload.is_empty()).then_some(opened));
                }
            } else if is_authentic(keys, &context, payload, tag) {
                return Ok(None);
            }
        }
        Err(WRONG_TAG)
    }

    /// Returns a payload compressed, if it is to be, and smaller then.
    #[cfg(feature = "compress")]
    fn compressed(&self, payload: &[u8]) -> Option<Vec<u8>> {
        if payload.len() <= self.compress_above? {
            return None;
        }
        let size = u32::try_from(payload.len()).ok()?;
        let most = lz4_flex::block::get_maximum_output_size(payload.len());
        let mut compressed = vec![0; SIZE_LENGTH + most];
        compressed[..SIZE_LENGTH].copy_from_slice(&size.to_le_bytes());
        let into = &mut compressed[SIZE_LENGTH..];
        let length = lz4_flex::block::compress_into(payload, into).ok()?;
        compressed.truncate(SIZE_LENGTH + length);
        let is_smaller = compressed.len() < payload.len();
        (is_smaller && payload.len() <= compressed.len() * MOST_TIMES).then_some(compressed)
    }

    #[cfg(not(feature = "compress"))]
    #[expect(clippy::unused_self, reason = "nothing is compressed")]
    fn compressed(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// What a seal has made of an entry.
struct Sealed {
    /// The header and the seal.
    header: Vec<u8>,
    /// The payload, if it is another one.
    payload: Option<Vec<u8>>,
}

/// Returns whether an entry has no row: an absence, or a queued deletion, which becomes one.
fn is_absent(header: &[u8]) -> bool {
    header[2] == kind::NEGATIVE || header[2] == kind::PENDING && header[3] & flag::DELETION != 0
}

/// Returns what a tag covers beside the payload. What the store rewrites is left out.
fn context(key: &Key, header: &[u8]) -> SmallVec<[u8; 192]> {
    let name = key.as_bytes();
    let mut context = SmallVec::new();
    context.extend_from_slice(&header[..HEADER_LENGTH]);
    context[2] = match is_absent(header) {
        true => kind::NEGATIVE,
        false => kind::VALUE,
    };
    context[3] = 0;
    // So that no name and payload are another name and payload.
    context.extend_from_slice(&(name.len() as u64).to_le_bytes());
    context.extend_from_slice(name);
    context
}

fn mac(keys: &Keys, context: &[u8], payload: &[u8]) -> Hmac<Sha256> {
    let mut mac = keys.tag.clone();
    mac.update(context);
    mac.update(payload);
    mac
}

fn authenticate(keys: &Keys, context: &[u8], payload: &[u8]) -> [u8; SEAL_LENGTH] {
    let whole = mac(keys, context, payload).finalize().into_bytes();
    let mut tag = [0; SEAL_LENGTH];
    tag.copy_from_slice(&whole[..SEAL_LENGTH]);
    tag
}

fn is_authentic(keys: &Keys, context: &[u8], payload: &[u8], tag: &[u8; SEAL_LENGTH]) -> bool {
    // Takes the same time wherever the tags differ.
    mac(keys, context, payload)
        .verify_truncated_left(tag)
        .is_ok()
}

/// Encrypts a payload in its place, and returns its tag. The context is covered by the tag, and not encrypted.
#[cfg(feature = "encrypt")]
fn encrypt(keys: &Keys, header: &[u8], context: &[u8], payload: &mut [u8]) -> [u8; SEAL_LENGTH] {
    use aes_gcm_siv::AeadInOut;
    let tag = keys
        .cipher
        .encrypt_inout_detached(&nonce(header), context, payload.into());
    tag.expect("a row is shorter than 64 GiB").into()
}

#[cfg(not(feature = "encrypt"))]
fn encrypt(keys: &Keys, _: &[u8], context: &[u8], payload: &mut [u8]) -> [u8; SEAL_LENGTH] {
    // Not reached: `CacheBuilder::encrypt` is not there.
    authenticate(keys, context, payload)
}

/// Decrypts a payload in its place. Returns whether its tag is the right one.
#[cfg(feature = "encrypt")]
fn decrypt(
    keys: &Keys,
    header: &[u8],
    context: &[u8],
    payload: &mut [u8],
    tag: &[u8; SEAL_LENGTH],
) -> Result<bool, Refusal> {
    use aes_gcm_siv::AeadInOut;
    let done =
        keys.cipher
            .decrypt_inout_detached(&nonce(header), context, payload.into(), tag.into());
    Ok(done.is_ok())
}

#[cfg(not(feature = "encrypt"))]
fn decrypt(
    _: &Keys,
    _: &[u8],
    _: &[u8],
    _: &mut [u8],
    _: &[u8; SEAL_LENGTH],
) -> Result<bool, Refusal> {
    Err(NO_CIPHER)
}

/// The last 12 bytes of the token.
#[cfg(feature = "encrypt")]
fn nonce(header: &[u8]) -> aes_gcm_siv::Nonce {
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&header[HEADER_LENGTH - 12..HEADER_LENGTH]);
    nonce.into()
}

#[cfg(feature = "compress")]
fn decompress(compressed: &[u8], most: u64) -> Result<Vec<u8>, Refusal> {
    let (size, block) = compressed
        .split_first_chunk::<SIZE_LENGTH>()
        .ok_or(UNREADABLE)?;
    let size = u32::from_le_bytes(*size);
    // Before anything is allocated for it: few bytes may claim to be many.
    let claims_much = size as usize > compressed.len().saturating_mul(MOST_TIMES);
    if u64::from(size) > most || claims_much {
        return Err(UNREADABLE);
    }
    match lz4_flex::block::decompress(block, size as usize) {
        Ok(payload) if payload.len() == size as usize => Ok(payload),
        _ => Err(UNREADABLE),
    }
}

#[cfg(not(feature = "compress"))]
fn decompress(_: &[u8], _: u64) -> Result<Vec<u8>, Refusal> {
    Err(NO_COMPRESSION)
}

#[cfg(test)]
mod tests;
