//! What is read from a segment that was cut, partly written or damaged, and what is refused.

use std::path::Path;

use super::content;
use crate::journal::{
    error::JournalError,
    format::{self, FRAME_LENGTH, HEADER_LENGTH, Header},
    recover::{Proof, Record, Recovery, Rules, Scan},
};

const IDENTITY: u64 = 0x1234_5678_9ABC_DEF0;

/// A segment: the acknowledged groups, each with its mark, then a group that was not acknowledged.
struct Segment {
    bytes: Vec<u8>,
    acknowledged: u64,
    /// The end of the last acknowledged record, before its mark.
    records_end: usize,
    /// The end of the last mark.
    marked_end: usize,
    last: u64,
}

fn segment(acknowledged: &[u64], unacknowledged: u64) -> Segment {
    let header = Header {
        identity: IDENTITY,
        first: 1,
    };
    let mut segment = Segment {
        bytes: header.to_bytes().to_vec(),
        acknowledged: 0,
        records_end: HEADER_LENGTH,
        marked_end: HEADER_LENGTH,
        last: 0,
    };
    for &size in acknowledged {
        let last = segment.last + size;
        let group = group(segment.last, last);
        segment.bytes.extend(group);
        segment.records_end = segment.bytes.len();
        segment.bytes.extend(format::mark(IDENTITY, last));
        segment.marked_end = segment.bytes.len();
        segment.acknowledged = last;
        segment.last = last;
    }
    let last = segment.last + unacknowledged;
    segment.bytes.extend(group(segment.last, last));
    segment.last = last;
    segment
}

fn group(durable: u64, last: u64) -> Vec<u8> {
    let mut group = Vec::new();
    for sequence in durable + 1..=last {
        format::push(&mut group, sequence, &content(sequence));
    }
    format::seal(&mut group, IDENTITY, durable);
    group
}

fn read(bytes: &[u8], rules: Rules) -> Result<(Vec<Record>, Scan), JournalError> {
    let mut recovery = Recovery::new(rules);
    let scan = recovery.segment(Path::new("segment"), 1, bytes, true)?;
    Ok((recovery.records, scan))
}

/// Returns the records up to this one.
fn records(last: u64) -> Vec<Record> {
    let record = |sequence| Record {
        sequence,
        bytes: content(sequence),
    };
    (1..=last).map(record).collect()
}

/// Returns how many records were read. Fails unless they are a prefix of those appended, with all acknowledged ones.
fn prefix(segment: &Segment, bytes: &[u8], rules: Rules) -> Result<u64, String> {
    let (read, _) = read(bytes, rules).map_err(|error| format!("refused: {error}"))?;
    let count = u64::try_from(read.len()).unwrap();
    if read != records(count) {
        return Err("other records".to_owned());
    }
    if count < segment.acknowledged {
        let lost = segment.acknowledged - count;
        return Err(format!("{lost} acknowledged records are lost"));
    }
    Ok(count)
}

/// Shapes of segments: the acknowledged groups, and the group that was not acknowledged.
const SHAPES: [(&[u64], u64); 6] = [
    (&[], 3),
    (&[1], 1),
    (&[1, 1, 1], 4),
    (&[3, 5], 7),
    (&[2, 1, 4, 1], 2),
    (&[6], 0),
];

#[test]
fn whole_segment_is_read_as_it_was_written() {
    for (acknowledged, unacknowledged) in SHAPES {
        let segment = segment(acknowledged, unacknowledged);
        let (read, scan) = read(&segment.bytes, Rules::ALL).unwrap();
        assert_eq!(read, records(segment.last));
        assert_eq!(scan.end, segment.bytes.len());
        assert_eq!(scan.proven, segment.records_end);
    }
}

#[test]
fn every_truncation_of_the_unacknowledged_tail_leaves_a_prefix() {
    for (acknowledged, unacknowledged) in SHAPES {
        let segment = segment(acknowledged, unacknowledged);
        for end in segment.records_end..segment.bytes.len() {
            let bytes = &segment.bytes[..end];
            let count = prefix(&segment, bytes, Rules::ALL).unwrap();
            let (_, scan) = read(bytes, Rules::ALL).unwrap();
            // The rest ends with a whole frame, and is as long as possible.
            assert_eq!(
                prefix(&segment, &bytes[..scan.end], Rules::ALL),
                Ok(count),
                "{end}"
            );
            let next = FRAME_LENGTH + content(count + 1).len();
            assert!(end - scan.end < next.max(FRAME_LENGTH), "{end}");
        }
    }
}

/// Returns every way in which some blocks of the unacknowledged tail were written and others were not.
fn scattered(segment: &Segment) -> impl Iterator<Item = Vec<u8>> {
    let from = segment.records_end;
    let block = ((segment.bytes.len() - from) / 10).max(1);
    (0_u32..1 << 10).map(move |written| {
        let mut bytes = segment.bytes.clone();
        for (index, block) in bytes[from..].chunks_mut(block).enumerate() {
            if index < 10 && written & 1 << index == 0 {
                block.fill(0);
            }
        }
        bytes
    })
}

#[test]
fn every_scattering_of_the_unacknowledged_tail_leaves_a_prefix() {
    for (acknowledged, unacknowledged) in SHAPES {
        let segment = segment(acknowledged, unacknowledged);
        for bytes in scattered(&segment) {
            prefix(&segment, &bytes, Rules::ALL).unwrap();
        }
    }
}

#[test]
fn frame_after_a_bad_one_does_not_prove_damage() {
    let segment = segment(&[3, 5], 7);
    let any = Rules {
        checksums: true,
        proof: Proof::AnyFrame,
    };
    let refused = scattered(&segment).filter(|bytes| prefix(&segment, bytes, any).is_err());
    assert!(refused.count() > 0);
}

/// Returns every flip of one bit in the acknowledged part that is not refused, with its result.
fn unnoticed_flips(segment: &Segment, rules: Rules) -> Vec<(usize, Result<u64, String>)> {
    let mut unnoticed = Vec::new();
    for bit in 0..segment.records_end * 8 {
        let mut bytes = segment.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if read(&bytes, rules).is_ok() {
            unnoticed.push((bit, prefix(segment, &bytes, rules)));
        }
    }
    unnoticed
}

#[test]
fn every_flipped_bit_in_the_acknowledged_part_is_refused() {
    for (acknowledged, unacknowledged) in SHAPES {
        let segment = segment(acknowledged, unacknowledged);
        assert_eq!(unnoticed_flips(&segment, Rules::ALL), []);
    }
}

#[test]
fn without_checksums_a_flipped_bit_changes_a_record() {
    let without = Rules {
        checksums: false,
        proof: Proof::Durable,
    };
    let unnoticed = unnoticed_flips(&segment(&[3, 5], 2), without);
    let changed = Err("other records".to_owned());
    assert!(unnoticed.iter().any(|(_, outcome)| *outcome == changed));
}

#[test]
fn without_a_look_at_later_frames_a_flipped_bit_loses_acknowledged_records() {
    let without = Rules {
        checksums: true,
        proof: Proof::Nothing,
    };
    let unnoticed = unnoticed_flips(&segment(&[3, 5], 2), without);
    let lost = Err("8 acknowledged records are lost".to_owned());
    assert!(unnoticed.iter().any(|(_, outcome)| *outcome == lost));
}

#[test]
fn flipped_bit_in_the_last_mark_loses_no_record() {
    let segment = segment(&[3, 5], 0);
    for bit in segment.records_end * 8..segment.marked_end * 8 {
        let mut bytes = segment.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(prefix(&segment, &bytes, Rules::ALL), Ok(8));
    }
}

#[test]
fn records_missing_in_the_middle_are_detected() {
    let segment = segment(&[1, 1, 1], 0);
    let second = HEADER_LENGTH + 2 * FRAME_LENGTH + content(1).len();
    let third = second + 2 * FRAME_LENGTH + content(2).len();
    let bytes = [&segment.bytes[..second], &segment.bytes[third..]].concat();
    let error = read(&bytes, Rules::ALL).unwrap_err().to_string();
    assert!(
        error.contains("record 3 is where record 2 should be"),
        "{error}"
    );
}

#[test]
fn bytes_of_a_journal_inside_a_record_of_another_one_prove_nothing() {
    let foreign = {
        let mut frames = Vec::new();
        for sequence in 1..20 {
            format::push(&mut frames, sequence, b"foreign");
            frames.extend(format::mark(!IDENTITY, sequence));
        }
        format::seal(&mut frames, !IDENTITY, 0);
        frames
    };
    let mut bytes = segment(&[2], 0).bytes;
    let mut group = Vec::new();
    format::push(&mut group, 3, &foreign);
    format::seal(&mut group, IDENTITY, 2);
    // The head of the record is torn, but its bytes are there.
    group[..FRAME_LENGTH].fill(0);
    bytes.extend(group);
    assert_eq!(read(&bytes, Rules::ALL).unwrap().0, records(2));
}

#[test]
fn format_of_the_future_is_named() {
    let mut bytes = segment(&[1], 0).bytes;
    bytes[12] = 9;
    let checksum = crc32fast::hash(&bytes[12..HEADER_LENGTH]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    let error = read(&bytes, Rules::ALL).unwrap_err().to_string();
    assert!(error.contains("its format is 9"), "{error}");
}
