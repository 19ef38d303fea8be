//! One read of a log in Redis: at most so many writes, and at most so many bytes, whatever is put meanwhile.
//!
//! `XRANGE` bounds what it returns by a count only. A thousand rows of a few hundred bytes are little, a thousand of 1 MiB are
//! more than a connection, or this process, should carry at once.
//!
//! 1. `put.lua` lists each write that is larger than [`LARGE`] beside its log, with its size. Writes of an ordinary size are
//!    not listed, and cost nothing.
//! 2. A look at the queue tells the sizes of what the next reads may meet, and up to which number it knows them ([`Sizes`]).
//! 3. A read ends with a number that is known ([`Sizes::reach`]): what is put later is behind it. So it can go out together
//!    with the next look, and a long queue of small rows costs one round trip for each batch.
//! 4. What was smaller than it could have been leaves room, which further reads fill ([`Batch`]).
//!
//! 5. A link that does not carry a batch within the time that an answer may take is given a smaller one ([`BatchBytes`]), or the
//!    same read would fail for ever.
//!
//! Invariant: the writes of one batch have [`MAX_BYTES`] together, or there is one of them.
//! Invariant: a batch is empty only if the log had nothing behind its place.
//! Not here: how Redis is asked (`queue`).

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crate::{
    protocol::{key::Key, queue_position::Incarnation},
    store::{Payload, queue::Logged},
};

/// From how many bytes on, key and entry together, a write is listed with its size.
pub(super) const LARGE: u64 = 4 << 10;
/// How many bytes one batch may have.
const MAX_BYTES: u64 = 8 << 20;
/// How many it may have over the slowest link.
const LEAST_BYTES: u64 = 64 << 10;

/// What a look has told of the sizes of writes in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) incarnation: Incarnation,
    /// Behind which number they are known.
    pub(super) from: u64,
    /// Up to which number they are known.
    pub(super) to: u64,
    /// The last number in the log.
    pub(super) last: u64,
    /// The large writes among them: number and bytes, in the order of numbers.
    pub(super) large: Vec<(u64, u64)>,
}

impl Sizes {
    /// Up to which number writes can be read behind another one, if any can: at most so many, with at most so many bytes.
    fn reach(&self, after: u64, count: u64, bytes: u64) -> Option<u64> {
        if after < self.from {
            return None;
        }
        let end = self.to.min(after.saturating_add(count));
        let (mut at, mut left) = (after, bytes);
        let first = self.large.partition_point(|(number, _)| *number <= after);
        for &(number, size) in &self.large[first..] {
            if number > end {
                break;
            }
            let before = (number - 1).saturating_sub(at);
            let between = before * LARGE;
            if between + size > left {
                let small = before.min(left / LARGE);
                at += small;
                return (at > after).then_some(at);
            }
            left -= between + size;
            at = number;
        }
        at += end.saturating_sub(at).min(left / LARGE);
        (at > after).then_some(at)
    }
}

/// What was told last of each queue. It stays true of its incarnation: a number is given to one write only.
#[derive(Debug, Default)]
pub(super) struct KnownSizes(Mutex<HashMap<Key, Sizes>>);

impl KnownSizes {
    /// What is known of a log.
    pub(super) fn of(&self, queue: &Key, incarnation: Incarnation) -> Option<Sizes> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = known.get(queue)?;
        (sizes.incarnation == incarnation).then(|| sizes.clone())
    }

    /// Remembers what a look has told.
    pub(super) fn note(&self, queue: &Key, sizes: Sizes) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(queue) {
            Some(known) => *known = sizes,
            None => {
                known.insert(queue.clone(), sizes);
            }
        }
    }
}

/// How many bytes the next batch may have: half as many after a read that failed, and twice as many after a long time without.
#[derive(Debug)]
pub(super) struct BatchBytes {
    most: AtomicU64,
    /// How many were as large as they might be since the last failure.
    taken: AtomicU32,
}

/// How many large batches have to go well before larger ones are tried: each that fails costs the connection.
const TRUSTED: u32 = 256;

impl Default for BatchBytes {
    fn default() -> Self {
        Self {
            most: AtomicU64::new(MAX_BYTES),
            taken: AtomicU32::new(0),
        }
    }
}

impl BatchBytes {
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Notes what was read of a batch that might have so many bytes; nothing, if that failed.
    pub(super) fn note(&self, most: u64, writes: Option<&[Logged]>) {
        let Some(writes) = writes else {
            let fewer = (most / 2).max(LEAST_BYTES);
            self.most.fetch_min(fewer, Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
            return;
        };
        let is_large = most < MAX_BYTES && writes.iter().map(size).sum::<u64>() > most / 2;
        if is_large && self.taken.fetch_add(1, Ordering::Relaxed) + 1 >= TRUSTED {
            let more = (most * 2).min(MAX_BYTES);
            self.most.fetch_max(more, Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
        }
    }
}

/// One command that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// Behind which number.
    pub(super) after: u64,
    /// Up to which number.
    pub(super) to: u64,
    /// How many writes at most.
    pub(super) count: u64,
}

/// A batch while it is read.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) writes: Vec<Logged>,
    /// How many more it may have.
    count: u64,
    /// How many more bytes.
    bytes: u64,
    /// Up to which number the log was read.
    read_to: u64,
    /// Whether a read has found nothing, so that numbers are missing.
    has_gap: bool,
}

impl Batch {
    pub(super) fn new(after: u64, count: u32, bytes: u64) -> Self {
        Self {
            writes: Vec::new(),
            count: count.into(),
            bytes,
            read_to: after,
            has_gap: false,
        }
    }

    /// What to read next, if anything: what is known to fit, or else the first write by itself.
    pub(super) fn next(&self, sizes: &Sizes) -> Option<Read> {
        if self.count == 0 || self.read_to >= sizes.last {
            return None;
        }
        let reach = sizes.reach(self.read_to, self.count, self.bytes);
        let is_empty = self.writes.is_empty();
        match reach {
            Some(to) if !self.has_gap => Some(Read {
                after: self.read_to,
                to,
                count: self.count,
            }),
            // A gap may have any length, so the next write is looked for instead of numbers, by the batch that begins there.
            _ if is_empty => Some(Read {
                after: self.read_to,
                to: u64::MAX,
                count: 1,
            }),
            _ => None,
        }
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, read: Read, writes: Vec<Logged>) {
        self.has_gap = writes.is_empty();
        self.read_to = if read.to == u64::MAX {
            let found = writes.last();
            found.map_or(u64::MAX, |write| write.pending.position.number)
        } else {
            read.to
        };
        self.count = self.count.saturating_sub(writes.len() as u64);
        let bytes: u64 = writes.iter().map(size).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.writes.extend(writes);
    }

    /// Whether it has all that it may have of a log that ends with a number, though it could have more by their count.
    pub(super) fn is_cut(&self, log_last: u64) -> bool {
        self.count > 0 && !self.writes.is_empty() && self.read_to < log_last
    }
}

/// The bytes of a write, as `put.lua` counts them.
fn size(write: &Logged) -> u64 {
    let entry = match &write.payload {
        Payload::Bytes(entry, _) => entry.len(),
        Payload::Shared(_) => 0,
    };
    (write.key.as_bytes().len() + entry) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        queue_position::QueuePosition,
        state::{Identity, Lease, Meta, Pending},
        token::Token,
    };

    const INCARNATION: Incarnation = Incarnation { epoch: 1, nonce: 2 };
    const MIB: u64 = 1 << 20;

    /// A log as Redis keeps it: numbers and bytes.
    #[derive(Default)]
    struct Log(Vec<(u64, u64)>);

    impl Log {
        fn last(&self) -> u64 {
            self.0.last().map_or(0, |(number, _)| *number)
        }

        fn look(&self, from: u64, named: usize) -> Sizes {
            let large = self.0.iter().copied();
            let large = large.filter(|&(number, size)| number > from && size > LARGE);
            let large: Vec<_> = large.take(named).collect();
            let last_named = large.last().map_or(0, |(number, _)| *number);
            Sizes {
                incarnation: INCARNATION,
                from,
                to: if large.len() < named {
                    self.last()
                } else {
                    last_named
                },
                last: self.last(),
                large,
            }
        }

        fn read(&self, read: Read) -> Vec<Logged> {
            let is_in = |&(number, _): &(u64, u64)| number > read.after && number <= read.to;
            let found = self.0.iter().copied().filter(is_in);
            let most = usize::try_from(read.count).expect("it is small");
            found
                .take(most)
                .map(|(number, size)| write(number, size))
                .collect()
        }
    }

    fn write(number: u64, size: u64) -> Logged {
        let meta = Meta {
            lease: Lease {
                token: Token::numbered(0),
                identity: Identity {
                    history: 0,
                    fingerprint: 0,
                    codec: 0,
                },
            },
            loaded_at_ms: 0,
        };
        let size = usize::try_from(size).expect("it is small");
        Logged {
            key: Key::from_bytes(b""),
            pending: Pending {
                position: QueuePosition {
                    incarnation: INCARNATION,
                    number,
                },
                is_deletion: false,
                meta,
            },
            payload: Payload::Bytes(vec![0; size], 0),
            at_ms: 0,
        }
    }

    /// Reads a log to its end, as `fetch` does, while `put` adds to it between the commands. The batches, and how many commands
    /// each has taken.
    fn drain(log: &mut Log, count: u32, mut put: impl FnMut(&mut Log)) -> Vec<(Vec<Logged>, u32)> {
        let (mut batches, mut after, mut known) = (Vec::new(), 0, None::<Sizes>);
        loop {
            let mut batch = Batch::new(after, count, MAX_BYTES);
            let mut commands = 1;
            let first = known.as_ref().and_then(|known| batch.next(known));
            let sizes = log.look(after, count as usize * 2);
            put(log);
            if let Some(read) = first {
                batch.take(read, log.read(read));
            }
            while let Some(read) = batch.next(&sizes) {
                put(log);
                commands += 1;
                batch.take(read, log.read(read));
            }
            let Some(last) = batch.writes.last() else {
                let behind = log
                    .0
                    .iter()
                    .any(|&(number, _)| number > after && number <= sizes.last);
                assert!(!behind, "a batch behind {after} is empty");
                return batches;
            };
            let is_full = batch.writes.len() == count as usize || batch.is_cut(sizes.last);
            let is_all = last.pending.position.number >= sizes.last;
            assert!(is_full || is_all, "what is not full goes to the end");
            after = last.pending.position.number;
            known = Some(sizes);
            batches.push((batch.writes, commands));
        }
    }

    fn check(batches: &[(Vec<Logged>, u32)], log: &Log, count: usize) {
        let mut numbers = Vec::new();
        for (writes, _) in batches {
            let bytes: u64 = writes.iter().map(size).sum();
            assert!(
                bytes <= MAX_BYTES || writes.len() == 1,
                "{} writes of {bytes} bytes",
                writes.len()
            );
            assert!(writes.len() <= count);
            numbers.extend(writes.iter().map(|write| write.pending.position.number));
        }
        let expected: Vec<u64> = log.0.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, expected, "each write once, in order");
    }

    fn log_of(sizes: impl IntoIterator<Item = u64>) -> Log {
        Log((1..).zip(sizes).collect())
    }

    #[test]
    fn small_rows_cost_one_command_a_batch() {
        let mut log = log_of(vec![300; 10_000]);
        let batches = drain(&mut log, 1_000, |_| {});
        check(&batches, &log, 1_000);
        let commands: Vec<u32> = batches.iter().map(|(_, commands)| *commands).collect();
        assert_eq!(commands, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn rows_of_one_size_fill_a_batch_with_one_command() {
        for bytes in [40 << 10, MIB, 3 * MIB] {
            let mut log = log_of(vec![bytes; 500]);
            let batches = drain(&mut log, 1_000, |_| {});
            check(&batches, &log, 1_000);
            let (first, second) = (&batches[0], &batches[1]);
            let fitting = usize::try_from(MAX_BYTES / bytes).expect("it is small");
            assert_eq!(first.0.len(), fitting);
            assert_eq!((second.0.len(), second.1), (fitting, 1));
        }
    }

    #[test]
    fn a_row_larger_than_a_batch_goes_alone_and_those_beside_it_do_not() {
        let mut log = log_of([100, 33 * MIB, 100, 200, 33 * MIB]);
        let batches = drain(&mut log, 1_000, |_| {});
        check(&batches, &log, 1_000);
        let lengths: Vec<usize> = batches.iter().map(|(writes, _)| writes.len()).collect();
        assert_eq!(lengths, [1, 1, 2, 1]);
    }

    #[test]
    fn a_gap_of_any_length_is_passed_by_one_command() {
        let [short, long] = [20_000, 5_000_000].map(|first| {
            let mut log = Log((first..first + 10).map(|number| (number, 100)).collect());
            log.0.push((2 * first, 5 * MIB));
            let batches = drain(&mut log, 1_000, |_| {});
            check(&batches, &log, 1_000);
            batches.iter().map(|batch| batch.1).collect::<Vec<_>>()
        });
        assert_eq!(short, long, "it depends on the length of the gap");
        assert!(long[0] <= 5, "{} commands", long[0]);
    }

    #[test]
    fn whatever_is_put_meanwhile_no_batch_is_larger_than_it_may_be() {
        let sizes = [
            100,
            6 * MIB,
            4_096,
            4_097,
            900 << 10,
            33 * MIB,
            10,
            MIB,
            2_000,
        ];
        for seed in 0..200_u64 {
            let mut bits = seed;
            let mut draw = move |below: u64| {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (bits >> 33) % below
            };
            let mut log = Log::default();
            let mut left = 60;
            let mut put = |log: &mut Log| {
                for _ in 0..draw(4).min(left) {
                    left -= 1;
                    let number = log.last() + 1 + draw(3) / 2 * draw(2_000);
                    let size = sizes[usize::try_from(draw(sizes.len() as u64)).expect("small")];
                    log.0.push((number, size));
                }
            };
            for _ in 0..5 {
                put(&mut log);
            }
            let count = [1, 2, 7, 1_000][usize::try_from(seed % 4).expect("small")];
            let batches = drain(&mut log, count, put);
            // What was put at the very end may not have been seen.
            let seen = batches.iter().map(|(writes, _)| writes.len()).sum();
            log.0.truncate(seen);
            check(&batches, &log, count as usize);
        }
    }

    #[test]
    fn a_batch_is_smaller_after_a_failure_and_larger_only_after_many_that_went_well() {
        let bytes = BatchBytes::default();
        let read = |size: u64| vec![write(1, size)];
        for fewer in [4 * MIB, 2 * MIB, MIB] {
            // Those that go at the same time count once.
            let most = bytes.most();
            bytes.note(most, None);
            bytes.note(most, None);
            assert_eq!(bytes.most(), fewer);
        }
        for _ in 1..TRUSTED {
            bytes.note(MIB, Some(&read(MIB - 100)));
            bytes.note(MIB, Some(&read(100)));
            assert_eq!(bytes.most(), MIB);
        }
        bytes.note(MIB, Some(&read(MIB - 100)));
        assert_eq!(bytes.most(), 2 * MIB);
        for _ in 0..100 {
            bytes.note(bytes.most(), None);
        }
        assert_eq!(bytes.most(), LEAST_BYTES);
    }
}
