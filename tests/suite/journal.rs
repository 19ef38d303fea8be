//! The journal, when its process is killed at any moment, and when its files are cut or damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use larder::journal::{Journal, Record};
use larder_testing::process::{Worker, WorkerFn, hear, tell};
use proptest::{prelude::*, test_runner::TestCaseError};

/// The function that this file runs in other processes.
pub(crate) const APPENDER: (&str, WorkerFn) = ("journal_appender", |arguments| {
    Box::pin(appender(arguments))
});

const TASKS: u64 = 8;
/// Small, so that segments are begun and removed often.
const SEGMENT_SIZE: u64 = 64 << 10;
/// How many records a task keeps when it releases.
const KEPT: u64 = 100;

/// Returns a record: the task that has appended it, its number in that task, and a filling.
fn content(task: u64, count: u64) -> Vec<u8> {
    let length = match count % 50 {
        0 => 100_000,
        short => short * 7,
    };
    let mut bytes = format!("{task} {count} ").into_bytes();
    bytes.resize(bytes.len() + usize::try_from(length).unwrap(), b'.');
    bytes
}

/// Appends records from several tasks until it is killed. Reports each number when the record is on disk.
async fn appender(arguments: Vec<String>) {
    let [directory, from] = &arguments[..] else {
        panic!("two arguments: {arguments:?}")
    };
    let from: u64 = from.parse().unwrap();
    let (journal, _) = Journal::open_with(Path::new(directory), SEGMENT_SIZE).unwrap();
    // The order of the numbers must be the order of the calls.
    let order = Arc::new(Mutex::new(()));
    for task in 0..TASKS {
        let (journal, order) = (journal.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            for count in from.. {
                let sequence = {
                    let _turn = order.lock().unwrap();
                    journal.append(&content(task, count)).unwrap()
                };
                journal.durable(sequence).await.unwrap();
                tell(format!("on_disk {sequence} {task} {count}"));
                if count % 10 == 0 && sequence > KEPT {
                    tell(format!("release {}", sequence - KEPT));
                    journal.release(sequence - KEPT);
                }
            }
        });
    }
    hear().await;
}

/// The records that a journal must have.
#[derive(Default)]
struct Promise {
    /// The records whose number was reported.
    acknowledged: BTreeMap<u64, (u64, u64)>,
    released: u64,
}

impl Promise {
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "on_disk" => {
                let told = (number(2), number(3));
                assert_eq!(self.acknowledged.insert(number(1), told), None, "{line}");
            }
            "release" => self.released = self.released.max(number(1)),
            other => panic!("an unexpected line: {other}"),
        }
    }

    /// Checks that every acknowledged record exists, in order and once, with the bytes that were appended.
    fn check(&self, records: &[Record]) -> Result<(), String> {
        let first = records.first().map_or(1, |record| record.sequence);
        if first > self.released + 1 {
            return Err(format!("the first record is {first}"));
        }
        let mut counts = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (sequence, record) in (first..).zip(records) {
            if record.sequence != sequence {
                return Err(format!("{} is where {sequence} belongs", record.sequence));
            }
            let text = String::from_utf8_lossy(&record.bytes);
            let mut words = text.split(' ').map_while(|word| word.parse::<u64>().ok());
            let (Some(task), Some(count)) = (words.next(), words.next()) else {
                return Err(format!("{sequence} cannot be read"));
            };
            if record.bytes != content(task, count) {
                return Err(format!("{sequence} was changed"));
            }
            if !seen.insert((task, count)) {
                return Err(format!("{count} of task {task} is there twice"));
            }
            if counts
                .insert(task, count)
                .is_some_and(|before| before > count)
            {
                return Err(format!("{count} of task {task} is too late"));
            }
            let told = self.acknowledged.get(&sequence);
            if told.is_some_and(|told| *told != (task, count)) {
                return Err(format!("{sequence} is not what was acknowledged"));
            }
        }
        let end = first + u64::try_from(records.len()).unwrap();
        match self.acknowledged.last_key_value() {
            Some((last, _)) if *last >= end => Err(format!("{last} is lost")),
            _ => Ok(()),
        }
    }
}

/// Returns a journal whose process was killed several times, and the records that it must have.
async fn killed(rounds: u64) -> (tempfile::TempDir, Promise) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let mut promise = Promise::default();
    for round in 0..rounds {
        let mut worker = Worker::spawn(APPENDER.0, &[path, &(round * 1_000_000).to_string()]);
        for _ in 0..40 + round * 150 {
            let line = worker.line().await;
            promise.hear(&line);
        }
        for line in worker.last_words().await {
            promise.hear(&line);
        }
        let (journal, records) = Journal::open_with(directory.path(), SEGMENT_SIZE).unwrap();
        promise.check(&records).unwrap();
        drop(journal);
    }
    (directory, promise)
}

#[tokio::test]
async fn killed_process_has_left_every_acknowledged_record_in_order() {
    let (directory, promise) = killed(6).await;
    assert!(promise.released > 0);
    // Segments were begun and removed.
    let oldest = &segments(directory.path())[0];
    assert!(!oldest.ends_with("00000000000000000001.journal"));
}

#[tokio::test]
async fn check_of_a_killed_journal_detects_missing_repeated_and_changed_records() {
    let (directory, promise) = killed(1).await;
    let (_, records) = Journal::open(directory.path()).unwrap();
    let (last, _) = promise.acknowledged.last_key_value().unwrap();
    let at = |sequence: u64| usize::try_from(sequence - records[0].sequence).unwrap();
    let broken = |change: &dyn Fn(&mut Vec<Record>)| {
        let mut records = records.clone();
        change(&mut records);
        promise.check(&records).unwrap_err()
    };
    let cut = broken(&|records| records.truncate(at(*last)));
    assert_eq!(cut, format!("{last} is lost"));
    let missing = broken(&|records| drop(records.remove(at(*last) - 1)));
    assert!(missing.contains("belongs"), "{missing}");
    let doubled = broken(&|records| {
        let bytes = records[at(*last) - 1].bytes.clone();
        records[at(*last)].bytes = bytes;
    });
    assert!(doubled.contains("twice"), "{doubled}");
    let changed = broken(&|records| *records[at(*last)].bytes.last_mut().unwrap() ^= 1);
    assert!(
        changed.contains("changed") || changed.contains("cannot be read"),
        "{changed}"
    );
}

#[tokio::test]
async fn other_process_finds_the_journal_locked_until_its_owner_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut worker = Worker::spawn(APPENDER.0, &[directory.path().to_str().unwrap(), "1"]);
    worker.line().await;
    let error = Journal::open(directory.path()).err().unwrap().to_string();
    assert!(error.contains("open already"), "{error}");
    worker.last_words().await;
    Journal::open(directory.path()).unwrap();
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = entries.filter(|path| !path.ends_with("lock")).collect();
    segments.sort();
    segments
}

/// A journal of one segment that was written in groups, and the end of each group in the file.
struct Written {
    directory: tempfile::TempDir,
    records: Vec<Vec<u8>>,
    /// For each group, the number of records so far and the length of the file.
    ends: Vec<(usize, usize)>,
    bytes: Vec<u8>,
}

impl Written {
    fn new(groups: &[Vec<Vec<u8>>]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (journal, _) = Journal::open(directory.path()).unwrap();
        let segment = segments(directory.path()).remove(0);
        let mut records = Vec::new();
        let mut ends = Vec::new();
        for group in groups {
            let mut last = 0;
            for record in group {
                last = journal.append(record).unwrap();
                records.push(record.clone());
            }
            runtime.block_on(journal.durable(last)).unwrap();
            let length = fs::metadata(&segment).unwrap().len();
            ends.push((records.len(), usize::try_from(length).unwrap()));
        }
        drop(journal);
        let bytes = fs::read(&segment).unwrap();
        Self {
            directory,
            records,
            ends,
            bytes,
        }
    }

    /// Returns the records that are read from these bytes.
    fn opened(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        fs::write(&segments(self.directory.path())[0], bytes).unwrap();
        let (_, records) =
            Journal::open(self.directory.path()).map_err(|error| error.to_string())?;
        Ok(records.into_iter().map(|record| record.bytes).collect())
    }
}

fn groups() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let record = prop::collection::vec(any::<u8>(), 0..200);
    let group = prop::collection::vec(record, 1..6);
    prop::collection::vec(group, 2..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn journal_cut_anywhere_after_an_acknowledged_group_has_it_and_a_prefix_of_the_rest(
        groups in groups(),
        group: prop::sample::Index,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..8),
    ) {
        let written = Written::new(&groups);
        let (acknowledged, end) = written.ends[group.index(written.ends.len() - 1)];
        for cut in cuts {
            let length = end + cut.index(written.bytes.len() - end);
            let records = written.opened(&written.bytes[..length]).map_err(TestCaseError::fail)?;
            prop_assert!(records.len() >= acknowledged);
            prop_assert_eq!(&records[..], &written.records[..records.len()]);
        }
    }

    #[test]
    fn journal_with_a_flipped_bit_before_its_last_mark_is_refused(
        groups in groups(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..8),
    ) {
        const MARK: usize = larder::journal::format::FRAME_LENGTH;
        let written = Written::new(&groups);
        for (byte, bit) in flips {
            let mut bytes = written.bytes.clone();
            let byte = byte.index(bytes.len() - MARK);
            bytes[byte] ^= 1 << bit;
            prop_assert!(written.opened(&bytes).is_err(), "bit {} of byte {}", bit, byte);
        }
    }
}
