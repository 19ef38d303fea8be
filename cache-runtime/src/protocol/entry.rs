//! The binary form of a state, as Redis stores it: a header of fixed layout, then the payload, the waiters or the intents.
//!
//! `docs/format.md` describes the layout byte by byte. The Lua scripts in `store/redis/scripts` read and write the same
//! bytes. The layout never changes without a new format number. Entries of released formats are kept as fixtures.
//!
//! 1. A reader checks the state and the identity before the payload, so it never decodes a payload of another layout.
//! 2. The settle script turns a queued write into a value in place, without sending or copying the payload. The queue
//!    position stays in the entry, and a flag says so. No other code writes such bytes.
//! 3. Bytes that do not start with the magic number, or that are cut short, are [`Unreadable::Damaged`]. They are a miss,
//!    and the next load overwrites them.
//! 4. An entry of the format [`SEALED`] has a seal of 16 bytes after the header (`seal`). This module passes over it: the payload
//!    it returns is what the seal protects.
//! 5. A later format is [`Unreadable::LaterFormat`]. A reader uses the database and stores nothing, so that it respects the
//!    intents of newer programs. The first three bytes keep their meaning in every format.

use crate::protocol::{
    queue_position::{QUEUE_POSITION_LENGTH, QueuePosition},
    state::{Identity, Lease, MAX_INTENTS, MAX_WAITERS, Meta, Pending, State, Unreadable, Writers},
    tags::Stamp,
    token::{ProcessId, TOKEN_LENGTH, Token},
};

/// The first byte of every entry.
pub const MAGIC: u8 = 0xCA;
/// The format of an entry without a seal.
pub const PLAIN: u8 = 1;
/// The format of a row, an absence or a queued write with a seal.
pub const SEALED: u8 = 2;
/// The latest format this version knows.
pub const FORMAT: u8 = SEALED;
/// The length of the header in bytes, without the seal.
pub const HEADER_LENGTH: usize = 44;
/// The length of the seal in bytes.
pub const SEAL_LENGTH: usize = 16;

/// The numbers of the states, the third byte of an entry.
pub mod kind {
    /// One reader is loading the row; waiters follow the header.
    pub const LOADING: u8 = 1;
    /// The row. Its payload follows the header, or the queue position if `POSITIONED` is set.
    pub const VALUE: u8 = 2;
    /// The row does not exist.
    pub const NEGATIVE: u8 = 3;
    /// Writers are at work; their intents follow the header.
    pub const WRITING: u8 = 4;
    /// A queued write; its queue position follows the header, then the row or the id of the row to delete.
    pub const PENDING: u8 = 5;
}

/// The bits of the fourth byte.
pub mod flag {
    /// Two intents overlapped.
    pub const CONTENDED: u8 = 1;
    /// There were too many intents to list.
    pub const SATURATED: u8 = 2;
    /// The queued write deletes its row.
    pub const DELETION: u8 = 4;
    /// The row was a queued write. Its queue position is still between the header and the payload.
    pub const POSITIONED: u8 = 8;
    /// The entry has a stamp, the time of the clock of its entity's tags, directly after the header.
    pub const STAMPED: u8 = 16;
}

/// The length of a stamp in bytes: the incarnation of the clock, and its time.
pub const STAMP_LENGTH: usize = 16;

const PROCESS_LENGTH: usize = 8;

/// Encodes a state, without a seal. The payload is appended unchanged.
pub fn encode(state: &State<&[u8]>) -> Vec<u8> {
    match state {
        State::Loading(lease, waiters) => {
            let mut bytes = header(kind::LOADING, 0, Some(lease), None);
            for waiter in waiters {
                bytes.extend_from_slice(&waiter.0);
            }
            bytes
        }
        State::Value(meta, payload) => {
            let mut bytes = stamped(kind::VALUE, meta);
            bytes.extend_from_slice(payload);
            bytes
        }
        State::Negative(meta) => stamped(kind::NEGATIVE, meta),
        State::Writing(writers) => {
            let mut flags = 0;
            if writers.contended {
                flags |= flag::CONTENDED;
            }
            if writers.saturated {
                flags |= flag::SATURATED;
            }
            let mut bytes = header(kind::WRITING, flags, None, None);
            for intent in &writers.intents {
                bytes.extend_from_slice(&intent.0);
            }
            bytes
        }
        State::Pending(pending, payload) => {
            let flags = if pending.is_deletion {
                flag::DELETION
            } else {
                0
            };
            let meta = &pending.meta;
            let mut bytes = header(kind::PENDING, flags, Some(&meta.lease), Some(meta));
            bytes.extend_from_slice(&pending.position.to_bytes());
            bytes.extend_from_slice(payload);
            bytes
        }
        State::Unreadable(_) => Vec::new(),
    }
}

/// Decodes a state. Never fails: bytes that cannot be decoded are [`State::Unreadable`].
pub fn decode(bytes: &[u8]) -> State<&[u8]> {
    decode_checked(bytes).unwrap_or(State::Unreadable(Unreadable::Damaged))
}

fn decode_checked(bytes: &[u8]) -> Option<State<&[u8]>> {
    let (&magic, &format) = (bytes.first()?, bytes.get(1)?);
    if magic != MAGIC || format == 0 {
        return None;
    }
    if format > FORMAT {
        let writing = bytes.get(2) == Some(&kind::WRITING);
        return Some(State::Unreadable(Unreadable::LaterFormat { writing }));
    }
    let (header, body) = bytes.split_at_checked(HEADER_LENGTH)?;
    let (kind, flags) = (*header.get(2)?, *header.get(3)?);
    let body = match format {
        PLAIN => body,
        // Leases and intents have none: what they say is rewritten by the store.
        _ if matches!(kind, kind::VALUE | kind::NEGATIVE | kind::PENDING) => {
            body.get(SEAL_LENGTH..)?
        }
        _ => return None,
    };
    let has_stamp = flags & flag::STAMPED != 0 && matches!(kind, kind::VALUE | kind::NEGATIVE);
    let (stamp, body) = body.split_at_checked(if has_stamp { STAMP_LENGTH } else { 0 })?;
    let stamp = match has_stamp {
        true => Some(Stamp {
            incarnation: u64::from_le_bytes(array(stamp, 0)?),
            time: u64::from_le_bytes(array(stamp, 8)?),
        }),
        false => None,
    };
    let meta = Meta {
        lease: Lease {
            token: Token(array(header, 28)?),
            identity: Identity {
                fingerprint: u32::from_le_bytes(array(header, 4)?),
                history: u64::from_le_bytes(array(header, 8)?),
                codec: *header.get(24)?,
            },
        },
        loaded_at_ms: u64::from_le_bytes(array(header, 16)?),
        stamp,
    };
    match kind {
        kind::LOADING => {
            let waiters = list::<PROCESS_LENGTH>(body, MAX_WAITERS)?
                .map(ProcessId)
                .collect();
            Some(State::Loading(meta.lease, waiters))
        }
        kind::VALUE if flags & flag::POSITIONED != 0 => {
            let (_, payload) = body.split_first_chunk::<QUEUE_POSITION_LENGTH>()?;
            Some(State::Value(meta, payload))
        }
        kind::VALUE => Some(State::Value(meta, body)),
        kind::NEGATIVE if body.is_empty() => Some(State::Negative(meta)),
        kind::WRITING => Some(State::Writing(Writers {
            intents: list::<TOKEN_LENGTH>(body, MAX_INTENTS)?
                .map(Token)
                .collect(),
            contended: flags & flag::CONTENDED != 0,
            saturated: flags & flag::SATURATED != 0,
        })),
        kind::PENDING => {
            let (position, payload) = body.split_first_chunk::<QUEUE_POSITION_LENGTH>()?;
            let pending = Pending {
                position: QueuePosition::from_bytes(*position),
                is_deletion: flags & flag::DELETION != 0,
                meta,
            };
            Some(State::Pending(pending, payload))
        }
        _ => None,
    }
}

/// Returns the header of an entry that ends a load, and its stamp if it has one.
fn stamped(kind: u8, meta: &Meta) -> Vec<u8> {
    let Some(stamp) = meta.stamp else {
        return header(kind, 0, Some(&meta.lease), Some(meta));
    };
    let mut bytes = header(kind, flag::STAMPED, Some(&meta.lease), Some(meta));
    bytes.extend_from_slice(&encode_stamp(stamp));
    bytes
}

/// Returns the bytes of a stamp.
pub fn encode_stamp(stamp: Stamp) -> [u8; STAMP_LENGTH] {
    let mut bytes = [0; STAMP_LENGTH];
    bytes[..8].copy_from_slice(&stamp.incarnation.to_le_bytes());
    bytes[8..].copy_from_slice(&stamp.time.to_le_bytes());
    bytes
}

fn header(kind: u8, flags: u8, lease: Option<&Lease>, meta: Option<&Meta>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LENGTH];
    bytes[0] = MAGIC;
    bytes[1] = PLAIN;
    bytes[2] = kind;
    bytes[3] = flags;
    if let Some(lease) = lease {
        bytes[4..8].copy_from_slice(&lease.identity.fingerprint.to_le_bytes());
        bytes[8..16].copy_from_slice(&lease.identity.history.to_le_bytes());
        bytes[24] = lease.identity.codec;
        bytes[28..44].copy_from_slice(&lease.token.0);
    }
    if let Some(meta) = meta {
        bytes[16..24].copy_from_slice(&meta.loaded_at_ms.to_le_bytes());
    }
    bytes
}

fn array<const N: usize>(bytes: &[u8], start: usize) -> Option<[u8; N]> {
    bytes.get(start..start + N)?.try_into().ok()
}

/// Returns the body as a list of items of one length, or `None` if the last item is cut short or there are too many.
fn list<const N: usize>(body: &[u8], most: usize) -> Option<impl Iterator<Item = [u8; N]> + '_> {
    let (items, rest) = body.as_chunks::<N>();
    (rest.is_empty() && items.len() <= most).then(|| items.iter().copied())
}
