//! Reads the segments of a journal, and decides what a bad frame means. Pure: bytes in, a verdict out.
//!
//! A crash can leave a bad frame behind, and so can a failing disk. The first must not keep a program from starting, and
//! the second must not pass for the first, because then acknowledged records would be cut off in silence. What tells them
//! apart is the order of the writer (`writer`): one group of records at a time, the next one only when the one before it
//! is on disk, and every frame says up to which record everything was on disk when it was written (`durable`).
//!
//! 1. Frames are read as long as each is sound and its number is the next one.
//! 2. The first bad frame stands where record *n* should be. If any sound frame behind it says that *n* was on disk, then
//!    *n* was there once and is not any more: **damage**, refused. A bad frame in a segment that is not the last one is
//!    damage too: a segment is begun when all before it is on disk.
//! 3. Otherwise *n* belongs to the last group that was written, and no acknowledgement of it can be proven: a **torn
//!    tail**, cut off at *n*. The rest of the group may well have sound frames behind the bad one, because a file system
//!    writes pages in any order. They are cut as well: what was never acknowledged may be kept or lost, but not with a hole.
//!
//! A mark ends each group. It is written when the group is on disk and before anybody is told so. So whatever was
//! acknowledged before a process was killed is proven by the file. The mark itself reaches the disk with the next group, or
//! when the system writes it back: after a loss of power within that time, damage to the very last group passes for a torn
//! tail. That is the price of one flush per group instead of two.
//!
//! Invariant: what is kept is a prefix of what was appended, with every record that is proven.
//! Not here: whether the last segment, or everything, was removed by hand. Nothing in the files can tell.

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
    /// What was appended.
    pub bytes: Vec<u8>,
}

/// What is checked. Tests leave parts of it out, to show that they would notice.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Whether checksums are compared.
    pub(crate) checksums: bool,
    /// What behind a bad frame proves damage.
    pub(crate) proof: Proof,
}

/// What behind a bad frame proves damage.
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

/// What was found in the segments so far.
pub(crate) struct Recovery {
    rules: Rules,
    /// What all segments share, once one was read.
    pub(crate) identity: Option<u64>,
    /// All records, in order.
    pub(crate) records: Vec<Record>,
    /// The number of the last record, or the one before the first.
    pub(crate) last: u64,
    /// Everything up to this record is proven to be on disk.
    pub(crate) proven: u64,
}

/// What was found in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Behind the last record that is proven to be on disk.
    pub(crate) proven: usize,
    /// Behind the last sound frame. What follows is torn.
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

    /// Reads the next segment, whose name promises a first record.
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

    /// Checks that the segment belongs here and continues the one before it.
    fn header(&mut self, path: &Path, promised: u64, bytes: &[u8]) -> Result<u64, JournalError> {
        let damaged = |what: String| JournalError::damaged(path, 0, what);
        let header =
            Header::from_bytes(bytes, self.rules.checksums).map_err(|reason| match reason {
                BadHeader::Foreign => damaged("it is no segment of a journal".to_owned()),
                BadHeader::Damaged => damaged("the checksum of its header is wrong".to_owned()),
                BadHeader::Unknown(format) => damaged(format!(
                    "its format is {format}, which this version of larder cannot read"
                )),
            })?;
        if header.first != promised || header.first == 0 {
            let first = header.first;
            return Err(damaged(format!(
                "its name promises record {promised} and its header record {first}"
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

    /// The sound frame at the beginning of the bytes.
    fn frame<'a>(&self, bytes: &'a [u8], identity: u64) -> Option<Frame<'a>> {
        let frame = Frame::peek(bytes)?;
        (!self.rules.checksums || frame.is_sound(bytes, identity)).then_some(frame)
    }

    /// Checks that a sound frame is the next one. A crash cannot leave another one here, as nothing is written twice with
    /// other contents.
    fn follows(&self, path: &Path, offset: usize, frame: Frame<'_>) -> Result<(), JournalError> {
        let expected = if frame.is_mark() {
            self.last
        } else {
            self.last + 1
        };
        if frame.sequence != expected {
            let what = format!("record {} stands where {expected} belongs", frame.sequence);
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
        // No file of this length holds more records, so greater numbers are no frame but chance.
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
                format!("record {missing} cannot be read, and byte {at} proves that it once could"),
            )),
            None => Ok(()),
        }
    }
}

impl Proof {
    /// The last record whose earlier presence a frame proves.
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
