//! The bytes of a journal: the header of a segment, and the frames after it. `docs/format.md` has them as tables.
//!
//! A checksum alone shows that a frame is bad, but not whether its record was ever acknowledged. So every frame also has the
//! number of the last record that was known to be on disk when the frame was written. `recover` uses it to distinguish a
//! torn tail from damage.
//!
//! Invariant: a frame belongs to one journal. Its checksum begins with the identity of the journal, so the bytes of one
//! journal inside a record of another one are not a frame there.
//! Not here: which frames may follow each other (`recover`).

use crc32fast::Hasher;

/// The first bytes of every segment.
pub const MAGIC: [u8; 8] = *b"LARDERJ\n";
/// The format that this version writes.
pub const FORMAT: u32 = 1;
/// The length of the header of a segment, in bytes.
pub const HEADER_LENGTH: usize = 32;
/// The length of a frame without the bytes of its record.
pub const FRAME_LENGTH: usize = 24;
/// The longest record, in bytes.
pub const MAX_RECORD: usize = 1 << 30;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Drawn at random when the journal was created, and the same in all of its segments.
    pub(crate) identity: u64,
    /// The number of the first record in the segment.
    pub(crate) first: u64,
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// It does not begin with the magic number, or is too short.
    Foreign,
    /// Its checksum is wrong.
    Damaged,
    /// Its format is unknown to this version.
    Unknown(u32),
}

impl Header {
    /// Returns the header as it is stored in the file.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[12..16].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.identity.to_le_bytes());
        bytes[24..].copy_from_slice(&self.first.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header at the beginning of a segment.
    pub(crate) fn from_bytes(bytes: &[u8], check: bool) -> Result<Self, BadHeader> {
        let header = bytes.get(..HEADER_LENGTH).ok_or(BadHeader::Foreign)?;
        if header[..8] != MAGIC {
            return Err(BadHeader::Foreign);
        }
        // The checksum has the same place in every format, so that damage does not look like a later format.
        if check && u32_at(header, 8) != crc32fast::hash(&header[12..]) {
            return Err(BadHeader::Damaged);
        }
        match u32_at(header, 12) {
            FORMAT => Ok(Self {
                identity: u64_at(header, 16),
                first: u64_at(header, 24),
            }),
            other => Err(BadHeader::Unknown(other)),
        }
    }
}

/// One frame of a segment: a record, or the mark that ends a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// The number of the record; for a mark, the number of the last record before it.
    pub(crate) sequence: u64,
    /// Everything up to this record was on disk when the frame was written.
    pub(crate) durable: u64,
    /// The record; empty for a mark.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame at the beginning of the bytes, without checking its checksum.
    pub(crate) fn peek(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(FRAME_LENGTH)?;
        let length = usize::try_from(u32_at(head, 4)).ok()?;
        let frame = Self {
            sequence: u64_at(head, 8),
            durable: u64_at(head, 16),
            bytes: rest.get(..length)?,
        };
        let is_possible = frame.sequence > frame.durable || (frame.is_mark() && length == 0);
        is_possible.then_some(frame)
    }

    /// Returns whether the checksum of this frame is right. `bytes` begin with the frame.
    pub(crate) fn is_sound(&self, bytes: &[u8], identity: u64) -> bool {
        u32_at(bytes, 0) == checksum(identity, &bytes[..self.length()])
    }

    /// Returns whether it is a mark: it holds no record, and says only what is on disk.
    pub(crate) fn is_mark(&self) -> bool {
        self.sequence == self.durable
    }

    /// Returns its length in the file.
    pub(crate) fn length(&self) -> usize {
        FRAME_LENGTH + self.bytes.len()
    }
}

/// Reads any bytes as the header of a segment, and as frames.
///
/// # Panics
///
/// If a frame is read that is longer than the bytes.
#[cfg(feature = "internal-faults")]
pub fn read_any(bytes: &[u8]) {
    for check in [true, false] {
        if let Ok(header) = Header::from_bytes(bytes, check) {
            assert!(Header::from_bytes(&header.to_bytes(), true).is_ok());
        }
    }
    let mut rest = bytes;
    while let Some(frame) = Frame::peek(rest) {
        assert!(frame.length() <= rest.len(), "a frame of too many bytes");
        let _sound = frame.is_sound(rest, 7);
        rest = &rest[frame.length()..];
    }
}

/// Appends a record to a group. The group has to be sealed before it is written.
pub(crate) fn push(group: &mut Vec<u8>, sequence: u64, record: &[u8]) {
    let length = u32::try_from(record.len()).expect("the caller has checked the length");
    group.extend([0; 4]);
    group.extend(length.to_le_bytes());
    group.extend(sequence.to_le_bytes());
    group.extend([0; 8]);
    group.extend(record);
}

/// Completes the frames of a group, once it is known what was on disk before the group.
pub(crate) fn seal(mut group: &mut [u8], identity: u64, durable: u64) {
    while !group.is_empty() {
        let length = usize::try_from(u32_at(group, 4)).expect("a record fits into memory");
        let (frame, rest) = group.split_at_mut(FRAME_LENGTH + length);
        frame[16..24].copy_from_slice(&durable.to_le_bytes());
        let checksum = checksum(identity, frame);
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
        group = rest;
    }
}

/// Returns the mark that says that everything up to a record is on disk.
pub(crate) fn mark(identity: u64, durable: u64) -> Vec<u8> {
    let mut mark = Vec::with_capacity(FRAME_LENGTH);
    push(&mut mark, durable, &[]);
    seal(&mut mark, identity, durable);
    mark
}

fn checksum(identity: u64, frame: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&identity.to_le_bytes());
    hasher.update(&frame[4..]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
