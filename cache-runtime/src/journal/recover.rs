//! Reads the segments of a journal, and decides what a bad frame means. Pure: takes bytes, returns a verdict.
//!
//! A crash can leave a bad frame, and so can a failing disk. A program must start after a crash. But if it took damage for a
//! crash, it would silently cut off acknowledged records. The order of the writer (`writer`) distinguishes the two. It
//! writes one group of records at a time, and begins the next one only when this one is on disk. Every frame says up to
//! which record everything was on disk when the frame was written (`durable`).
//!
//! 1. Frames are read as long as each has a right checksum and the next number.
//! 2. The first bad frame is where record *n* should be. If a sound frame after it says that *n* was on disk, then *n* was
//!    there and no longer is. That is **damage**, and opening fails. A bad frame in a segment that is not the last one is
//!    damage too: a segment is begun when everything before it is on disk.
//! 3. Otherwise *n* belongs to the last group that was written, and nothing proves that it was acknowledged. That is a
//!    **torn tail**, cut off at *n*. Frames of the same group may be sound after the bad one, because a file system writes
//!    pages in any order. They are cut off as well. A record that was not acknowledged may be kept or lost, but without a
//!    gap.
//!
//! A mark ends each group. The writer writes it when the group is on disk, and before it announces the group. So the file
//! proves what was acknowledged before a process was killed. The mark itself reaches the disk with the next group, or when
//! the system writes it back. After a power failure within that time, damage to the last group looks like a torn tail. That
//! is the price of one sync per group instead of two.
//!
//! Invariant: what is kept is a prefix of the appended records, with every record that is proven.
//! Not here: whether the last segment, or the whole journal, was removed by hand. The files do not show it.

use std::path::Path;

use super::{
    error::JournalError,
    format::{BadHeader, FRAME_LENGTH, Frame, HEADER_LENGTH, Header},
};

/// A record of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number: one more than that of the record before it.
    pub sequence: u64,
    /// The bytes that were appended.
    pub bytes: Vec<u8>,
}

/// What is checked. Tests leave parts of it out, to show that they detect it.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Whether checksums are compared.
    pub(crate) checksums: bool,
    /// Which frame after a bad one proves damage.
    pub(crate) proof: Proof,
}

/// Which frame after a bad one proves damage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A frame that says that the record was on disk.
    Durable,
    /// Any later frame.
    #[cfg(test)]
    AnyFrame,
    /// Nothing.
    #[cfg(test)]
    Nothing,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        checksums: true,
        proof: Proof::Durable,
    };
}

/// What was read from the segments so far.
pub(crate) struct Recovery {
    rules: Rules,
    /// The identity of the journal, once a segment was read.
    pub(crate) identity: Option<u64>,
    /// All records, in order.
    pub(crate) records: Vec<Record>,
    /// The number of the last record; before the first record, one less than its number.
    pub(crate) last: u64,
    /// Everything up to this record is proven to be on disk.
    pub(crate) proven: u64,
}

/// What was read from one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The end of the last record that is proven to be on disk.
    pub(crate) proven: usize,
    /// The end of the last sound frame. Everything after it is torn.
    pub(crate) end: usize,
}

impl Recovery {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            identity: None,
            records: Vec::new(),
            last: 0,
            proven: 0,
        }
    }

    /// Reads the next segment. `promised` is the first record according to its name.
    pub(crate) fn segment(
        &mut self,
        path: &Path,
        promised: u64,
        bytes: &[u8],
        is_last: bool,
    ) -> Result<Scan, JournalError> {
        let identity = self.header(path, promised, bytes)?;
        self.proven = self.last;
        let mut scan = Scan {
            proven: HEADER_LENGTH,
            end: HEADER_LENGTH,
        };
        let mut record_end = HEADER_LENGTH;
        while scan.end < bytes.len() {
            let Some(frame) = self.frame(&bytes[scan.end..], identity) else {
                self.is_torn(path, bytes, scan.end, is_last)?;
                return Ok(scan);
            };
            self.follows(path, scan.end, frame)?;
            if frame.durable == self.last {
                self.proven = self.last;
                scan.proven = record_end;
            }
            scan.end += frame.length();
            if !frame.is_mark() {
                record_end = scan.end;
                self.last = frame.sequence;
                self.records.push(Record {
                    sequence: frame.sequence,
                    bytes: frame.bytes.to_vec(),
                });
            }
        }
        Ok(scan)
    }

    /// Checks that the segment belongs to this journal and continues the one before it.
    fn header(&mut self, path: &Path, promised: u64, bytes: &[u8]) -> Result<u64, JournalError> {
        let damaged = |what: String| JournalError::damaged(path, 0, what);
        let header =
            Header::from_bytes(bytes, self.rules.checksums).map_err(|reason| match reason {
                BadHeader::Foreign => damaged("it is not a segment of a journal".to_owned()),
                BadHeader::Damaged => damaged("the checksum of its header is wrong".to_owned()),
                BadHeader::Unknown(format) => damaged(format!(
                    "its format is {format}, which this version of larder cannot read"
                )),
            })?;
        if header.first != promised || header.first == 0 {
            let first = header.first;
            return Err(damaged(format!(
                "it begins with record {promised} according to its name, and with record {first} according to its header"
            )));
        }
        match self.identity {
            None => self.last = header.first - 1,
            Some(identity) if identity != header.identity => {
                return Err(damaged("it is part of another journal".to_owned()));
            }
            Some(_) if header.first != self.last + 1 => {
                let (first, last) = (header.first, self.last);
                return Err(damaged(format!(
                    "it begins with record {first}, but the segment before it ends with record {last}"
                )));
            }
            Some(_) => {}
        }
        self.identity = Some(header.identity);
        Ok(header.identity)
    }

    /// Returns the frame at the beginning of the bytes, if it is sound.
    fn frame<'a>(&self, bytes: &'a [u8], identity: u64) -> Option<Frame<'a>> {
        let frame = Frame::peek(bytes)?;
        (!self.rules.checksums || frame.is_sound(bytes, identity)).then_some(frame)
    }

    /// Checks that a sound frame is the next one. A crash cannot leave another frame here, because the writer never
    /// overwrites a frame with other contents.
    fn follows(&self, path: &Path, offset: usize, frame: Frame<'_>) -> Result<(), JournalError> {
        let expected = if frame.is_mark() {
            self.last
        } else {
            self.last + 1
        };
        if frame.sequence != expected {
            let what = format!(
                "record {} is where record {expected} should be",
                frame.sequence
            );
            return Err(JournalError::damaged(path, offset, what));
        }
        if frame.durable != self.proven && frame.durable != self.last {
            let what = format!(
                "record {expected} was written when record {} was the last one on disk, not {}",
                frame.durable, self.proven
            );
            return Err(JournalError::damaged(path, offset, what));
        }
        Ok(())
    }

    /// Checks that nothing proves that the record at a bad frame was once on disk.
    fn is_torn(
        &self,
        path: &Path,
        bytes: &[u8],
        offset: usize,
        is_last: bool,
    ) -> Result<(), JournalError> {
        let missing = self.last + 1;
        if !is_last {
            let what = format!("record {missing} cannot be read, and a later segment was begun");
            return Err(JournalError::damaged(path, offset, what));
        }
        let identity = self.identity.unwrap_or_default();
        // No file of this length holds more records, so a frame with a greater number is only a coincidence.
        let most = (bytes.len() - offset) / FRAME_LENGTH;
        let possible = missing..=missing.saturating_add(u64::try_from(most).unwrap_or(u64::MAX));
        let proof = (offset + 1..bytes.len()).find(|&at| {
            let rest = &bytes[at..];
            Frame::peek(rest).is_some_and(|frame| {
                possible.contains(&self.rules.proof.number(frame))
                    && (!self.rules.checksums || frame.is_sound(rest, identity))
            })
        });
        match proof {
            Some(at) => Err(JournalError::damaged(
                path,
                offset,
                format!(
                    "record {missing} cannot be read, but the frame at byte {at} proves that it was on disk"
                ),
            )),
            None => Ok(()),
        }
    }
}

impl Proof {
    /// Returns the last record that a frame proves to have been on disk.
    fn number(self, frame: Frame<'_>) -> u64 {
        match self {
            Self::Durable => frame.durable,
            #[cfg(test)]
            Self::AnyFrame => frame.sequence,
            #[cfg(test)]
            Self::Nothing => 0,
        }
    }
}
