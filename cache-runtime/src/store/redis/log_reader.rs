//! Reads a log in Redis in batches with a limited number of writes and bytes, even if writes are queued meanwhile.
//!
//! `XRANGE` limits its reply by a count only. A thousand rows of a few hundred bytes are little, but a thousand rows of 1
//! MiB are too much for one reply, and for the memory of this process.
//!
//! 1. `put.lua` lists each write that is larger than [`LARGE`], with its size, in a set next to the log. Writes of ordinary
//!    size are not listed, and cost nothing.
//! 2. The fetch script returns the sizes of the next writes, and the number up to which it knows them ([`Sizes`]).
//! 3. A read ends at a number whose sizes are known ([`Sizes::reach`]). Later puts have larger numbers. So the read can be
//!    sent together with the next fetch script, and a long queue of small rows costs one round trip per batch.
//! 4. Writes may be smaller than the limit for unlisted ones. Then the batch has room left, which further reads fill
//!    ([`Batch`]).
//! 5. If a link cannot transfer a batch within the response time-out, the next batch is smaller ([`BatchBytes`]). Otherwise
//!    the same read would fail forever.
//!
//! Invariant: the writes of one batch have at most [`MAX_BYTES`] in total, or there is only one of them.
//! Invariant: a batch is empty only if the log has no write after the position.
//! Not here: the commands (`queue`).

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

/// The size above which a write is listed, in bytes of key and entry together.
pub(super) const LARGE: u64 = 4 << 10;
/// The maximum size of a batch, in bytes.
const MAX_BYTES: u64 = 8 << 20;
/// The maximum size of a batch over the slowest link, in bytes.
const LEAST_BYTES: u64 = 64 << 10;

/// What the fetch script has returned about the sizes of writes in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) incarnation: Incarnation,
    /// The number after which they are known.
    pub(super) from: u64,
    /// The number up to which they are known.
    pub(super) to: u64,
    /// The last number in the log.
    pub(super) last: u64,
    /// The large writes among them: number and bytes, in the order of numbers.
    pub(super) large: Vec<(u64, u64)>,
}

impl Sizes {
    /// The sizes of the writes after `from`, of which the script names at most `named` large ones. The log ends with `last`.
    pub(super) fn of(
        incarnation: Incarnation,
        from: u64,
        last: u64,
        large: Vec<(u64, u64)>,
        named: usize,
    ) -> Self {
        let to = match large.last() {
            // There may be more.
            Some((number, _)) if large.len() >= named => *number,
            _ => last,
        };
        Self {
            incarnation,
            from,
            to,
            last,
            large,
        }
    }

    /// Returns the number up to which writes after `after` can be read, with at most `count` writes and `bytes` bytes.
    /// `None` if not even one is known to fit.
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
            let before = number.saturating_sub(1).saturating_sub(at);
            let between = before.saturating_mul(LARGE);
            if between.saturating_add(size) > left {
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

/// The latest sizes of each queue. They stay true for their incarnation: a number is assigned to one write only.
#[derive(Debug, Default)]
pub(super) struct KnownSizes(Mutex<HashMap<Key, Sizes>>);

impl KnownSizes {
    /// Returns the known sizes of a log.
    pub(super) fn of(&self, queue: &Key, incarnation: Incarnation) -> Option<Sizes> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = known.get(queue)?;
        (sizes.incarnation == incarnation).then(|| sizes.clone())
    }

    /// Records the sizes that the fetch script has returned.
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

/// The maximum size of the next batch. It is halved after a failed read, and doubled after a long time without failures.
#[derive(Debug)]
pub(super) struct BatchBytes {
    most: AtomicU64,
    /// How many batches of more than half the maximum size were read since the last failure.
    taken: AtomicU32,
}

/// How many large batches must succeed before larger ones are tried. Each failure costs the connection.
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

    /// Records the result of a read of at most `most` bytes; `None` if it failed.
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
    /// The number after which it reads.
    pub(super) after: u64,
    /// The number up to which it reads.
    pub(super) to: u64,
    /// The maximum number of writes.
    pub(super) count: u64,
}

/// A batch while it is read.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) writes: Vec<Logged>,
    /// How many more writes fit.
    count: u64,
    /// How many more bytes fit.
    bytes: u64,
    /// The number up to which the log was read.
    read_to: u64,
    /// Whether the last read found no write, because numbers are missing.
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

    /// Returns the next read: of the writes that are known to fit, or else of the first write alone. `None` if the batch is
    /// done.
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
            // A gap may have any length. So the first read of the next batch looks for the next write, whatever its number
            // is.
            _ if is_empty => Some(Read {
                after: self.read_to,
                to: u64::MAX,
                count: 1,
            }),
            _ => None,
        }
    }

    /// Adds the writes of a read.
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

    /// Returns whether bytes ended the batch, and not the count or the end of the log. The log ends with `log_last`.
    pub(super) fn is_cut(&self, log_last: u64) -> bool {
        self.count > 0 && !self.writes.is_empty() && self.read_to < log_last
    }
}

/// Returns the size of a write in bytes, as `put.lua` counts it.
fn size(write: &Logged) -> u64 {
    let entry = match &write.payload {
        Payload::Bytes(entry, _) => entry.len(),
        Payload::Shared(..) => 0,
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

    /// The numbers and sizes of the writes in a log.
    #[derive(Default)]
    struct Log(Vec<(u64, u64)>);

    impl Log {
        fn last(&self) -> u64 {
            self.0.last().map_or(0, |(number, _)| *number)
        }

        fn look(&self, from: u64, named: usize) -> Sizes {
            let large = self.0.iter().copied();
            let large = large.filter(|&(number, size)| number > from && size > LARGE);
            let large = large.take(named).collect();
            Sizes::of(INCARNATION, from, self.last(), large, named)
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
            stamp: None,
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
            refused: None,
        }
    }

    #[test]
    fn sizes_are_known_up_to_the_last_named_write_if_there_may_be_more() {
        let known_to =
            |large: &[(u64, u64)], named| Sizes::of(INCARNATION, 0, 9, large.to_vec(), named).to;
        let large = [(3, MIB), (5, MIB)];
        assert_eq!(known_to(&large, 3), 9);
        assert_eq!(known_to(&large, 2), 5, "there may be a third one");
        assert_eq!(known_to(&[], 2), 9);
    }

    /// Reads a log to its end as `fetch` does, while `put` adds writes between the commands. Returns the batches, and how
    /// many commands each has taken.
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
    fn row_larger_than_a_batch_is_read_alone_and_its_neighbours_are_not() {
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
    fn concurrent_puts_do_not_make_a_batch_too_large() {
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
            // The last reads may not have seen the writes that were put last.
            let seen = batches.iter().map(|(writes, _)| writes.len()).sum();
            log.0.truncate(seen);
            check(&batches, &log, count as usize);
        }
    }

    #[test]
    fn batch_shrinks_after_a_failure_and_grows_after_many_successes() {
        let bytes = BatchBytes::default();
        let read = |size: u64| vec![write(1, size)];
        for fewer in [4 * MIB, 2 * MIB, MIB] {
            // Reads that fail at the same time count once.
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
